"""The kernels' shared library, by the machine's C compiler."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline import shell

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE: Final = Path(__file__).parent
LIBRARY: Final = "libkernels.so"
# No flag changes what an operation rounds to: none of -ffast-math, but that sqrtf need not set errno. Without
# contraction into fused multiply-adds, as ggml is built.
FLAGS: Final = ("-std=c11", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared")


def compiler() -> str | None:
    """Return the command of the C compiler that there is: that in CC, else the usual names."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and (words := shlex.split(name)) and shutil.which(words[0]):
            return name
    return None


def sources() -> list[Path]:
    return sorted(HERE.glob("*.c"))


def sources_digest() -> str:
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(HERE.glob("*.[ch]"))}
    return hashlib.sha256(repr(found).encode()).hexdigest()


def build(into: Path, command: str, flags: Sequence[str] = FLAGS, sources_: Sequence[Path] | None = None) -> Path:
    """Compile the kernels into the directory; return the library.

    Raises `ToolchainError` where the compiler refuses.
    """
    library = into / LIBRARY
    words = [*shlex.split(command), *flags, *(sources_ or sources()), "-o", library, "-lm"]
    shell.run(words, cwd=into, doing="building the kernels")
    return library
