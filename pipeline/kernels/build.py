"""The kernels' shared library, by the machine's C compiler."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from pipeline import shell
from pipeline.artifact import canonical, file_sha256
from pipeline.errors import ToolchainError
from pipeline.kernels import tables
from pipeline.toolchain import threads

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCES: Final = Path(__file__).parent
LIBRARY: Final = "libkernels.so"
DOING: Final = "building the kernels"
# No flag changes what an operation rounds to. Of what -ffast-math stands for there is only that sqrtf sets no errno.
# Without contraction into fused multiply-adds, as ggml is built.
FLAGS: Final = ("-std=c11", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fPIC")

# For compilers that do not know the machine's own processor by that name.
PORTABLE: Final = tuple(flag for flag in FLAGS if flag != "-march=native")


class Compiler(NamedTuple):
    command: str
    version: str
    """What it says of itself."""


def compiler() -> Compiler | None:
    """Return the C compiler: the one in CC, else by the usual names; None where none answers."""
    for command in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if command and shutil.which(shlex.split(command)[0]):
            with contextlib.suppress(ToolchainError):
                asked = shell.run([*shlex.split(command), "--version"], cwd=SOURCES, doing="asking for its version")
                return Compiler(command, asked.stdout)
    return None


def digest(sources: Path = SOURCES) -> str:
    """Return what names the kernels as they are written: SHA-256 over the files, their tables and the flags."""
    files = {path.name: file_sha256(path) for path in sorted(sources.glob("*.[ch]"))}
    return hashlib.sha256(canonical([files, tables.header(), FLAGS])).hexdigest()


def types(sources: Path = SOURCES) -> list[str]:
    """Return the types that there is a kernel for."""
    declared = (sources / "kernels.h").read_text(encoding="utf-8")
    return [name.upper() for name in re.findall(r"^QUANTIZER\((\w+)\);", declared, re.MULTILINE)]


def build(room: Path, command: str, sources: Path = SOURCES, flags: Sequence[str] = FLAGS) -> Path:
    """Compile the kernels into `room`; return the library. Raises `ToolchainError` where the compiler refuses."""
    library = room / LIBRARY
    words = [*shlex.split(command), *flags]
    with tempfile.TemporaryDirectory(dir=room) as scratch, ThreadPoolExecutor(threads()) as pool:
        Path(scratch, tables.HEADER).write_text(tables.header(), encoding="utf-8")

        def compiled(source: Path) -> Path:
            into = Path(scratch, source.with_suffix(".o").name)
            shell.run([*words, "-I", scratch, "-c", source, "-o", into], cwd=room, doing=DOING)
            return into

        objects = list(pool.map(compiled, sorted(sources.glob("*.c"))))
        shell.run([*words, "-shared", *objects, "-o", library, "-lm", "-pthread"], cwd=room, doing=DOING)
    return library
