"""The plot of a release: size of each file against its distance from the reference.

A step, so that a run that changes nothing does not draw it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pipeline.artifact import Step, file_sha256
from pipeline.card.ladder import measured, noise_floor

if TYPE_CHECKING:
    from pipeline.progress import Task
    from pipeline.result import Release
    from pipeline.store import Store

PLOT = "quality.svg"
DRAWN_BY = ("drawing.py", "labels.py")


class Point(NamedTuple):
    label: str
    size: float
    """GB"""
    kld: float
    """Above 0: what noise took below stands at the lower edge of the picture."""
    low: float
    high: float
    """The 95 % interval."""


@dataclass(frozen=True)
class Plot(Step):
    """The picture, `quality.svg`."""

    repo: str
    points: tuple[Point, ...]
    edge: float
    """The lowest mean KLD shown: a little below all that is above zero."""
    floor: float
    kind: ClassVar[str] = "plot"
    shared: ClassVar[bool] = False  # sooner drawn than fetched

    @property
    def label(self) -> str:
        return f"{self.repo}: plot"

    def inputs(self) -> dict[str, Any]:
        return {
            "shown": [self.repo, self.points, self.edge, self.floor],
            "drawing": [file_sha256(Path(__file__).with_name(name)) for name in DRAWN_BY],
            "matplotlib": version("matplotlib"),
        }

    def make(self, room: Path, store: Store, task: Task) -> None:  # noqa: ARG002
        from pipeline.card import drawing  # here, for the half second that matplotlib takes to load

        (room / PLOT).write_text(drawing.draw(self))


def of(release: Release) -> Plot:
    """Return the plot of the published files."""
    floor = noise_floor(release.provenance)
    found = [(result, quality.mean_kld) for result, quality in measured(release.published)]
    edge = min((value for value in (*(mean.value for _, mean in found), floor) if value > 0), default=1e-4) / 2
    points = tuple(
        Point(
            result.quant,
            result.file.size / 1e9,
            max(edge, mean.value),
            max(edge, mean.value - mean.interval),
            max(edge, mean.value + mean.interval),
        )
        for result, mean in found
    )
    return Plot(release.repo, points, edge, floor)
