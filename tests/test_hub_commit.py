"""The real client publishes to the loopback Hub: over LFS here, over Xet in test_hub_xet.py."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from pathlib import Path

import httpx2
import pytest
from hub import LoopbackHub
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, errors

from pipeline.publish.gitattributes import DEFAULT_PATTERNS

# The client's own upload of a large file uses what its HTTP library would rather not have.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")

ME = "hf_me"
REPO = "me/model-GGUF"
TREE_OF_C = "653c8359fc980eb3a393a41a1f1cbe4e8ce458f8"  # git's, of a folder with c.txt that holds "c"
LARGE = random.Random(0).randbytes(300_000)


@pytest.fixture
def hub(loopback_hub):
    loopback_hub.add_token(ME, "me", "write", {"acme": "write"})
    return loopback_hub


@pytest.fixture
def api(hub):
    api = HfApi(endpoint=hub.endpoint, token=ME)
    api.create_repo(REPO)
    return api


def add(path, content):
    return CommitOperationAdd(path, content if isinstance(content, bytes) else content.encode())


def commit(api, *operations, **kwargs):
    return api.create_commit(REPO, operations, commit_message="a commit", **kwargs).oid


def read(api, path, revision="main"):
    answer = httpx2.get(f"{api.endpoint}/{REPO}/resolve/{revision}/{path}", follow_redirects=True)
    return answer.raise_for_status().content


def paths(hub, part):
    return [r.path for r in hub.requests if part in r.path]


def test_a_new_repo_has_the_attributes_of_the_hub(api):
    assert api.list_repo_files(REPO) == [".gitattributes"]
    patterns = [line.split()[0] for line in read(api, ".gitattributes").decode().splitlines()]
    assert patterns == DEFAULT_PATTERNS


def test_a_commit_is_what_was_sent(api):
    oid = commit(api, add("m-Q4_K_M.gguf", LARGE), add("README.md", "---\nlicense: mit\n---\n"), add("a/b/c.txt", "c"))
    tree = {entry.path: entry for entry in api.list_repo_tree(REPO, revision=oid, recursive=True)}
    assert sorted(tree) == [".gitattributes", "README.md", "a", "a/b", "a/b/c.txt", "m-Q4_K_M.gguf"]
    assert tree["m-Q4_K_M.gguf"].lfs.sha256 == hashlib.sha256(LARGE).hexdigest()
    assert tree["a/b/c.txt"].lfs is None
    assert tree["a/b"].tree_id == TREE_OF_C
    assert (read(api, "m-Q4_K_M.gguf"), read(api, "a/b/c.txt")) == (LARGE, b"c")
    info = api.model_info(REPO)
    assert (info.sha, info.card_data.license) == (oid, "mit")


def test_the_hub_adds_a_line_for_each_large_file_that_no_pattern_covers(api):
    commit(api, add("m.gguf", LARGE), add("m.safetensors", LARGE[:1000]))
    commit(api, add("m.gguf", LARGE[1:]))
    added = read(api, ".gitattributes").decode().splitlines()[len(DEFAULT_PATTERNS) :]
    assert added == ["m.gguf filter=lfs diff=lfs merge=lfs -text"]


def test_what_is_there_already_is_sent_again_by_no_one(api, hub):
    first = commit(api, add("m.gguf", LARGE), add("a.txt", "a"))
    hub.requests.clear()
    assert commit(api, add("m.gguf", LARGE), add("a.txt", "a")) == first
    assert not paths(hub, "/commit/")
    commit(api, add("m.gguf", LARGE), add("a.txt", "b"))
    assert hub.uploaded() < 1000


def test_a_file_is_copied_from_a_branch_without_its_bytes(api, hub):
    api.create_branch(REPO, branch="staging/abc")
    commit(api, add("m.gguf", LARGE), add("a.txt", "a"), revision="staging/abc")
    assert api.list_repo_files(REPO) == [".gitattributes"]
    hub.requests.clear()
    copies = [CommitOperationCopy(name, name, src_revision="staging/abc") for name in ("m.gguf", "a.txt")]
    oid = commit(api, *copies)
    assert (read(api, "m.gguf"), read(api, "a.txt")) == (LARGE, b"a")
    assert hub.uploaded() < 1000
    assert commit(api, *copies) == oid
    with pytest.raises(errors.EntryNotFoundError):
        commit(api, CommitOperationCopy("n.gguf", "n.gguf", src_revision="staging/abc"))


def test_deletes(api):
    commit(api, add("m.gguf", LARGE), add("old/a.txt", "a"), add("old/b.txt", "b"))
    commit(api, CommitOperationDelete("m.gguf"), CommitOperationDelete("old/"))
    assert api.list_repo_files(REPO) == [".gitattributes"]
    for gone in ("m.gguf", "old/"):
        with pytest.raises(errors.EntryNotFoundError, match="A file with this name doesn't exist"):
            commit(api, CommitOperationDelete(gone))


def test_a_parent_that_is_not_the_head_is_refused(api):
    head = api.model_info(REPO).sha
    commit(api, add("a.txt", "a"), parent_commit=head)
    with pytest.raises(errors.HfHubHTTPError, match="A commit has happened since") as raised:
        commit(api, add("a.txt", "b"), parent_commit=head)
    assert raised.value.response.status_code == 412
    assert read(api, "a.txt") == b"a"


def test_one_commit_at_a_time(api, hub):
    hub.commit_seconds = 0.5
    first = threading.Thread(target=commit, args=(api, add("a.txt", "a")))
    first.start()
    while not paths(hub, "/commit/"):
        pass
    with pytest.raises(errors.HfHubHTTPError, match="Another commit operation is in progress") as raised:
        commit(api, add("b.txt", "b"))
    first.join()
    assert raised.value.response.status_code == 409
    hub.commit_seconds = 0
    commit(api, add("b.txt", "b"))
    assert read(api, "a.txt") + read(api, "b.txt") == b"ab"


def test_a_large_file_that_was_not_uploaded_is_refused(api, hub):
    head = api.model_info(REPO).sha
    lines = [
        {"key": "header", "value": {"summary": "s", "description": ""}},
        {"key": "lfsFile", "value": {"path": "m.gguf", "algo": "sha256", "oid": "a" * 64, "size": 3}},
    ]
    body = "".join(json.dumps(line) + "\n" for line in lines)
    url = f"{hub.endpoint}/api/models/{REPO}/commit/main"
    answer = httpx2.post(url, content=body, headers={"Authorization": f"Bearer {ME}"})
    assert (answer.status_code, "does not exist" in answer.text) == (400, True)
    assert api.model_info(REPO).sha == head


def test_large_files_go_in_parts(api, hub):
    hub.part_size = 70_000
    commit(api, add("m.gguf", LARGE), add("n.gguf", LARGE[:70_000]))
    assert read(api, "m.gguf") == LARGE
    assert sorted(r.received for r in hub.requests if r.method == "PUT") == [20_000] + [70_000] * 5
    assert len(paths(hub, "/complete")) == 1


def test_a_file_on_disk_goes_as_its_bytes(api, tmp_path):
    (tmp_path / "m.gguf").write_bytes(LARGE)
    api.upload_file(path_or_fileobj=tmp_path / "m.gguf", path_in_repo="sub/m.gguf", repo_id=REPO)
    assert read(api, "sub/m.gguf") == LARGE


@pytest.mark.parametrize("body", [b"something else", LARGE[:-1]])
def test_bytes_that_are_not_those_announced_are_refused(api, hub, body):
    sha256 = hashlib.sha256(LARGE).hexdigest()
    asked = {"transfers": ["basic"], "ref": {"name": "main"}, "objects": [{"oid": sha256, "size": len(LARGE)}]}
    batch = f"{hub.endpoint}/{REPO}.git/info/lfs/objects/batch"
    answer = httpx2.post(batch, json=asked, headers={"Authorization": f"Bearer {ME}"}).json()
    url = answer["objects"][0]["actions"]["upload"]["href"]
    assert httpx2.put(url, content=body).status_code == 400
    assert not hub.objects.has(sha256)
    assert httpx2.put(url, content=LARGE).status_code == 200
    assert hub.objects.has(sha256)


def test_upload_first_and_commit_later(api, hub):
    operation = add("m.gguf", LARGE)
    api.preupload_lfs_files(REPO, [operation])
    assert api.list_repo_files(REPO) == [".gitattributes"]
    hub.requests.clear()
    commit(api, operation)
    assert hub.uploaded() < 1000
    assert read(api, "m.gguf") == LARGE


def test_a_pull_request_leaves_main_alone(api, hub):
    hub.add_token("hf_other", "other", "write")
    made = api.create_commit(REPO, [add("m.gguf", LARGE)], commit_message="please", create_pr=True, token="hf_other")
    assert made.pr_revision == "refs/pr/1"
    assert api.list_repo_files(REPO) == [".gitattributes"]
    assert "m.gguf" in api.list_repo_files(REPO, revision="refs/pr/1")
    assert read(api, "m.gguf", "refs%2Fpr%2F1") == LARGE
    assert [ref.name for ref in api.list_repo_refs(REPO, include_pull_requests=True).pull_requests] == ["1"]


def test_branches(api):
    first = commit(api, add("a.txt", "a"))
    second = commit(api, add("a.txt", "b"))
    api.create_branch(REPO, branch="staging/x", revision=first)
    with pytest.raises(errors.HfHubHTTPError, match="Reference already exists"):
        api.create_branch(REPO, branch="staging/x")
    api.create_branch(REPO, branch="staging/x", exist_ok=True)
    refs = {ref.name: ref.target_commit for ref in api.list_repo_refs(REPO).branches}
    assert refs == {"main": second, "staging/x": first}
    assert read(api, "a.txt", "staging%2Fx") == b"a"
    api.delete_branch(REPO, branch="staging/x")
    with pytest.raises(errors.HfHubHTTPError, match="Reference does not exist"):
        api.delete_branch(REPO, branch="staging/x")
    with pytest.raises(errors.HfHubHTTPError, match="Cannot delete refs/heads/main"):
        api.delete_branch(REPO, branch="main")
    with pytest.raises(errors.RevisionNotFoundError):
        commit(api, add("a.txt", "a"), revision="staging/x")


def test_tags(api):
    oid = commit(api, add("a.txt", "a"))
    api.create_tag(REPO, tag="v1")
    commit(api, add("a.txt", "b"))
    assert api.model_info(REPO, revision="v1").sha == oid
    with pytest.raises(errors.HfHubHTTPError, match="exists already"):
        api.create_tag(REPO, tag="v1")
    api.create_tag(REPO, tag="v1", exist_ok=True)
    api.create_tag(REPO, tag="v0", revision=oid[:10])
    assert {ref.name: ref.target_commit for ref in api.list_repo_refs(REPO).tags} == {"v0": oid, "v1": oid}
    api.delete_tag(REPO, tag="v1")
    with pytest.raises(errors.RevisionNotFoundError):
        api.delete_tag(REPO, tag="v1")


def test_history_in_pages_and_squashed(api, hub):
    hub.page_size = 2
    for content in "abc":
        commit(api, add("a.txt", content))
    assert len(api.list_repo_commits(REPO)) == 4
    last = {e.path: e.last_commit.oid for e in api.list_repo_tree(REPO, expand=True)}
    assert last["a.txt"] == api.model_info(REPO).sha != last[".gitattributes"]
    api.super_squash_history(REPO, commit_message="all of it")
    assert [c.title for c in api.list_repo_commits(REPO)] == ["all of it"]
    assert read(api, "a.txt") == b"c"


def test_paths_that_are_asked_for(api):
    commit(api, add("sub/m.gguf", LARGE))
    found = api.get_paths_info(REPO, ["sub", "sub/m.gguf", "nothing"], expand=True)
    assert [entry.path for entry in found] == ["sub", "sub/m.gguf"]
    assert found[1].last_commit.title == "a commit"


def test_settings(api):
    api.update_repo_settings(REPO, gated="manual")
    assert api.model_info(REPO).gated == "manual"
    api.update_repo_settings(REPO, gated=False, private=True)
    info = api.model_info(REPO, expand=["gated", "private"])
    assert (info.gated, info.private, info.sha) == (False, True, None)


def test_a_repo_is_made_once_and_deleted(api):
    with pytest.raises(errors.HfHubHTTPError, match="You already created this model repo"):
        api.create_repo(REPO)
    assert str(api.create_repo(REPO, exist_ok=True)).endswith(f"/{REPO}")
    assert api.create_repo(REPO, repo_type="dataset").repo_type == "dataset"
    api.delete_repo(REPO)
    assert not api.repo_exists(REPO)
    assert api.repo_exists(REPO, repo_type="dataset")
    with pytest.raises(errors.RepositoryNotFoundError):
        api.delete_repo(REPO)


def test_a_card_whose_metadata_cannot_be_read(api):
    with pytest.raises(ValueError, match="Invalid metadata in README"):
        commit(api, add("README.md", "---\nlicense: [\n---\n"))
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        commit(api, add("README.md", "# Model\n"))


def test_checksums_are_verified(api, tmp_path):
    commit(api, add("m.gguf", LARGE), add("a.txt", "a"))
    path = Path(api.snapshot_download(REPO, local_dir=tmp_path / "t"))
    assert not api.verify_repo_checksums(REPO, local_dir=path).mismatches
    (path / "m.gguf").write_bytes(b"x")
    assert [m["path"] for m in api.verify_repo_checksums(REPO, local_dir=path).mismatches] == ["m.gguf"]


def test_another_server_goes_on_where_the_first_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    trees = []
    for round_ in range(2):
        with LoopbackHub(tmp_path / "data") as hub:
            hub.add_token(ME, "me", "write")
            api = HfApi(endpoint=hub.endpoint, token=ME)
            if round_ == 0:
                api.create_repo(REPO)
                commit(api, add("m.gguf", LARGE), add("a.txt", "a"))
                api.create_branch(REPO, branch="b")
            trees.append((list(api.list_repo_tree(REPO)), api.list_repo_refs(REPO), api.list_repo_commits(REPO)))
            assert read(api, "m.gguf") == LARGE
    assert trees[0] == trees[1]
    assert not list((tmp_path / "data").rglob("objects/room/*"))
    assert ME not in "".join(p.read_text(errors="replace") for p in (tmp_path / "data").rglob("*.json"))
