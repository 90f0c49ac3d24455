"""`python -m tests.bench.kernels`: each kernel beside ggml's own quantizer, type by type.

Both get the same rows by turns, in one thread, so that whatever else the machine does counts for both; the figures are
medians, of the thread's CPU time, with the ratio of the wall time beside it. What is timed last is what is compared.
Where there is a GPU it comes after that, by the clock, with all copies, and with as much as it gets at a time.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from pipeline.ggml import LIBRARY, NUMBERS
from pipeline.gguf_file import SIZES
from pipeline.kernels import build, proof, prove
from pipeline.toolchain import tools
from tests.machine import opened, pinned

if TYPE_CHECKING:
    from pathlib import Path

REPEATS = 5
ROW = 2048


@dataclass
class Measured:
    type: str
    imatrix: bool
    rates: tuple[float, float]
    """Million weights a second of CPU time: ggml's and ours."""
    by_clock: tuple[float, float]
    """The same of wall time."""
    compared: int
    different: int

    @property
    def wall(self) -> float:
        """How many times faster by wall time."""
        return self.by_clock[1] / self.by_clock[0]

    @property
    def ratio(self) -> float:
        return self.rates[1] / self.rates[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", nargs="+", metavar="TYPE")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--weights", type=int, default=1 << 19, help="of each turn")
    options = parser.parse_args()
    toolchain = pinned()
    with opened(toolchain) as store:
        types = options.types or build.types()
        kernels = proof.proven(store, toolchain, types)
        gpu = proof.proven(store, toolchain, types, build.GPU)
        ggml = tools(store, toolchain).path(LIBRARY)
    if kernels.library is None:
        raise SystemExit("There are no kernels on this machine.")
    print(f"{'':8} {'imatrix':7} {'ggml':>8} {'kernel':>8}  ratio  of wall time  bytes compared  different")
    for name in kernels.types:
        for made in measure((ggml, kernels.library), name, options.weights // ROW, options.repeats):
            print(
                f"{made.type:8} {'with' if made.imatrix else 'without':7} {made.rates[0]:6.1f} M {made.rates[1]:6.1f} M"
                f"  {made.ratio:5.2f}  {made.wall:12.2f}  {made.compared:14,}  {made.different:9}",
                flush=True,
            )
    print("\nM: million weights a second and core, of CPU time")
    if gpu.types:
        print(f"\n{build.gpus()}, beside one core: million weights a second by the clock, copies included\n")
        print(f"{'':8} {'imatrix':7} {'ggml':>8} {'GPU':>8}  ratio  bytes compared  different")
    for name in gpu.types:
        rows = options.weights // ROW
        for made in measure((ggml, gpu.library), name, rows, options.repeats, build.GPU.piece // ROW // rows):
            print(
                f"{made.type:8} {'with' if made.imatrix else 'without':7} {made.by_clock[0]:6.1f} M"
                f" {made.by_clock[1]:6.1f} M  {made.wall:5.1f}  {made.compared:14,}  {made.different:9}",
                flush=True,
            )


def measure(
    libraries: tuple[Path, Path | None], name: str, rows: int, repeats: int, times_as_many: int = 1
) -> list[Measured]:
    """Measure a type, without an imatrix and with one. The kernel gets the rows so many times over."""
    type_ = prove.Type(name, NUMBERS[name], *SIZES[name])
    pair = prove.Pair(*(ctypes.CDLL(str(library)) for library in libraries), type_)
    random = np.random.default_rng(0)
    importance = np.exp(2 * random.standard_normal(ROW)).astype(np.float32)
    found = []
    for matrix in [importance] if pair.needs_imatrix else [None, importance]:
        seconds = []
        compared = different = 0
        for turn in range(repeats + 1):
            values = (random.standard_normal((rows, ROW)) / 32).astype(np.float32)
            many = np.tile(values, (times_as_many, 1))
            theirs, ours = pair.out(values), pair.out(many)
            by_ggml = timed(pair.by_ggml, values, matrix, theirs)
            by_kernel = timed(pair.by_kernel, many, matrix, ours)
            compared += ours.size - prove.GUARD
            wanted = np.tile(theirs[: -prove.GUARD], times_as_many)
            different += int(np.count_nonzero(wanted != ours[: -prove.GUARD]))
            if turn:  # the first one builds ggml's tables
                seconds.append((*by_ggml, *by_kernel))
        cpu, wall, our_cpu, our_wall = (median(side) for side in zip(*seconds, strict=True))
        million = values.size / 1e6
        ours_million = million * times_as_many
        rates, by_clock = (million / cpu, ours_million / our_cpu), (million / wall, ours_million / our_wall)
        found.append(Measured(name, matrix is not None, rates, by_clock, compared, different))
    return found


def timed(quantize, *arguments):
    """Return the seconds that it took: of the thread, and of the clock."""
    cpu, wall = time.thread_time(), time.perf_counter()
    quantize(*arguments)
    return time.thread_time() - cpu, time.perf_counter() - wall


if __name__ == "__main__":
    main()
