"""A GGUF taken apart, to be changed in one place and written again."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import ggufs
import numpy as np

from pipeline import gguf_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


class Part:
    """A tensor: `shape` as GGUF has it, `type` by its name, `data` as bytes."""

    def __init__(self, shape: tuple[int, ...], type_: str, data: NDArray[np.uint8]) -> None:
        self.shape, self.type, self.data = shape, type_, data

    def numbers(self) -> NDArray[Any]:
        """The weights of an unquantized tensor, bf16 as its bits, a row a row; to be written to."""
        kind = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[self.type]
        self.data = np.array(self.data)
        return self.data.view(kind).reshape(-1, self.shape[0])

    def blocks(self) -> NDArray[np.uint8]:
        """The blocks of a quantized tensor, a block a row; to be written to."""
        self.data = np.array(self.data)
        return self.data.reshape(-1, gguf_file.SIZES[self.type][1])


class Draft:
    """Keys in their order, each with the bytes of its value; tensors in their order."""

    def __init__(self, path: Path) -> None:
        self.file = gguf_file.read(path)
        data = np.memmap(path, np.uint8, "r")
        # The word that names a value's type stands before it.
        self.keys = {key: bytes(data[of.begin - 4 : of.end]) for key, of in self.file.values.items()}
        begin = self.file.data_begin
        self.tensors = {
            name: Part(t.shape, t.type, data[begin + t.offset : begin + t.offset + t.size])
            for name, t in self.file.tensors.items()
        }

    def set(self, **changes: Any) -> Draft:
        """Change or add keys, dots as `__`: `ggufs.value` says of what types; bytes are the value as it stands."""
        for name, value in changes.items():
            self.keys[name.replace("__", ".")] = value if isinstance(value, bytes) else ggufs.value(value)
        return self

    def drop(self, *keys: str) -> Draft:
        for key in keys:
            del self.keys[key]
        return self

    def write(self, path: Path, alignment: int = gguf_file.ALIGNMENT) -> Path:
        pad = lambda size: -size % alignment  # noqa: E731
        offset, infos = 0, b""
        for name, part in self.tensors.items():
            infos += ggufs.info(name, part.shape, ggufs.IDS[part.type], offset)
            offset += part.data.nbytes + pad(part.data.nbytes)
        keys = b"".join(ggufs.text(key) + value for key, value in self.keys.items())
        header = ggufs.head(len(self.keys), len(self.tensors)) + keys + infos
        with path.open("wb") as file:
            file.write(header + bytes(pad(len(header))))
            for part in self.tensors.values():
                file.write(part.data)
                file.write(bytes(pad(part.data.nbytes)))
        return path


def edited(key: bytes, change: Any) -> bytes:
    """Change an array of numbers of 32 bits, as bytes of a value: `change` gets them as an array to write to."""
    head, numbers = key[:16], np.frombuffer(key[16:], np.uint32).copy()
    change(numbers)
    return head + numbers.tobytes()


def shortened(key: bytes, count: int) -> bytes:
    """Keep the first `count` strings of an array of strings."""
    position = 16
    for _ in range(count):
        position += 8 + int.from_bytes(key[position : position + 8], "little")
    return key[:8] + struct.pack("<Q", count) + key[16:position]
