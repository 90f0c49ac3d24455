"""A folder as target: `<root>/<model>-GGUF`, replaced as a whole by one rename, ready to be pushed to the Hub."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pipeline.artifact import file_sha256
from pipeline.check.verdict import passed
from pipeline.errors import BadInputError, OutOfRoomError, disk_errors
from pipeline.publish import gitattributes
from pipeline.publish.change import Change
from pipeline.release import RELEASE
from pipeline.result import Release
from pipeline.source import CARD
from pipeline.toolchain import threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pipeline.publish import Planned
    from pipeline.release import Bundle
    from pipeline.result import FileEntry

ATTRIBUTES = ".gitattributes"
AT_FDCWD = -100
RENAME_EXCHANGE = 2


@dataclass(frozen=True)
class Folder:
    root: Path
    sha256: Callable[[Path], str] = file_sha256
    """Of a file that lies there."""

    def directory(self, repo: str) -> Path:
        return self.root / repo.split("/")[1]

    def check(self, planned: Sequence[Planned]) -> None:  # noqa: ARG002 - how much fits is asked of the disk
        """Make the folder if it is not there; `BadInputError` where it cannot be made or written to."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInputError(
                f"{self.root} cannot be a folder for releases: {error.strerror}. Name another with --publish-to."
            ) from error
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise BadInputError(f"{self.root} cannot be written to. Name another folder with --publish-to.")

    def last(self, repo: str) -> Release | None:
        """Read the release.json that is there.

        Raises `BadInputError` where it cannot be read: without it nobody can tell which files are ours.
        """
        path = self.directory(repo) / RELEASE
        try:
            return Release.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, json.JSONDecodeError, OSError) as error:
            raise BadInputError(
                f"{path} cannot be read as the record of a release, so that nobody can tell which files beside it"
                " belong to it. Move the directory away, or put the file back as it was."
            ) from error

    def exists(self, repo: str) -> bool:
        return self.directory(repo).is_dir()

    def is_open(self, repo: str) -> None:
        """A folder is no place of downloads."""

    def holds(self, repo: str, files: Sequence[FileEntry], staged_for: str | None = None) -> bool:  # noqa: ARG002
        return all(self._found(self.directory(repo) / file.name) == file.sha256 for file in files)

    def stage(self, repo: str, release_id: str, files: Sequence[tuple[FileEntry, Path]]) -> None:
        """Do nothing: what is in the store is near enough."""

    def change(self, bundle: Bundle) -> Change:
        directory, last = self.directory(bundle.release.repo), self.last(bundle.release.repo)
        new, old = ({f.name: f.sha256 for f in files} for files in (bundle.entries, last.files if last else ()))
        names = sorted(new | old)
        with ThreadPoolExecutor(threads()) as pool:
            found = dict(zip(names, pool.map(lambda name: self._found(directory / name), names), strict=True))
        kept = {name for name, sha256 in new.items() if found[name] == sha256}
        stale = old.keys() - new.keys()
        edited = [name for name, sha256 in old.items() if found[name] != sha256]
        card = directory / CARD
        return Change(
            place=str(directory),
            head=None,
            adds=tuple(entry for entry in bundle.entries if entry.name not in kept),
            copies=(),
            deletes=tuple(sorted(name for name in stale if (directory / name).exists())),
            kept=tuple(sorted(kept)),
            edited=tuple(edited),
            card=(card.read_text() if card.is_file() else "", bundle.text(CARD)),
        )

    def publish(self, bundle: Bundle) -> Change:
        directory = self.directory(bundle.release.repo)
        with self._alone(), disk_errors(self.root, f"writing {directory}"):
            self._recover(directory)
            last = self.last(bundle.release.repo)
            theirs = self._foreign(directory, last)
            attributes = _attributes(directory, last, bundle.release)
            if clash := sorted(set(theirs) & {*bundle.contents, *([ATTRIBUTES] if attributes else [])}):
                raise BadInputError(
                    f"{directory / clash[0]} was not written by a release of ours, and this release would replace it."
                    " Move it away, then run again."
                )
            change = self.change(bundle)
            if not change.empty or (attributes and not (directory / ATTRIBUTES).exists()):
                self._replace(directory, bundle, theirs, attributes)
        seen = f"{len(bundle.entries)} files read back with the SHA-256 that were released"
        return replace(change, verdicts=(passed("target", seen),))

    def _replace(self, directory: Path, bundle: Bundle, theirs: list[str], attributes: str) -> None:
        """Build the new folder beside the old one, read it back, and swap the two in one rename."""
        new = _beside(directory, "new")
        new.mkdir()
        for name, content in bundle.contents.items():
            if isinstance(content, bytes):
                (new / name).write_bytes(content)
            elif content or (directory / name).exists():
                shutil.copyfile(content or directory / name, new / name)
            else:
                raise BadInputError(
                    f"{name} of {bundle.release.repo} is no longer in the store. Run the jobs again that the release"
                    f" is made of: `python -m pipeline run --only {bundle.release.base_model}`."
                )
        if attributes:
            (new / ATTRIBUTES).write_text(attributes)
        for name in theirs:
            # Linked, not moved: until the swap, the old folder stays as it was.
            if (directory / name).is_dir():
                shutil.copytree(directory / name, new / name, copy_function=os.link, symlinks=True)
            else:
                os.link(directory / name, new / name, follow_symlinks=False)
        for entry in bundle.entries:
            if file_sha256(new / entry.name) != entry.sha256:
                raise OutOfRoomError(f"{new / entry.name} does not read back as it was written: check the disk.")
        os.sync()
        if directory.exists():
            _exchange(new, directory)
            shutil.rmtree(new)
        else:
            new.rename(directory)

    def _found(self, path: Path) -> str:
        return self.sha256(path) if path.is_file() else ""

    def _recover(self, directory: Path) -> None:
        """Clear up after a run that was killed while it published."""
        new, old = _beside(directory, "new"), _beside(directory, "old")
        if old.exists():  # killed between the two renames of `_exchange`
            old.rename(new if directory.exists() else directory)
        if new.exists():
            shutil.rmtree(new)

    def _foreign(self, directory: Path, last: Release | None) -> list[str]:
        """Return what lies in the folder and is not ours: kept, whatever it is."""
        if not directory.exists():
            return []
        ours = {ATTRIBUTES, RELEASE, *(f.name for f in last.files)} if last else {ATTRIBUTES}
        return sorted({p.name for p in directory.iterdir()} - ours)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process at a time write below the root; the lock is the directory itself and leaves nothing."""
        self.check(())
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _beside(directory: Path, suffix: str) -> Path:
    return directory.with_name(f".{directory.name}.{suffix}")


def _attributes(directory: Path, last: Release | None, release: Release) -> str:
    """Return the new .gitattributes, the old one where somebody changed it by hand."""
    try:
        found = (directory / ATTRIBUTES).read_text()
    except FileNotFoundError:
        return gitattributes.render(release)
    return gitattributes.render(release) if last and found == gitattributes.render(last) else found


def _exchange(new: Path, old: Path) -> None:
    """Swap two directories in one step (renameat2(2)), or in two where the system knows no such call."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(AT_FDCWD, bytes(new), AT_FDCWD, bytes(old), RENAME_EXCHANGE) == 0:
            return
    aside = _beside(old, "old")
    old.rename(aside)
    new.rename(old)
    aside.rename(new)
