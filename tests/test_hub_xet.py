"""The real client with hf_xet, in programs of their own: its sessions and caches belong to the process."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

pytestmark = pytest.mark.programs

REPO = "me/model-GGUF"

PUBLISH = """
import sys
from huggingface_hub import CommitOperationAdd, HfApi
api, files = HfApi(), sys.argv[1:]
api.create_repo("me/model-GGUF", exist_ok=True)
operations = [CommitOperationAdd(file.rpartition("/")[2], file) for file in files]
print(api.create_commit("me/model-GGUF", operations, commit_message="a commit").oid)
"""
FETCH = """
import sys
from huggingface_hub import snapshot_download
snapshot_download("me/model-GGUF", local_dir=sys.argv[1])
"""
COPY = """
from huggingface_hub import CommitOperationCopy, HfApi
operations = [CommitOperationCopy("m.gguf", "copy.gguf")]
print(HfApi().create_commit("me/model-GGUF", operations, commit_message="a copy").oid)
"""


@pytest.fixture
def hub(loopback_hub):
    loopback_hub.add_token("hf_me", "me", "write")
    return loopback_hub


@pytest.fixture
def client(hub, tmp_path):
    """`client(script, *arguments)` runs the client in a program, with an empty cache each time."""
    rounds = iter(range(99))

    def run(script, *arguments, **environment):
        home = tmp_path / f"home-{next(rounds)}"
        settings = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_me",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",
            **environment,
        }
        command = [sys.executable, "-c", script, *map(str, arguments)]
        return subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, timeout=60, check=False
        )

    return run


@pytest.fixture
def files(tmp_path):
    """Two files that share most of their bytes."""
    directory = tmp_path / "files"
    directory.mkdir()
    content = random.Random(0).randbytes(1_000_000)
    (directory / "m.gguf").write_bytes(content)
    (directory / "n.gguf").write_bytes(content[:900_000] + b"another end" * 1000)
    return directory


def done(ran):
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.parametrize("without", [{}, {"HF_HUB_DISABLE_XET": "1"}], ids=["xet", "lfs"])
def test_what_xet_brings_everybody_gets(hub, client, files, tmp_path, without):
    done(client(PUBLISH, files / "m.gguf", files / "n.gguf"))
    hub.requests.clear()
    done(client(FETCH, tmp_path / "there", **without))
    for file in files.iterdir():
        assert (tmp_path / "there" / file.name).read_bytes() == file.read_bytes()
    assert any("/cdn/" in r.path for r in hub.requests) == bool(without)
    assert any("/cas/v2/reconstructions/" in r.path for r in hub.requests) != bool(without)


def test_what_lfs_brings_xet_gets(client, files, tmp_path):
    done(client(PUBLISH, files / "m.gguf", HF_HUB_DISABLE_XET="1"))
    done(client(FETCH, tmp_path / "there"))
    assert (tmp_path / "there" / "m.gguf").read_bytes() == (files / "m.gguf").read_bytes()


def test_a_file_is_sent_once(hub, client, files, tmp_path):
    first = done(client(PUBLISH, files / "m.gguf"))
    hub.requests.clear()
    assert done(client(PUBLISH, files / "m.gguf")) == first
    assert hub.uploaded() < 10_000
    done(client(PUBLISH, files / "n.gguf"))
    assert hub.uploaded() < 400_000
    hub.requests.clear()
    done(client(COPY))
    assert hub.uploaded() < 10_000
    done(client(FETCH, tmp_path / "there"))
    assert (tmp_path / "there" / "copy.gguf").read_bytes() == (files / "m.gguf").read_bytes()


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("^/cas/v1/xorbs/", {"action": "reset", "after_bytes": 100_000}),
        ("^/cas/v1/xorbs/", {"action": "status", "status": 503, "count": 2}),
        ("^/cas/v2/shards", {"action": "refuse"}),
        ("^/cas/v2/shards", {"action": "lose"}),
        ("/preupload/", {"action": "status", "status": 500}),
    ],
)
def test_an_upload_gets_over(hub, client, files, path, fault):
    taken = hub.fault(path, **fault)
    oid = done(client(PUBLISH, files / "m.gguf"))
    assert taken.count == 0
    assert hub.repos.get("model", REPO).commit(oid).files["m.gguf"].size == 1_000_000


@pytest.mark.parametrize(
    "fault", [{"action": "cut", "after_bytes": 100_000}, {"action": "status", "status": 503}, {"action": "refuse"}]
)
def test_a_download_gets_over(hub, client, files, tmp_path, fault):
    done(client(PUBLISH, files / "m.gguf"))
    taken = hub.fault("^/cas/xorbs/", **fault)
    done(client(FETCH, tmp_path / "there"))
    assert taken.count == 0
    assert (tmp_path / "there" / "m.gguf").read_bytes() == (files / "m.gguf").read_bytes()


def test_who_may_not_write_sends_nothing(hub, client, files):
    done(client(PUBLISH, files / "m.gguf"))
    hub.requests.clear()
    hub.add_token("hf_other", "other", "write")
    ran = client(PUBLISH, files / "n.gguf", HF_TOKEN="hf_other")
    assert "Authorization error" in ran.stderr
    assert hub.uploaded() == 0
    hub.quota["me"] = 10
    assert "storage limit" in client(PUBLISH, files / "n.gguf").stderr
    assert hub.uploaded() == 0
