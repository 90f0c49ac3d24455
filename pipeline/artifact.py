"""What the store keeps: an artifact, the step that makes it, and the digest that names it.

The digest is sha256 over the canonical JSON of a step's kind and inputs: it is known before the step runs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.progress import Task
    from pipeline.result import FileEntry
    from pipeline.store import Store

MANIFEST = "artifact.json"


class Named(Protocol):
    """What names one artifact. Frozen: its inputs are its identity."""

    kind: ClassVar[str]
    shared: ClassVar[bool] = True
    """Whether it is sent to a second tier of the store and fetched from there; a step that says no says why."""

    @property
    def label(self) -> str:
        """What a person reads while it runs."""

    def inputs(self) -> dict[str, Any]:
        """Everything that goes into the artifact, as JSON; artifacts by their digest."""

    @cached_property
    def digest(self) -> str:
        """The 64 hex digits that name the artifact."""
        return hashlib.sha256(canonical({"kind": self.kind, "inputs": self.inputs()})).hexdigest()


class Step(Named, Protocol):
    """A way to make one artifact."""

    resumable: ClassVar[bool] = False
    """Whether a room that an interrupted maker left is worth going on in."""

    @property
    def on_gpu(self) -> bool:
        """Whether it takes the GPU, which steps of other lanes then wait for."""
        return False

    def make(self, room: Path, store: Store, task: Task) -> None:
        """Write the artifact's files into `room`."""


@dataclass(frozen=True)
class Artifact:
    """A directory in the store: `path`, and what its manifest says."""

    path: Path
    kind: str
    digest: str
    label: str
    seconds: float
    """How long it took to make."""
    files: dict[str, FileEntry]
    """Every file by its path relative to the artifact."""

    def file(self, name: str) -> Path:
        return self.path / name

    @cached_property
    def size(self) -> int:
        """Bytes on disk, without the manifest."""
        return sum(entry.size for entry in self.files.values())

    def last_used(self) -> float:
        """Seconds since the epoch."""
        return (self.path / MANIFEST).stat().st_mtime


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def digest_of(step: Named) -> str:
    """Return the 64 hex digits that name the step's artifact."""
    return step.digest


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
