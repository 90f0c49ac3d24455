"""The second tier of the store, on a real S3 server that fails on order, on a folder and on the loopback Hub."""

from __future__ import annotations

import functools
import io
import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import click
import pytest
from huggingface_hub import HfApi
from s3 import BUCKET, LoopbackS3

from pipeline import objects, packed, remote_store
from pipeline.artifact import MANIFEST, Step, digest_of
from pipeline.cli import shared
from pipeline.cli.options import remote_store_option
from pipeline.errors import BadInputError
from pipeline.objects import UnreachableError
from pipeline.progress import Display
from pipeline.remote_store import RemoteStore
from pipeline.store import Store

if TYPE_CHECKING:
    from pathlib import Path

URL = f"s3://{BUCKET}/tier"
SECRET = "a/secret+of/this+test"
LARGE = 1000
# To set up a client takes longer than most tests.
connected = functools.cache(objects.at)


@dataclass(frozen=True)
class Made(Step):
    """Three files, one of them `size` bytes long; `log` gets a line each time that they are made."""

    words: str
    log: list[str]
    size: int = 10
    kind: ClassVar[str] = "made"

    @property
    def label(self) -> str:
        return f"made {self.words}"

    def inputs(self) -> dict[str, Any]:
        return {"words": self.words, "size": self.size, "pair": (1, 2.5)}

    def make(self, room, _store, _task):
        self.log.append(self.words)
        (room / "deep").mkdir()
        (room / "deep" / "words").write_text(self.words)
        (room / "large").write_bytes(self.content)
        (room / "empty").touch()

    @property
    def content(self) -> bytes:
        return (self.words.encode() * self.size)[: self.size]


@dataclass(frozen=True)
class Private(Made):
    kind: ClassVar[str] = "private"
    shared: ClassVar[bool] = False


class Machine:
    """A store of its own, with what it said."""

    def __init__(self, root: Path, url: str = URL) -> None:
        self.out = io.StringIO()
        self.store = Store(root, Display(self.out))
        self.store.remote = RemoteStore(url, root, self.store.display)
        self.log: list[str] = []

    def run(self, *words: str, size: int = 10) -> None:
        """Get them, as one command does, and see that they are right."""
        with self.store.in_use():
            for step in (Made(word, self.log, size) for word in words):
                artifact = self.store.get(step)
                assert artifact.file("deep/words").read_text() == step.words
                assert artifact.file("large").read_bytes() == step.content
                assert set(artifact.files) == {"deep/words", "large", "empty"}
                assert artifact.file("large").stat().st_mode & 0o222 == 0
        assert list((self.store.root / ".rooms").iterdir()) == []

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.out.getvalue().splitlines() if line.startswith("warning")]


@pytest.fixture(scope="module")
def server():
    with LoopbackS3() as running:
        yield running


@pytest.fixture
def s3(server, monkeypatch):
    environment = {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": "the-key-of-this-test",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # Each try again waits longer than the one before.
    monkeypatch.setitem(objects.S3["config_kwargs"]["retries"], "total_max_attempts", 1)
    monkeypatch.setattr(objects, "at", connected)
    server.heal()
    for name in server.listed():
        server.delete(name)
    server.requests.clear()
    return server


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch):
    """A test need not wait until all that this machine writes is on its disk."""
    monkeypatch.setattr("os.sync", lambda: None)


@pytest.fixture
def machine(s3, tmp_path):
    """`machine()` is one more machine, at the same URL."""
    made: list[Machine] = []

    def another(url: str = URL) -> Machine:
        made.append(Machine(tmp_path / f"machine-{len(made)}", url))
        return made[-1]

    return another


@pytest.fixture
def in_parts(monkeypatch):
    """What is longer than 100 bytes is an object of its own, fetched in blocks."""
    monkeypatch.setattr(packed, "PACKED", 100)
    monkeypatch.setattr(remote_store, "BLOCK", 300)


def key(words: str, size: int = 10) -> str:
    digest = digest_of(Made(words, [], size))
    return f"tier/made/{digest[:2]}/{digest}"


def test_the_second_machine_makes_nothing_that_the_first_has_made(machine, s3):
    first, second = machine(), machine()
    first.run("a", "b", "c")
    assert len(s3.listed()) == 3
    second.run("a", "b", "c", "d")
    assert (first.log, second.log) == (["a", "b", "c"], ["d"])
    assert second.warnings == first.warnings == []
    assert f"{URL}: 0 artifacts fetched, 3 artifacts sent." in first.out.getvalue()
    assert f"{URL}: 3 artifacts fetched, 1 artifact sent." in second.out.getvalue()
    for step in (Made(words, []) for words in "abc"):
        mine, theirs = (json.loads(m.store.find(step).file(MANIFEST).read_bytes()) for m in (first, second))
        assert mine == theirs


def test_a_small_artifact_takes_one_request_to_fetch_and_two_to_make(machine, s3):
    words = [str(number) for number in range(20)]
    machine().run(*words)
    assert (s3.count("GET"), s3.count("PUT"), len(s3.requests)) == (20, 20, 40)
    s3.requests.clear()
    machine().run(*words)
    assert (s3.count("GET"), len(s3.requests)) == (20, 20)


def test_a_large_file_is_an_object_of_its_own_and_fetched_in_blocks(machine, s3, in_parts):
    first, second = machine(), machine()
    first.run("a", size=LARGE)
    (large,) = s3.listed("tier/files/")
    assert s3.get(large) == Made("a", [], LARGE).content
    assert [path for method, path in s3.requests if method == "PUT"][-1] == f"/{BUCKET}/{key('a', LARGE)}"
    s3.requests.clear()
    second.run("a", size=LARGE)
    assert second.log == []
    assert s3.count("GET", "/files/") == 4


def test_nothing_is_sent_twice(machine, s3, in_parts, tmp_path):
    first = machine()
    first.run("a", "a", size=LARGE)
    first.run("a", size=LARGE)
    Machine(first.store.root).run("a", size=LARGE)
    other = machine()
    other.store.remote, remote = None, other.store.remote
    other.run("a", size=LARGE)  # made here before there was a second tier
    other.store.remote = remote
    other.run("a", size=LARGE)
    other.run("a", size=LARGE)
    assert (first.log, other.log) == (["a"], ["a"])
    assert (s3.count("PUT"), s3.count("POST")) == (2, 0)


def test_what_was_made_before_there_was_a_second_tier_is_sent_when_it_is_used(machine, s3):
    first, second = machine(), machine()
    first.store.remote, remote = None, first.store.remote
    first.run("a")
    first.store.remote = remote
    first.run("a")
    second.run("a")
    assert second.log == []


def test_an_artifact_that_is_half_there_is_not_seen_and_the_next_run_sends_the_rest(machine, s3, in_parts):
    first, second = machine(), machine()
    s3.fault("PUT", "/made/", "status", status=500)
    first.run("a", size=LARGE)
    said, summed_up = first.warnings
    assert "could not be written" in said
    assert summed_up == f"warning: 1 artifact not sent to {URL}; the next run that uses them sends them."
    assert len(s3.listed("tier/files/")) == 1
    s3.fault("PUT", "", "status", status=500)
    second.run("a", size=LARGE)
    assert second.log == ["a"]
    s3.heal()
    s3.requests.clear()
    first.run("a", size=LARGE)
    assert s3.count("PUT") == 1
    third = machine()
    third.run("a", size=LARGE)
    assert (first.log, third.log) == (["a"], [])


def named(*names: str):
    """Let the artifact hold files of these names, in place of its own."""

    def change(head: dict) -> None:
        head["files"] = [head["files"][-1] | {"name": name, "size": 0, "sha256": "0" * 64} for name in names]

    return change


def update(**values):
    return lambda head: head.update(values)


HEADS = {
    "out of it": (named("../escaped"), "outside of it"),
    "out of it, later": (named("deep/../../escaped"), "outside of it"),
    "absolute": (named("/escaped"), "outside of it"),
    "itself": (named("."), "outside of it"),
    "its manifest": (named(MANIFEST), "outside of it"),
    "twice": (named("a", "a"), "twice"),
    "a line break": (named("a\n::error::b"), "outside of it"),
    "a folder and a file": (named("a/b", "a"), "cannot be"),
    "a long name": (named("ü" * 250), "cannot be"),
    "another kind": (update(kind="quant"), "another artifact"),
    "another digest": (update(digest="0" * 64), "another artifact"),
    "other inputs": (update(inputs={"words": "b"}), "another artifact"),
    "endless": (update(seconds=float("inf")), "manifest is none"),
    "no files": (update(files=[]), "more than its manifest names"),
    "deep": (update(inputs=json.loads("[" * 500 + "]" * 500)), "manifest is none"),
    "a negative size": (lambda head: head["files"][0].update(size=-1), "manifest is none"),
    "a size too large": (lambda head: head["files"][0].update(size=1 << 40), "ends too early"),
    "more than a disk holds": (lambda head: head["files"][0].update(size=1 << 59, packed=False), "GB are free"),
    "another sha256": (lambda head: head["files"][-1].update(sha256="0" * 64), "other bytes"),
}


@pytest.mark.parametrize("case", HEADS)
def test_a_manifest_that_lies_leads_nowhere(case, machine, s3, tmp_path):
    change, why = HEADS[case]
    machine().run("a")
    line, _, rest = s3.get(key("a")).partition(b"\n")
    head = json.loads(line)
    change(head)
    s3.put(key("a"), json.dumps(head).encode() + b"\n" + rest)
    before = {path for path in tmp_path.rglob("*") if "machine-1" not in path.parts}
    second = machine()
    second.run("a")
    (said,) = second.warnings
    assert why in said
    assert said.endswith("; it is made here.")
    assert second.log == ["a"]
    assert {path for path in tmp_path.rglob("*") if "machine-1" not in path.parts} == before


OBJECTS = {
    "a byte": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "cut": lambda content: content[:-1],
    "longer": lambda content: content + b"x",
    "empty": lambda _: b"",
    "its first line alone": lambda content: content.partition(b"\n")[0],
    "something else": lambda _: b"\x89PNG" * 100,
    "huge": lambda _: b" " * (packed.LONGEST_HEAD + 2) + b"\n",
}


@pytest.mark.parametrize("damage", OBJECTS)
def test_a_damaged_object_is_noticed_and_put_right(damage, machine, s3):
    machine().run("a")
    s3.put(key("a"), OBJECTS[damage](s3.get(key("a"))))
    second, third = machine(), machine()
    second.run("a")
    (said,) = second.warnings
    assert said.startswith(f"warning: made a: what {URL} has of it is damaged (")
    third.run("a")
    assert (second.log, third.log, third.warnings) == (["a"], [], [])


@pytest.mark.parametrize("damage", ["a byte", "cut", "empty", "missing"])
def test_a_damaged_large_file_is_noticed_and_put_right(damage, machine, s3, in_parts):
    machine().run("a", size=LARGE)
    (large,) = s3.listed("tier/files/")
    if damage == "missing":
        s3.delete(large)
    else:
        s3.put(large, OBJECTS[damage](s3.get(large)))
    second, third = machine(), machine()
    second.run("a", size=LARGE)
    assert ["is damaged" in said for said in second.warnings] == [True]
    third.run("a", size=LARGE)
    assert (second.log, third.log, third.warnings) == (["a"], [], [])


@pytest.mark.parametrize("action", ["cut", "drop"])
def test_an_answer_that_breaks_off_once_is_asked_for_again(action, machine, s3, in_parts):
    machine().run("a", size=LARGE)
    second = machine()
    s3.fault("GET", "/files/", action, count=1)
    s3.fault("GET", "/made/", action, count=1)
    second.run("a", size=LARGE)
    assert (second.log, second.warnings) == ([], [])


@pytest.mark.parametrize("action", ["status", "cut", "drop"])
def test_a_server_that_cannot_be_read_costs_one_warning_and_no_run(action, machine, s3, in_parts):
    machine().run("a", "b", size=LARGE)
    second = machine()
    s3.fault("GET", "/files/", action)
    second.run("a", "b", size=LARGE)
    assert second.log == ["a", "b"]
    (said,) = second.warnings
    assert said.startswith(f"warning: {URL} could not be read (")
    assert said.endswith("what is missing is made here, and it is left alone for 5 minutes.")


def test_a_byte_that_changes_on_the_way_does_not_get_in(machine, s3, in_parts):
    machine().run("a", size=LARGE)
    second = machine()
    s3.fault("GET", "/files/", "flip")
    second.run("a", size=LARGE)
    assert second.log == ["a"]
    assert len(second.warnings) == 1


def test_an_upload_that_fails_for_a_while_is_tried_again_at_the_end(machine, s3):
    first, second = machine(), machine()
    s3.fault("PUT", "", "status", count=1)
    first.run("a", "b", "c")
    second.run("a", "b", "c")
    assert (first.log, second.log) == (["a", "b", "c"], [])
    assert len(first.warnings) == 1


def test_a_server_that_is_not_there_costs_one_warning(machine, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    first = machine(f"s3://{BUCKET}/unreachable")
    first.run("a", "b", "c")
    assert first.log == ["a", "b", "c"]
    unread, unsent = first.warnings
    assert "could not be read" in unread
    assert unsent.startswith("warning: 3 artifacts not sent")


def test_a_bucket_that_is_not_there_is_said(machine, s3):
    first = machine("s3://nowhere/tier")
    first.run("a")
    assert "bucket does not exist" in first.warnings[0]


@pytest.mark.parametrize("deletes", [True, False])
def test_what_is_discarded_is_not_fetched_again(deletes, machine, s3):
    first = machine()
    first.run("a")
    if not deletes:
        s3.fault("DELETE", "", "status", status=403)
        s3.fault("POST", "", "status", status=403)
    with first.store.in_use():
        first.store.discard(Made("a", []))
    assert (s3.listed() == []) == deletes
    s3.heal()
    first.run("a")
    assert first.log == ["a", "a"]
    second = machine()
    second.run("a")
    assert second.log == []


def test_a_step_that_is_not_shared_is_neither_asked_for_nor_sent(machine, s3):
    first = machine()
    with first.store.in_use():
        first.store.get(Private("a", first.log))
        first.store.discard(Private("a", first.log))
        assert first.store.bring(Private("a", first.log)) is None
    assert s3.requests == []


def test_bring_fetches_and_never_makes(machine, s3):
    first, second = machine(), machine()
    first.run("a")
    with second.store.in_use():
        assert second.store.find(Made("a", [])) is None
        assert second.store.bring(Made("a", second.log)).file("deep/words").read_text() == "a"
        assert second.store.bring(Made("b", second.log)) is None
    assert second.log == []


def fail_after(machine: Machine, error: type[BaseException], wait=lambda: None):
    """Make something, and end the command with `error` once `wait` is over."""
    with machine.store.in_use():
        machine.store.get(Made("a", machine.log))
        wait()
        raise error


def test_who_interrupts_a_run_does_not_wait_for_what_is_to_be_sent(machine, monkeypatch):
    first, begun, blocked = machine(), threading.Event(), threading.Event()
    monkeypatch.setattr(first.store.remote._objects, "write", lambda *_: (begun.set(), blocked.wait()))
    try:
        with pytest.raises(KeyboardInterrupt):
            fail_after(first, KeyboardInterrupt, begun.wait)
        assert "1 artifact not sent" in first.warnings[0]
    finally:
        blocked.set()


def test_a_run_that_fails_has_sent_what_it_made(machine):
    first, second = machine(), machine()
    with pytest.raises(BadInputError):
        fail_after(first, BadInputError)
    second.run("a")
    assert second.log == []


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_folder(form, tmp_path, in_parts):
    share = tmp_path / "share"
    share.mkdir()
    first, second = (Machine(tmp_path / name, form.format(share)) for name in "12")
    first.run("a", size=LARGE)
    second.run("a", size=LARGE)
    assert second.log == []
    assert len([path for path in share.rglob("*") if path.is_file()]) == 2
    for path in share.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    third = Machine(tmp_path / "3", form.format(share))
    third.run("a", size=LARGE)
    assert third.log == ["a"]
    with third.store.in_use():
        third.store.discard(Made("a", [], LARGE))
    assert not list((share / "made").rglob("*/*"))


def test_a_folder_that_cannot_be_used_costs_a_warning(tmp_path):
    share = tmp_path / "share"
    share.mkdir()
    first = Machine(tmp_path / "1", str(share))
    (share / "made").write_text("a file where a folder is wanted")
    first.run("a")
    assert "could not be read (Not a directory" in first.warnings[0]
    assert first.log == ["a"]


def test_a_repo_of_the_hub(loopback_hub, tmp_path, monkeypatch, in_parts):
    loopback_hub.add_token("hf_writer", "me", "write", {"me": "write"})
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    HfApi().create_repo("me/tier", repo_type="dataset")
    first, second = (Machine(tmp_path / name, "hf://datasets/me/tier") for name in "12")
    first.run("a", "b", size=LARGE)
    second.run("a", "b", size=LARGE)
    assert (first.warnings, second.warnings, second.log) == ([], [], [])


@pytest.mark.parametrize(
    ("url", "said"), [("s3://", "no place there"), ("https://host/tier", "Nothing can be written")]
)
def test_where_nothing_can_be_kept(url, said, tmp_path):
    with pytest.raises(BadInputError, match=said):
        RemoteStore(url, tmp_path, Display())


@pytest.mark.parametrize(
    "url",
    [
        f"s3://key:{SECRET}@bucket/tier",
        f"ftp://me:{SECRET}@host/x",
        f"https://host/tier?X-Amz-Signature={SECRET}",
        f"simplecache::s3://key:{SECRET}@bucket",
    ],
)
def test_a_url_with_a_secret_is_refused_and_not_repeated(url, tmp_path):
    with pytest.raises(BadInputError, match="password or a signature") as raised:
        shared.open_store(tmp_path, url)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "why"), [("nowhere://x", "cannot be used with nowhere://"), ("no/such/folder", "mount the share")]
)
def test_what_is_no_place_is_refused(url, why, tmp_path):
    with pytest.raises(BadInputError, match=why):
        shared.open_store(tmp_path, url)


def test_no_secret_is_said_whatever_the_server_says(s3, machine, monkeypatch):
    first = machine()

    def refuse(*_):
        raise PermissionError(f"{SECRET} is wrong at https://host/x?X-Amz-Signature=abc \x1b[0m\n::error::x")

    monkeypatch.setattr(first.store.remote._objects._system, "cat_file", lambda *_, **__: refuse())
    first.run("a")
    assert "(… is wrong at https://host/x  [0m)" in first.warnings[0]
    assert SECRET not in first.out.getvalue()
    with pytest.raises(UnreachableError) as raised:
        first.store.remote._objects.read("x", 0, 1)
    assert SECRET not in str(raised.value)


def test_the_option_reads_the_environment(monkeypatch):
    seen: list[str | None] = []

    @click.command()
    @remote_store_option
    def command(remote_store: str | None) -> None:
        seen.append(remote_store)

    for value in ("s3://x", ""):
        monkeypatch.setenv("LLM_QUANTIZER_REMOTE_STORE", value)
        command([], standalone_mode=False)
    assert seen == ["s3://x", None]
