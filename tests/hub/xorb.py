"""A xorb: up to 64 MiB of compressed chunks, one after the other, which is what a client of Xet uploads.

The layout is that of `spec/xorb.md` in github.com/huggingface/xet-core: each chunk has a header of 8 bytes (version 0,
packed size in 3 bytes, compression scheme, unpacked size in 3 bytes, little-endian) and then its packed bytes. A
footer that begins with `XETBLOB` may follow the last chunk; it repeats what the headers say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import lz4.frame
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOOTER = b"XETBLOB"
HEADER = 8
PLAIN, LZ4, GROUPED_LZ4 = range(3)


class BadXorbError(ValueError):
    """The bytes are no xorb."""


@dataclass(frozen=True)
class Chunk:
    """Where a chunk with its header lies in the xorb, and what comes out of it."""

    start: int
    end: int
    scheme: int
    size: int  # unpacked


def chunks_of(path: Path) -> list[Chunk]:
    """Read the headers alone. Raises BadXorbError where they do not lead to the end of the file."""
    length, chunks, at = path.stat().st_size, [], 0
    with path.open("rb") as file:
        while at < length:
            file.seek(at)
            header = file.read(HEADER)
            if header.startswith(FOOTER):
                break
            if len(header) < HEADER or header[0] != 0 or header[4] > GROUPED_LZ4:
                raise BadXorbError(f"no chunk begins at byte {at} of {length}")
            end = at + HEADER + int.from_bytes(header[1:4], "little")
            chunks.append(Chunk(at, end, header[4], int.from_bytes(header[5:8], "little")))
            at = end
    if not chunks or at > length:
        raise BadXorbError(f"{len(chunks)} chunks end at byte {at} of {length}")
    return chunks


def unpacked(path: Path, chunks: list[Chunk]) -> Iterator[bytes]:
    """Yield what neighbouring chunks hold. Raises BadXorbError where one does not hold what its header says."""
    with path.open("rb") as file:
        file.seek(chunks[0].start)
        for chunk in chunks:
            packed = file.read(chunk.end - chunk.start)[HEADER:]
            try:
                body = packed if chunk.scheme == PLAIN else lz4.frame.decompress(packed)
            except RuntimeError as reason:
                raise BadXorbError(f"the chunk at byte {chunk.start}: {reason}") from reason
            if len(body) != chunk.size:
                raise BadXorbError(f"the chunk at byte {chunk.start} holds {len(body)} bytes, not {chunk.size}")
            yield ungrouped(body) if chunk.scheme == GROUPED_LZ4 else body


def ungrouped(grouped: bytes) -> bytes:
    """Undo the grouping by four: all first bytes, then all second bytes and so on become words again."""
    body = np.empty(len(grouped), np.uint8)
    source, at = np.frombuffer(grouped, np.uint8), 0
    for place in range(4):
        word_bytes = body[place::4]  # one more of the first ones where the length is no multiple of 4
        word_bytes[:] = source[at : at + len(word_bytes)]
        at += len(word_bytes)
    return body.tobytes()
