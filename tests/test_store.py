"""The store, with real files, real processes and real SIGKILL."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipeline.artifact import MANIFEST, Step, digest_of
from pipeline.errors import BadInputError
from pipeline.progress import Display
from pipeline.store import Store

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Note(Step):
    """A step that writes its words, slowly if wanted, and logs each time it is made."""

    words: str
    log: Path | None = None
    pause: float = 0.0
    fail: bool = False
    kind: ClassVar[str] = "note"
    resumable: ClassVar[bool] = False

    @property
    def label(self) -> str:
        return f"note {self.words}"

    def inputs(self) -> dict[str, Any]:
        return {"words": self.words}

    def make(self, room, _store, _task):
        (room / "first").write_text(self.words)
        if self.log:
            with self.log.open("a") as log:
                log.write(f"{os.getpid()}\n")
        if self.fail:
            raise RuntimeError("broken")
        time.sleep(self.pause)
        (room / "second").write_text(self.words * 2)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", Display(io.StringIO()))


def rooms(store: Store) -> list[str]:
    return [p.name for p in (store.root / ".rooms").iterdir()]


def test_makes_once_and_finds_again(store, tmp_path):
    log = tmp_path / "log"
    made = store.get(Note("a", log))
    assert made.file("second").read_text() == "aa"
    assert made.files["second"].size == 2
    assert store.get(Note("a", log)) == made
    assert len(log.read_text().splitlines()) == 1
    assert rooms(store) == []


def test_digest_is_of_kind_and_inputs_alone(tmp_path):
    assert digest_of(Note("a")) == digest_of(Note("a", tmp_path, 1.0))
    assert digest_of(Note("a")) != digest_of(Note("b"))


def test_a_failed_maker_leaves_nothing(store):
    with pytest.raises(RuntimeError, match="broken"):
        store.get(Note("a", fail=True))
    assert store.find(Note("a")) is None
    assert rooms(store) == []


def write_all(log):
    def make(made):
        log.append(sorted(made))
        for room in made.values():
            (room / "data").write_text(room.name)

    return make


def test_many_are_made_together_and_only_what_is_missing(store):
    log: list[list[str]] = []
    first = store.get_all([Note("a"), Note("b"), Note("a")], write_all(log))
    assert [made.label for made in first] == ["note a", "note b", "note a"]
    assert first[1].file("data").read_text() == f"note-{digest_of(Note('b'))}"
    assert first[0].file("data").stat().st_mode & 0o222 == 0
    second = store.get_all([Note("c"), Note("b")], write_all(log))
    assert second[1] == first[1] == store.get(Note("b"))
    assert store.get_all([Note("c")], write_all(log)) == second[:1]
    assert log == [sorted(map(digest_of, (Note("a"), Note("b")))), [digest_of(Note("c"))]]
    assert rooms(store) == []


def test_of_many_that_fail_nothing_is_left(store):
    def fail(made):
        write_all([])(made)
        raise RuntimeError("broken")

    room = store.root / ".rooms" / f"note-{digest_of(Note('a'))}"
    room.mkdir()
    (room / "data").write_text("of a killed maker")
    with pytest.raises(RuntimeError, match="broken"):
        store.get_all([Note("a"), Note("b")], fail)
    assert rooms(store) == []
    assert store.get_all([Note("a")], write_all([]))[0].file("data").read_text() == room.name


def test_what_others_make_is_left_to_them(store):
    """Two at once, in opposite order: nobody waits while he holds what the other waits for."""
    notes = [Note(words) for words in "abcdefgh"]
    log: list[list[str]] = []
    both = threading.Barrier(2)

    def make(made):
        both.wait(10)  # each has begun with some
        write_all(log)(made)

    mine, others = notes[:5], notes[:2:-1]
    with ThreadPoolExecutor(2) as pool:
        found = [running.result(20) for running in [pool.submit(store.get_all, of, make) for of in (mine, others)]]
    assert [[artifact.label for artifact in of] for of in found] == [[n.label for n in of] for of in (mine, others)]
    assert sorted(digest for made in log for digest in made) == sorted(map(digest_of, notes))
    assert rooms(store) == []


def test_files_are_read_only(store):
    made = store.get(Note("a"))
    assert made.file("first").stat().st_mode & 0o222 == 0


def test_an_artifact_that_was_changed_from_outside_is_made_again(store):
    made = store.get(Note("a"))
    made.file("second").unlink()
    assert store.find(Note("a")) is None
    assert store.get(Note("a")).file("second").read_text() == "aa"


def test_gc_drops_the_least_recently_used_and_leftovers(store):
    for words in "abc":
        os.utime(store.get(Note(words)).file(MANIFEST), (0, ord(words)))
    store.get(Note("a"))  # used again: now the most recent
    (store.root / ".rooms" / "note-dead").mkdir()
    dropped = store.gc(max_size=6)
    assert [a.label for a in dropped] == ["note b"]
    assert [a.label for a in store.artifacts()] == ["note c", "note a"]
    assert rooms(store) == []
    assert [lock.name for lock in (store.root / ".locks").iterdir()] == ["users"]


def test_a_shared_lock_is_asked_for_as_nfs_gives_it(store, monkeypatch):
    # Linux's NFS client (nfs4_proc_lock) refuses a shared lock on a file that is not open for reading, and an exclusive
    # one on a file that is not open for writing.
    def flock(file, operation):
        shared = operation & fcntl.LOCK_SH
        if not (file.readable() if shared else file.writable()):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(fcntl, "flock", flock)
    with store.in_use():
        pass
    assert store.gc(0) == []


def test_gc_refuses_while_a_run_uses_the_store(store):
    other = Store(store.root, Display(io.StringIO()))
    with store.in_use(), pytest.raises(BadInputError, match="in use by a run"):
        other.gc(0)
    other.gc(0)


def test_an_unusable_place_is_refused_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match="--store"):
        Store(tmp_path / "file" / "store", Display(io.StringIO()))


def start(store: Store, log: Path, pause: float) -> subprocess.Popen[bytes]:
    """Make the note in a process of its own."""
    code = (
        "import sys; from pathlib import Path; sys.path[:0] = ['tests']; from test_store import Note;"
        "from pipeline.store import Store; from pipeline.progress import Display;"
        f"made = Store(Path({str(store.root)!r}), Display()).get(Note('a', Path({str(log)!r}), {pause}));"
        "print(made.file('second').read_text())"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


@pytest.mark.programs
def test_eight_processes_make_it_once(store, tmp_path):
    log = tmp_path / "log"
    processes = [start(store, log, 0.3) for _ in range(8)]
    outputs = [process.communicate()[0] for process in processes]
    assert outputs == [b"aa\n"] * 8
    assert len(log.read_text().splitlines()) == 1
    assert rooms(store) == []


@pytest.mark.programs
def test_kill_at_any_moment_leaves_a_whole_artifact_or_none(store, tmp_path):
    log = tmp_path / "log"
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2):
        process = start(store, log, 0.1)
        while not log.exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = store.find(Note("a"))
        assert found is None or found.file("second").read_text() == "aa"
        log.unlink(missing_ok=True)
    assert store.get(Note("a")).file("second").read_text() == "aa"
    assert rooms(store) == []
