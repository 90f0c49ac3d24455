"""The program that holds kernels against ggml: `python prove.py JOB`, with a `Job` as JSON, prints a line a type.

Both get the same rows, with an imatrix and without, and one different byte is one too many. The rows are
those on which a search goes astray first: nothing in them, no two sizes alike, ties, one outlier, numbers that vanish
or overflow in a half or in a square.

It is a program of its own, as the worker is, because ggml and kernels may end the process.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ABORTING = ("IQ1", "IQ2", "IQ3")
"""Types at which ggml ends the process when the squares of weights overflow."""
NOTHING = "it made nothing, as on a GPU that has no memory left, and is tried again the next time"
"""What is said of a kernel that gives up."""
GUARD = 64
"""Bytes behind the last block, which a kernel has to leave alone."""
ROWS = {32: (32, 576, 1056), 64: (64, 576, 1088), 128: (128, 640, 1152), 256: (256, 1024, 2816)}
"""Lengths of rows, by the weights of a block."""
TIMED = 3
"""Turns of each side, of which the quickest counts."""
PLAIN_ROWS = 47
"""Rows of the last length with nothing special."""
FEW_ROWS = 3
"""Rows of the first one: fewer blocks than lanes."""


@dataclass(frozen=True)
class Type:
    name: str
    number: int
    """ggml's"""
    block: int
    """Weights a block."""
    size: int
    """Bytes a block."""


@dataclass(frozen=True)
class Job:
    ggml: str
    """libggml-base"""
    kernels: str
    types: list[Type]
    seed: int = 0
    rounds: int = 1
    piece: int | None = None
    """Weights that a kernel of the GPU gets at a time; None for one of the CPU."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Job:
        fields = json.loads(path.read_bytes())
        return cls(**fields | {"types": [Type(**type_) for type_ in fields["types"]]})


class NothingMade(Exception):  # noqa: N818 - of a kernel, and no error where that is a GPU's
    pass


class Pair:
    """ggml's quantizer and the kernel of one type."""

    def __init__(self, ggml: ctypes.CDLL, kernels: ctypes.CDLL, type_: Type) -> None:
        pointer, number, size = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t
        self.type = type_
        self._ggml = ggml.ggml_quantize_chunk
        self._ggml.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
        self._ggml.restype = size
        self._kernel = kernels[f"quantize_{type_.name.lower()}"]
        self._kernel.argtypes = [pointer, pointer, number, number, pointer]
        self._kernel.restype = size
        ggml.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
        self.needs_imatrix = bool(ggml.ggml_quantize_requires_imatrix(type_.number))

    def out(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return room for what rows become, and the guard behind it."""
        return np.full(values.size // self.type.block * self.type.size + GUARD, 0xA5, np.uint8)

    def by_ggml(
        self, values: NDArray[np.float32], importance: NDArray[np.float32] | None, out: NDArray[np.uint8]
    ) -> int:
        """Quantize rows of the same weights; return the bytes written."""
        rows, row = values.shape
        address = _address(importance)
        return int(self._ggml(self.type.number, values.ctypes.data, out.ctypes.data, 0, rows, row, address))

    def by_kernel(
        self, values: NDArray[np.float32], importance: NDArray[np.float32] | None, out: NDArray[np.uint8]
    ) -> int:
        rows, row = values.shape
        return int(self._kernel(values.ctypes.data, out.ctypes.data, rows, row, _address(importance)))

    def different(self, values: NDArray[np.float32], importance: NDArray[np.float32] | None) -> int:
        """Return how many bytes the two make differently; all, where they do not say that they made as many.

        Raises `NothingMade`.
        """
        theirs, ours = self.out(values), self.out(values)
        if not (made := self.by_kernel(values, importance, ours)):
            raise NothingMade
        same_size = self.by_ggml(values, importance, theirs) == made
        return int(np.count_nonzero(theirs != ours)) if same_size else theirs.size


def _address(importance: NDArray[np.float32] | None) -> Any:
    return None if importance is None else importance.ctypes.data


def odd_rows(random: np.random.Generator, row: int) -> NDArray[np.float32]:
    """Rows that are hard, of normal numbers, and of such beside each other."""
    noise = random.standard_normal(row)
    at = random.integers(row)
    signs = random.choice([-1.0, 1.0], row)
    outlier, lone = noise / 100, np.zeros(row)
    outlier[at], lone[at] = 50 * signs[at], noise[at]
    few = random.standard_normal(4)[random.integers(4, size=row)]
    # Scales that lie between two halves, from the least to the largest, in types with 127, 8 and 15 steps.
    between = (1 + (2 * random.integers(1 << 10, size=row) + 1) / (1 << 11)) * 2.0 ** random.integers(-25, 16, row)
    ties = np.where(np.arange(row) % 32 == 7, between * random.choice([127, 8, 15], row), 0)
    # Levels just below a half, in the same types.
    halves = np.nextafter((random.integers(-4, 4, row) + 0.5).astype(np.float32), np.float32(0))
    nearly = np.where(np.arange(row) % 32 == 7, random.choice([127, -8, -16], row), halves)
    # In each 32 the largest is just below a power of two, where a logarithm may round up.
    below = (2 - random.integers(1, 100, row) / (1 << 23)) * 2.0 ** random.integers(-20, 20, row)
    peaks = np.where(np.arange(row) % 32 == 7, below, 0)
    made = [
        np.zeros(row),
        np.full(row, -0.0),
        np.full(row, 0.7),
        np.full(row, -0.7),
        lone,
        outlier,
        np.where(np.arange(row) % 2, 0.25, -0.25),
        signs * 0.03,
        np.abs(noise),
        -np.abs(noise) - 1,
        np.linspace(-1, 1, row),
        np.round(noise * 4) / 4,
        random.integers(-8, 8, row) + 0.5,
        random.integers(-1, 2, row),
        few,
        few.clip(None, 0) - 1,
        ties,
        ties * signs,
        nearly,
        peaks,
        noise * np.exp(3 * random.standard_normal(row)),
        random.standard_t(2, row) / 50,
        noise * 1e-39,  # subnormal
        noise * 1e-30,
        noise * 3e-15,  # about where ggml takes a block for zero
        noise * 1e-8,
        noise * 1e-5,  # scales that are subnormal halves
        noise * 7e4,  # scales that are no halves any more
        noise * 1e12,
    ]
    # Kinds beside each other in one block: every 16, 32 or 64 weights of another row.
    for step in (16, 32, 64):
        mixed = np.stack(made)[random.integers(len(made) - 7, size=-(-row // step)), :]
        made.append(np.concatenate([mixed[n, n * step : (n + 1) * step] for n in range(len(mixed))]))
    return np.stack(made).astype(np.float32)


def huge_rows(random: np.random.Generator, row: int) -> NDArray[np.float32]:
    """Rows whose squares, and at last whose weights themselves, are about to overflow."""
    sizes = np.array([[1e18], [1e19], [3e29], [5e37]])
    rows: NDArray[np.float32] = (random.standard_normal((4, row)) * sizes).astype(np.float32)
    return rows


def plain_rows(random: np.random.Generator, row: int) -> NDArray[np.float32]:
    return (random.standard_normal((PLAIN_ROWS, row)) / 32).astype(np.float32)


def importances(random: np.random.Generator, row: int) -> list[NDArray[np.float32]]:
    usual = np.exp(2 * random.standard_normal(row))
    some = random.random(row)
    lone = np.zeros(row)
    lone[random.integers(row)] = 1
    made = [
        usual,
        np.ones(row),
        np.where(some < 0.5, 0, usual),
        np.where(np.arange(row) // 32 % 2, 0, usual),
        np.where(some < 0.1, 1e6, 1e-6),
        np.where(some < 0.2, 0.1, 0),
        lone,
        np.zeros(row),
        usual * 1e-20,
        usual * 1e12,
    ]
    return [weights.astype(np.float32) for weights in made]


def cases(type_: Type, random: np.random.Generator) -> Iterator[tuple[NDArray[np.float32], list[NDArray[np.float32]]]]:
    """Rows, and the imatrices to try them with: all with the two shortest lengths and one with the others.

    Among them are such whose blocks the lanes do not divide: see `FEW_ROWS` and `PLAIN_ROWS`.
    """
    for place, row in enumerate(ROWS[type_.block]):
        matrices = importances(random, row)
        tried = matrices if place < 2 else matrices[2:3]
        yield odd_rows(random, row), tried
        if not type_.name.startswith(ABORTING):
            yield huge_rows(random, row), tried
        if place == 0:
            yield plain_rows(random, row)[:FEW_ROWS], tried
    yield plain_rows(random, row), matrices[:1]


def prove(pair: Pair, random: np.random.Generator) -> int:
    """Return how many bytes differ, in all."""
    wrong = 0
    for rows, matrices in cases(pair.type, random):
        for importance in matrices if pair.needs_imatrix else [None, *matrices]:
            wrong += pair.different(rows, importance)
    return wrong


def gain(pair: Pair, random: np.random.Generator, piece: int | None) -> tuple[float, int]:
    """Return how many times as fast as ggml the kernel is, with an imatrix or without, and what differs in bytes.

    By CPU time; by the clock for a GPU, which gets as many weights as it gets from the worker. Raises `NothingMade`.
    """
    row = ROWS[256][-1]
    rows, importance = plain_rows(random, row)[:16], importances(random, row)[0]
    times_as_many, clock = (piece // rows.size, time.perf_counter) if piece else (1, time.thread_time)
    many = np.tile(rows, (times_as_many, 1))
    theirs, ours = pair.out(rows), pair.out(many)
    ratios, wrong = [], 0
    for matrix in [importance] if pair.needs_imatrix else [None, importance]:
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(TIMED):
            begin = clock()
            pair.by_ggml(rows, matrix, theirs)
            between = clock()
            if not pair.by_kernel(many, matrix, ours):
                raise NothingMade
            seconds[0].append(between - begin)
            seconds[1].append(clock() - between)
        ratios.append(min(seconds[0]) / min(seconds[1]) * times_as_many)
        wrong += int(np.count_nonzero(np.tile(theirs[:-GUARD], times_as_many) != ours[:-GUARD]))
    return min(ratios), wrong


def verdict(pair: Pair, job: Job) -> str:
    """Return what is printed of a type, after its name."""
    try:
        wrong = sum(prove(pair, np.random.default_rng([job.seed, number])) for number in range(job.rounds))
        ratio, more = gain(pair, np.random.default_rng(job.seed), job.piece)
    except NothingMade:
        return NOTHING
    return f"{wrong + more} bytes differ; {ratio:.2f} times as fast"


def main() -> None:
    job = Job.read(Path(sys.argv[1]))
    libraries = ctypes.CDLL(job.ggml), ctypes.CDLL(job.kernels)
    for type_ in job.types:
        print(f"{type_.name}: {verdict(Pair(*libraries, type_), job)}")


if __name__ == "__main__":
    main()
