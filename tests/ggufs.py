"""GGUF files byte by byte: whole ones, and damaged ones that no library writes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline import gguf_file

if TYPE_CHECKING:
    from pathlib import Path

IDS = {name: number for number, name in gguf_file.TYPES.items()}
U32, F32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9
LAYOUTS = {4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q"}


class Tensor(NamedTuple):
    shape: tuple[int, ...]
    type: str
    data: bytes


METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "Tiny",
    "general.file_type": 1,
    "llama.block_count": 2,
    "llama.rope.freq_base": 10000.0,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.attention.head_count_kv": [2, 0],
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": [f"token{i}" for i in range(40)],
    "tokenizer.ggml.token_type": [1] * 600,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.chat_template": "{{ messages }}",
}


def text(content: str | bytes) -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(raw)) + raw


def value(of: Any) -> bytes:
    """Type and bytes of a value: str, bytes, bool, int (32 bits), float (32 bits), or a list of one of these."""
    if isinstance(of, list):
        kind = {str: STRING, float: F32}.get(type(of[0]), U32)
        items = [value(item)[4:] for item in of]
        return struct.pack("<IIQ", ARRAY, kind, len(of)) + b"".join(items)
    if isinstance(of, (str, bytes)):
        return struct.pack("<I", STRING) + text(of)
    kind = BOOL if isinstance(of, bool) else U32 if isinstance(of, int) else F32
    return struct.pack("<I", kind) + struct.pack(LAYOUTS[kind], of)


def head(keys: int, tensors: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def info(name: str | bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def content(metadata: dict[str, Any], tensors: dict[str, Tensor], alignment: int = 32) -> bytes:
    """Return a whole file, as llama.cpp writes it."""
    pad = lambda size: -size % alignment  # noqa: E731
    offset, infos, data = 0, b"", []
    for name, tensor in tensors.items():
        infos += info(name, tensor.shape, IDS[tensor.type], offset)
        data += [tensor.data, bytes(pad(len(tensor.data)))]
        offset += sum(map(len, data[-2:]))
    keys = b"".join(text(key) + value(of) for key, of in metadata.items())
    header = head(len(metadata), len(tensors)) + keys + infos
    return b"".join([header, bytes(pad(len(header)) if tensors else 0), *data])


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any] = METADATA) -> gguf_file.GGUFFile:
    path.write_bytes(content(metadata, tensors))
    return gguf_file.parse(path)


def blank(shape: tuple[int, ...], kind: str = "F32", fill: int = 0x3C) -> Tensor:
    """A tensor whose bytes are all the same."""
    return Tensor(shape, kind, bytes([fill]) * gguf_file.Tensor.of("", shape, kind).size)
