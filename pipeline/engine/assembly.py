"""A file put together from pieces of others, which the kernel copies, or the file system shares, where it can."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# What copy_file_range says where the file systems do not have it.
CANNOT: Final = frozenset({errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.ETXTBSY})
BUFFER: Final = 1 << 22


class Piece(NamedTuple):
    path: Path
    begin: int
    size: int
    offset: int
    """Where it goes, counted from the end of the head."""


def write(path: Path, head: bytes, pieces: Sequence[Piece], size: int) -> None:
    """Write `head`, then each piece at its place, and zeros between them and up to `size` bytes after the head.

    OSError where a piece is shorter than it should be, or the disk is full.
    """
    with path.open("xb", buffering=0) as target:
        target.truncate(len(head) + size)
        _write(target.fileno(), head, 0)
        for piece in pieces:
            with piece.path.open("rb") as source:
                _copy(source.fileno(), piece, target.fileno(), len(head) + piece.offset)


def _copy(source: int, piece: Piece, target: int, to: int) -> None:
    done = 0
    while done < piece.size:
        try:
            copied = os.copy_file_range(source, target, piece.size - done, piece.begin + done, to + done)
        except OSError as error:
            if error.errno not in CANNOT:
                raise
            content = os.pread(source, min(BUFFER, piece.size - done), piece.begin + done)
            _write(target, content, to + done)
            copied = len(content)
        if not copied:
            raise OSError(errno.EIO, f"{piece.path} is shorter than it was")
        done += copied


def _write(target: int, content: bytes, to: int) -> None:
    while content:
        written = os.pwrite(target, content, to)
        content, to = content[written:], to + written
