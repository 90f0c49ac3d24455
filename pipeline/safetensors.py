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
    from pathlib import Path

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# The reference implementation refuses a longer header, too.
MAX_HEADER_BYTES = 100_000_000


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
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, MAX_HEADER_BYTES):
                raise ValueError(f"its header would be {length} bytes long")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors, end = _tensors(header)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise BadInputError(f"{path} is no safetensors file ({error}). Download it again.") from error
    if size != 8 + length + end:
        raise BadInputError(
            f"{path} is damaged: its header promises {8 + length + end} bytes and it has {size}. Download it again."
        )
    return tensors


def _tensors(header: dict[str, Any]) -> tuple[dict[str, Tensor], int]:
    end = 0
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        if begin != end or stop < begin:
            raise ValueError(f"the data of {name} does not follow the tensor before it")
        end = stop
        tensors[name] = Tensor(entry["dtype"], tuple(entry["shape"]))
    return tensors, end


def weight_files(names: set[str], index: dict[str, Any] | None, where: str) -> list[str]:
    """Return the files that hold the weights, of all file `names` of a model.

    `index` is the parsed `model.safetensors.index.json`. `where` names the model in the messages.

    Raises `BadInputError` where a shard is missing or the weights come in another format only.
    """
    if index is not None:
        shards = set(index.get("weight_map", {}).values())
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
