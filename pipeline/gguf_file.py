"""A GGUF file, read back: what its header and its tensor table really say.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The `gguf` package's own reader makes an array of
every string of the vocabulary, which takes seconds a file, and a file is read several times. It also believes what a
header says.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from gguf import GGML_QUANT_SIZES

from pipeline import file_kind
from pipeline.errors import ToolchainError
from pipeline.gguf_cursor import ARRAY, MAX_HEADER, SCALARS, STRING, Cursor, Fault

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

MAGIC = b"GGUF"
# Several times what a model of 512 experts in tensors of their own has, and its imatrix.
MAX_KEYS, MAX_TENSORS = 1 << 16, 1 << 19
# Dimensions of a tensor (GGML_MAX_DIMS).
DIMENSIONS = 4
ALIGNMENT = 32
"""Of the tensors' data, where the file does not name another."""
AGAIN = "Download it again, or make it anew."
# Most layers that llama.cpp knows of (src/llama-hparams.h, LLAMA_MAX_LAYERS).
LAYERS = 512
# Type id to name, and name to weights a block and bytes a block. The package does not know the youngest type of the
# pinned llama.cpp.
TYPES = {int(kind): str(kind.name) for kind in GGML_QUANT_SIZES} | {42: "Q2_0"}
SIZES = {str(kind.name): sizes for kind, sizes in GGML_QUANT_SIZES.items()} | {"Q2_0": (64, 18)}
# Type ids that llama.cpp once had (ggml/include/ggml.h).
REMOVED = {4, 5, 31, 32, 33, 36, 37, 38}


class UnreadableError(ToolchainError):
    """A file without a header that can be read. `fault`: what it is, without a full stop; `advice`: a sentence."""

    def __init__(self, path: Path, fault: str, advice: str) -> None:
        super().__init__(f"{path.name} does not open as GGUF: {fault}. {advice}")
        self.fault = fault
        self.advice = advice


class NoGGUFError(UnreadableError):
    """No GGUF at all: a text, a directory, another format."""

    exit_code = 2  # what was given is wrong, and no program failed


class DamagedError(UnreadableError):
    """A GGUF with a fault in its header, or one that ends too early."""


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
    offset: int = field(default=0, compare=False)
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
    """Scalars, strings, and numbers a layer as a tuple; longer arrays (the vocabulary) are left out.

    Bytes of a string that are no UTF-8 stand there as `\\xe4`: llama-quantize may cut a path within a character.
    """
    tensors: dict[str, Tensor]
    metadata_size: int
    """Bytes of all keys and values as llama.cpp writes them again: there a string ends before its first NUL."""
    data_begin: int
    """Where in the file the tensors' data begins."""
    values: dict[str, Value] = field(default_factory=dict)
    """Every key, in the order of the file."""
    size: int = 0
    """Bytes of the whole file; 0 for one that is not there."""

    @property
    def alignment(self) -> int:
        return int(self.metadata.get("general.alignment", ALIGNMENT))

    @property
    def needed(self) -> int:
        """Bytes up to the end of the last tensor."""
        return self.data_begin + max((t.offset + t.size for t in self.tensors.values()), default=0)

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
        """Return `<architecture>.<name>`, 0 where the file names no whole number."""
        value = self.metadata.get(f"{self.architecture}.{name}", 0)
        return value if isinstance(value, int) else 0

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
            return list(struct.unpack_from(f"<{count}{'B' if SCALARS[kind] == '<?' else SCALARS[kind][1]}", data, 12))
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
    return 8 * sum(t.size for t in tensors) / max(1, sum(t.parameters for t in tensors))


def type_counts(tensors: Collection[Tensor]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.type] = counts.get(tensor.type, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def read(path: Path) -> GGUFFile:
    """Read header and tensor table; long arrays are passed over, so a vocabulary of 256k costs a tenth of a second.

    Raises `ToolchainError` where the file does not open, or ends before its last tensor does.
    """
    file = parse(path)
    if file.size < file.needed:
        raise DamagedError(path, cut_short(file), AGAIN)
    return file


def cut_short(file: GGUFFile) -> str:
    return f"it is cut short: its tensors need {file.needed} bytes and it has {file.size}"


def parse(path: Path) -> GGUFFile:
    """Read a file as `read` does, but take one that ends before its last tensor does: the check "file" says so.

    Raises `NoGGUFError` for what is no GGUF at all and `DamagedError` for one whose header cannot be read.
    """
    if path.is_dir():
        raise NoGGUFError(path, "it is a directory", "Name the .gguf file in it.")
    if path.exists() and not path.is_file():  # a pipe, which would wait for its other end
        raise NoGGUFError(path, "it is no regular file", "Copy it into a file first.")
    with path.open("rb") as opened:
        head = opened.read(file_kind.HEAD)
        size = opened.seek(0, 2)
        if head[:4] != MAGIC:
            seems, advice = file_kind.kind(head, size)
            raise NoGGUFError(path, f"it {seems}", advice)
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _parse(path, Cursor(data))
            except Fault as fault:
                raise DamagedError(path, str(fault), AGAIN) from fault


def _parse(path: Path, cursor: Cursor) -> GGUFFile:
    _version(cursor)
    tensor_count, key_count = cursor.unpack("<QQ")
    cursor.count(key_count, 14, MAX_KEYS, "keys")
    cursor.count(tensor_count, 25, MAX_TENSORS, "tensors")
    metadata: dict[str, Any] = {}
    values: dict[str, Value] = {}
    metadata_begin = cursor.position
    for _ in range(key_count):
        key = cursor.name("key")
        if not key or key in values:
            raise Fault(f"the key {shown(key)} is there twice" if key else "a key has no name")
        (kind,) = cursor.unpack("<I")
        value_begin = cursor.position
        if kind == ARRAY:
            if (numbers := cursor.array(LAYERS)) is not None:
                metadata[key] = numbers
        elif kind == STRING:
            metadata[key] = cursor.string().decode(errors="backslashreplace")
        else:
            metadata[key] = cursor.scalar(kind)
        values[key] = Value(kind, value_begin, cursor.position)
    alignment = _alignment(metadata, values)
    metadata_size = cursor.position - metadata_begin - cursor.after_nul
    tensors: dict[str, Tensor] = {}
    for _ in range(tensor_count):
        tensor = _tensor(cursor)
        if tensor.name in tensors:
            raise Fault(f"the tensor {shown(tensor.name)} is there twice")
        tensors[tensor.name] = tensor
    begin = -(-cursor.position // alignment) * alignment if tensors else cursor.position
    return GGUFFile(path, metadata, tensors, metadata_size, begin, values, len(cursor.data))


def _version(cursor: Cursor) -> None:
    _, version = cursor.unpack("<4sI")
    if not version & 0xFFFF:
        raise Fault("it is big-endian, and llama.cpp reads it on big-endian machines only" if version else "version 0")
    if version == 1:
        raise Fault("it is GGUF version 1, which llama.cpp no longer reads")
    if version > 3:
        raise Fault(f"it is GGUF version {version}, and the newest is 3")


def _alignment(metadata: dict[str, Any], values: dict[str, Value]) -> int:
    found = metadata.get("general.alignment", ALIGNMENT)
    if "general.alignment" in values and SCALARS.get(values["general.alignment"].type) != "<I":
        raise Fault(f"its general.alignment is no number of 32 bits: {shown(str(found))}")
    if not 0 < found <= MAX_HEADER or found & (found - 1):
        raise Fault(f"its general.alignment is {found}, which is no power of two")
    return int(found)


def _tensor(cursor: Cursor) -> Tensor:
    name = cursor.name("tensor")
    (dimensions,) = cursor.unpack("<I")
    if dimensions > DIMENSIONS:
        raise Fault(f"the tensor {shown(name)} has {dimensions} dimensions, and {DIMENSIONS} are the most")
    *shape, kind, offset = cursor.unpack(f"<{dimensions}QIQ")
    row = shape[0] if shape else 1
    if math.prod(max(1, length) for length in shape) >= 1 << 63:
        raise Fault(f"the tensor {shown(name)} has the impossible shape {shape}")
    if kind not in TYPES:
        what = "a type that llama.cpp has removed" if kind in REMOVED else "a type that is unknown"
        raise Fault(f"the tensor {shown(name)} has {what}, {kind}")
    weights, _ = SIZES[TYPES[kind]]
    if row % weights:
        raise Fault(f"the tensor {shown(name)} has rows of {row} weights, which no blocks of {TYPES[kind]} fill")
    return Tensor.of(name, tuple(shape), TYPES[kind], offset)


def shown(text: str, limit: int = 80) -> str:
    """Text out of a file, fit for a message: no control characters, and not too long."""
    cut = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in cut)
