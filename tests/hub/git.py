"""Git's own names for what a repo holds: the ids that the Hub shows are those that git would give."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LARGE_SIZE = 10 * 1024 * 1024  # bytes; what is longer the Hub takes as a large file only
ATTRIBUTES = ".gitattributes"
# What the Hub starts every repo with, each on a line of its own.
DEFAULT_PATTERNS = """
*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack *.npy *.npz *.onnx *.ot
*.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors saved_model/**/* *.tar.* *.tar *.tflite *.tgz *.wasm *.xz
*.zip *.zst *tfevents*
""".split()  # noqa: SIM905 - 35 quoted lines read worse


class File(NamedTuple):
    """A file of a commit. `oid` is git's sha1 of what git stores: for a large file, its pointer."""

    oid: str
    size: int
    sha256: str
    large: bool

    @classmethod
    def of(cls, sha256: str, size: int, *, large: bool, content: bytes = b"") -> Self:
        """`content` is needed for a file that is not large."""
        return cls(object_id("blob", pointer(sha256, size) if large else content), size, sha256, large)

    def lfs(self, key: str) -> dict[str, dict[str, str | int]]:
        """The entry of a large file, none for another. Its sha256 goes by two names: hence `key`."""
        if not self.large:
            return {}
        size = len(pointer(self.sha256, self.size))
        return {"lfs": {key: self.sha256, "size": self.size, "pointerSize": size}}


def pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def object_id(kind: str, content: bytes) -> str:
    header = f"{kind} {len(content)}\0".encode()
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


def trees(files: Mapping[str, File]) -> dict[str, str]:
    """The id of every folder that `files` make; the root's name is empty."""
    folders: dict[str, list[tuple[str, str, str]]] = {"": []}
    for path, file in files.items():
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, []).append((name, "100644", file.oid))
        while folder:
            folder = folder.rpartition("/")[0]
            folders.setdefault(folder, [])
    ids: dict[str, str] = {}
    for folder in sorted(folders, key=lambda f: (f.count("/") + bool(f), f), reverse=True):  # the deepest first
        # Git sorts a folder as if its name ended in a slash.
        entries = sorted(folders[folder], key=lambda e: e[0] + "/" * (e[1] == "40000"))
        ids[folder] = object_id("tree", b"".join(f"{m} {n}\0".encode() + bytes.fromhex(o) for n, m, o in entries))
        if folder:
            above, _, name = folder.rpartition("/")
            folders[above].append((name, "40000", ids[folder]))
    return ids


def attributes(patterns: Iterable[str]) -> str:
    return "".join(f"{_escape(pattern)} filter=lfs diff=lfs merge=lfs -text\n" for pattern in patterns)


def _escape(pattern: str) -> str:
    return pattern.replace(" ", "[[:space:]]")


def covered(attributes: str, path: str) -> bool:
    """Whether .gitattributes makes `path` a large file."""
    lines = (line.split() for line in attributes.splitlines())
    return any("filter=lfs" in words[1:] and _matches(words[0], path) for words in lines if words)


def _matches(pattern: str, path: str) -> bool:
    """A pattern without a slash is for the last part of the path, one with a slash for all of it: gitignore(5)."""
    parts = {r"\*\*/": "(?:.*/)?", r"\*": "[^/]*", r"\?": "[^/]", r"\[\[:space:\]\]": r"\s"}
    expression = re.escape(pattern)
    for glob, replacement in parts.items():
        expression = expression.replace(glob, replacement)
    return re.fullmatch(expression, path if "/" in pattern else path.rpartition("/")[2]) is not None


def is_large(attributes: str, path: str, size: int, sample: bytes) -> bool:
    """Whether the Hub wants `path` as a large file: by .gitattributes, its size, or because it is no text."""
    if size == 0:
        return False
    return size > LARGE_SIZE or covered(attributes, path) or _binary(sample)


def _binary(sample: bytes) -> bool:
    if b"\0" in sample:
        return True
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        return error.start < len(sample) - 3  # else the sample ends inside a character
    return False
