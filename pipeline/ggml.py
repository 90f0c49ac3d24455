"""Rows of ggml's block types as numbers, and numbers as rows of block types by ggml's own quantizer.

The first is done by the `gguf` package in numpy and needs no toolchain. The second calls `ggml_quantize_chunk` of
libggml-base (ggml/include/ggml.h), which llama-quantize calls itself: the same rows give the same bytes.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from gguf import GGMLQuantizationType, quants

from pipeline.gguf_file import SIZES, TYPES
from pipeline.weights import ARRAYS, to_f32

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.gguf_file import GGUFFile, Tensor

NUMBERS = {name: number for number, name in TYPES.items()}
LIBRARY = "libggml-base.dylib" if sys.platform == "darwin" else "libggml-base.so"


def row_bytes(tensor: Tensor) -> int:
    """Return the bytes of one row."""
    weights, size = SIZES[tensor.type]
    return tensor.shape[0] // weights * size


def blocks(file: GGUFFile, data: NDArray[np.uint8], tensor: Tensor) -> NDArray[np.uint8]:
    """Return a tensor's data as bytes, a row a row; `data` is the whole file, mapped."""
    begin = file.data_begin + tensor.offset
    return data[begin : begin + tensor.size].reshape(-1, row_bytes(tensor))


def map_file(file: GGUFFile) -> NDArray[np.uint8]:
    """Return the bytes of the file without reading them."""
    return np.asarray(np.memmap(file.path, np.uint8, "r"))


def can_dequantize(type_: str) -> bool:
    return type_ in ARRAYS or any(kind.name == type_ for kind in quants._type_traits)  # noqa: SLF001 - no other list


def dequantize(rows: NDArray[np.uint8], type_: str) -> NDArray[np.float32]:
    """Return the values of whole rows, given as bytes."""
    if type_ in ARRAYS:
        return to_f32(np.ascontiguousarray(rows).view(ARRAYS[type_]), type_)
    with np.errstate(all="ignore"):  # scales of a broken file may be NaN or Inf
        return np.asarray(quants.dequantize(rows, GGMLQuantizationType[type_]), np.float32)


class Quantizer:
    """ggml's quantizer, from the toolchain's `libggml-base`. Calls release the interpreter's lock.

    OSError for a library that does not load.
    """

    def __init__(self, library: Path) -> None:
        self._ggml = ctypes.CDLL(str(library))
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
        self._ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
        self._ggml.ggml_quantize_requires_imatrix.argtypes = [ctypes.c_int]
        self._ggml.ggml_quantize_requires_imatrix.restype = ctypes.c_bool

    def requires_imatrix(self, type_: str) -> bool:
        return bool(self._ggml.ggml_quantize_requires_imatrix(NUMBERS[type_]))

    def quantize(
        self, values: NDArray[np.float32], type_: str, importance: NDArray[np.float32] | None
    ) -> NDArray[np.uint8]:
        """Return `values`, of shape (rows, row length), in the block type, as bytes, a row a row.

        `importance` holds a weight for each column. ggml ends the process where a type needs one and gets none, so
        ask `requires_imatrix` before.
        """
        values = np.ascontiguousarray(values, np.float32)
        rows, length = values.shape
        per_block, size = SIZES[type_]
        if length % per_block or (importance is not None and importance.size != length):
            raise ValueError(f"rows of {length} do not fit {type_}, or the imatrix")
        out = np.zeros((rows, length // per_block * size), np.uint8)
        matrix: Any = None
        if importance is not None:
            importance = np.ascontiguousarray(importance, np.float32)
            matrix = importance.ctypes.data
        self._ggml.ggml_quantize_chunk(NUMBERS[type_], values.ctypes.data, out.ctypes.data, 0, rows, length, matrix)
        return out
