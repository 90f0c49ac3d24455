"""Size against mean KLD as a Mermaid chart: a bar a file, ordered by size.

Mermaid has no chart of points over two numeric axes; bars that are labelled with their size place nothing wrongly.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline import units
from pipeline.card.ladder import measured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.result import Result

MOST_BARS = 40
_NOT_A_LABEL = re.compile(r"[^A-Za-z0-9_.\- ]")
# The room at the left is for narrow screens, on which Mermaid 11 takes the labels for smaller than it draws them;
# it keeps room for no axis that has no title, so this one has a zero-width space. Thousandths, since it sets long
# numbers on top of one another.
_CHART = """\
```mermaid
---
config:
  xyChart:
    width: 600
    height: {height}
    xAxis:
      titlePadding: 28
  themeVariables:
    xyChart:
      backgroundColor: "transparent"
      plotColorPalette: "#4493f8"
---
xychart-beta horizontal
  x-axis "\N{ZERO WIDTH SPACE}" [{labels}]
  y-axis "Mean KLD, in thousandths of a nat per token" 0 --> {most:.6f}
  bar [{values}]
```"""


def chart(results: Sequence[Result]) -> str | None:
    """Draw the files that were measured; None where there are fewer than two of them, or too many to be read."""
    ladder = sorted(measured(results), key=lambda found: found[0].file.size)
    if not 2 <= len(ladder) <= MOST_BARS:
        return None
    values = [max(0.0, quality.mean_kld.value) * 1000 for _, quality in ladder]
    return _CHART.format(
        height=80 + 24 * len(ladder),
        labels=", ".join(f'"{_label(result)}"' for result, _ in ladder),
        most=max(*values, 0.001),
        values=", ".join(f"{value:.6f}" for value in values),
    )


def _label(result: Result) -> str:
    """Name, size, and whether it is withheld, of nothing but what Mermaid shows as it is."""
    size = units.size(result.file.size).replace("\N{NO-BREAK SPACE}", " ")
    return _NOT_A_LABEL.sub("", f"{result.quant[:24]} {size}{' withheld' if result.withheld else ''}")
