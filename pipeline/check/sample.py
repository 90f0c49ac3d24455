"""Rows of a tensor, taken evenly from all of it and from each of its experts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from pipeline.ggml import blocks, dequantize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.gguf_file import GGUFFile, Tensor

# Rows of each expert, where there are many.
EACH = 4
# Rows read and turned into numbers at a time.
BATCH = 256


def label(name: str) -> str:
    """Return a tensor's name as it may be shown: it comes from a file."""
    return name if re.fullmatch(r"[\w.-]{1,80}", name, re.ASCII) else repr(name[:80])


def experts(tensor: Tensor) -> int:
    """Return how many matrices a tensor holds: one, or one an expert."""
    count = 1
    for length in tensor.shape[2:]:
        count *= length
    return count


def row_numbers(tensor: Tensor, weights: int, fewest: int) -> NDArray[np.int64]:
    """Return the rows to look at, in rising order: as many as hold `weights` numbers, `fewest` and a few an expert."""
    rows, count = tensor.parameters // tensor.shape[0], experts(tensor)
    each = rows // count
    wanted = min(each, max(-(-fewest // count), weights // tensor.shape[0] // count, 1 if count == 1 else EACH))
    within = np.unique(np.linspace(0, each - 1, wanted).astype(np.int64))
    return (np.arange(count, dtype=np.int64)[:, None] * each + within).reshape(-1)


def take(file: GGUFFile, data: NDArray[np.uint8], tensor: Tensor, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the values of some rows."""
    return dequantize(blocks(file, data, tensor)[rows], tensor.type)


def batches(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the row numbers, `BATCH` at a time, so that many experts do not fill the memory."""
    for first in range(0, rows.size, BATCH):
        yield rows[first : first + BATCH]
