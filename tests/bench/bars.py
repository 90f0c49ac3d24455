"""Where the time goes: a bar for each side of a benchmark, a part of it for each step, as SVG."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping

STYLE = {"svg.hashsalt": "llm-quantizer", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 13}
# Told apart without colours as well: light and dark by turns, in the order of the steps.
COLOURS = ("#0550ae", "#b6cdf0", "#1a7f37", "#aceebb", "#8250df", "#d8b9ff", "#9a6700", "#eac54f", "#57606a", "#d0d7de")
DARK = {"#0550ae", "#1a7f37", "#8250df", "#9a6700", "#57606a"}
# Narrower parts have no room for their seconds.
LABELLED = 0.03


def draw(sides: Mapping[str, Mapping[str, float]]) -> str:
    """Return the SVG of `sides`: for each, the seconds of its steps, which stand in the order of their first side."""
    steps = list(dict.fromkeys(step for side in sides.values() for step in side))
    longest = max(sum(side.values()) for side in sides.values())
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 1.5 + 0.8 * len(sides)), dpi=72, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        ends = dict.fromkeys(sides, 0.0)
        for step, colour in zip(steps, COLOURS, strict=False):
            widths = [side.get(step, 0.0) for side in sides.values()]
            parts = axes.barh(list(sides), widths, left=list(ends.values()), color=colour, label=step, height=0.6)
            labels = [f"{width:.0f}" if width > LABELLED * longest else "" for width in widths]
            axes.bar_label(parts, labels, label_type="center", color="white" if colour in DARK else "black")
            ends = {name: end + width for (name, end), width in zip(ends.items(), widths, strict=True)}
        axes.invert_yaxis()
        axes.set_xlim(0, 1.02 * longest)
        axes.set_xlabel("seconds")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper center", ncols=5, frameon=False)
        out = StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
