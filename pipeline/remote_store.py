"""The second tier of the store: what one machine made, another one fetches in place of making it.

    <url>/<kind>/<2 hex>/<digest>     what the artifact is (a line of JSON), then its small files, one after another
    <url>/files/<2 hex>/<sha256>      a large file

The first is written last, so that nobody sees an artifact that is half there. A small artifact is one object: asking
for it takes one request, sending it one. What comes from there counts only where every byte is as its digest says.

Nothing that goes wrong here fails a run: it is a warning, and the artifact is made on this machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import queue
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING

from pipeline import objects, packed
from pipeline.artifact import Artifact, digest_of
from pipeline.objects import UnreachableError
from pipeline.packed import DamagedError, Head, Part, created, parse, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipeline.artifact import Named
    from pipeline.progress import Display

# Large files are fetched in blocks, some at the same time.
BLOCK = 32 << 20
FETCHERS = 4
SENDERS = 3
# Seconds in which a place that could not be reached is left alone: each try may take some.
PAUSE = 300.0
# What a machine notes of an artifact: that the place has it, or that what the place has is not to be used.
SENT = "sent"
REPLACE = "replace"


@dataclass(frozen=True)
class _Job:
    """Something about the artifact `digest` that is done behind the work."""

    digest: str
    run: Callable[[], None]


class RemoteStore:
    """The second tier at `url`. `notes` is a folder of this machine's store, for what it knows of that place.

    Raises `BadInputError` where the URL is none.
    """

    def __init__(self, url: str, root: Path, display: Display) -> None:
        self.url = url
        self._objects = objects.at(url)
        self._display = display
        self._notes = root / ".remote" / hashlib.sha256(url.encode()).hexdigest()[:16]
        self._notes.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._quiet_until = 0.0
        self._last_try = False
        self._asked_for: set[str] = set()
        """Digests that a sender has, or had."""
        self._missed: set[str] = set()
        self._later: list[_Job] = []
        self._queue: queue.Queue[_Job | None] = queue.Queue()
        self._senders: list[threading.Thread] = []
        self._fetched = self._sent = 0

    def fetch(self, step: Named, room: Path) -> Head | None:
        """Bring the step's artifact into the empty `room`; return what it is said to be, None where there is none.

        The caller holds the files in `room` against it, and says `took`, or `distrust` where they are others.
        """
        digest = digest_of(step)
        if self._note(digest) == REPLACE or self._is_quiet():
            return None
        try:
            content = self._objects.read(_name(step.kind, digest), 0, packed.LONGEST_HEAD + packed.PACKED + 1)
            head, rest = parse(content, step)
            unpack(head, rest, room)
            if head.large:
                with self._display.step(f"{step.label}: fetch") as task:
                    self._download(head, room, task.advance)
        except FileNotFoundError:
            self._missed.add(digest)
            (self._notes / digest).unlink(missing_ok=True)
        except UnreachableError as error:
            self._leave_alone(f"could not be read ({error}); what is missing is made here")
        except DamagedError as error:
            self.distrust(step, str(error))
        else:
            return head
        return None

    def took(self, step: Named) -> None:
        """Say that what was fetched of the step is whole."""
        (self._notes / digest_of(step)).write_text(SENT)
        with self._lock:
            self._fetched += 1

    def distrust(self, step: Named, why: str) -> None:
        """Say that what the place has of the step is not the artifact; when it is made, it replaces that."""
        self._display.say(f"warning: {step.label}: what {self.url} has of it is damaged ({why}); it is made here.")
        (self._notes / digest_of(step)).write_text(REPLACE)

    def send(self, step: Named, artifact: Artifact) -> None:
        """Send the artifact while the work goes on, unless the place is known to have it."""
        if artifact.digest in self._asked_for or self._note(artifact.digest) == SENT:
            return
        self._asked_for.add(artifact.digest)
        self._behind(_Job(artifact.digest, partial(self._send, step, artifact)))

    def discard(self, step: Named) -> None:
        """Remove what the place has of the step, and do not fetch it again, be it removed or not."""
        digest = digest_of(step)
        (self._notes / digest).write_text(REPLACE)
        self._asked_for.discard(digest)
        self._behind(_Job(digest, partial(self._remove, step.kind, digest)))

    def finish(self) -> None:
        """Wait until everything is sent; what failed before is tried once more."""
        self._drain()
        if self._later:
            self._quiet_until, self._last_try = 0.0, True
            again, self._later = self._later, []
            for job in again:
                self._behind(job)
            self._drain()
            self._last_try = False
        for _ in self._senders:
            self._queue.put(None)
        for sender in self._senders:
            sender.join()
        self._senders.clear()
        self._asked_for -= {job.digest for job in self._later}
        if self._fetched or self._sent:
            self._display.say(f"{self.url}: {_artifacts(self._fetched)} fetched, {_artifacts(self._sent)} sent.")
        self.leave()

    def leave(self) -> None:
        """Say what is not sent, without waiting for it."""
        if unsent := len(self._later) + self._queue.unfinished_tasks:
            self._display.say(
                f"warning: {_artifacts(unsent)} not sent to {self.url}; the next run that uses them sends them."
            )
        self._later.clear()
        self._fetched = self._sent = 0

    def _download(self, head: Head, room: Path, advance: Callable[[float, str], None]) -> None:
        total, done = sum(part.size for part in head.large), 0
        if total > (free := shutil.disk_usage(room).free):
            raise DamagedError(f"it would take {total / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free here")
        for part in head.large:
            with created(room, part.name) as file, ThreadPoolExecutor(FETCHERS) as pool:
                for length in pool.map(partial(self._block, part, file), range(0, part.size, BLOCK)):
                    done += length
                    advance(done / total, part.name)

    def _block(self, part: Part, file: IO[bytes], begin: int) -> int:
        end = min(begin + BLOCK, part.size)
        try:
            content = self._objects.read(_file_name(part), begin, end)
        except FileNotFoundError as error:
            raise DamagedError(f"{part.name} is missing") from error
        if len(content) != end - begin:
            raise DamagedError(f"{part.name} ends too early")
        written = 0
        while written < len(content):
            written += os.pwrite(file.fileno(), memoryview(content)[written:], begin + written)
        return end - begin

    def _send(self, step: Named, artifact: Artifact) -> None:
        head = Head.of(step, artifact)
        name = _name(step.kind, artifact.digest)
        with self._noting(artifact.digest) as note:
            if note is None or (known := note.read()) == SENT:
                return
            # That a small artifact was not there a moment ago is enough; a request more would cost as much as it.
            if known != REPLACE and not (artifact.digest in self._missed and not head.large) and self._has(name, 1):
                _write(note, SENT)
                return
            for part in head.large:
                if known == REPLACE or not self._has(_file_name(part), part.size):
                    self._objects.upload(_file_name(part), artifact.file(part.name))
            small = [artifact.file(part.name).read_bytes() for part in head.files if part.packed]
            if not artifact.path.exists():  # discarded meanwhile
                return
            self._objects.write(name, b"".join([head.model_dump_json().encode(), b"\n", *small]))
            _write(note, SENT)
            with self._lock:
                self._sent += 1

    def _has(self, name: str, size: int) -> bool:
        """Whether the place has an object of at least `size` bytes."""
        try:
            return len(self._objects.read(name, size - 1, size)) == 1
        except FileNotFoundError:
            return False

    def _remove(self, kind: str, digest: str) -> None:
        with (self._notes / digest).open("a") as note:
            fcntl.flock(note, fcntl.LOCK_EX)  # else a sender might be about to put it there
            _write(note, REPLACE)
            self._objects.remove(_name(kind, digest))

    def _behind(self, job: _Job) -> None:
        if len(self._senders) < SENDERS:
            # Daemons: who interrupts a run does not want to wait for them.
            self._senders.append(threading.Thread(target=self._work, name="remote store", daemon=True))
            self._senders[-1].start()
        self._queue.put(job)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            try:
                if self._is_quiet():
                    self._later.append(job)
                else:
                    self._try(job)
            finally:
                self._queue.task_done()
        self._queue.task_done()

    def _try(self, job: _Job) -> None:
        try:
            job.run()
        except UnreachableError as error:
            self._leave_alone(f"could not be written ({error}); what is to be sent is tried again at the end")
            self._later.append(job)
        except FileNotFoundError:
            pass  # discarded, or dropped from the store, while it was to be sent
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the run, nor this thread
            self._display.say(f"warning: an artifact was not sent to {self.url}: {objects.reason(error)}.")

    def _drain(self) -> None:
        if not (waiting := self._queue.unfinished_tasks):
            return
        with self._display.step(f"send {_artifacts(waiting)} to {self.url}") as task, self._queue.all_tasks_done:
            while left := self._queue.unfinished_tasks:
                task.advance(1 - left / waiting, f"{left} left")
                self._queue.all_tasks_done.wait(0.5)

    def _is_quiet(self) -> bool:
        return time.monotonic() < self._quiet_until

    def _leave_alone(self, why: str) -> None:
        with self._lock:
            if self._is_quiet():  # said already, by another thread
                return
            self._quiet_until = time.monotonic() + PAUSE
        if not self._last_try:  # what is then not sent is said with one line for all
            self._display.say(f"warning: {self.url} {why}, and it is left alone for {PAUSE / 60:.0f} minutes.")

    def _note(self, digest: str) -> str:
        try:
            return (self._notes / digest).read_text()
        except FileNotFoundError:
            return ""

    @contextmanager
    def _noting(self, digest: str) -> Iterator[IO[str] | None]:
        """Give the note, locked; None while another process sends the same artifact."""
        with (self._notes / digest).open("a+") as note:
            try:
                fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            note.seek(0)
            yield note


def _name(kind: str, digest: str) -> str:
    return f"{kind}/{digest[:2]}/{digest}"


def _file_name(part: Part) -> str:
    return f"files/{part.sha256[:2]}/{part.sha256}"


def _write(note: IO[str], text: str) -> None:
    note.truncate(0)
    note.write(text)
    note.flush()


def _artifacts(count: int) -> str:
    return "1 artifact" if count == 1 else f"{count} artifacts"
