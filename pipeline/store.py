"""Content-addressed artifacts on disk, each made once, by one maker at a time, and never changed.

    <store>/<kind>/<digest>/          the artifact: its files and `artifact.json`
    <store>/.rooms/<kind>-<digest>/   where it is made; renamed into place when it is whole
    <store>/.locks/<digest>           held (flock) by the one process that makes it
    <store>/.hashes/<path's SHA-256>  what is known of a file elsewhere: see `pipeline.remembered`

A process that is killed loses its lock and leaves at most a room behind: the next maker of the same artifact
starts from an empty room, or goes on in the old one where the step can resume.

Behind it there may be a second tier, which other machines write to as well: see `pipeline.remote_store`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from pipeline import lanes
from pipeline.artifact import MANIFEST, Artifact, digest_of, file_sha256
from pipeline.errors import BadInputError, disk_errors
from pipeline.remembered import Remembered
from pipeline.result import FileEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.artifact import Named, Step
    from pipeline.progress import Display
    from pipeline.remote_store import RemoteStore

# Artifacts that are fetched at the same time: most of it is waiting.
FETCHERS = 8


class Store:
    """The artifacts under `root`. Many processes may use one store at the same time."""

    def __init__(self, root: Path, display: Display) -> None:
        self.root = root
        self.display = display
        self.remote: RemoteStore | None = None
        self.remembered = Remembered(root / ".hashes", display.say)
        try:
            for name in (".rooms", ".locks", ".hashes"):
                (root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInputError(
                f"The store {root} cannot be used: {error.strerror}. Name another directory with --store"
                " or LLM_QUANTIZER_STORE."
            ) from error

    def find(self, step: Named) -> Artifact | None:
        """Return the step's artifact if it is there and whole.

        It looks here alone: plans ask for thousands, and a request each to a second tier would take them minutes. So a
        plan says that something is to be made which a second tier has; the run then fetches it.
        """
        return self._read(step.kind, digest_of(step))

    def bring(self, step: Named) -> Artifact | None:
        """Return the step's artifact if it is there or in the second tier; it is never made."""
        digest = digest_of(step)
        artifact = self._read(step.kind, digest)
        if artifact is None and self.remote is not None:
            with self._lock(digest, waiting=step.label):
                artifact = self._read(step.kind, digest) or self._fetch(step, digest)
        return artifact

    def get(self, step: Step) -> Artifact:
        """Return the step's artifact, fetching it from the second tier or making it first where it is missing.

        While another process makes the same one, waits for it.
        """
        digest = digest_of(step)
        artifact = self._read(step.kind, digest)
        if artifact is None:
            with self._lock(digest, waiting=step.label):
                artifact = self._read(step.kind, digest) or self._fetch(step, digest) or self._make(step, digest)
        return self._use(step, artifact)

    def discard(self, step: Named) -> None:
        """Drop the step's artifact, so that the next `get` makes it anew."""
        self.drop(step)
        if self.remote is not None and step.shared:
            self.remote.discard(step)

    def drop(self, step: Named) -> None:
        """Drop the step's artifact here, for its room; a second tier keeps what it has of it."""
        self._drop(self.root / step.kind / digest_of(step))

    def get_all(self, wanted: Sequence[Named], make: Callable[[Mapping[str, Path]], None]) -> list[Artifact]:
        """Return the artifacts, in the order of `wanted`; `make` writes those that are missing, all at once.

        It is given the rooms to write them into, by digest. What another process makes meanwhile is left to it and
        waited for, with no lock held. Artifacts that are made together cost one flush of the disk.
        """
        names = {digest_of(name): name for name in wanted}
        found: dict[str, Artifact] = {}
        while True:
            for digest, name in names.items():
                if digest not in found and (artifact := self._read(name.kind, digest)) is not None:
                    found[digest] = artifact
            missing = {digest: name for digest, name in names.items() if digest not in found}
            if not missing:
                break
            if not self._make_all(missing, make):
                digest, name = next(iter(missing.items()))
                with self._lock(digest, waiting=name.label):
                    pass
        return [self._use(name, found[digest_of(name)]) for name in wanted]

    def _use(self, step: Named, artifact: Artifact) -> Artifact:
        """Note that it is used now, and have it sent to where other machines find it."""
        os.utime(artifact.path / MANIFEST)
        if self.remote is not None and step.shared:
            self.remote.send(step, artifact)
        return artifact

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep `gc` away for as long as artifacts are read: hold this around any use of `get`.

        It ends when all that was made is in the second tier, but for who interrupts the run.
        """
        # Open for reading, too: NFS gives a shared lock to readers alone.
        with self._users().open("w+") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            try:
                yield
            except KeyboardInterrupt:
                if self.remote is not None:
                    self.remote.leave()
                raise
            except BaseException:
                self._finish()
                raise
            self._finish()

    def _finish(self) -> None:
        if self.remote is not None:
            self.remote.finish()

    def artifacts(self) -> list[Artifact]:
        """Return every whole artifact, the least recently used first."""
        found = [
            artifact
            for kind in self.root.iterdir()
            if kind.is_dir() and not kind.name.startswith(".")
            for entry in kind.iterdir()
            if (artifact := self._read(kind.name, entry.name)) is not None
        ]
        return sorted(found, key=lambda a: (a.last_used(), a.digest))

    def gc(self, max_size: int) -> list[Artifact]:
        """Drop what interrupted makers left, then the least recently used until `max_size` bytes remain.

        Returns the artifacts that were dropped. Raises `BadInputError` while a run uses the store.
        """
        with self._users().open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BadInputError(
                    f"The store {self.root} is in use by a run. Wait until it ends, then run gc again."
                ) from error
            for leftover in (self.root / ".rooms").iterdir():
                shutil.rmtree(leftover)
            for lock in (self.root / ".locks").iterdir():
                if lock != self._users():  # all others are held within a use
                    lock.unlink()
            for memory in (self.root / ".hashes").iterdir():
                memory.unlink()
            kept = self.artifacts()
            size = sum(a.size for a in kept)
            dropped = []
            for artifact in kept:
                if size <= max_size:
                    break
                self._drop(artifact.path)
                size -= artifact.size
                dropped.append(artifact)
            return dropped

    def _users(self) -> Path:
        return self.root / ".locks" / "users"

    def _read(self, kind: str, digest: str) -> Artifact | None:
        path = self.root / kind / digest
        try:
            manifest = json.loads((path / MANIFEST).read_bytes())
        except FileNotFoundError:
            return None
        files = {name: FileEntry(name=name, **entry) for name, entry in manifest["files"].items()}
        if any(_size(f"{path}/{name}") != entry.size for name, entry in files.items()):
            self.display.say(f"warning: {path} was changed from outside; it is made again.")
            self._drop(path)
            return None
        return Artifact(path, kind, digest, manifest["label"], manifest["seconds"], files)

    def _fetch(self, step: Named, digest: str) -> Artifact | None:
        """Take the step's artifact from the second tier, if every byte of it is there as its digest says."""
        return next(iter(self._fetch_all({digest: step}).values()), None)

    def _fetch_all(self, missing: Mapping[str, Named]) -> dict[str, Artifact]:
        """Take what the second tier has of these artifacts, some at the same time, with one flush of the disk."""
        asked = {digest: name for digest, name in missing.items() if self.remote is not None and name.shared}
        if not asked:
            return {}
        with ThreadPoolExecutor(min(len(asked), FETCHERS)) as pool:
            rooms = dict(zip(asked, pool.map(self._fetch_into_room, asked.values(), asked), strict=True))
        whole = {digest: room for digest, room in rooms.items() if room is not None}
        if whole:
            os.sync()
        return {digest: self._take(room, asked[digest], digest) for digest, room in whole.items()}

    def _fetch_into_room(self, step: Named, digest: str) -> Path | None:
        """Return a room with the step's artifact, held against its manifest; None where the second tier has none."""
        assert self.remote is not None
        room = self.root / ".rooms" / f"fetched-{step.kind}-{digest}"
        if room.exists():
            shutil.rmtree(room)
        whole = False
        with disk_errors(self.root, f"fetching {step.label!r}"):
            try:
                room.mkdir()
                if (head := self.remote.fetch(step, room)) is None:
                    return None
                found = self._describe(room, step, head.seconds)
                if wrong := [part.name for part in head.files if found.get(part.name) != part.entry]:
                    self.remote.distrust(step, f"{wrong[0]} has other bytes than its manifest says")
                    return None
                whole = True
            finally:
                if not whole:
                    shutil.rmtree(room, ignore_errors=True)
        return room

    def _take(self, room: Path, step: Named, digest: str) -> Artifact:
        assert self.remote is not None
        artifact = self._place(room, step, digest)
        self.remote.took(step)
        return artifact

    def _make(self, step: Step, digest: str) -> Artifact:
        room = self.root / ".rooms" / f"{step.kind}-{digest}"
        if not step.resumable and room.exists():
            shutil.rmtree(room)
        doing = f"running the step {step.label!r}"
        with lanes.turn(gpu=step.on_gpu), self.display.step(step.label) as task, disk_errors(self.root, doing):
            began = time.monotonic()
            try:  # around `mkdir` too: an interrupt may come right after it
                room.mkdir(exist_ok=True)
                step.make(room, self, task)
                self._describe(room, step, time.monotonic() - began)
                os.sync()  # one call for thousands of files of a source tree as for one large file
            except BaseException:
                if not step.resumable:
                    shutil.rmtree(room, ignore_errors=True)
                raise
            return self._place(room, step, digest)

    def _place(self, room: Path, step: Named, digest: str) -> Artifact:
        final = self.root / step.kind / digest
        final.parent.mkdir(exist_ok=True)
        room.rename(final)
        artifact = self._read(step.kind, digest)
        assert artifact is not None, "renamed into place just now, under the lock"
        return artifact

    def _make_all(self, missing: Mapping[str, Named], make: Callable[[Mapping[str, Path]], None]) -> bool:
        """Fetch or make those that nobody else makes; whether there were any."""
        rooms: dict[str, Path] = {}
        with ExitStack() as locks:
            try:
                ours = [d for d, n in missing.items() if self._lock_if_free(d, locks) and not self._read(n.kind, d)]
                if not ours:
                    return False
                fetched = self._fetch_all({digest: missing[digest] for digest in ours})
                for digest in (digest for digest in ours if digest not in fetched):
                    rooms[digest] = room = self.root / ".rooms" / f"{missing[digest].kind}-{digest}"
                    if room.exists():
                        shutil.rmtree(room)
                    room.mkdir()
                if not rooms:
                    return True
                began = time.monotonic()
                make(rooms)
                seconds = (time.monotonic() - began) / len(rooms)
                with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter to others
                    list(pool.map(lambda digest: self._describe(rooms[digest], missing[digest], seconds), rooms))
                os.sync()
                for digest, room in rooms.items():
                    self._place(room, missing[digest], digest)
            except BaseException:
                for room in rooms.values():
                    shutil.rmtree(room, ignore_errors=True)
                raise
        return True

    def _describe(self, room: Path, name: Named, seconds: float) -> dict[str, dict[str, Any]]:
        """Write the manifest, and return the size and sha256 of every file.

        Every byte is brought to the disk after that, so that only whole directories are renamed.
        """
        files = {}
        for path in sorted(p for p in room.rglob("*") if p.is_file() and not p.is_symlink()):
            path.chmod(path.stat().st_mode & 0o555)
            files[str(path.relative_to(room))] = {"size": path.stat().st_size, "sha256": file_sha256(path)}
        manifest = {
            "label": name.label,
            "inputs": name.inputs(),
            "seconds": round(seconds, 1),
            "files": files,
        }
        (room / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        return files

    def _drop(self, path: Path) -> None:
        """Remove an artifact in one step as others see it: renamed away first, deleted then."""
        grave = self.root / ".rooms" / f"dropped-{path.parent.name}-{path.name}-{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            path.rename(grave)
            shutil.rmtree(grave)

    @contextmanager
    def _lock(self, digest: str, waiting: str) -> Iterator[None]:
        with (self.root / ".locks" / digest).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.display.say(f"{waiting}: another run or quant is at it; waiting.")
                began = time.monotonic()
                fcntl.flock(file, fcntl.LOCK_EX)
                self.display.say(f"{waiting}: waited {time.monotonic() - began:.0f} s.")
            yield

    def _lock_if_free(self, digest: str, locks: ExitStack) -> bool:
        """Lock until `locks` are let go, unless another process holds it."""
        file = (self.root / ".locks" / digest).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        locks.enter_context(file)
        return True


def total_size(artifacts: Sequence[Artifact]) -> int:
    return sum(artifact.size for artifact in artifacts)


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - a source tree has thousands of files, and a Path is slow to make
    except OSError:
        return None
