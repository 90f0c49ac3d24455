"""Which kernels may stand in for ggml on this machine: those that gave its bytes in every case, and sooner.

The library is built once a machine and compiler, and each type is proven once a toolchain, when it is first wanted:
some of ggml's own quantizers take seconds to begin.
"""

from __future__ import annotations

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pipeline import shell
from pipeline.artifact import Step, digest_of, file_sha256
from pipeline.errors import ToolchainError
from pipeline.ggml import LIBRARY, NUMBERS
from pipeline.gguf_file import SIZES
from pipeline.kernels import build, prove
from pipeline.toolchain import PATIENT, threads, tools

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.kernels.build import Compiler, Target
    from pipeline.progress import Task
    from pipeline.store import Store
    from pipeline.toolchain import Toolchain

FAILURE: Final = "failure.txt"
VERDICT: Final = "verdict.txt"
SAME: Final = "same"
SLOW: Final = "slow"
# ggml would start a debugger where it gives up.
ENVIRONMENT: Final = {**PATIENT, "GGML_NO_BACKTRACE": "1"}


@dataclass(frozen=True)
class Library(Step):
    """The kernels as this machine's compiler makes them for a target; where it does not, `failure.txt`."""

    compiler: Compiler
    machine: str
    """What they are built for."""
    target: Target = build.CPU
    sources: Path = build.SOURCES
    kind: ClassVar[str] = "kernels"
    # Built for this machine's processor, and run here: nobody else has a use for it, or is to have a hand in it.
    shared: ClassVar[bool] = False

    @property
    def label(self) -> str:
        return f"build the fast quantizers for the {self.target.name}"

    def inputs(self) -> dict[str, Any]:
        sources = build.digest(self.target, self.sources)
        return {"sources": sources, "compiler": list(self.compiler), "machine": self.machine}

    def make(self, room: Path, store: Store, task: Task) -> None:  # noqa: ARG002
        for flags in (self.target.flags, self.target.portable):
            try:
                build.build(room, self.compiler.command, self.target, self.sources, flags)
            except ToolchainError as error:
                (room / FAILURE).write_text(str(error))
            else:
                (room / FAILURE).unlink(missing_ok=True)
                return


@dataclass(frozen=True)
class Proof(Step):
    """`verdict.txt`: `SAME`, `SLOW`, or what is wrong with the kernel of a type, for the end of a sentence."""

    library: Library
    toolchain: Toolchain
    type: str
    kind: ClassVar[str] = "proof"
    shared: ClassVar[bool] = False  # as the library

    @property
    def label(self) -> str:
        commit = self.toolchain.source.commit
        return f"hold the fast quantizer of {self.type} on the {self.library.target.name} against llama.cpp {commit}"

    def inputs(self) -> dict[str, Any]:
        return {
            "library": digest_of(self.library),
            "toolchain": digest_of(self.toolchain),
            "type": self.type,
            "proof": file_sha256(Path(prove.__file__)),
        }

    def make(self, room: Path, store: Store, task: Task) -> None:  # noqa: ARG002
        ggml = tools(store, self.toolchain).path(LIBRARY)
        library = store.get(self.library).file(build.LIBRARY)
        verdict = compared(ggml, library, self.type, room, self.library.target)
        if verdict == prove.NOTHING:
            raise ToolchainError(verdict)  # and keep nothing
        (room / VERDICT).write_text(verdict)


@dataclass(frozen=True)
class Kernels:
    """What the worker may call of a target's."""

    library: Path | None
    types: tuple[str, ...] = ()


def compared(
    ggml: Path, library: Path, type_: str, room: Path, target: Target = build.CPU, *, rounds: int = 1, seed: int = 0
) -> str:
    """Return what becomes of a type: `SAME`, or what is wrong with its kernel, for the end of a sentence.

    `SLOW` where the bytes are the same and ggml, on this machine, makes them no later.
    """
    job = room / "job"
    piece = target.piece if target is build.GPU else None
    of = prove.Type(type_, NUMBERS[type_], *SIZES[type_])
    prove.Job(str(ggml), str(library), of, seed, rounds, piece).write(job)
    command = [sys.executable, "-P", prove.__file__, job]
    try:
        printed = shell.run(command, cwd=room, env=ENVIRONMENT, doing="comparing it with ggml").stdout
    except ToolchainError as error:
        return str(error)
    finally:
        job.unlink()
    if prove.NOTHING in printed.splitlines():
        return prove.NOTHING
    # ggml may have something to say, too.
    if (said := re.search(r"^(\d+) bytes differ; ([\d.]+|inf) times as fast$", printed, re.MULTILINE)) is None:
        return "nothing came of comparing it with ggml"
    if said[1] != "0":
        return f"{said[1]} bytes differ"
    return SAME if float(said[2]) > 1 else SLOW


def proven(store: Store, toolchain: Toolchain, types: Iterable[str], target: Target = build.CPU) -> Kernels:
    """Return what the worker may call for these types, building and proving what this machine has not yet.

    What cannot be had is said once a run, and left to ggml, or to the CPU.
    """
    say = store.display.say_once
    wanted = sorted(set(build.types()) & set(types))
    if not wanted:
        return Kernels(None)
    compiler, gpus = build.compiler(target), build.gpus() if target is build.GPU else ""
    if target is build.GPU and not (compiler and gpus):
        return Kernels(None)
    if compiler is None:
        say("warning: there is no C compiler (cc, gcc, clang, or CC) for the fast quantizers, so ggml's own are used.")
        return Kernels(None)
    step = Library(compiler, f"{toolchain.machine} {gpus}".strip(), target)
    library = store.get(step)
    if FAILURE in library.files:
        say(f"warning: {target.instead} quantizers are used: {library.file(FAILURE).read_text()}")
        return Kernels(None)
    prove_one = partial(_verdict, store, step, toolchain)
    contexts = [copy_context() for _ in wanted]  # in which the programs belong to whoever ends them
    with ThreadPoolExecutor(threads()) as pool:
        found = pool.map(lambda context, name: context.run(prove_one, name), contexts, wanted)
        verdicts = dict(zip(wanted, found, strict=True))
    for name, verdict in verdicts.items():
        if verdict not in (SAME, SLOW):
            here = f"is not used on the {target.name}, {target.instead} is"
            say(f"warning: the fast quantizer of {name} {here}: {verdict}")
    same = tuple(name for name, verdict in verdicts.items() if verdict == SAME)
    return Kernels(library.file(build.LIBRARY), same)


def _verdict(store: Store, library: Library, toolchain: Toolchain, name: str) -> str:
    try:
        return store.get(Proof(library, toolchain, name)).file(VERDICT).read_text()
    except ToolchainError as error:
        return str(error)
