"""How many bytes llama.cpp's tools are going to write, counted from names, shapes and types.

A GGUF is a head, padded to the alignment, then each tensor's data, padded likewise. Sources: `gguf_writer_base` in
ggml/src/gguf.cpp; what is added to the metadata of shards: tools/gguf-split/gguf-split.cpp; `IMatrixCollector` in
tools/imatrix/imatrix.cpp.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.engine.plan import padded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline.gguf_file import GGUFFile, Tensor
    from pipeline.imatrix import Imatrix

# Magic, version, number of tensors and of keys.
FIRST = 24
U16, U32 = 2, 4
SPLIT = (("split.no", U16), ("split.count", U16), ("split.tensors.count", U32))
# The weights of blocks with nothing but attention and feed-forward layers, with experts or without.
MULTIPLIED = re.compile(r"blk\.\d+\.(attn_(q|k|v|qkv|output)|ffn_(gate|up|down)(_exps|_shexp)?|ffn_gate_inp)\.weight")


def quant(metadata: Mapping[str, bytes], tensors: Iterable[Tensor]) -> int:
    """Return the size of a quant with these keys (see `pipeline.engine.header.metadata`) and tensors."""
    return _file(_keys(metadata), tensors)


def shards(metadata: Mapping[str, bytes], tensors: Iterable[Tensor], limit: int) -> tuple[int, ...]:
    """Return the size of each shard of a quant, as llama-gguf-split cuts it by `limit` in bytes.

    `tensors` are in the order of the file. All metadata is in the first shard. Empty where llama-gguf-split cannot cut
    it: the first tensor alone is larger.
    """
    limit = limit // 10**6 * 10**6  # the option takes megabytes
    parts: list[list[Tensor]] = [[]]
    held = 0
    for tensor in tensors:
        held += padded(tensor.size)
        if held > limit:
            parts.append([])
            held = padded(tensor.size)
        parts[-1].append(tensor)
    split = sum(_pair(key, size) for key, size in SPLIT)
    first, *rest = parts
    if not first:
        return ()
    return _file(_keys(metadata) + split, first), *(_file(split, part) for part in rest)


def importance(reference: GGUFFile, imatrix: Imatrix) -> tuple[int, bool]:
    """Return the size of the imatrix, and whether it is exact.

    It has an entry for each matrix of a block that something is multiplied with: which these are is known for
    transformers, and for other architectures every weight with rows is taken for one.
    """
    matrices = [t for t in reference.tensors.values() if re.match(r"blk\..*\.weight$", t.name) and len(_shape(t)) > 1]
    exact = all(MULTIPLIED.fullmatch(t.name) for t in matrices)
    values = {t.name: t.parameters // t.shape[1] for t in matrices}
    dataset = len(imatrix.text.name.encode())
    if imatrix.format == "dat":
        entries = sum(12 + len(name) + 4 * count for name, count in values.items())
        return 4 + entries + 4 + 4 + dataset, exact
    metadata = (
        _pair("general.type", 8 + len("imatrix"))
        + _pair("imatrix.datasets", 4 + 8 + 8 + dataset)
        + _pair("imatrix.chunk_count", U32)
        + _pair("imatrix.chunk_size", U32)
    )
    infos, data = 0, 0
    for tensor in matrices:
        # A count for each expert; other matrices share one.
        experts = tensor.shape[2] if "_exps." in tensor.name else 1
        infos += _info(f"{tensor.name}.in_sum2", 2 if experts > 1 else 1)
        infos += _info(f"{tensor.name}.counts", 2 if experts > 1 else 1)
        data += padded(4 * values[tensor.name]) + padded(4 * experts)
    return padded(FIRST + metadata + infos) + data, exact


def _keys(metadata: Mapping[str, bytes]) -> int:
    return sum(8 + len(key.encode()) + len(value) for key, value in metadata.items())


def _file(metadata: int, tensors: Iterable[Tensor]) -> int:
    held = list(tensors)
    infos = sum(_info(tensor.name, len(_shape(tensor))) for tensor in held)
    return padded(FIRST + metadata + infos) + sum(padded(tensor.size) for tensor in held)


def _pair(key: str, value: int) -> int:
    return 8 + len(key) + 4 + value


def _info(name: str, dimensions: int) -> int:
    return 8 + len(name.encode()) + 4 + 8 * dimensions + 4 + 8


def _shape(tensor: Tensor) -> Sequence[int]:
    """Return the shape as ggml writes it: without ones at its end."""
    shape = list(tensor.shape)
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    return shape
