"""A GGUF put together from pieces of others, which the kernel copies, or the file system shares, where it can."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from pipeline.engine.plan import padded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# What copy_file_range says where the file systems do not have it.
CANNOT: Final = frozenset({errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.ETXTBSY})
BUFFER: Final = 1 << 22
BLOCK: Final = 1 << 12
"""What file systems share with another file, where it begins at the same place within such a block in both."""


class Piece(NamedTuple):
    path: Path
    begin: int
    size: int
    offset: int
    """Where it goes, counted from the end of the head."""


def write(path: Path, head: bytes, pieces: Sequence[Piece]) -> None:
    """Write `head`, then each piece at its place, and zeros between them and behind the last, as GGUF is padded.

    OSError where a piece is shorter than it should be, or the disk is full.
    """
    with path.open("xb", buffering=0) as target:
        target.truncate(len(head) + max((padded(piece.offset + piece.size) for piece in pieces), default=0))
        _write(target.fileno(), head, 0)
        for piece in pieces:
            with piece.path.open("rb") as source:
                _copy(source.fileno(), piece, target.fileno(), len(head) + piece.offset)


def _copy(source: int, piece: Piece, target: int, to: int) -> None:
    done = 0
    while done < piece.size:
        begin = piece.begin + done
        # Up to where a block begins, since the kernel shares none if the first of them is not whole.
        size = min(piece.size - done, -begin % BLOCK or piece.size)
        try:
            if not hasattr(os, "copy_file_range"):  # which is Linux's
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            copied = os.copy_file_range(source, target, size, begin, to + done)
        except OSError as error:
            if error.errno not in CANNOT:
                raise
            content = os.pread(source, min(BUFFER, piece.size - done), begin)
            _write(target, content, to + done)
            copied = len(content)
        if not copied:
            raise OSError(errno.EIO, f"{piece.path} is shorter than it was")
        done += copied


def _write(target: int, content: bytes, to: int) -> None:
    while content:
        written = os.pwrite(target, content, to)
        content, to = content[written:], to + written
