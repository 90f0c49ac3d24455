"""Labels of points, placed so that they cover neither points nor one another."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_DISTANCES = (7, 12, 20, 30, 42, 56, 75, 100, 130)
_DIRECTIONS = 20
_PASSES = 8
_GAP = 3

Spot = tuple[float, float]


class Box(NamedTuple):
    """A rectangle in pixels, y upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return wide * high if wide > 0 and high > 0 else 0.0

    def grown(self, by: float) -> Box:
        return Box(self.left - by, self.bottom - by, self.right + by, self.top + by)

    def with_point(self, point: Spot) -> Box:
        """The smallest box around this one and a point."""
        x, y = point
        return Box(min(self.left, x), min(self.bottom, y), max(self.right, x), max(self.top, y))

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        return min(max(x, self.left), self.right), min(max(y, self.bottom), self.top)

    def holds(self, other: Box) -> bool:
        return (
            self.left <= other.left
            and self.bottom <= other.bottom
            and other.right <= self.right
            and other.top <= self.top
        )


def place(points: Sequence[Spot], sizes: Sequence[Spot], taken: Sequence[Box], frame: Box) -> list[Box]:
    """A box of the given width and height for each point, inside `frame` and clear of `taken` where it can be.

    Each label in turn takes the cheapest place around its point, given where the others are, until none moves.
    """
    options = [_options(point, size, frame) for point, size in zip(points, sizes, strict=True)]
    fixed = [[_cost_of_place(box, point, taken) for box in boxes] for point, boxes in zip(points, options, strict=True)]
    chosen: list[int | None] = [None] * len(points)
    for _ in range(_PASSES):
        before = list(chosen)
        for own, point in enumerate(points):
            others = [
                (points[other], options[other][index])
                for other, index in enumerate(chosen)
                if index is not None and other != own
            ]
            costs = (fixed[own][index] + _cost_beside(box, point, others) for index, box in enumerate(options[own]))
            chosen[own] = min(enumerate(costs), key=lambda cost: cost[1])[0]
        if chosen == before:
            break
    return [options[own][index] for own, index in enumerate(chosen) if index is not None]


def _options(point: Spot, size: Spot, frame: Box) -> list[Box]:
    """Places around a point, nearest first; those that leave the frame only if there is no other."""
    boxes = []
    for distance in _DISTANCES:
        for step in range(_DIRECTIONS):
            angle = 2 * math.pi * step / _DIRECTIONS
            x = point[0] + math.cos(angle) * (distance + size[0] / 2) - size[0] / 2
            y = point[1] + math.sin(angle) * (distance + size[1] / 2) - size[1] / 2
            boxes.append(Box(x, y, x + size[0], y + size[1]))
    return [box for box in boxes if frame.holds(box)] or boxes


def _cost_of_place(box: Box, point: Spot, taken: Sequence[Box]) -> float:
    """Distance from the point, what is covered, and what the line to the label runs over."""
    grown = box.grown(_GAP)
    end = box.nearest(*point)
    cost = math.dist(point, end)
    for other in taken:
        cost += _cost_of_cover(grown, other)
        if other.nearest(*point) != point and _through(point, end, other):
            cost += 100
    return cost


def _cost_beside(box: Box, point: Spot, others: Sequence[tuple[Spot, Box]]) -> float:
    """What stands in the way between this label with its line and others with theirs."""
    grown = box.grown(_GAP)
    end = box.nearest(*point)
    cost = 0.0
    reach = grown.with_point(point)
    for other_point, other in others:
        if not reach.overlap(other.with_point(other_point)):
            continue
        cost += _cost_of_cover(grown, other)
        other_end = other.nearest(*other_point)
        if _cross(point, end, other_point, other_end):
            cost += 150
        if _through(point, end, other) or _through(other_point, other_end, box):
            cost += 250
    return cost


def _cost_of_cover(box: Box, other: Box) -> float:
    area = box.overlap(other)
    return 400 + 10 * area if area else 0.0


def _through(start: Spot, end: Spot, box: Box) -> bool:
    """Whether a line runs through the inside of a box (Liang and Barsky's clipping)."""
    enter, leave = 0.0, 1.0
    for at, to, low, high in (
        (start[0], end[0], box.left, box.right),
        (start[1], end[1], box.bottom, box.top),
    ):
        if at == to:
            if not low < at < high:
                return False
            continue
        near, far = sorted(((low - at) / (to - at), (high - at) / (to - at)))
        enter, leave = max(enter, near), min(leave, far)
        if enter >= leave:
            return False
    return True


def _cross(a: Spot, b: Spot, c: Spot, d: Spot) -> bool:
    """Whether the lines ab and cd cross."""
    return _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0


def _side(a: Spot, b: Spot, p: Spot) -> float:
    return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])
