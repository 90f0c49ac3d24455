"""Which kernels may stand in for ggml on this machine: those that gave its bytes in every case, and sooner.

The library is built once a machine and compiler, and each type is proven once a toolchain, when it is first wanted:
some of ggml's own quantizers take seconds to begin.
"""

from __future__ import annotations

import json
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
from pipeline.errors import CrashedError, ToolchainError
from pipeline.ggml import LIBRARY, NUMBERS
from pipeline.gguf_file import SIZES
from pipeline.kernels import build, prove
from pipeline.toolchain import LOADS_GGML, threads, tools

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.kernels.build import Compiler, Target
    from pipeline.progress import Task
    from pipeline.store import Store
    from pipeline.toolchain import Toolchain

FAILURE: Final = "failure.txt"
VERDICTS: Final = "verdicts.json"
SAME: Final = "same"
SLOW: Final = "slow"
TOGETHER: Final = (("IQ1_M", "IQ1_S"),)
"""Types that one program proves: before the first of them, ggml takes 15 s to fill the table that both use."""
# One thread each: as many programs run at once as there are cores.
ENVIRONMENT: Final = {**LOADS_GGML, "OMP_NUM_THREADS": "1"}


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
    """`verdicts.json`: for each of some types `SAME`, `SLOW`, or what is wrong with its kernel (see `compared`)."""

    library: Library
    toolchain: Toolchain
    types: tuple[str, ...]
    kind: ClassVar[str] = "proof"
    shared: ClassVar[bool] = False  # as the library

    @property
    def label(self) -> str:
        types, commit = " and ".join(self.types), self.toolchain.source.commit
        return f"hold the fast quantizer of {types} on the {self.library.target.name} against llama.cpp {commit}"

    def inputs(self) -> dict[str, Any]:
        return {
            "library": digest_of(self.library),
            "toolchain": digest_of(self.toolchain),
            "types": list(self.types),
            "proof": [file_sha256(Path(__file__)), file_sha256(Path(prove.__file__))],
        }

    def make(self, room: Path, store: Store, task: Task) -> None:  # noqa: ARG002
        ggml = tools(store, self.toolchain).path(LIBRARY)
        library = store.get(self.library).file(build.LIBRARY)
        verdicts = compared(ggml, library, self.types, room, self.library.target)
        if prove.NOTHING in verdicts.values():
            raise ToolchainError(prove.NOTHING)  # and keep nothing
        (room / VERDICTS).write_text(json.dumps(verdicts))


@dataclass(frozen=True)
class Kernels:
    """What the worker may call of a target's."""

    library: Path | None
    types: tuple[str, ...] = ()


def compared(
    ggml: Path,
    library: Path,
    types: Sequence[str],
    room: Path,
    target: Target = build.CPU,
    *,
    rounds: int = 1,
    seed: int = 0,
) -> dict[str, str]:
    """Return what becomes of each type: `SAME`, or what is wrong with its kernel, for the end of a sentence.

    `SLOW` where the bytes are the same and ggml, on this machine, makes them no later. Raises `ToolchainError` where
    the program that compares failed, other than by a crash, which is a kernel's.
    """
    job = room / "job"
    piece = target.piece if target is build.GPU else None
    of = [prove.Type(name, NUMBERS[name], *SIZES[name]) for name in types]
    prove.Job(str(ggml), str(library), of, seed, rounds, piece).write(job)
    command = [sys.executable, "-P", prove.__file__, job]
    try:
        printed = shell.run(command, cwd=room, env=ENVIRONMENT, doing="comparing it with ggml").stdout
    except CrashedError as error:
        if len(types) == 1:
            return {types[0]: str(error)}
        # That says nothing against the others.
        alone = [compared(ggml, library, [name], room, target, rounds=rounds, seed=seed) for name in types]
        return {name: verdict for verdicts in alone for name, verdict in verdicts.items()}
    finally:
        job.unlink(missing_ok=True)
    return {name: _read(printed, name) for name in types}


def _read(printed: str, name: str) -> str:
    # ggml may have something to say, too.
    said = re.search(rf"^{name}: (?:(\d+) bytes differ; ([\d.]+|inf) times as fast|(.*))$", printed, re.MULTILINE)
    if said is None:
        return "nothing came of comparing it with ggml"
    if said[3]:
        return said[3]
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
    # Those that take longest come first.
    programs: list[tuple[str, ...]] = [pair for pair in TOGETHER if set(pair) & set(wanted)]
    programs += [(name,) for name in wanted if not any(name in pair for pair in TOGETHER)]
    contexts = [copy_context() for _ in programs]  # in which the programs belong to whoever ends them
    prove_some = partial(_verdicts, store, step, toolchain)
    verdicts: dict[str, str] = {}
    with ThreadPoolExecutor(threads()) as pool:
        for found in pool.map(lambda context, types: context.run(prove_some, types), contexts, programs):
            verdicts |= found
    for name in wanted:
        if verdicts[name] not in (SAME, SLOW):
            here = f"is not used on the {target.name}, {target.instead} is"
            say(f"warning: the fast quantizer of {name} {here}: {verdicts[name]}")
    return Kernels(library.file(build.LIBRARY), tuple(name for name in wanted if verdicts[name] == SAME))


def _verdicts(store: Store, library: Library, toolchain: Toolchain, types: tuple[str, ...]) -> dict[str, str]:
    try:
        verdicts: dict[str, str] = json.loads(store.get(Proof(library, toolchain, types)).file(VERDICTS).read_bytes())
    except ToolchainError as error:
        return dict.fromkeys(types, str(error))
    return verdicts
