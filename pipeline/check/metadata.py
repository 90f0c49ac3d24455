"""Does the file say of itself what the reference says: every key equal, apart from what quantizing changes."""

from __future__ import annotations

import mmap
import re
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, NamedTuple

from pipeline.check.verdict import failed, passed, skipped, warned
from pipeline.gguf_cursor import ARRAY, SCALARS, STRING
from pipeline.gguf_file import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.gguf_file import GGUFFile, Value
    from pipeline.result import Verdict

AGAIN = "Quantize again from this reference; if the reference is older than the file, convert the model again."
DESCRIPTION = "Nothing that runs the file reads it. Quantize again if it is to say what the reference says."
# What llama-quantize writes itself (src/llama-quant.cpp, tools/quantize/quantize.cpp), and llama-gguf-split.
IMATRIX: Final = "quantize.imatrix."
CHANGED: Final = frozenset(
    {
        "general.file_type",
        "general.quantization_version",
        "split.no",
        "split.count",
        "split.tensors.count",
        *(IMATRIX + key for key in ("file", "dataset", "entries_count", "chunks_count")),
    }
)
# Keys under general. that decide how a file is read; all others there describe it.
_READ = frozenset({"general.architecture", "general.alignment", "general.type"})
# The key, or its part after the architecture, in plain words.
_WORDS: Final[Mapping[str, str]] = {
    "general.architecture": "the architecture",
    "tokenizer.ggml.model": "the kind of tokenizer",
    "tokenizer.ggml.pre": "the pre-tokenizer",
    "tokenizer.ggml.tokens": "the vocabulary",
    "tokenizer.ggml.scores": "the scores of the vocabulary",
    "tokenizer.ggml.token_type": "the types of the tokens",
    "tokenizer.ggml.merges": "the merges of the tokenizer",
    "tokenizer.ggml.add_bos_token": "whether a text begins with BOS",
    "tokenizer.ggml.add_eos_token": "whether a text ends with EOS",
    "tokenizer.ggml.add_space_prefix": "whether a text begins with a space",
    "tokenizer.chat_template": "the chat template",
    "rope.freq_base": "the rope base",
    "rope.dimension_count": "the rope dimensions",
    "attention.layer_norm_rms_epsilon": "the norm epsilon",
    "attention.layer_norm_epsilon": "the norm epsilon",
    "attention.head_count": "the number of heads",
    "attention.head_count_kv": "the number of key-value heads",
    "attention.sliding_window": "the sliding window",
    "context_length": "the context length",
    "embedding_length": "the embedding length",
    "block_count": "the number of blocks",
}
# Bytes that are compared at once.
_PIECE = 1 << 20


class ImatrixKeys(NamedTuple):
    """What llama-quantize writes of an imatrix; the two names are cut to 127 bytes. None: not known."""

    file: str
    entries: int
    chunks: int | None = None
    dataset: str | None = None


def metadata(quant: GGUFFile, reference: GGUFFile) -> Verdict:
    """Compare every key's type and bytes with the reference's.

    llama-quantize ends a string at its first NUL; it changes `CHANGED` and no more. A difference in what describes
    the model only (general.name), or a key of another program's, is a warning.
    """
    broken: list[str] = []
    odd: list[str] = []
    with ExitStack() as opened:
        ours, theirs = (_Bytes(opened, file) for file in (quant, reference))
        for key in [*reference.values, *(key for key in quant.values if key not in reference.values)]:
            if key not in CHANGED and (difference := _difference(key, ours, theirs)):
                (broken if _steers(key, reference) else odd).append(difference)
    if broken:
        return failed("metadata", _listed(broken + odd), AGAIN)
    if odd:
        return warned("metadata", _listed(odd), DESCRIPTION)
    same = len(reference.values.keys() - CHANGED)
    return passed("metadata", f"{same} keys, each with the value that it has in the reference")


def imatrix_keys(quant: GGUFFile, expected: ImatrixKeys | None = None) -> Verdict:
    """Read back quantize.imatrix.* and hold it against the imatrix that was given; without one, say what it says."""
    found = {k.removeprefix(IMATRIX): v for k, v in quant.metadata.items() if k.startswith(IMATRIX)}
    if expected is None:
        if not found:
            return skipped("imatrix", "the file says nothing of an imatrix")
        said = ", ".join(f"{shown(k, 40)} {shown(str(v))}" for k, v in list(found.items())[:4])
        return passed("imatrix", f"the file says that it was made with an imatrix: {said}")
    if not found:
        seen = f"unused imatrix: the recipe wants {expected.file}, and the file names none"
        return failed("imatrix", seen, "Quantize again, with --imatrix.")
    wanted = {
        "file": _cut(expected.file),
        "entries_count": expected.entries,
        "chunks_count": expected.chunks,
        "dataset": None if expected.dataset is None else _cut(expected.dataset),
    }
    if wrong := [
        f"{IMATRIX}{key} is {shown(str(found.get(key, 'missing')))}, not {shown(str(value))}"
        for key, value in wanted.items()
        if value is not None and found.get(key) != value
    ]:
        return failed("imatrix", f"another imatrix than ours: {'; '.join(wrong)}", "Quantize again with this imatrix.")
    chunks = f" from {expected.chunks} chunks" if expected.chunks is not None else ""
    return passed("imatrix", f"made with {expected.file}: {expected.entries} entries{chunks}")


def no_imatrix(quant: GGUFFile) -> Verdict:
    """Check the file of a recipe that goes without an imatrix."""
    if found := [key for key in quant.values if key.startswith(IMATRIX)]:
        seen = f"the recipe goes without an imatrix, and the file names one: {shown(found[0])}"
        return failed("imatrix", seen, "Quantize again, without --imatrix.")
    return passed("imatrix", "made without an imatrix, as the recipe says")


class _Bytes:
    """The bytes of a file's keys; none of them is copied as a whole."""

    def __init__(self, opened: ExitStack, file: GGUFFile) -> None:
        self.values = file.values
        handle = opened.enter_context(file.path.open("rb"))
        self.data = opened.enter_context(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))

    def string(self, value: Value) -> bytes:
        """Return a string up to its first NUL."""
        return self.data[value.begin + 8 : value.end].split(b"\0", 1)[0]

    def array(self, value: Value) -> tuple[int, int]:
        """Return the type of the elements and their number."""
        kind, count = struct.unpack_from("<IQ", self.data, value.begin)
        return kind, count

    def element(self, position: int) -> tuple[bytes, int]:
        """Return a string of an array up to its first NUL, and where the next one begins."""
        (length,) = struct.unpack_from("<Q", self.data, position)
        end = position + 8 + length
        return self.data[position + 8 : end].split(b"\0", 1)[0], end

    def shown(self, value: Value) -> str:
        if value.type == STRING:
            return _quoted(self.string(value))
        if value.type == ARRAY:
            return f"{self.array(value)[1]} values"
        (number,) = struct.unpack_from(SCALARS[value.type], self.data, value.begin)
        return _number(number, SCALARS[value.type])


def _difference(key: str, ours: _Bytes, theirs: _Bytes) -> str:
    """Say in what a key differs, with both values; nothing where it is equal."""
    what = _worded(key)
    if key not in ours.values:
        return f"{what} is missing, the reference has {theirs.shown(theirs.values[key])}"
    if key not in theirs.values:
        return f"{what} is added ({ours.shown(ours.values[key])}), the reference has none"
    mine, its = ours.values[key], theirs.values[key]
    if mine.type != its.type:
        return f"{what} is of another type: {ours.shown(mine)} here, {theirs.shown(its)} in the reference"
    if _equal(ours, mine, theirs, its):
        return ""
    if mine.type == ARRAY:
        return _array_difference(key, what, ours, theirs)
    if mine.type == STRING:
        one, other = ours.string(mine), theirs.string(its)
        if one == other:
            return ""
        at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        begin = max(0, at - 20) if at > 40 else 0
        where = f" from byte {at} on" if begin else ""
        return f"{what} differs{where}: {_quoted(one[begin:])} here, {_quoted(other[begin:])} in the reference"
    return f"{what} is {ours.shown(mine)}, and {theirs.shown(its)} in the reference"


def _array_difference(key: str, what: str, ours: _Bytes, theirs: _Bytes) -> str:
    mine, its = ours.values[key], theirs.values[key]
    (kind, count), (other_kind, other_count) = ours.array(mine), theirs.array(its)
    if kind != other_kind:
        return f"{what} is an array of another type"
    if count != other_count:
        return f"{what} has {count} values, and {other_count} in the reference"
    one, other, index = mine.begin + 12, its.begin + 12, 0
    if kind == STRING:
        for index in range(count):  # noqa: B007 - read after the loop
            text, one = ours.element(one)
            its_text, other = theirs.element(other)
            if text != its_text:
                break
        else:
            return ""
        return f"{what} differs: {key}[{index}] is {_quoted(text)}, and {_quoted(its_text)} in the reference"
    size = struct.calcsize(SCALARS[kind])
    index = _first_different(ours, one, theirs, other, count * size) // size
    (a,) = struct.unpack_from(SCALARS[kind], ours.data, one + index * size)
    (b,) = struct.unpack_from(SCALARS[kind], theirs.data, other + index * size)
    values = f"{_number(a, SCALARS[kind])}, and {_number(b, SCALARS[kind])} in the reference"
    return f"{what} differs: {shown(key)}[{index}] is {values}"


def _equal(ours: _Bytes, mine: Value, theirs: _Bytes, its: Value) -> bool:
    length = mine.end - mine.begin
    if length != its.end - its.begin:
        return False
    return _first_different(ours, mine.begin, theirs, its.begin, length) == length


def _first_different(ours: _Bytes, one: int, theirs: _Bytes, other: int, length: int) -> int:
    """Return how many bytes are equal, compared a piece at a time."""
    for begin in range(0, length, _PIECE):
        size = min(_PIECE, length - begin)
        a, b = (data[at + begin : at + begin + size] for data, at in ((ours.data, one), (theirs.data, other)))
        if a != b:
            return begin + next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    return length


def _steers(key: str, reference: GGUFFile) -> bool:
    """Whether a program that runs the model reads the key."""
    return key in _READ or key.startswith(("tokenizer.", f"{reference.architecture}."))


def _worded(key: str) -> str:
    plain = _WORDS.get(key) or _WORDS.get(key.partition(".")[2])
    if not plain and (token := re.fullmatch(r"tokenizer\.ggml\.(\w{1,20})_token_id", key)):
        plain = f"the id of the token {token[1].upper()}"
    if not plain and ".rope.scaling." in key:
        plain = "the rope scaling"
    return f"{plain} ({shown(key)})" if plain else shown(key)


def _number(value: float | bool, layout: str) -> str:
    """As few digits as tell a number from its neighbours in its own precision."""
    return f"{value:.9g}" if layout == "<f" else repr(value)


def _quoted(text: bytes) -> str:
    return f"'{shown(text[:400].decode(errors='backslashreplace'), 60)}'"


def _cut(name: str) -> str:
    return name.encode()[:127].decode(errors="backslashreplace")


def _listed(differences: list[str]) -> str:
    more = f"; and {len(differences) - 3} more keys" if len(differences) > 3 else ""
    return f"{'; '.join(differences[:3])}{more}"
