"""A layout of the source's weights, compared piece by piece with what a GGUF holds, so that memory stays bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.weights import ARRAYS, cast, from_f32, to_f32

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.check.arrangement import Layout
    from pipeline.weights import Weight

# Values compared at a time: two pieces of it stay within a processor's cache.
PIECE = 1 << 20


def pieces(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield an array's values in C order, `PIECE` or a few more at a time, flat."""
    if array.ndim <= 1 or array.size <= PIECE:
        yield np.ascontiguousarray(array).reshape(-1)
    elif array[0].size > PIECE:
        for part in array:
            yield from pieces(part)
    else:
        step = max(1, PIECE // max(array[0].size, 1))
        for first in range(0, array.shape[0], step):
            yield np.ascontiguousarray(array[first : first + step]).reshape(-1)


def _expected(layout: Layout, dtype: str) -> Iterator[NDArray[Any]]:
    """Yield what a tensor of type `dtype` holds in a layout, piece by piece."""
    for array in layout.pieces:
        for piece in pieces(array):
            if not layout.change:
                yield cast(piece, layout.dtype, dtype)
            elif layout.change == "minus exp":
                yield from_f32(-np.exp(to_f32(piece, layout.dtype)), dtype)
            elif layout.dtype == "F16":  # the converter adds in the source's type, and knows no bf16
                yield cast(piece + np.float16(1), "F16", dtype)
            else:
                yield from_f32(to_f32(piece, layout.dtype) + np.float32(1), dtype)
    for first in range(0, layout.zeros, PIECE):
        yield np.zeros(min(PIECE, layout.zeros - first), ARRAYS[dtype])


def first_difference(layout: Layout, held: NDArray[Any], dtype: str) -> int | None:
    """Return the position of the first piece that differs, None where none does."""
    begin = 0
    for expected in _expected(layout, dtype):
        there = held[begin : begin + expected.size]
        # Of the same bits, so that NaN equals itself; the exponential of another library may differ in its last bits.
        equal = (
            np.allclose(expected, there, rtol=1e-5, atol=0)
            if layout.change == "minus exp"
            else np.array_equal(_bits(expected), _bits(there))
        )
        if not equal:
            return begin
        begin += expected.size
    return None


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    return array.view(np.uint16 if array.itemsize == 2 else np.uint32)


def count_differences(layout: Layout, held: NDArray[Any], dtype: str) -> tuple[int, int]:
    """Return how many values differ and where the first of them is."""
    begin, count, first = 0, 0, -1
    for expected in _expected(layout, dtype):
        wrong = np.flatnonzero(_bits(expected) != _bits(held[begin : begin + expected.size]))
        count += wrong.size
        if first < 0 and wrong.size:
            first = begin + int(wrong[0])
        begin += expected.size
    return count, max(first, 0)


def layout_counts(layout: Layout, dtype: str) -> bytes:
    return value_counts(list(_expected(layout, dtype)))


def value_counts(arrays: list[NDArray[Any]]) -> bytes:
    """Return how often each pattern of upper 16 bits occurs: the same for the same values in any order."""
    counts = np.zeros(1 << 16, np.int64)
    for array in arrays:
        for piece in pieces(array):
            bits = _bits(piece)
            counts += np.bincount(bits if bits.itemsize == 2 else bits >> 16, minlength=1 << 16)
    return counts.tobytes()


def value_at(held: NDArray[Any], position: int, dtype: str) -> float:
    return float(to_f32(held[position : position + 1], dtype)[0])


def expected_at(layout: Layout, position: int, dtype: str) -> float:
    for expected in _expected(layout, dtype):
        if position < expected.size:
            return value_at(expected, position, dtype)
        position -= expected.size
    raise IndexError(position)


def same(first: Weight, second: Weight) -> bool:
    if first.array is None or second.array is None or (first.dtype, first.shape) != (second.dtype, second.shape):
        return False
    pairs = zip(pieces(first.array), pieces(second.array), strict=True)
    return all(np.array_equal(ours, theirs) for ours, theirs in pairs)
