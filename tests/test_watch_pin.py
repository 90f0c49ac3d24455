"""A newer llama.cpp: what a package index on this machine, or a git repository, has."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

from pipeline import watch
from pipeline.errors import ToolchainError
from pipeline.github import GitHub
from pipeline.matrix import GitSource, PathSource, Sdist, load
from pipeline.watch import index, pin, proposal

NAME = "llama-cpp-python"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PINNED = Sdist(NAME, "0.3.36", "a" * 64, "0c1e57098")
JSON = "application/vnd.pypi.simple.v1+json"
MATRIX = f"""\
version: 1
llama_cpp:
  sdist: {NAME}==0.3.36 # pinned
  sha256: {"a" * 64}
  commit: "0c1e57098"
models:
  - {{source: a/b, organization: nold, quants: [Q8_0]}}
"""


class Index:
    """A package index of one project, by its JSON."""

    def __init__(self):
        self.files = []
        self.bodies = {}
        self.answer = None  # in place of the project's page: status, content
        index_ = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                page = json.dumps({"meta": {"api-version": "1.1"}, "name": NAME, "files": index_.files}).encode()
                status, content = index_.answer or (200, page)
                if self.path != f"/simple/{NAME}/":
                    status, content = (200, index_.bodies[self.path]) if self.path in index_.bodies else (404, b"")
                self.send_response(status)
                self.send_header("Content-Type", JSON)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://somebody:sesame@127.0.0.1:{self.server.server_port}/simple/"

    def add(self, version, head=f"{COMMIT}\n", **about):
        """List a source distribution with `head` as what says its commit, None for none."""
        stem = f"llama_cpp_python-{version}"
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as tar:
            for name, text in ((f"{stem}/PKG-INFO", "x"), (f"{stem}/{pin.HEAD}", head)):
                if text is not None:
                    member = tarfile.TarInfo(name)
                    member.size = len(text)
                    tar.addfile(member, io.BytesIO(text.encode()))
        content = out.getvalue()
        file = f"{stem}.tar.gz"
        self.bodies[f"/files/{file}"] = content
        hashes = {"sha256": hashlib.sha256(content).hexdigest()}
        self.files.append({"filename": file, "url": f"../../files/{file}", "hashes": hashes, "yanked": False} | about)
        return hashes["sha256"]


@pytest.fixture
def package_index(monkeypatch):
    made = Index()
    monkeypatch.setenv("PIP_INDEX_URL", made.url)
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_the_newest_release_with_its_commit(package_index):
    package_index.add("0.3.9")
    sha256 = package_index.add("0.3.37")
    package_index.add("0.3.36")
    package_index.add("0.3.38rc1")
    package_index.add("0.3.39", yanked="broken")
    package_index.files += [
        {"filename": "llama_cpp_python-0.4.0-py3-none-any.whl", "url": "x", "hashes": {}},
        {"filename": "llama_cpp_python-0.4.1.tar.gz", "url": "x", "hashes": {"md5": "1"}},
        {"filename": "other-0.5.tar.gz", "url": "x", "hashes": {"sha256": "b" * 64}},
        {"filename": "../../llama_cpp_python-9.tar.gz", "url": "x", "hashes": {"sha256": "b" * 64}},
        {"filename": "nonsense", "url": "x", "hashes": {}},
    ]
    found = pin.look(PINNED)
    # As long as the pinned one is written.
    assert found == pin.Newer(Sdist(NAME, "0.3.37", sha256, COMMIT[:9]), COMMIT)


def test_nothing_newer(package_index):
    package_index.add("0.3.36")
    assert pin.look(PINNED) is None
    assert pin.look(Sdist(NAME, "0.4", "a" * 64, "0c1e57098")) is None
    assert pin.look(PathSource(Path("x"))) is None


def test_a_newer_one_that_carries_the_same_llama_cpp(package_index):
    package_index.add("0.3.37", head="0c1e57098bba43ac29e6e3b677cdceebdd22334f")
    assert pin.look(PINNED) is None


@pytest.mark.parametrize("head", [None, "ref: refs/heads/master\n", "0c1e57098", "x" * 40, "0" * 200])
def test_a_commit_that_cannot_be_known_is_not_guessed(package_index, head):
    package_index.add("0.3.37", head=head)
    found = pin.look(PINNED)
    assert (found.commit, found.pin.commit) == (None, pin.UNKNOWN)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ((500, b""), "it answered 500. Check the network and PIP_INDEX_URL"),
        ((404, b""), "it answered 404"),
        ((200, b"<html>"), r"no list of files in JSON \(PEP 691\)"),
        ((200, b'{"files": []}'), "has no source distribution of llama-cpp-python"),
    ],
)
def test_an_index_that_cannot_say(package_index, answer, sentence):
    package_index.answer = answer
    with pytest.raises(ToolchainError, match=sentence) as raised:
        pin.look(PINNED)
    assert "sesame" not in str(raised.value)


def test_an_index_that_is_away(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://somebody:sesame@127.0.0.1:9/simple")
    with pytest.raises(ToolchainError, match="looking for the newest llama-cpp-python: ConnectError") as raised:
        pin.look(PINNED)
    assert "sesame" not in str(raised.value)


def test_other_bytes_than_listed(package_index):
    package_index.add("0.3.37", hashes={"sha256": "b" * 64})
    with pytest.raises(ToolchainError, match=r"llama-cpp-python==0\.3\.37 came with other bytes"):
        pin.look(PINNED)


def test_an_archive_that_is_too_large(package_index, monkeypatch):
    package_index.add("0.3.37")
    monkeypatch.setattr(index, "MAX_BYTES", 10)
    with pytest.raises(ToolchainError, match="is larger than 10 bytes"):
        pin.look(PINNED)


def test_an_archive_that_unpacks_to_too_much(package_index, monkeypatch):
    package_index.add("0.3.37")
    monkeypatch.setattr(pin, "MAX_UNPACKED", 1)
    assert pin.look(PINNED).commit is None


@pytest.mark.parametrize("content", [b"no archive", b"\x1f\x8b\x08\0\0\0\0\0\0\xffgarbage"])
def test_an_archive_that_is_none(tmp_path, content):
    (tmp_path / "a-1.tar.gz").write_bytes(content)
    with pytest.raises(ToolchainError, match=r"a-1\.tar\.gz of the package index is no archive"):
        pin.commit_in(tmp_path / "a-1.tar.gz")


# --- the pull request ---


@pytest.fixture
def repository(fake_github):
    fake_github.repository.commit("main", {"matrix.yml": MATRIX.encode()}, "Matrix")
    return fake_github.repository


def seen():
    return watch.llama_cpp(PINNED, GitHub.of_environment(), "matrix.yml")


def test_one_pull_request_for_a_newer_pin(package_index, repository, tmp_path, golden):
    sha256 = package_index.add("0.3.37")
    found = seen()
    assert found.row[:4] == ("llama.cpp", "0c1e57098", COMMIT[:9], "llama-cpp-python==0.3.37")
    (pull,) = repository.pulls
    assert (pull.title, pull.branch) == ("llama.cpp: llama-cpp-python==0.3.37", "watch/llama.cpp")
    golden("watch-llama-cpp.md", pull.body.replace(sha256, "<sha256>"))
    written = repository.files(pull.branch)["matrix.yml"].decode()
    (tmp_path / "matrix.yml").write_text(written)
    assert load(tmp_path / "matrix.yml").llama_cpp == Sdist(NAME, "0.3.37", sha256, COMMIT[:9])
    assert f'  sdist: {NAME}==0.3.37 # pinned\n  sha256: {sha256}\n  commit: "{COMMIT[:9]}"\n' in written
    assert str(seen().pull) == "is open: https://github.example/me/quants/pull/1"
    package_index.add("0.3.38")
    assert str(seen().pull) == "updated: https://github.example/me/quants/pull/1"
    assert pull.title == "llama.cpp: llama-cpp-python==0.3.38"


def test_a_person_fills_in_what_is_not_known(package_index, repository, tmp_path):
    package_index.add("0.3.37", head=None)
    assert seen().newest == "unknown"
    (pull,) = repository.pulls
    assert "The commit has to be filled in by a person" in pull.body
    assert "/compare/" not in pull.body
    (tmp_path / "matrix.yml").write_bytes(repository.files(pull.branch)["matrix.yml"])
    with pytest.raises(Exception, match="must be 7 to 40 lower-case hex digits, not `unknown`"):
        load(tmp_path / "matrix.yml")
    filled = repository.files(pull.branch)["matrix.yml"].replace(b"unknown", COMMIT.encode())
    repository.commit(pull.branch, {"matrix.yml": filled}, "Fill it in")
    assert seen().pull.words == "is open"
    assert repository.files(pull.branch)["matrix.yml"] == filled


def test_an_index_that_fails_is_reported(package_index, repository):
    package_index.answer = (503, b"")
    found = seen()
    assert "The package index failed" in found.failure
    assert "Failed" in watch.markdown([found])
    assert repository.pulls == []


@pytest.mark.programs
def test_the_newest_commit_of_a_git_repository(tmp_path):
    def git(*words):
        who = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "-m", "one")
    first = git("rev-parse", "HEAD")
    url = f"file://{tmp_path}"
    assert pin.look(GitSource(url, first)) is None
    git("commit", "--quiet", "--allow-empty", "-m", "two")
    second = git("rev-parse", "HEAD")
    assert pin.look(GitSource(url, first)) == pin.Newer(GitSource(url, second), second)
    with pytest.raises(ToolchainError, match="asking file:///nowhere/at/all for its newest commit"):
        pin.look(GitSource("file:///nowhere/at/all", first))


def test_a_git_pin_on_github_links_the_commits():
    old, new = "1" * 40, "2" * 40
    url = "https://github.com/ggml-org/llama.cpp.git"
    made = proposal.of_llama_cpp(GitSource(url, old), pin.Newer(GitSource(url, new), new))
    assert made.title == f"llama.cpp: {new[:12]}"
    assert f"(https://github.com/ggml-org/llama.cpp/compare/{old}...{new})" in made.body
    elsewhere = "https://example.com/llama.cpp"
    made = proposal.of_llama_cpp(GitSource(elsewhere, old), pin.Newer(GitSource(elsewhere, new), new))
    assert "/compare/" not in made.body
