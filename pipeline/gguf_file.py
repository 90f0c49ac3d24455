"""A GGUF file, read back: what its header and its tensor table really say.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package's own reader makes an array of
every string of the vocabulary, which takes seconds a file, and a file is read several times.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from gguf import GGML_QUANT_SIZES

from pipeline.errors import ToolchainError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

MAGIC = b"GGUF"
STRING, ARRAY = 8, 9
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
# Most layers that llama.cpp knows of (src/llama-hparams.h, LLAMA_MAX_LAYERS).
LAYERS = 512
# Type id to name, and name to weights a block and bytes a block. The package does not know the youngest type of the
# pinned llama.cpp.
TYPES = {int(kind): str(kind.name) for kind in GGML_QUANT_SIZES} | {42: "Q2_0"}
SIZES = {str(kind.name): sizes for kind, sizes in GGML_QUANT_SIZES.items()} | {"Q2_0": (64, 18)}


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    """Row length first, as GGUF has it."""
    type: str
    """As llama-quantize names it, in upper case: Q4_K, F32."""
    parameters: int
    size: int
    """Bytes of data."""
    offset: int = 0
    """Where its data begins, counted from `GGUFFile.data_begin`; 0 for a tensor of no file."""

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], type_: str, offset: int = 0) -> Self:
        """KeyError for a type that ggml does not have."""
        weights, size = SIZES[type_]
        parameters = math.prod(shape)
        return cls(name, shape, type_, parameters, parameters // weights * size, offset)


class Value(NamedTuple):
    """Where in the file a key's value lies, as bytes after the word that names its type."""

    type: int
    begin: int
    end: int


@dataclass(frozen=True)
class GGUFFile:
    path: Path
    metadata: dict[str, Any]
    """Scalars, strings, and numbers a layer as a tuple; longer arrays (the vocabulary) are left out."""
    tensors: dict[str, Tensor]
    metadata_size: int
    """Bytes of all keys and values as llama.cpp writes them again: there a string ends before its first NUL."""
    data_begin: int
    """Where in the file the tensors' data begins."""
    values: dict[str, Value] = field(default_factory=dict)
    """Every key, in the order of the file."""

    @property
    def parameters(self) -> int:
        return sum(t.parameters for t in self.tensors.values())

    @property
    def bits_per_weight(self) -> float:
        return bits_per_weight(self.tensors.values())

    @property
    def types(self) -> dict[str, int]:
        """Number of tensors of each type, most frequent first."""
        return type_counts(self.tensors.values())

    @property
    def weights(self) -> dict[str, int]:
        """Number of parameters of each type, most first."""
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            counts[tensor.type] = counts.get(tensor.type, 0) + tensor.parameters
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", "?"))

    def hyperparameter(self, name: str) -> int:
        """Return `<architecture>.<name>`, 0 where the file does not say."""
        return int(self.metadata.get(f"{self.architecture}.{name}", 0))

    def array(self, key: str) -> list[Any]:
        """Read a whole array, such as the vocabulary; strings that are no UTF-8 keep their bytes as surrogates.

        KeyError for a key that is not there, ValueError for one that is no array of numbers or strings.
        """
        value = self.values[key]
        with self.path.open("rb") as file:
            file.seek(value.begin)
            data = file.read(value.end - value.begin)
        kind, count = struct.unpack_from("<IQ", data)
        if value.type != ARRAY or kind == ARRAY:
            raise ValueError(f"{key} is no array of numbers or strings")
        if kind != STRING:
            return list(struct.unpack_from(f"<{count}{SCALARS[kind][1]}", data, 12))
        strings, position = [], 12
        for _ in range(count):
            end = position + 8 + int.from_bytes(data[position : position + 8], "little")
            strings.append(data[position + 8 : end].decode(errors="surrogateescape"))
            position = end
        return strings

    @property
    def layers(self) -> int:
        """Layers that can be offloaded: the blocks and the output."""
        return self.hyperparameter("block_count") + 1


def bits_per_weight(tensors: Collection[Tensor]) -> float:
    return 8 * sum(t.size for t in tensors) / sum(t.parameters for t in tensors)


def type_counts(tensors: Collection[Tensor]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.type] = counts.get(tensor.type, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def read(path: Path) -> GGUFFile:
    """Read header and tensor table; long arrays are passed over, so a vocabulary of 256k costs a tenth of a second.

    Raises `ToolchainError` where the file does not open, or ends before its last tensor does.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(path, _Cursor(data))
    except (ValueError, struct.error, UnicodeDecodeError) as error:
        raise ToolchainError(f"{path.name} does not open as GGUF: {error}.") from error


def _parse(path: Path, cursor: _Cursor) -> GGUFFile:
    magic, version, tensor_count, key_count = cursor.unpack("<4sIQQ")
    if magic != MAGIC or version not in (2, 3):
        raise ValueError(f"it begins with {magic!r}, version {version}")
    metadata: dict[str, Any] = {}
    values: dict[str, Value] = {}
    metadata_begin = cursor.position
    for _ in range(key_count):
        key = cursor.string()
        (kind,) = cursor.unpack("<I")
        value_begin = cursor.position
        if kind == ARRAY:
            if (numbers := cursor.array()) is not None:
                metadata[key] = numbers
        else:
            metadata[key] = cursor.string() if kind == STRING else cursor.unpack(SCALARS[kind])[0]
        values[key] = Value(kind, value_begin, cursor.position)
    metadata_size = cursor.position - metadata_begin - cursor.after_nul
    tensors, end = {}, 0
    for _ in range(tensor_count):
        name = cursor.string()
        (dimensions,) = cursor.unpack("<I")
        *shape, kind, offset = cursor.unpack(f"<{dimensions}QIQ")
        if kind not in TYPES:
            raise ValueError(f"{name} has the unknown type {kind}")
        tensors[name] = Tensor.of(name, tuple(shape), TYPES[kind], offset)
        end = max(end, offset + tensors[name].size)
    alignment = int(metadata.get("general.alignment", 32))
    begin = -(-cursor.position // alignment) * alignment
    if begin + end > len(cursor.data):
        raise ValueError(f"its tensors need {begin + end} bytes and it has {len(cursor.data)}")
    return GGUFFile(path, metadata, tensors, metadata_size, begin, values)


class _Cursor:
    """Reads on from where it is; `ValueError` or `struct.error` past the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 0
        self.after_nul = 0
        """Bytes of strings from their first NUL on."""

    def unpack(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(layout, self.data, self.position)
        self.position += struct.calcsize(layout)
        return values

    def string(self) -> str:
        (length,) = self.unpack("<Q")
        if length > len(self.data) - self.position:
            raise ValueError("a string reaches past the end")
        return self._bytes(length).decode()

    def array(self) -> tuple[Any, ...] | None:
        """Return an array of few numbers; pass over any other."""
        start = self.position
        kind, count = self.unpack("<IQ")
        if kind not in SCALARS or count > LAYERS:
            self.position = start
            self.skip_array()
            return None
        return self.unpack(f"<{count}{SCALARS[kind][1]}")

    def skip_array(self) -> None:
        kind, count = self.unpack("<IQ")
        if kind == STRING:
            for _ in range(count):
                (length,) = self.unpack("<Q")
                self._bytes(length)
        elif kind == ARRAY:
            for _ in range(count):
                self.skip_array()
        else:
            self.position += count * struct.calcsize(SCALARS[kind])

    def _bytes(self, length: int) -> bytes:
        content = self.data[self.position : self.position + length]
        self.position += length
        if b"\0" in content:
            self.after_nul += length - content.index(b"\0")
        return content
