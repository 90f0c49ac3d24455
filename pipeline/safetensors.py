"""Safetensors files, looked at without reading a weight.

Format: 8 bytes little-endian length of the header, the header as JSON (`name: {dtype, shape, data_offsets}`),
then the tensors' bytes without gaps. Source: the format's description in huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# A hundred times what the models with the most tensors need. JSON may take twenty times its length in memory.
MAX_HEADER_BYTES = 25_000_000
MAX_DIMENSIONS = 8
MAX_LENGTH = 1 << 48
# Bits an element, of every type that the format's description names.
BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, after checking that the file is as long as its header says.

    Raises `BadInputError` for a file that is cut short, has bytes to spare or no readable header.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        return parse(first + file.read(data_begin(first, size, str(path)) - 8), size, str(path))


def data_begin(first: bytes, size: int, where: str) -> int:
    """Return how many bytes of a file come before its tensors' data: its header, and the header's length.

    `first` are the first 8 bytes of the file or more, `size` is that of the whole file, `where` names it.

    Raises `BadInputError` for a header that would be longer than the file, or than any model needs.
    """
    if len(first) < 8:
        raise BadInputError(f"{where} is no safetensors file (it has {len(first)} bytes). Download it again.")
    (length,) = struct.unpack("<Q", first[:8])
    if length > size - 8:
        raise BadInputError(
            f"{where} is no safetensors file (its header would be {length} bytes long). Download it again."
        )
    if length > MAX_HEADER_BYTES:
        raise BadInputError(
            f"{where} has a header of {length} bytes, and {MAX_HEADER_BYTES} are more than any model needs, so that it"
            " is not read. Save the model again, or drop it."
        )
    return 8 + int(length)


def parse(head: bytes, size: int, where: str) -> dict[str, Tensor]:
    """Return the tensors that a header names, after checking that they fill the file without gaps.

    `head` are the bytes of the file before its tensors' data, `size` is that of the whole file, `where` names it.

    Raises `BadInputError` for a file that is cut short, has bytes to spare or no readable header.
    """
    try:
        header = json.loads(head[8:])
        header.pop("__metadata__", None)
        tensors, end = _tensors(header)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInputError(f"{where} is no safetensors file ({str(error)[:200]}). Download it again.") from error
    if size != len(head) + end:
        raise BadInputError(
            f"{where} is damaged: its header promises {len(head) + end} bytes and it has {size}. Download it again."
        )
    return tensors


def _tensors(header: dict[str, Any]) -> tuple[dict[str, Tensor], int]:
    end = 0
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        if type(begin) is not int or type(stop) is not int or begin != end or stop < begin:
            raise ValueError(f"the data of {name[:80]} does not follow the tensor before it")
        dtype, shape = entry["dtype"], entry["shape"]
        if dtype not in BITS:
            raise ValueError(f"the type of {name[:80]} is unknown")
        if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < MAX_LENGTH for n in shape):
            raise ValueError(f"the shape of {name[:80]} is none")
        if 8 * (stop - begin) != BITS[dtype] * math.prod(shape):
            raise ValueError(f"the data of {name[:80]} is {stop - begin} bytes, which its type and shape are not")
        end = stop
        tensors[name] = Tensor(dtype, tuple(shape))
    return tensors, end


def check_index(index: dict[str, Any] | None, held: Mapping[str, Collection[str]], where: str) -> None:
    """Raise `BadInputError` where a shard does not hold a tensor that the index puts there."""
    for tensor, shard in (index or {}).get("weight_map", {}).items():
        if tensor not in held[shard]:
            raise BadInputError(
                f"{where}: the index puts {tensor[:80]} into {shard}, which does not hold it. Download both again."
            )


def weight_files(names: set[str], index: dict[str, Any] | None, where: str) -> list[str]:
    """Return the files that hold the weights, of all file `names` of a model.

    `index` is the parsed `model.safetensors.index.json`. `where` names the model in the messages.

    Raises `BadInputError` where a shard is missing or the weights come in another format only.
    """
    if index is not None:
        weight_map = index.get("weight_map", {})
        if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
            raise BadInputError(f"{where}: the `weight_map` in {INDEX} maps no names to files. Download it again.")
        shards = set(weight_map.values())
        if elsewhere := sorted(shard for shard in shards if "/" in shard):
            raise BadInputError(
                f"{where}: the index names {elsewhere[0][:80]}, and shards in other directories cannot be converted."
                " Move them beside it."
            )
        if missing := sorted(shards - names):
            raise BadInputError(
                f"{where} lacks {len(missing)} of the {len(shards)} shards that its index names:"
                f" {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}. Complete it, or pick a complete"
                " revision."
            )
        if shards:
            return sorted(shards)
    if SINGLE in names:
        return [SINGLE]
    if parts := sorted(n for n in names if n.startswith("model-") and n.endswith(".safetensors")):
        raise BadInputError(
            f"{where} has {len(parts)} shards ({parts[0]} …) but no {INDEX}, so that nobody can tell whether"
            " they are all there. Add the index."
        )
    pickled = sorted(n for n in names if n.endswith((".bin", ".pt", ".pth", ".ckpt")))
    if pickled:
        raise BadInputError(
            f"{where} has its weights only as pickles ({pickled[0]}), which run code when they are opened, so this"
            " pipeline never opens them. Convert it to safetensors first, or pick a revision that has them."
        )
    raise BadInputError(f"{where} holds no {SINGLE} and no {INDEX}: there are no weights to quantize.")
