"""What stands before the tensors' data in a quant, byte for byte as llama-quantize writes it.

It sets keys in the order of src/llama-quant.cpp and tools/quantize/quantize.cpp; a key that is set again goes to the
end (`gguf_set_val_…` in ggml/src/gguf.cpp). A string ends before its first NUL.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from pipeline.engine.plan import padded
from pipeline.gguf_cursor import ARRAY, STRING
from pipeline.gguf_file import MAGIC, TYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.gguf_file import GGUFFile, Tensor
    from pipeline.imatrix import ImatrixFile

VERSION, U32, FIRST_KEY = 3, 4, 24
# GGML_QNT_VERSION in ggml/include/ggml.h
QUANTIZATION_VERSION: Final = 2
SPLIT: Final = ("split.no", "split.count", "split.tensors.count")
# llama-quantize keeps the names that it was given in buffers of 128 bytes.
LONGEST_NAME: Final = 127
NUMBERS: Final = {name: number for number, name in TYPES.items()}


def write(reference: GGUFFile, tensors: Sequence[Tensor], file_type: int, importance: ImatrixFile | None) -> bytes:
    """Return the header, padded, of a quant of these tensors; `file_type` is its llama_ftype."""
    keys = metadata(reference, file_type, importance)
    head = MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(keys))
    body = b"".join([head, *(_string(key.encode()) + value for key, value in keys.items()), *map(_info, tensors)])
    return body.ljust(padded(len(body)), b"\0")


def metadata(reference: GGUFFile, file_type: int, importance: ImatrixFile | None) -> dict[str, bytes]:
    """Return the quant's keys, each with its type and value as bytes."""
    keys = _keys(reference)
    _set(keys, "general.quantization_version", _number(QUANTIZATION_VERSION))
    _set(keys, "general.file_type", _number(file_type))
    for key in SPLIT:
        keys.pop(key, None)
    if importance is not None:
        _set(keys, "quantize.imatrix.file", _text(importance.path.name))
        if importance.datasets:
            _set(keys, "quantize.imatrix.dataset", _text(importance.datasets[0]))
        _set(keys, "quantize.imatrix.entries_count", _number(len(importance.entries)))
        if importance.chunks > 0:
            _set(keys, "quantize.imatrix.chunks_count", _number(importance.chunks))
    return keys


def _keys(reference: GGUFFile) -> dict[str, bytes]:
    keys = {}
    last = max((value.end for value in reference.values.values()), default=FIRST_KEY)
    clean = last - FIRST_KEY == reference.metadata_size  # no NUL in it, so that the vocabulary is copied whole
    with reference.path.open("rb") as file:
        for key, value in reference.values.items():
            file.seek(value.begin)
            content = file.read(value.end - value.begin)
            keys[key] = struct.pack("<I", value.type) + (content if clean else _without_nul(value.type, content))
    return keys


def _without_nul(kind: int, content: bytes) -> bytes:
    if kind == STRING:
        return _string(content[8:])
    if kind != ARRAY or content[:4] != struct.pack("<I", STRING):
        return content
    strings, position = [content[:12]], 12
    while position < len(content):
        end = position + 8 + int.from_bytes(content[position : position + 8], "little")
        strings.append(_string(content[position + 8 : end]))
        position = end
    return b"".join(strings)


def _set(keys: dict[str, bytes], key: str, value: bytes) -> None:
    keys.pop(key, None)
    keys[key] = value


def _number(value: int) -> bytes:
    return struct.pack("<II", U32, value)


def _text(name: str) -> bytes:
    return struct.pack("<I", STRING) + _string(name.encode(errors="surrogateescape")[:LONGEST_NAME])


def _string(content: bytes) -> bytes:
    content = content.partition(b"\0")[0]
    return struct.pack("<Q", len(content)) + content


def _info(tensor: Tensor) -> bytes:
    shape = list(tensor.shape) or [1]
    while len(shape) > 1 and shape[-1] == 1:  # as ggml counts dimensions
        shape.pop()
    numbers = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, NUMBERS[tensor.type], tensor.offset)
    return _string(tensor.name.encode()) + numbers
