"""Is the quant, byte for byte, what its reference and its imatrix give. Judged on rows of every tensor.

ggml quantizes a row by itself, from the row's values and the imatrix's weights for its columns (tools/quantize and
src/llama-quant.cpp in llama.cpp): done again with the same library it gives the same bytes.
"""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from pipeline import gguf_file
from pipeline.check import sample
from pipeline.check.values import CHECK
from pipeline.check.verdict import failed, passed, skipped
from pipeline.errors import ToolchainError
from pipeline.ggml import Quantizer, blocks, can_dequantize, map_file
from pipeline.recipe import TENSOR_TYPES
from pipeline.weights import ARRAYS, from_f32

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.gguf_file import GGUFFile, Tensor
    from pipeline.result import Verdict

    Importance = dict[str, NDArray[np.float32]]

WEIGHTS, FEWEST, SHOWN = 1 << 14, 8, 3
AGAIN = "Quantize again from this reference with this imatrix, by the llama.cpp that matrix.yml pins."


def derive(
    quant: GGUFFile,
    reference: GGUFFile,
    imatrix: Path | None,
    library: Path,
    *,
    threads: int = 2,
    weights: int = WEIGHTS,
) -> list[Verdict]:
    """Quantize rows of every tensor again, about `weights` numbers of each, and compare bytes.

    `imatrix` is what the quant was made with, None for none; `library` is the toolchain's libggml-base.
    """
    try:
        importance = read_importance(imatrix) if imatrix else {}
    except (OSError, ValueError, KeyError, struct.error, ToolchainError) as error:
        return [skipped(CHECK, f"the imatrix cannot be read: {str(error)[:200]}")]
    try:
        ggml = Quantizer(library)
    except (OSError, AttributeError) as error:
        return [skipped(CHECK, f"ggml's quantizer cannot be loaded: {str(error)[:200]}")]
    ours, theirs = map_file(quant), map_file(reference)

    def again(tensor: Tensor) -> tuple[int, str] | None:
        """Return the number of rows and what is wrong with them; None for a tensor that cannot be made again."""
        source = reference.tensors.get(tensor.name)
        if source is None or source.shape != tensor.shape or not _possible(ggml, tensor, source, importance):
            return None
        rows = sample.row_numbers(tensor, weights, FEWEST)
        there = blocks(quant, ours, tensor)[rows]
        values = sample.take(reference, theirs, source, rows)
        made = _make(ggml, values, tensor, rows, importance.get(tensor.name))
        wrong = np.flatnonzero((made != there).any(1))
        if not wrong.size:
            return rows.size, ""
        if tensor.name in importance and not ggml.requires_imatrix(tensor.type):
            plain = _make(ggml, values, tensor, rows, None)
            if np.array_equal(plain, there):
                return rows.size, "is quantized without the imatrix"
        return rows.size, f"differs in {wrong.size} of {rows.size} rows, row {rows[wrong[0]]} first"

    with ThreadPoolExecutor(threads) as pool:
        looked = dict(zip(quant.tensors, pool.map(again, quant.tensors.values()), strict=True))
    return [_judge(looked, given=imatrix is not None)]


def _judge(looked: dict[str, tuple[int, str] | None], *, given: bool) -> Verdict:
    made = {name: result for name, result in looked.items() if result is not None}
    if not made:
        return skipped(CHECK, "no tensor of the file can be quantized again")
    what = "the reference and the imatrix give" if given else "the reference gives without an imatrix"
    wrong = {name: fault for name, (_, fault) in made.items() if fault}
    if wrong:
        shown = "; ".join(f"{sample.label(name)} {fault}" for name, fault in list(wrong.items())[:SHOWN])
        return failed(CHECK, f"{len(wrong)} of {len(made)} tensors are not what {what}: {shown}", AGAIN)
    left = len(looked) - len(made)
    rest = f"; {left} tensors cannot be quantized again" if left else ""
    count = sum(rows for rows, _ in made.values())
    return passed(CHECK, f"{count} rows of {len(made)} tensors are, byte for byte, what {what}{rest}")


def _possible(ggml: Quantizer, tensor: Tensor, source: Tensor, importance: Importance) -> bool:
    if tensor.type not in TENSOR_TYPES or not can_dequantize(source.type):
        return False
    if tensor.type in ARRAYS:
        return True
    covered = _covers(importance.get(tensor.name), tensor)
    return covered or not ggml.requires_imatrix(tensor.type)


def _covers(weights: NDArray[np.float32] | None, tensor: Tensor) -> bool:
    # llama-quantize passes over an entry of another size, as that of an embedding is.
    return weights is not None and weights.size == tensor.shape[0] * sample.experts(tensor)


def _make(
    ggml: Quantizer,
    values: NDArray[np.float32],
    tensor: Tensor,
    rows: NDArray[np.int64],
    importance: NDArray[np.float32] | None,
) -> NDArray[np.uint8]:
    if tensor.type in ARRAYS:
        return np.ascontiguousarray(from_f32(values, tensor.type)).view(np.uint8).reshape(rows.size, -1)
    if importance is None or not _covers(importance, tensor):
        return ggml.quantize(values, tensor.type, None)
    experts = sample.experts(tensor)
    per_expert = importance.reshape(experts, tensor.shape[0])
    expert = rows // (tensor.parameters // tensor.shape[0] // experts)
    parts = [ggml.quantize(values[expert == e], tensor.type, per_expert[e]) for e in range(experts)]
    return np.concatenate(parts)


def read_importance(imatrix: Path) -> Importance:
    """Return each tensor's weights for its columns, expert after expert, as llama-quantize takes them from the file.

    In GGUF `<name>.in_sum2` over `<name>.counts`, 1 for an expert without a count; the older format holds sums and
    a number of calls (common_imatrix_load in llama.cpp). ToolchainError, ValueError, KeyError or struct.error for a
    file that is neither.
    """
    with imatrix.open("rb") as file:
        magic = file.read(4)
    if magic != gguf_file.MAGIC:
        return _read_old(imatrix.read_bytes())
    file_ = gguf_file.read(imatrix)
    data = map_file(file_)
    importance: Importance = {}
    for name, tensor in file_.tensors.items():
        base = name.removesuffix(".in_sum2")
        if base == name:
            continue
        sums = blocks(file_, data, tensor).reshape(-1).view(np.float32)
        counts = blocks(file_, data, file_.tensors[f"{base}.counts"]).reshape(-1).view(np.float32)
        used = counts[:, None] > 0
        weights = sums.reshape(counts.size, -1) / np.where(used, counts[:, None], np.float32(1))
        importance[base] = np.asarray(np.where(used, weights, 1), np.float32).reshape(-1)
    return importance


def _read_old(data: bytes) -> Importance:
    """Read the format of `imatrix.dat`: a count, then for each tensor its name, calls, and values."""
    (count,), position = struct.unpack_from("<i", data), 4
    importance: Importance = {}
    for _ in range(count):
        (length,) = struct.unpack_from("<i", data, position)
        if not 0 < length <= 256:
            raise ValueError("it is no imatrix")
        name = data[position + 4 : position + 4 + length].decode()
        calls, values = struct.unpack_from("<ii", data, position + 4 + length)
        position += 12 + length
        sums = np.frombuffer(data, "<f4", max(values, 0), position)
        importance[name] = np.asarray(sums / np.float32(max(calls, 1)), np.float32)
        position += 4 * values
    return importance
