"""A shard: how files are put together from chunks of xorbs, as a client of Xet uploads it and as it is told of others'.

The layout is that of `spec/shard.md` in github.com/huggingface/xet-core, with the sizes that its `shard_format.rs`
gives to the footer. All records have 48 bytes: a hash, then 16 bytes whose meaning differs.
"""

from __future__ import annotations

import hashlib
import struct
import time
from dataclasses import dataclass

TAG = b"HFRepoMetaData\0" + bytes((85, 105, 103, 69, 106, 123, 129, 87, 131, 165, 189, 217, 92, 205, 209, 74, 169))
HEADER = struct.Struct("<32sQQ")  # tag, version, bytes of the footer
RECORD = struct.Struct("<32s4I")
FOOTER = struct.Struct("<9Q32s2Q6Q4Q")
BOOKEND = b"\xff" * 32 + bytes(16)
WITH_VERIFICATION, WITH_SHA256 = 1 << 31, 1 << 30
DEDUP_SECONDS = 24 * 60 * 60


class BadShardError(ValueError):
    """The bytes are no shard, or it says what is not so."""


@dataclass(frozen=True)
class Term:
    """A run of neighbouring chunks of one xorb, `end` not among them, and how many bytes come out of it."""

    xorb: str
    start: int
    end: int
    size: int


@dataclass(frozen=True)
class File:
    xet_hash: str
    sha256: str
    terms: list[Term]


@dataclass(frozen=True)
class Shard:
    files: list[File]
    chunks: dict[str, list[str]]  # of each xorb that it describes, the hashes
    xorbs: bytes  # the section that describes them, with its bookend


def hex_of(digest: bytes) -> str:
    """Xet's own hexadecimal order: four little-endian numbers of 64 bits, each written as a number."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", digest))


def parse(body: bytes) -> Shard:
    """Read an uploaded shard. Raises BadShardError."""
    try:
        tag, version, _footer = HEADER.unpack_from(body)
        if (tag, version) != (TAG, 2):
            raise BadShardError("this is no shard of version 2")
        files, at = _files(body, HEADER.size)
        chunks, end = chunk_hashes(body, at)
    except struct.error as reason:
        raise BadShardError(f"the shard ends within a record: {reason}") from reason
    return Shard(files, chunks, body[at:end])


def _files(body: bytes, at: int) -> tuple[list[File], int]:
    sha256_of_nothing = hashlib.sha256().hexdigest()
    files: list[File] = []
    while True:
        digest, flags, count, _, _ = RECORD.unpack_from(body, at)
        at += RECORD.size
        if digest == BOOKEND[:32]:
            return files, at
        terms = []
        for _ in range(count):
            xorb, _, size, start, end = RECORD.unpack_from(body, at)
            terms.append(Term(hex_of(xorb), start, end, size))
            at += RECORD.size
        if flags & WITH_VERIFICATION:  # keyed hashes (BLAKE3) of the chunks; the sha256 says more
            at += count * RECORD.size
        if not flags & WITH_SHA256:
            raise BadShardError(f"the sha256 of the file {hex_of(digest)} is missing")
        sha256, *_ = RECORD.unpack_from(body, at)
        at += RECORD.size
        # hf_xet hashes nothing of an empty file and sends zeros.
        files.append(File(hex_of(digest), hex_of(sha256) if terms else sha256_of_nothing, terms))


def chunk_hashes(body: bytes, at: int = 0) -> tuple[dict[str, list[str]], int]:
    """Read the section about xorbs, and say where it ends."""
    chunks: dict[str, list[str]] = {}
    while True:
        digest, _, count, _, _ = RECORD.unpack_from(body, at)
        at += RECORD.size
        if digest == BOOKEND[:32]:
            return chunks, at
        end = at + count * RECORD.size
        chunks[hex_of(digest)] = [hex_of(chunk) for chunk, *_ in RECORD.iter_unpack(body[at:end])]
        at = end


def for_dedup(xorbs: bytes) -> bytes:
    """The answer to a chunk query: the xorbs of an earlier upload, no files, no key over the hashes."""
    start = HEADER.size
    end = start + len(BOOKEND) + len(xorbs)
    now = int(time.time())
    # Empty lookup tables, which all lie where the footer begins: the client builds its own.
    offsets = (1, start, start + len(BOOKEND), end, 0, end, 0, end, 0)
    footer = FOOTER.pack(*offsets, bytes(32), now, now + DEDUP_SECONDS, *[0] * 9, end)
    return HEADER.pack(TAG, 2, FOOTER.size) + BOOKEND + xorbs + footer
