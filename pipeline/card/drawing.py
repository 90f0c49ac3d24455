"""A plot as SVG, by matplotlib, which takes half a second to load: see `pipeline.card.plot`."""

from __future__ import annotations

import math
from io import StringIO
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from pipeline import units
from pipeline.card import labels
from pipeline.card.labels import Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

    from pipeline.card.plot import Plot, Point

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "llm-quantizer",  # the same release gives the same bytes
    "svg.fonttype": "path",  # labels keep the room they were given, whatever fonts the reader has
    "font.family": "DejaVu Sans",
    "font.size": 17,
    "axes.edgecolor": "#57606a",
    "axes.labelcolor": "#24292f",
    "text.color": "#24292f",
    "xtick.color": "#24292f",
    "ytick.color": "#24292f",
}
_DPI = 72
_WIDTH, _HEIGHT = 720, 520
_POINT, _FLOOR, _LEADER, _FRONT = "#0550ae", "#b35900", "#8c959f", "#b6cdf0"


def draw(plot: Plot) -> str:
    """An SVG of file size (GB) against mean KLD (nats per token, log)."""
    points, edge, floor = plot.points, plot.edge, plot.floor
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH / _DPI, _HEIGHT / _DPI), dpi=_DPI, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _set_axes(axes, points, edge, floor)
        _draw_floor(axes, floor)
        _draw_points(axes, points)
        figure.draw_without_rendering()  # the layout, and so every pixel below, is settled
        figure.set_layout_engine("none")
        _draw_labels(axes, points, floor)
        svg = StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return _describe(svg.getvalue(), plot)


def _set_axes(axes: Axes, points: Sequence[Point], edge: float, floor: float) -> None:
    axes.set_yscale("log")
    axes.set_ylim(edge, 2 * max([floor, edge, *(point.high for point in points)]))
    sizes = [point.size for point in points] or [0.0, 1.0]
    margin = 0.16 * (max(sizes) - min(sizes)) or 0.2 * max(sizes)
    axes.set_xlim(max(0.0, min(sizes) - margin), max(sizes) + margin)
    unit, factor = ("GB", 1) if max(sizes) >= 1 else ("MB", 1000)
    axes.set_xlabel(f"file size ({unit})")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * factor:g}"))
    axes.set_ylabel("mean KLD (nats per token)")
    axes.set_title("KL divergence from the reference, by size", fontsize=18, loc="left", pad=12)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3) if _decades(axes) < 2.5 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1e-4 else f"{value:.0e}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(which="major", color="#eaeef2")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _decades(axes: Axes) -> float:
    low, high = axes.get_ylim()
    return math.log10(high / low)


def _draw_floor(axes: Axes, floor: float) -> None:
    if floor <= 0:
        return
    axes.axhspan(axes.get_ylim()[0], floor, color="#fff1e5", linewidth=0, zorder=0.5)
    axes.axhline(floor, color=_FLOOR, linewidth=1.5, linestyle="--", zorder=1)


def _draw_points(axes: Axes, points: Sequence[Point]) -> None:
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.size, p.kld)):
        if not front or point.kld < front[-1].kld:
            front.append(point)
    axes.plot([p.size for p in front], [p.kld for p in front], color=_FRONT, linewidth=2, zorder=2)
    if points:
        below, above = [p.kld - p.low for p in points], [p.high - p.kld for p in points]
        axes.errorbar(
            [p.size for p in points],
            [p.kld for p in points],
            yerr=[below, above],
            fmt="o",
            color=_POINT,
            markersize=7,
            elinewidth=1.5,
            capsize=4,
            zorder=3,
        )
    else:
        axes.text(0.5, 0.5, "no file was measured", transform=axes.transAxes, ha="center")


def _draw_labels(axes: Axes, points: Sequence[Point], floor: float) -> None:
    """Labels beside their points, and where there is no room, further off with a line that leads there."""
    font = 18 if len(points) <= 12 else 17
    taken = []
    frame = axes.get_window_extent()
    if floor > 0:
        text = f"noise floor {units.significant(floor, 2)}"
        y = axes.transData.transform((0, floor))[1]
        name = axes.annotate(text, (frame.x0 + 6, y + 4), xycoords="figure pixels", fontsize=font, color=_FLOOR)
        taken += [_box(name.get_window_extent()), Box(frame.x0, y - 1, frame.x1, y + 1)]
    paper = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.5}
    texts = [axes.annotate(p.label, (0, 0), xycoords="figure pixels", fontsize=font, bbox=paper) for p in points]
    sizes = [(extent.width, extent.height) for extent in (text.get_window_extent() for text in texts)]
    marks = []
    for point in points:
        x, y = axes.transData.transform((point.size, point.kld))
        marks.append((float(x), float(y)))
        low, high = (axes.transData.transform((point.size, end))[1] for end in (point.low, point.high))
        taken.append(Box(x - 6, min(low, y - 6), x + 6, max(high, y + 6)))
    for label, mark, box in zip(texts, marks, labels.place(marks, sizes, taken, _box(frame)), strict=True):
        label.set_position((box.left, box.bottom))
        end = box.nearest(*mark)
        if math.dist(mark, end) > 14:
            xs, ys = zip(mark, end, strict=True)
            axes.add_line(Line2D(xs, ys, transform=None, color=_LEADER, linewidth=1, zorder=2.5))


def _box(extent: Bbox) -> Box:
    return Box(extent.x0, extent.y0, extent.x1, extent.y1)


def _describe(svg: str, plot: Plot) -> str:
    """Give the picture a title and a description that a screen reader can say."""
    title = f"{plot.repo}: file size against mean KL divergence from the reference"
    rows = [f"{p.label} {units.size(round(p.size * 1e9))} {units.significant(p.kld)}" for p in plot.points]
    text = f"{'; '.join(rows)}. Noise floor {units.significant(plot.floor, 2)} nats per token."
    start = svg.index(">", svg.index("<svg"))
    named = f' role="img"><title>{escape(title)}</title><desc>{escape(text)}</desc>'
    return svg[:start] + named + svg[start + 1 :]
