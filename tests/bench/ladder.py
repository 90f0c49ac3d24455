"""`python -m tests.bench.ladder`: a ladder of quants by the engine, and by llama-quantize file by file.

Both use every core, by turns, so that whatever else the machine does counts for both; the CPU time, of the programs and
of what starts them, is printed beside the wall time because it depends less on that. The model is random numbers in the
shape of a llama of 127 million parameters, with an imatrix that is made up, or the demo's. Our side keeps every tensor
and file in a store, hashed and flushed; llama-quantize just writes its files. Then one more type is added to the
finished ladder.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from pipeline.artifact import file_sha256
from pipeline.convert import REFERENCE
from pipeline.engine.tensors import DATA
from pipeline.progress import Display
from pipeline.quantize import QUANT, Quant
from pipeline.recipe import QUANT_TYPES, builtin
from pipeline.store import Store
from pipeline.toolchain import tools
from tests.bench import inputs
from tests.given import Given
from tests.machine import SHARED, opened, pinned

if TYPE_CHECKING:
    from collections.abc import Iterator

LADDER = [
    *("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K", "IQ3_XXS", "IQ3_XS", "IQ3_M", "Q3_K_S", "Q3_K_M", "Q3_K_L"),
    *("IQ4_XS", "IQ4_NL", "Q4_0", "Q4_1", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0"),
]
ADDED = "IQ3_S"
REPEATS = 3


@dataclass(frozen=True)
class Measured:
    seconds: dict[str, float]
    """Of each type, in the order of the ladder."""
    cpu: dict[str, float]
    """Likewise, of all cores."""
    digests: dict[str, str]
    peak: int
    """Most memory that a program had, in bytes: llama-quantize, or the program that quantizes."""
    ours: int
    """Most memory that the process had that started it."""
    tensors: int = 0
    """Tensors that were quantized, and kept."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", nargs="+", default=LADDER, metavar="TYPE", choices=[*QUANT_TYPES])
    parser.add_argument("--added", default=ADDED, metavar="TYPE", choices=[*QUANT_TYPES])
    parser.add_argument("--layers", type=int, default=12, help="of the random model")
    parser.add_argument("--smollm2", action="store_true", help="of the demo's model instead")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llm-quantizer-") as scratch:
        root = Path(scratch)
        parameters = inputs.smollm2(root) if options.smollm2 else inputs.random(root, inputs.Shape(options.layers))
        print(f"{parameters / 1e6:.0f} M parameters, {len(options.types)} types and {options.added}\n")
        types = [*options.types, options.added]
        runs = [(alone(by_engine, root, types), alone(by_llama_quantize, root, types)) for _ in range(options.repeats)]
    report(types, runs)


def report(types: list[str], runs: list[tuple[Measured, Measured]]) -> None:
    print(f"{'':10} {'engine':>9} {'llama-quantize':>15}  ratio  of CPU time")
    *ladder, added = types
    for label, names in [*((name, [name]) for name in ladder), ("ladder", ladder), (f"+ {added}", [added])]:
        ours, theirs = (median([sum(side.seconds[n] for n in names) for side in s]) for s in zip(*runs, strict=True))
        cpu = [median([sum(side.cpu[n] for n in names) for side in s]) for s in zip(*runs, strict=True)]
        print(f"{label:10} {ours:7.2f} s {theirs:13.2f} s  {ours / theirs:5.3f}  {cpu[0] / cpu[1]:11.3f}")
    wrong = [name for name in types if len({side.digests[name] for run in runs for side in run}) > 1]
    but = f", but not of {', '.join(wrong)}" if wrong else ""
    print(
        f"\nSHA-256 equal: {len(types) - len(wrong)} of {len(types)}{but}; {runs[0][0].tensors} tensors were quantized"
    )
    ours, theirs = (max(side.peak for side in s) for s in zip(*runs, strict=True))
    print(f"peak RSS: {ours / 1e6:.0f} MB of the worker, {runs[0][0].ours / 1e6:.0f} MB of what starts it;", end=" ")
    print(f"{theirs / 1e6:.0f} MB of llama-quantize")


def alone(work, root: Path, types: list[str]) -> Measured:
    """Run in a process of its own, whose memory is its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, root, types).result()


def by_engine(root: Path, types: list[str]) -> Measured:
    seconds, cpu, digests = {}, {}, {}
    with opened(pinned()) as shared, scratch_store(root, shared) as store:
        given = [Given(root / name, name, pinned()) for name in (REFERENCE, "imatrix.gguf")]
        for step in given:
            store.get(step)
        for name in types:
            seconds[name], cpu[name], made = timed(partial(store.get, Quant(*given, builtin(name))))
            digests[name] = made.files[QUANT].sha256
        tensors = sum(DATA in artifact.files for artifact in store.artifacts())
    return Measured(seconds, cpu, digests, *peaks(), tensors)


def by_llama_quantize(root: Path, types: list[str]) -> Measured:
    seconds, cpu, digests = {}, {}, {}
    with opened(pinned()) as store:
        llama = tools(store, pinned())
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        for name in types:
            path = Path(scratch) / f"{name}.gguf"
            command = [
                llama.path("llama-quantize"),
                "--imatrix",
                "imatrix.gguf",
                REFERENCE,
                path,
                name,
                str(llama.threads),
            ]
            run = partial(subprocess.run, command, cwd=root, check=True, capture_output=True)
            seconds[name], cpu[name], _ = timed(run)
            digests[name] = file_sha256(path)
    return Measured(seconds, cpu, digests, *peaks())


def timed(work):
    """Return the seconds that it took, those of all cores, and what it returned."""
    before, begin = os.times(), time.perf_counter()
    result = work()
    after = os.times()
    return time.perf_counter() - begin, sum(after[:4]) - sum(before[:4]), result


def peaks() -> tuple[int, int]:
    """Return the most memory of a child, and of this process, in bytes."""
    # The process's own by the kernel's other count: getrusage begins with that of the process that started it.
    own = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024, int(own[1]) * 1024


@contextmanager
def scratch_store(root: Path, shared: Store) -> Iterator[Store]:
    with tempfile.TemporaryDirectory(dir=root) as scratch, Path(os.devnull).open("w") as nowhere:
        for kind in SHARED:
            (shared.root / kind).mkdir(exist_ok=True)
            (Path(scratch) / kind).symlink_to(shared.root / kind)
        yield Store(Path(scratch), Display(nowhere))


if __name__ == "__main__":
    main()
