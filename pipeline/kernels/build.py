"""The kernels' shared libraries: by the machine's C compiler for its processor, and by nvcc for its GPU."""

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
from pipeline.engine import worker
from pipeline.errors import ToolchainError
from pipeline.kernels import tables
from pipeline.toolchain import threads

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCES: Final = Path(__file__).parent
LIBRARY: Final = "libkernels.so"
DOING: Final = "building the kernels"


class Target(NamedTuple):
    """What kernels are built for."""

    name: str
    instead: str
    """Whose quantizers are used where these are not."""
    variable: str
    """What names the compiler, before its usual names."""
    compilers: tuple[str, ...]
    files: tuple[str, ...]
    language: tuple[str, ...]
    flags: tuple[str, ...]
    """None of them changes what an operation rounds to, or makes a fused multiply-add of two: so ggml is built."""
    native: str
    """The flag to leave out for compilers that do not know the machine's own processor, or GPU, by that name."""
    piece: int
    """Weights that the worker gives a kernel at a time."""

    @property
    def portable(self) -> tuple[str, ...]:
        return tuple(flag for flag in self.flags if flag != self.native)


CPU: Final = Target(
    name="CPU",
    instead="ggml's own",
    variable="CC",
    compilers=("cc", "gcc", "clang"),
    files=("*.c",),
    language=(),
    # Of what -ffast-math stands for there is only that sqrtf sets no errno.
    flags=("-std=c11", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fPIC"),
    native="-march=native",
    piece=worker.PIECE,
)
GPU: Final = Target(
    name="GPU",
    instead="the CPU's",
    variable="CUDACXX",
    compilers=("nvcc",),
    files=("gpu.cu", "*.c"),
    language=("-x", "cu"),
    flags=(
        *("-std=c++17", "-O3", "-arch=native", "-DON_GPU", "-Xcompiler=-fPIC"),
        *("--fmad=false", "-prec-div=true", "-prec-sqrt=true", "-ftz=false"),
    ),
    native="-arch=native",
    piece=worker.GPU_PIECE,
)


class Compiler(NamedTuple):
    command: str
    version: str
    """What it says of itself."""


def compiler(target: Target = CPU) -> Compiler | None:
    """Return the compiler: the one that the variable names, else by the usual names; None where none answers."""
    for command in (os.environ.get(target.variable), *target.compilers):
        if command and shutil.which(shlex.split(command)[0]):
            with contextlib.suppress(ToolchainError):
                asked = shell.run([*shlex.split(command), "--version"], cwd=SOURCES, doing="asking for its version")
                return Compiler(command, asked.stdout)
    return None


def gpus() -> str:
    """Return what the GPUs and their driver are; nothing where nvidia-smi is not there, or has no answer."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    if shutil.which(command[0]):
        with contextlib.suppress(ToolchainError):
            return shell.run(command, cwd=SOURCES, doing="asking for the GPU").stdout.strip()
    return ""


def digest(target: Target = CPU, sources: Path = SOURCES) -> str:
    """Return what names the kernels as they are written: SHA-256 over the files, their tables and the flags."""
    files = {path.name: file_sha256(path) for path in sorted({*sources.glob("*.h"), *_files(target, sources)})}
    return hashlib.sha256(canonical([files, tables.header(), target.flags])).hexdigest()


def types(sources: Path = SOURCES) -> list[str]:
    """Return the types that there is a kernel for, of each target."""
    declared = (sources / "kernels.h").read_text(encoding="utf-8")
    return [name.upper() for name in re.findall(r"^QUANTIZER\((\w+)\);", declared, re.MULTILINE)]


def build(
    room: Path, command: str, target: Target = CPU, sources: Path = SOURCES, flags: Sequence[str] | None = None
) -> Path:
    """Compile the kernels into `room`; return the library. Raises `ToolchainError` where the compiler refuses."""
    library = room / LIBRARY
    words = [*shlex.split(command), *(target.flags if flags is None else flags)]
    with tempfile.TemporaryDirectory(dir=room) as scratch, ThreadPoolExecutor(threads()) as pool:
        Path(scratch, tables.HEADER).write_text(tables.header(), encoding="utf-8")

        def compiled(source: Path) -> Path:
            into = Path(scratch, source.with_suffix(".o").name)
            shell.run([*words, *target.language, "-I", scratch, "-c", source, "-o", into], cwd=room, doing=DOING)
            return into

        objects = list(pool.map(compiled, _files(target, sources)))
        shell.run([*words, "-shared", *objects, "-o", library, "-lm", "-lpthread"], cwd=room, doing=DOING)
    return library


def _files(target: Target, sources: Path) -> list[Path]:
    return sorted(path for pattern in target.files for path in sources.glob(pattern))
