"""Who may do what on the loopback Hub, and what those are told who may not."""

from __future__ import annotations

import random
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, HfApi, errors
from huggingface_hub.utils import _auth

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")

REPO = "acme/model-GGUF"
LARGE = random.Random(0).randbytes(10_000)


@pytest.fixture
def hub(loopback_hub):
    loopback_hub.add_token("hf_owner", "owner", "write", {"acme": "write"})
    loopback_hub.add_token("hf_reads", "owner", "read", {"acme": "write"})
    loopback_hub.add_token("hf_guest", "guest", "write", {"acme": "read"})
    loopback_hub.add_token("hf_other", "other", "write")
    HfApi(endpoint=loopback_hub.endpoint, token="hf_owner").create_repo(REPO)
    return loopback_hub


def api(hub, token):
    return HfApi(endpoint=hub.endpoint, token=token)


def publish(hub, token, content=LARGE, path="m.gguf"):
    operations = [CommitOperationAdd(path, content)]
    return api(hub, token).create_commit(REPO, operations, commit_message="a commit")


def refused(status, match):
    return pytest.raises(errors.HfHubHTTPError, match=match, check=lambda e: e.response.status_code == status)


def test_who_am_i(hub):
    about = api(hub, "hf_guest").whoami()
    assert (about["name"], [org["name"] for org in about["orgs"]]) == ("guest", ["acme"])
    assert about["auth"]["accessToken"]["role"] == "write"
    with refused(401, "Invalid user token"):
        api(hub, "hf_unknown").whoami()


@pytest.mark.parametrize(
    ("token", "status", "said"),
    [
        ("hf_reads", 403, "you must use a write token"),
        ("hf_guest", 403, "Authorization error"),
        ("hf_other", 403, "Authorization error"),
        ("hf_unknown", 401, "Invalid credentials in Authorization header"),
        (False, 401, "Invalid username or password"),
    ],
)
def test_who_may_not_write(hub, token, status, said):
    asker = api(hub, token)
    for write in (
        lambda: asker.auth_check(REPO, write=True),
        lambda: publish(hub, token),
        lambda: asker.create_branch(REPO, branch="b"),
        lambda: asker.create_tag(REPO, tag="t"),
        lambda: asker.update_repo_settings(REPO, gated="auto"),
        lambda: asker.delete_repo(REPO),
    ):
        with refused(status, said):
            write()


def test_who_may(hub):
    api(hub, "hf_owner").auth_check(REPO, write=True)
    api(hub, "hf_other").auth_check(REPO)
    assert publish(hub, "hf_owner").oid == api(hub, False).model_info(REPO).sha


@pytest.mark.parametrize(
    ("token", "repo_id", "status"),
    [("hf_reads", "owner/x", 403), ("hf_guest", "acme/x", 403), ("hf_owner", "nobody/x", 403), (False, "owner/x", 401)],
)
def test_who_may_not_create(hub, token, repo_id, status):
    with refused(status, "rights to create a model under the namespace" if token else "Invalid username"):
        api(hub, token).create_repo(repo_id)
    assert str(api(hub, "hf_guest").create_repo(REPO, exist_ok=True)).endswith(REPO)


def test_a_private_repo_is_there_for_its_members(hub):
    publish(hub, "hf_owner")
    api(hub, "hf_owner").update_repo_settings(REPO, private=True)
    assert api(hub, "hf_guest").model_info(REPO).private
    for token in ("hf_other", False):
        for ask in (api(hub, token).model_info, api(hub, token).auth_check, api(hub, token).list_repo_refs):
            with pytest.raises(errors.RepositoryNotFoundError):
                ask(REPO)
        with pytest.raises(errors.RepositoryNotFoundError):
            api(hub, token).hf_hub_download(REPO, "m.gguf")
    hub.add_token("hf_invited", "invited", access=[REPO])
    assert api(hub, "hf_invited").model_info(REPO).private


@pytest.mark.parametrize("gated", ["auto", "manual"])
def test_a_gate(hub, tmp_path, gated):
    publish(hub, "hf_owner")
    api(hub, "hf_owner").update_repo_settings(REPO, gated=gated)
    hub.add_token("hf_accepted", "accepted", access=[REPO])
    assert api(hub, "hf_other").model_info(REPO).gated == gated
    with pytest.raises(errors.GatedRepoError):
        api(hub, "hf_other").hf_hub_download(REPO, "m.gguf", local_dir=tmp_path / "a")
    with pytest.raises(errors.GatedRepoError):
        api(hub, "hf_other").auth_check(REPO)
    for token in ("hf_accepted", "hf_guest"):
        path = api(hub, token).hf_hub_download(REPO, "m.gguf", local_dir=tmp_path / token)
        assert Path(path).read_bytes() == LARGE


def test_a_dropped_token_is_a_bad_one(hub):
    hub.drop_token("hf_owner")
    with refused(401, "Invalid credentials"):
        publish(hub, "hf_owner")


class TestQuota:
    def test_what_does_not_fit_is_refused_before_it_is_sent(self, hub):
        hub.quota["acme"] = 25_000
        publish(hub, "hf_owner")
        hub.requests.clear()
        with refused(403, "storage limit reached"):
            publish(hub, "hf_owner", LARGE + LARGE, "n.gguf")
        assert hub.uploaded() == 0
        publish(hub, "hf_owner", LARGE[:-5000], "n.gguf")

    def test_what_is_there_already_costs_nothing(self, hub):
        hub.quota["acme"] = 16_000
        publish(hub, "hf_owner")
        copy = [CommitOperationCopy("m.gguf", "copy.gguf")]
        api(hub, "hf_owner").create_commit(REPO, copy, commit_message="a copy")

    def test_a_full_one_gives_no_xet_token(self, hub):
        publish(hub, "hf_owner")
        hub.quota["acme"] = 1000
        url = f"{hub.endpoint}/api/models/{REPO}/xet-write-token/main"
        answer = huggingface_hub.utils.get_session().get(url, headers={"Authorization": "Bearer hf_owner"})
        assert (answer.status_code, "storage limit" in answer.text) == (403, True)

    def test_of_others_is_their_own(self, hub):
        hub.quota["acme"] = 0
        mine = api(hub, "hf_other")
        mine.create_repo("other/m")
        mine.upload_file(path_or_fileobj=LARGE, path_in_repo="m.gguf", repo_id="other/m")


class TestTrustedPublisher:
    @pytest.fixture(autouse=True)
    def _workflow(self, hub, monkeypatch):
        monkeypatch.setattr(_auth, "_OIDC_TOKEN_CACHE", None)
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{hub.endpoint}/-/id-token")
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "job")
        monkeypatch.setenv("HF_OIDC_RESOURCE", REPO)

    def test_writes_to_its_repo_and_no_other(self, hub):
        hub.add_publisher(REPO, f"job@{hub.endpoint}")
        publish(hub, None)
        assert huggingface_hub.get_token().startswith("hf_jwt_")
        api(hub, None).create_branch(REPO, branch="b")
        for repo_id in ("owner/x", "acme/x"):
            with refused(401, "may not create"):
                api(hub, None).create_repo(repo_id)
        api(hub, "hf_owner").create_repo("acme/x")
        with refused(403, "Authorization error"):
            api(hub, None).auth_check("acme/x", write=True)

    def test_makes_no_repo_but_finds_its_own(self, hub):
        hub.add_publisher(REPO, f"job@{hub.endpoint}")
        assert str(api(hub, None).create_repo(REPO, exist_ok=True)).endswith(REPO)

    def test_one_that_is_not_trusted_gets_nothing(self, hub):
        hub.add_publisher(REPO, "another job")
        with refused(400, "no trusted publisher of acme/model-GGUF"):
            publish(hub, None)

    def test_reads_the_gated_models_of_its_user(self, hub, tmp_path, monkeypatch):
        monkeypatch.delenv("HF_OIDC_RESOURCE")  # an upload over LFS asks for a token even where it was given one
        publish(hub, "hf_owner")
        api(hub, "hf_owner").update_repo_settings(REPO, gated="manual")
        hub.add_token("hf_accepted", "accepted", access=[REPO])
        hub.add_publisher("accepted", f"job@{hub.endpoint}")
        monkeypatch.setenv("HF_OIDC_RESOURCE", "accepted")
        api(hub, None).hf_hub_download(REPO, "m.gguf", local_dir=tmp_path)
        with refused(403, "write token"):
            publish(hub, None)

    def test_expires(self, hub):
        hub.add_publisher(REPO, f"job@{hub.endpoint}", seconds=-1)
        with refused(401, "Invalid credentials"):
            publish(hub, None)
