"""Where a release goes, and how it gets there whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pipeline.release import Bundle
    from pipeline.result import Release


class Target(Protocol):
    """A place that holds at most one release of each repo."""

    def check(self) -> None:
        """Raise `BadInputError` where nothing can be published to; asked before any work."""

    def last(self, repo: str) -> Release | None:
        """Return what the last release of `repo` says of itself, None where there is none."""

    def publish(self, bundle: Bundle) -> str:
        """Replace the last release by this one, as one change, and return where it is now.

        Only what the last release.json lists is deleted. A release that is there already, whole, is left alone.
        """
