"""Which kernels may stand in for ggml on this machine: those that gave its bytes in every case, and no others."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pipeline import shell
from pipeline.artifact import Step, digest_of, file_sha256
from pipeline.errors import ToolchainError
from pipeline.ggml import LIBRARY, NUMBERS
from pipeline.gguf_file import SIZES
from pipeline.kernels import build, prove
from pipeline.toolchain import PATIENT, tools

if TYPE_CHECKING:
    from pipeline.kernels.build import Compiler
    from pipeline.progress import Task
    from pipeline.store import Store
    from pipeline.toolchain import Toolchain

VERDICTS: Final = "proof.json"
# ggml would start a debugger where it gives up.
ENVIRONMENT: Final = {**PATIENT, "GGML_NO_BACKTRACE": "1"}
SAME: Final = "same"


@dataclass(frozen=True)
class Proof(Step):
    """The kernels as this machine's compiler makes them, and `proof.json`: what became of each type against ggml."""

    toolchain: Toolchain
    compiler: Compiler
    sources: Path = build.SOURCES
    kind: ClassVar[str] = "kernels"
    # Built for this machine's processor, and run here: nobody else has a use for it, or is to have a hand in it.
    shared: ClassVar[bool] = False

    @property
    def label(self) -> str:
        return f"build kernels and hold them against llama.cpp {self.toolchain.source.commit}"

    def inputs(self) -> dict[str, Any]:
        return {
            "toolchain": digest_of(self.toolchain),  # of this machine
            "kernels": build.digest(self.sources),
            "proof": file_sha256(Path(prove.__file__)),
            "compiler": list(self.compiler),
        }

    def make(self, room: Path, store: Store, task: Task) -> None:  # noqa: ARG002
        try:
            library = build.build(room, self.compiler.command, self.sources)
        except ToolchainError as error:
            verdicts = {"": f"the kernels do not build: {error}"}
        else:
            ggml = tools(store, self.toolchain).path(LIBRARY)
            verdicts = compared(ggml, library, build.types(self.sources), room)
        (room / VERDICTS).write_text(json.dumps(verdicts, indent=1) + "\n")


@dataclass(frozen=True)
class Kernels:
    """What the worker may call."""

    library: Path | None
    types: tuple[str, ...] = ()


def compared(ggml: Path, library: Path, types: list[str], room: Path, rounds: int = 1, seed: int = 0) -> dict[str, str]:
    """Return what became of each type: `SAME`, or what is wrong with it, for the end of a sentence.

    Where the program dies, that is the verdict on the type that it was at, and it is started again for the rest.
    """
    verdicts: dict[str, str] = {}
    job = room / "job"
    while left := [name for name in types if name not in verdicts]:
        kinds = [prove.Type(name, NUMBERS[name], *SIZES[name]) for name in left]
        prove.Job(str(ggml), str(library), kinds, seed, rounds).write(job)
        printed: list[str] = []
        command = [sys.executable, "-P", prove.__file__, job]
        ended = "the program that compares them says nothing of it"
        try:
            shell.run(command, cwd=room, env=ENVIRONMENT, doing="comparing kernels with ggml", watch=printed.append)
        except ToolchainError as error:
            ended = str(error)
        said = re.findall(r"^(try|same|differs) (\S+?)(?:: (.*))?$", "".join(printed), re.MULTILINE)
        verdicts |= {name: why or word for word, name, why in said if word != "try"}
        tried = [name for word, name, _ in said if word == "try" and name not in verdicts]
        verdicts |= dict.fromkeys(tried or [name for name in left if name not in verdicts], ended)
    job.unlink(missing_ok=True)
    return verdicts


def proven(store: Store, toolchain: Toolchain) -> Kernels:
    """Return what the worker may call, building and proving it where this machine has not done so yet.

    What cannot be had is said once a run, and left to ggml.
    """
    say = store.display.say_once
    if (compiler := build.compiler()) is None:
        say("warning: there is no C compiler (cc, gcc, clang, or CC) for the fast quantizers, so ggml's own are used.")
        return Kernels(None)
    made = store.get(Proof(toolchain, compiler))
    verdicts = json.loads(made.file(VERDICTS).read_bytes())
    if (why := verdicts.pop("", None)) is not None:
        say(f"warning: ggml's own quantizers are used: {why}")
        return Kernels(None)
    for name, verdict in verdicts.items():
        if verdict != SAME:
            say(f"warning: the fast quantizer of {name} is not used here, ggml's own is: {verdict}")
    return Kernels(made.file(build.LIBRARY), tuple(name for name, verdict in verdicts.items() if verdict == SAME))
