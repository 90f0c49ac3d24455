"""The bodies of all files, each once, under its sha256."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

SHA256 = re.compile("[0-9a-f]{64}")


class Objects:
    def __init__(self, root: Path) -> None:
        self._root = Path(root)
        (self._root / "room").mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the body lies, once it is there."""
        return self._root / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        return SHA256.fullmatch(sha256) is not None and self.path(sha256).is_file()

    def size(self, sha256: str) -> int:
        return self.path(sha256).stat().st_size

    def room(self) -> Path:
        """The path of a fresh scratch file, to be written and then given to `add_file`."""
        return self._root / "room" / uuid.uuid4().hex

    def add_file(self, path: Path, sha256: str) -> None:
        """Move a finished file in. What it holds was verified by who wrote it."""
        target = self.path(sha256)
        target.parent.mkdir(exist_ok=True)
        os.replace(path, target)  # noqa: PTH105 - named for its atomicity
