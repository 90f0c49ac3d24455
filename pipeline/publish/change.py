"""What publishing a release changes at its target, file by file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.result import FileEntry, Verdict


@dataclass(frozen=True)
class Change:
    place: str
    """A directory, or the address of a repo."""
    head: str | None
    """The commit that it starts from; None in a folder."""
    adds: tuple[FileEntry, ...]
    """Their bytes are sent."""
    copies: tuple[FileEntry, ...]
    """Staged already: nothing is sent."""
    deletes: tuple[str, ...]
    kept: tuple[str, ...]
    """Of this release, and there already."""
    edited: tuple[str, ...]
    """Of the last release, and changed by hand since; put right."""
    card: tuple[str, str]
    """Before and after."""
    verdicts: tuple[Verdict, ...] = ()
    """On the target, once it is changed."""

    @property
    def empty(self) -> bool:
        return not (self.adds or self.copies or self.deletes)

    @property
    def upload(self) -> int:
        """Bytes."""
        return sum(file.size for file in self.adds)
