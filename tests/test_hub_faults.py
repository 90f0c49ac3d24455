"""The loopback Hub goes wrong as told, and the real client sees it."""

from __future__ import annotations

import hashlib
import random
import socket
import time
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, errors

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")

REPO = "me/model-GGUF"
LARGE = random.Random(0).randbytes(300_000)


@pytest.fixture
def hub(loopback_hub):
    loopback_hub.add_token("hf_me", "me", "write")
    HfApi(endpoint=loopback_hub.endpoint, token="hf_me").create_repo(REPO)
    loopback_hub.requests.clear()
    return loopback_hub


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.endpoint, token="hf_me")


def publish(api, content=LARGE):
    return api.create_commit(REPO, [CommitOperationAdd("m.gguf", content)], commit_message="a commit").oid


def statuses(hub, part):
    return [r.status for r in hub.requests if part in r.path]


def test_refused_connections_are_tried_again(api, hub):
    hub.fault("/preupload/", "refuse", count=2)
    publish(api)
    assert statuses(hub, "/preupload/") == [0, 0, 200]


def test_a_refused_commit_was_not_made(api, hub):
    head = api.model_info(REPO).sha
    hub.fault("/commit/", "refuse")
    with pytest.raises(httpx2.TransportError):
        publish(api)
    assert api.model_info(REPO).sha == head


def test_a_lost_commit_was_made(api, hub):
    head = api.model_info(REPO).sha
    hub.fault("/commit/", "lose")
    with pytest.raises(httpx2.TransportError):
        publish(api)
    assert [c.title for c in api.list_repo_commits(REPO)] == ["a commit", "initial commit"]
    assert publish(api) == api.model_info(REPO).sha != head
    assert statuses(hub, "/commit/") == [0]


def test_an_upload_that_breaks_off_is_tried_again(api, hub):
    hub.fault("^/lfs/", "reset", method="PUT", after_bytes=100_000)
    publish(api)
    first, second = [r for r in hub.requests if r.method == "PUT"]
    assert (first.status, second.status) == (0, 200)
    assert 100_000 <= first.received <= second.received == 300_000
    assert hub.uploaded() > 400_000


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_status_with_headers(api, hub, status, monkeypatch):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    hub.fault("objects/batch", status=status, headers={"Retry-After": "7"}, error="come again")
    publish(api)
    assert statuses(hub, "objects/batch") == [status, 200]
    assert any(7 <= wait < 9 for wait in waits)


def test_some_pass_first(api, hub):
    hub.fault("/tree/", status=404, skip=1, error="gone")
    api.list_repo_files(REPO)
    with pytest.raises(errors.HfHubHTTPError, match="gone"):
        api.list_repo_files(REPO)
    api.list_repo_files(REPO)


def test_a_method_alone(api, hub):
    fault = hub.fault("/api/models/", status=500, method="POST")
    api.model_info(REPO)
    assert fault.count == 1


def test_a_delay(api, hub):
    hub.fault("/api/models/", "delay", seconds=0.3)
    start = time.monotonic()
    assert api.model_info(REPO).id == REPO
    assert time.monotonic() - start >= 0.3


def test_a_cut_takes_the_bodies_that_are_long_enough(api, hub, tmp_path):
    publish(api)
    fault = hub.fault("m.gguf", "cut", after_bytes=200_000)
    path = api.hf_hub_download(REPO, "m.gguf", local_dir=tmp_path)
    assert Path(path).read_bytes() == LARGE
    assert fault.count == 0
    assert [r.sent for r in hub.requests if "/cdn/" in r.path] == [
        200_000,
        300_000,
    ]  # the client keeps whole blocks of 10 MiB only


def test_a_limit(hub):
    hub.limit("/api/whoami", calls=2, seconds=0.2)
    with httpx2.Client(base_url=hub.endpoint, headers={"Authorization": "Bearer hf_me"}) as client:
        answers = [client.get("/api/whoami-v2") for _ in range(3)]
        assert [a.status_code for a in answers] == [200, 200, 429]
        assert answers[-1].headers["Retry-After"] == "1"
        Event().wait(0.2)  # time.sleep is taken away
        assert client.get("/api/whoami-v2").status_code == 200


def test_control_over_http(api, hub):
    with httpx2.Client(base_url=f"{hub.endpoint}/-") as client:
        assert client.post("/faults", json={"path": "/api/", "action": "status", "status": 418}).status_code == 200
        assert client.get("/faults").json()[0]["count"] == 1
        with pytest.raises(errors.HfHubHTTPError, match="418"):
            api.model_info(REPO)
        seen = client.get("/requests").json()
        assert [(r["method"], r["path"], r["status"]) for r in seen] == [("GET", f"/api/models/{REPO}", 418)]
        assert "hf_me" not in str(seen)
        client.delete("/requests")
        assert client.get("/requests").json() == []
        client.post("/faults", json={"path": "/api/", "action": "refuse", "count": 9})
        client.delete("/faults")
        api.model_info(REPO)
        wrong = client.post("/faults", json={"path": "/api/", "action": "explode"})
        assert (wrong.status_code, wrong.json()["error"][:18]) == (400, "'explode' is none ")


def test_a_client_that_goes_away_leaves_nothing(hub):
    sha256 = hashlib.sha256(LARGE).hexdigest()
    asked = {"ref": {"name": "main"}, "objects": [{"oid": sha256, "size": len(LARGE)}]}
    with httpx2.Client(base_url=hub.endpoint, headers={"Authorization": "Bearer hf_me"}) as client:
        answer = client.post(f"/{REPO}.git/info/lfs/objects/batch", json=asked).json()
        url = urlsplit(answer["objects"][0]["actions"]["upload"]["href"])
        with socket.create_connection((url.hostname, url.port)) as connection:
            head = f"PUT {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {len(LARGE)}\r\n\r\n"
            connection.sendall(head.encode() + LARGE[:200_000])
            while hub.uploaded() < 200_000:
                Event().wait(0.01)
            assert len(list(hub.objects.room().parent.iterdir())) == 1
        while list(hub.objects.room().parent.iterdir()):
            Event().wait(0.01)
        assert [r.status for r in hub.requests if r.method == "PUT"] == [0]
        assert client.get("/api/whoami-v2").status_code == 200
