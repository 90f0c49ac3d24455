"""The grids of the I-quants as a C header, from the `gguf` package.

A point of a grid is written as its levels, four bits each, the first lowest: 0x10 is level 0, then 1, then zeros.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from gguf import quants

HEADER: Final = "tables.h"
GRIDS: Final = ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")


def points(name: str) -> list[int]:
    """Return the points of a type's grid, in the order in which quants refer to them."""
    kind = getattr(quants, name)
    kind.init_grid()
    levels = np.searchsorted(kind.grid_map, kind.grid.reshape(kind.grid_shape)).astype(np.uint64)
    shifts = np.arange(levels.shape[1], dtype=np.uint64) * np.uint64(4)
    return [int(point) for point in (levels << shifts).sum(axis=1, dtype=np.uint64)]


def header() -> str:
    """Return the text of the header."""
    lines = ["// Made by tables.py.", "#include <stdint.h>"]
    for name in GRIDS:
        found = points(name)
        numbers = [", ".join(f"{point:#x}" for point in found[at : at + 12]) for at in range(0, len(found), 12)]
        lines += [f"static const uint32_t {name}_POINTS[{len(found)}] = {{", *(f"    {row}," for row in numbers), "};"]
    return "\n".join([*lines, ""])
