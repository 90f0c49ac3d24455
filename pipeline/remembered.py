"""SHA-256 of files that are not in the store and that anybody may change: remembered, so as to read them once.

A file counts as the one that was read while the file system says the same of it, as in git's index: device, inode,
size, and when its content and its inode changed. One that had changed just before it was read is not remembered, since
a clock's tick could hide another change.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from typing import TYPE_CHECKING

from pipeline import units
from pipeline.artifact import file_sha256

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL = 1 << 20
"""Bytes of a file that is as soon read as looked up."""
LONG = 1_000_000_000
"""Bytes from which on a person is told what takes so long."""
SETTLED = 2.0
"""Seconds without a change, more than the coarsest clock of a file system."""


class Remembered:
    """SHA-256 by file, one small file each under `root`; many processes may use it at once."""

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        self._root = root
        self._say = say

    def sha256(self, path: Path) -> str:
        seen = _seen(path)
        if seen[2] < SMALL:
            return file_sha256(path)
        memory = self._root / hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
        try:
            *before, digest = json.loads(memory.read_bytes())
        except (OSError, ValueError, TypeError):
            before = []
        if before == seen:
            return str(digest)
        if seen[2] > LONG:
            self._say(f"reading {path}, {units.size(seen[2])}, for its SHA-256 …")
        digest = file_sha256(path)
        if _seen(path) == seen and time.time() - max(seen[3:]) / 1e9 > SETTLED:
            part = memory.with_suffix(f".{os.getpid()}")
            with contextlib.suppress(OSError):  # a full disk: it is read again, then
                part.write_text(json.dumps([*seen, digest]))
                part.replace(memory)
        return digest


def _seen(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
