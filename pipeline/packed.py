"""An artifact in one object: a line of JSON that says what it is, then its small files, one after another.

It comes from a place that other machines write to, so that nothing that it says is believed: what is not of the step
that was asked for, or would lead out of the artifact, is refused.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from pipeline.artifact import MANIFEST, canonical, digest_of
from pipeline.result import Record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.artifact import Artifact, Named

# Bytes of an artifact's small files that go into one object. Each sender holds it in memory about twice.
PACKED = 32 << 20
# Of the line that says what an artifact is.
LONGEST_HEAD = 1 << 20


class DamagedError(Exception):
    """What the place has is not the artifact, and why."""


class Part(Record):
    """A file of an artifact; `packed`: in the same object as the head, else in one of its own."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    size: Annotated[int, Field(ge=0, lt=1 << 60, strict=True)]
    sha256: Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
    packed: bool

    @property
    def entry(self) -> dict[str, Any]:
        return {"size": self.size, "sha256": self.sha256}


class Head(Record):
    """What an artifact is, as the place has it."""

    kind: str
    digest: str
    inputs: dict[str, Any]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    files: tuple[Part, ...]

    @classmethod
    def of(cls, step: Named, artifact: Artifact) -> Head:
        parts, room = [], PACKED
        for file in sorted(artifact.files.values(), key=lambda file: (file.size, file.name)):
            packed = file.size <= room
            room -= file.size if packed else 0
            parts.append(Part(name=file.name, size=file.size, sha256=file.sha256, packed=packed))
        return cls(
            kind=step.kind, digest=artifact.digest, inputs=step.inputs(), seconds=artifact.seconds, files=tuple(parts)
        )

    @property
    def large(self) -> list[Part]:
        return [part for part in self.files if not part.packed]


def parse(content: bytes, step: Named) -> tuple[Head, memoryview]:
    """Read what an artifact is said to be, and return the packed bytes behind it.

    Raises `DamagedError` for what is not of this step, and for names that would lead out of the artifact.
    """
    line, _, _ = content[: LONGEST_HEAD + 1].partition(b"\n")
    if len(line) > LONGEST_HEAD or len(content) > LONGEST_HEAD + PACKED:
        raise DamagedError("its manifest is too large")
    try:
        head = Head.model_validate_json(line)
    except ValidationError as error:
        raise DamagedError("its manifest is none") from error
    if (head.kind, head.digest, canonical(head.inputs)) != (step.kind, digest_of(step), canonical(step.inputs())):
        raise DamagedError("its manifest is of another artifact")
    names = [part.name for part in head.files]
    if len(set(names)) < len(names) or any(not _stays(name) for name in names):
        raise DamagedError("its manifest names a file twice, or one outside of it")
    return head, memoryview(content)[len(line) + 1 :]


def _stays(name: str) -> bool:
    """Whether a path leads to a file below the directory that it is read in, and not to the artifact's own manifest."""
    parts = name.split("/")
    return name.isprintable() and name != MANIFEST and not any(part in {"", ".", ".."} for part in parts)


def unpack(head: Head, rest: memoryview, room: Path) -> None:
    """Write the small files below the room, which is empty.

    Raises `DamagedError` where they are not as long as the head says.
    """
    begin = 0
    for part in head.files:
        if part.packed:
            with created(room, part.name) as file:
                file.write(rest[begin : begin + part.size])
            begin += part.size
    if begin != len(rest):
        raise DamagedError("it ends too early" if begin > len(rest) else "there is more than its manifest names")


@contextmanager
def created(room: Path, name: str) -> Iterator[IO[bytes]]:
    """Create a file below the room, never through a link: the room was empty, and nothing here makes one."""
    path = room / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("xb")
    except OSError as error:  # a name that is too long, or a folder of another one
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DamagedError("its manifest names a file that cannot be") from error
    with file:
        yield file
