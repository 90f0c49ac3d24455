"""Whether there is a newer llama.cpp than the one that the matrix pins."""

from __future__ import annotations

import re
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.version import InvalidVersion, Version

from pipeline import shell
from pipeline.errors import ToolchainError
from pipeline.matrix.model import GitSource, PathSource, Sdist, Toolchain
from pipeline.watch import index

UNKNOWN: Final = "unknown"
"""Stands for a commit that a person has to fill in: `check` refuses a matrix that has it."""
UPSTREAM: Final = "https://github.com/ggml-org/llama.cpp"
COMMIT: Final = re.compile("[0-9a-f]{40}")
# Where a clone with submodules keeps what the submodule is at; source distributions made of one have brought it along.
HEAD: Final = ".git/modules/vendor/llama.cpp/HEAD"
MAX_UNPACKED: Final = 4 << 30


@dataclass(frozen=True)
class Newer:
    pin: Sdist | GitSource
    commit: str | None
    """All 40 digits; None where nothing says which it is."""

    @property
    def version(self) -> str:
        """What is pinned, in one word."""
        match self.pin:
            case Sdist(name=name, version=version):
                return f"{name}=={version}"
            case GitSource(commit=commit):
                return commit


def look(pin: Toolchain) -> Newer | None:
    """Return the newest llama.cpp of the place that `pin` names, None where that is pinned already.

    Raises `ToolchainError` where the place cannot be asked.
    """
    match pin:
        case Sdist():
            return _newer_sdist(pin)
        case GitSource(url=url):
            commit = _head(url)
            return Newer(GitSource(url, commit), commit) if commit != pin.commit else None
        case PathSource():
            return None


def _newer_sdist(pin: Sdist) -> Newer | None:
    newest = index.newest(pin.name)
    try:
        if newest.version <= Version(pin.version):
            return None
    except InvalidVersion:
        pass  # then it is none that an index has today
    with tempfile.TemporaryDirectory() as scratch:
        commit = commit_in(index.download(newest, Path(scratch)))
    if commit and commit.startswith(pin.commit):
        return None  # another version of what is around it
    # As long as its author chose to write it.
    written = commit[: len(pin.commit)] if commit else UNKNOWN
    return Newer(Sdist(pin.name, str(newest.version), newest.sha256, written), commit)


def commit_in(archive: Path) -> str | None:
    """Return the commit of the llama.cpp in a source distribution, None where nothing in it says.

    It carries no history, and llama.cpp's own files do not name their commit.
    """
    wanted = f"{archive.name.removesuffix('.tar.gz')}/{HEAD}"
    unpacked = 0
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                unpacked += member.size
                if unpacked > MAX_UNPACKED:
                    return None
                if (
                    member.name == wanted
                    and member.isreg()
                    and member.size <= 100
                    and (file := tar.extractfile(member))
                ):
                    text = file.read().decode("ascii", "replace").strip()
                    return text if COMMIT.fullmatch(text) else None
    except (tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise ToolchainError(f"{archive.name} of the package index is no archive: {type(error).__name__}.") from error
    return None


def _head(url: str) -> str:
    command = ["git", "ls-remote", "--exit-code", "--", url, "HEAD"]
    # A repository that wants a password is an error, not a question.
    doing = f"asking {url} for its newest commit"
    said = shell.run(command, cwd=Path.cwd(), env={"GIT_TERMINAL_PROMPT": "0"}, doing=doing).stdout
    commit = said.partition("\t")[0]
    if not COMMIT.fullmatch(commit):
        raise ToolchainError(f"git named no commit while {doing}. Check `llama_cpp` in matrix.yml.")
    return commit
