"""Reads one value after the other of a GGUF's header, and never more than the file or any real model holds.

A header is untrusted: every count and length in it is held against the bytes that are there before anything is read
or looped over. Limits beyond those: what llama.cpp refuses itself (ggml/src/gguf.cpp), and several times what the
largest models have.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mmap

STRING, ARRAY = 8, 9
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
# The largest vocabulary so far, with its merges, has a million strings, and its header 20 million bytes.
MAX_STRINGS = 1 << 23
MAX_HEADER = 1 << 28
_LENGTH = struct.Struct("<Q")


class Fault(ValueError):  # noqa: N818 - it is the fault itself, not yet the error
    """What is wrong with a header: a sentence's second half, without the full stop."""


class Cursor:
    """Where in the header we are. `Fault` where a value is none, or reaches past the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.end = min(len(data), MAX_HEADER)
        self.position = 0
        self.after_nul = 0
        """Bytes of strings from their first NUL on."""
        self._strings = 0

    @property
    def left(self) -> int:
        return self.end - self.position

    def unpack(self, layout: str) -> tuple[Any, ...]:
        self._need(struct.calcsize(layout), "it ends within its header")
        values = struct.unpack_from(layout, self.data, self.position)
        self.position += struct.calcsize(layout)
        return values

    def count(self, number: int, least: int, limit: int, what: str) -> int:
        """Return `number` of things that take at least `least` bytes each, if so many can be there."""
        if number > limit:
            raise Fault(f"its header announces {number} {what}, and {limit} are more than any model has")
        self._need(number * least, f"its header announces {number} {what}, for which the file is too short")
        return number

    def string(self) -> bytes:
        (length,) = self.unpack("<Q")
        self._need(length, f"a text of {length} bytes in its header reaches past the end")
        content = self.data[self.position : self.position + length]
        self.position += length
        self._count_nul(content)
        return content

    def name(self, what: str) -> str:
        """Read the name of a key or a tensor, which has to be UTF-8."""
        content = self.string()
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise Fault(f"the name of a {what} is no UTF-8: {content[:40]!r}") from None

    def scalar(self, kind: int) -> Any:
        if kind not in SCALARS:
            raise Fault(f"a value has the type {kind}, which GGUF does not have")
        if SCALARS[kind] == "<?":  # any byte but 0 is true to llama.cpp
            return self.unpack("<B")[0] != 0
        return self.unpack(SCALARS[kind])[0]

    def array(self, longest: int) -> tuple[Any, ...] | None:
        """Return an array of at most `longest` numbers; pass over any other."""
        kind, count = self.unpack("<IQ")
        if kind == ARRAY:
            raise Fault("a value is an array of arrays, which llama.cpp does not read")
        if kind == STRING:
            self._pass_strings(count)
            return None
        if kind not in SCALARS:
            raise Fault(f"an array has the type {kind}, which GGUF does not have")
        size = struct.calcsize(SCALARS[kind])
        self.count(count, size, MAX_HEADER, "numbers in an array")
        if count > longest:
            self.position += count * size
            return None
        return self.unpack(f"<{count}{'B' if SCALARS[kind] == '<?' else SCALARS[kind][1]}")

    def _pass_strings(self, count: int) -> None:
        self._strings += self.count(count, 8, MAX_STRINGS - self._strings, "texts in its arrays")
        data, begin, end = self.data, self.position, self.end
        position, zeros = begin, 0
        for _ in range(count):  # a vocabulary of them, so no more than it takes
            if position + 8 > end:
                raise Fault("it ends within its header")
            (length,) = _LENGTH.unpack_from(data, position)
            if length > end - position - 8:
                raise Fault(f"a text of {length} bytes in its header reaches past the end")
            zeros += 7 if 0 < length < 256 else _LENGTH.pack(length).count(0)
            position += 8 + length
        self.position = position
        if data[begin:position].count(0) != zeros:  # more than the lengths have
            self._count_nuls(begin, count)

    def _count_nuls(self, position: int, count: int) -> None:
        for _ in range(count):
            (length,) = _LENGTH.unpack_from(self.data, position)
            position += 8 + length
            self._count_nul(self.data[position - length : position])

    def _count_nul(self, content: bytes) -> None:
        if b"\0" in content:
            self.after_nul += len(content) - content.index(b"\0")

    def _need(self, size: int, otherwise: str) -> None:
        if size > self.left:
            long = len(self.data) > MAX_HEADER
            raise Fault(
                f"its header is longer than {MAX_HEADER} bytes, more than any model needs" if long else otherwise
            )
