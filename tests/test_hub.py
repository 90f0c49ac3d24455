"""The real `huggingface_hub` reads from the loopback Hub."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, errors, hf_hub_download, snapshot_download

REPO = "google/gemma-2b"
SHA = "0123456789abcdef0123456789abcdef01234567"
READER, STRANGER = "hf_reader", "hf_stranger"
HEADER = {
    "__metadata__": {"format": "pt"},
    "w": {"dtype": "BF16", "shape": [100, 1000], "data_offsets": [0, 200_000]},
}


@pytest.fixture
def source(tmp_path):
    """A model directory whose one safetensors file is longer than what a client reads first."""
    directory = tmp_path / "source"
    (directory / "original").mkdir(parents=True)
    header = json.dumps(HEADER).encode()
    weights = struct.pack("<Q", len(header)) + header + random.Random(0).randbytes(200_000)
    (directory / "model.safetensors").write_bytes(weights)
    (directory / "config.json").write_text('{"architectures": ["GemmaForCausalLM"]}')
    (directory / "README.md").write_text("---\nlicense: gemma\n---\n")
    (directory / "original" / "params.json").write_text("{}")
    return directory


@pytest.fixture
def hub(source, loopback_hub):
    loopback_hub.add(REPO, source, SHA)
    loopback_hub.add_token(READER, "reader", access=[REPO])
    loopback_hub.add_token(STRANGER, "stranger")
    return loopback_hub


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.endpoint, token=False)


def contents(directory):
    files = (p for p in directory.rglob("*") if p.is_file() and ".cache" not in p.parts)
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in files}


def test_a_branch_resolves_and_lists_its_files(api):
    info = api.model_info(REPO, revision="main", files_metadata=True)
    files = {sibling.rfilename: sibling for sibling in info.siblings}
    assert info.sha == SHA
    assert files["model.safetensors"].lfs.size == files["model.safetensors"].size > 200_000
    assert files["config.json"].lfs is None


def test_the_tree_agrees_with_git_and_comes_in_pages(api, hub):
    hub.page_size = 2
    tree = {entry.path: entry for entry in api.list_repo_tree(REPO, revision=SHA, recursive=True)}
    assert sorted(tree) == ["README.md", "config.json", "model.safetensors", "original", "original/params.json"]
    assert tree["original/params.json"].blob_id == "9e26dfeeb6e641a33dae4961196235bdb965b21b"  # git's, of {}
    assert len([r for r in hub.requests if "/tree/" in r.path]) == 3


def test_a_folder_of_the_tree(api):
    assert [entry.path for entry in api.list_repo_tree(REPO, "original")] == ["original/params.json"]
    assert "original/params.json" not in [entry.path for entry in api.list_repo_tree(REPO)]


@pytest.mark.parametrize("where", ["local_dir", "cache_dir"])
def test_a_snapshot_has_the_same_bytes(hub, source, tmp_path, where):
    target = tmp_path / "target"
    path = snapshot_download(REPO, revision=SHA, endpoint=hub.endpoint, token=False, **{where: target})
    assert contents(Path(path)) == contents(source)


def test_patterns_choose_the_files(api, hub, tmp_path):
    api.snapshot_download(REPO, revision=SHA, local_dir=tmp_path / "t", allow_patterns=["*.json"])
    assert sorted(contents(tmp_path / "t")) == ["config.json", "original/params.json"]
    assert not [r for r in hub.requests if "safetensors" in r.path]


def test_a_dataset_is_no_model(api, hub, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "text.txt").write_text("Once upon a time.")
    hub.add("org/texts", tmp_path / "data", "f" * 40, repo_type="dataset")
    there = {"repo_type": "dataset", "endpoint": hub.endpoint, "token": False}
    path = hf_hub_download("org/texts", "text.txt", cache_dir=tmp_path / "c", **there)
    assert Path(path).read_text() == "Once upon a time."
    with pytest.raises(errors.RepositoryNotFoundError):
        api.model_info("org/texts")


def test_headers_without_weights(api, hub):
    metadata = api.get_safetensors_metadata(REPO, revision=SHA)
    assert metadata.files_metadata["model.safetensors"].tensors["w"].shape == [100, 1000]
    assert [r.method for r in hub.requests if "/cdn/" in r.path] == ["GET"]


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-3", 206, slice(0, 4)),
        ("bytes=200000-", 206, slice(200_000, None)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=0-999999", 206, slice(None)),
        ("bytes=999999-", 416, slice(0, 0)),
    ],
)
def test_ranges(hub, source, asked, status, part):
    url = f"{hub.endpoint}/{REPO}/resolve/main/model.safetensors"
    answer = httpx2.get(url, headers={"Range": asked}, follow_redirects=True)
    assert (answer.status_code, answer.content) == (status, (source / "model.safetensors").read_bytes()[part])


def test_a_gated_repo_shows_its_files_and_keeps_them(api, hub, source, tmp_path):
    hub.add(REPO, source, SHA, gated=True)
    assert api.model_info(REPO).gated == "manual"
    for token in (False, STRANGER):
        with pytest.raises(errors.GatedRepoError, match="is restricted"):
            api.auth_check(REPO, token=token)
        with pytest.raises(errors.GatedRepoError, match="is restricted"):
            api.snapshot_download(REPO, revision=SHA, local_dir=tmp_path / "none", token=token)
    api.auth_check(REPO, token=READER)
    api.snapshot_download(REPO, revision=SHA, local_dir=tmp_path / "all", token=READER)
    assert contents(tmp_path / "all") == contents(source)


def test_a_private_repo_is_not_there(api, hub, source):
    hub.add(REPO, source, SHA, private=True)
    with pytest.raises(errors.RepositoryNotFoundError):
        api.model_info(REPO)
    assert api.model_info(REPO, token=READER).private


def test_a_bad_token_is_said_to_be_one(api):
    with pytest.raises(errors.HfHubHTTPError, match="Invalid credentials") as raised:
        api.model_info(REPO, token="hf_unknown")
    assert raised.value.response.status_code == 401


def test_what_is_not_there(api, tmp_path):
    with pytest.raises(errors.RepositoryNotFoundError):
        api.model_info("google/gemma-2c")
    with pytest.raises(errors.RevisionNotFoundError):
        api.model_info(REPO, revision="refs/pr/1")
    with pytest.raises(errors.RevisionNotFoundError):
        api.snapshot_download(REPO, revision="a" * 40, local_dir=tmp_path / "t")
    with pytest.raises(errors.EntryNotFoundError):
        api.hf_hub_download(REPO, "LICENSE", local_dir=tmp_path / "t")
    assert not api.file_exists(REPO, "LICENSE")


def test_a_cut_download_goes_on_where_it_was(api, hub, source, tmp_path):
    hub.fault("/cdn/", "cut", after_bytes=70_000, count=2)
    api.snapshot_download(REPO, revision=SHA, local_dir=tmp_path / "t")
    assert contents(tmp_path / "t") == contents(source)
    assert len([r for r in hub.requests if "/cdn/" in r.path]) == 3


def test_a_broken_download_is_taken_up_by_the_next(api, hub, source, tmp_path):
    hub.fault("/cdn/", status=404)
    with pytest.raises(errors.HfHubHTTPError):
        api.snapshot_download(REPO, revision=SHA, local_dir=tmp_path / "t", max_workers=1)
    hub.requests.clear()
    api.snapshot_download(REPO, revision=SHA, local_dir=tmp_path / "t")
    assert contents(tmp_path / "t") == contents(source)
    assert len([r for r in hub.requests if r.method == "GET"]) < len(contents(source))


def test_a_failing_hub_fails_as_often_as_told(api, hub):
    hub.fault("/api/models/", status=503, count=2)
    for _ in range(2):
        with pytest.raises(errors.HfHubHTTPError, match="503"):
            api.model_info(REPO)
    assert api.model_info(REPO).sha == SHA
