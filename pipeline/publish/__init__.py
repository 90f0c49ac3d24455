"""Where a release goes, and how it gets there whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.publish.change import Change
    from pipeline.release import Bundle
    from pipeline.result import FileEntry, Release
    from pipeline.source import Gating


@dataclass(frozen=True)
class Planned:
    """A release that is going to be made: asked about before any work."""

    repo: str
    release_id: str
    private: bool
    """What a repo becomes that is not there yet."""
    files: dict[str, int]
    """Name and size in bytes, estimated, of the large ones."""
    gated: Gating | None = None
    """Who may download the source, where the release may be had by nobody else; None where that does not matter."""


class Target(Protocol):
    """A place that holds at most one release of each repo."""

    def check(self, planned: Sequence[Planned]) -> None:
        """Raise `BadInputError` or `HubError` where these could not be published."""

    def last(self, repo: str) -> Release | None:
        """Return what the last release of `repo` says of itself, None where there is none."""

    def exists(self, repo: str) -> bool:
        """Whether there is a place for releases of `repo` already; one that may not be seen is taken for none."""

    def is_open(self, repo: str) -> bool | None:
        """Whether everybody may download what is released to `repo`; None for what is no place of downloads."""

    def holds(self, repo: str, files: Sequence[FileEntry], staged_for: str | None = None) -> bool:
        """Whether these large files are there, byte for byte; or, given the id of a release, staged for it."""

    def stage(self, repo: str, release_id: str, files: Sequence[tuple[FileEntry, Path]]) -> None:
        """Bring finished files near, for a release that may be made on another machine."""

    def change(self, bundle: Bundle) -> Change:
        """Say what `publish` would do, and do nothing."""

    def publish(self, bundle: Bundle) -> Change:
        """Replace the last release by this one, as one change, and return what that was.

        Only what the last release.json lists is deleted. A release that is there already, whole, is left alone.
        """
