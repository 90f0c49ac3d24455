"""The weights of a Hugging Face model directory, mapped into memory tensor by tensor, and their types.

Format: see `pipeline.safetensors`. Nothing is read until a view of a tensor is.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import safetensors
from pipeline.errors import BadInputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# numpy has no bfloat16: its bits are kept as they are.
ARRAYS: dict[str, Any] = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "F64": np.float64}


@dataclass(frozen=True)
class Weight:
    """A tensor of the source. `array` is None where its type is none of bf16, f16, f32 and f64: quantized or counts."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    array: NDArray[Any] | None


def open_source(source: Path) -> dict[str, Weight]:
    """Return every tensor of the safetensors files in `source`.

    Raises `BadInputError` for a missing shard or a damaged file.
    """
    index = read_json(source / safetensors.INDEX) if (source / safetensors.INDEX).exists() else None
    weights: dict[str, Weight] = {}
    for file in safetensors.weight_files({p.name for p in source.iterdir()}, index, source.name):
        path = source / file
        header = safetensors.read_header(path)
        size = path.stat().st_size
        with path.open("rb") as opened:
            begin = safetensors.data_begin(opened.read(8), size, file)
        data = np.memmap(path, np.uint8, "r")
        for name, tensor in header.items():  # in the order of their data, which has no gaps
            end = begin + safetensors.BITS[tensor.dtype] * math.prod(tensor.shape) // 8
            kind = ARRAYS.get(tensor.dtype)
            array = None if kind is None else _view(data[begin:end], kind, tensor.shape)
            weights[name] = Weight(name, tensor.dtype, tensor.shape, array)
            begin = end
    return weights


def _view(data: NDArray[Any], kind: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    # A plain array costs a tenth of what a memmap costs to slice.
    array: NDArray[Any] = np.asarray(data).view(kind).reshape(shape)
    return array


def read_json(path: Path) -> dict[str, Any]:
    """Return a file's JSON object. `BadInputError` for anything else, and for more than a file of settings holds."""
    try:
        if path.stat().st_size > safetensors.MAX_HEADER_BYTES:
            raise BadInputError(f"{path.name} is too large to be read.")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(f"{path.name} cannot be read as JSON ({str(error)[:80]}). Download it again.") from error
    if not isinstance(value, dict):
        raise BadInputError(f"{path.name} holds no JSON object. Download it again.")
    return value


def to_f32(array: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Return the values of raw data of a type of `ARRAYS`."""
    if dtype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def from_f32(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Return raw data of the type F32, F16 or BF16: rounded to nearest, ties to even, as the converter does."""
    if dtype == "BF16":
        bits = values.view(np.uint32)
        rounded = (bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16
        quiet = (bits >> 16) | 0x40
        return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)
    with np.errstate(over="ignore"):
        return values.astype(ARRAYS[dtype], copy=False)


def cast(array: NDArray[Any], dtype: str, to: str) -> NDArray[Any]:
    """Return raw data of one type as raw data of another, by way of f32 as the converter goes."""
    return array if dtype == to else from_f32(to_f32(array, dtype), to)


def not_finite(array: NDArray[Any], dtype: str) -> tuple[int, int]:
    """Return how many NaN and how many Inf raw data holds."""
    if dtype == "BF16":
        magnitude = array << np.uint16(1)
        if not np.any(magnitude >= 0xFF00):
            return 0, 0
        return int(np.count_nonzero(magnitude > 0xFF00)), int(np.count_nonzero(magnitude == 0xFF00))
    finite = np.isfinite(array)
    if finite.all():
        return 0, 0
    nans = int(np.count_nonzero(np.isnan(array)))
    return nans, int(array.size - np.count_nonzero(finite)) - nans
