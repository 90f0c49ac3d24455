"""Is every block of every tensor sound: no scale that is no number, none that is absurd, no block that was zeroed.

The whole file is read once, in pieces that fit a processor's cache. With a reference, what looks odd is looked up
there: the weights that a block was made of. Without one, little can be said of a finite scale.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Self

import numpy as np

from pipeline.check.block_faults import Faults
from pipeline.check.block_formats import FLOATS, FORMATS, weights
from pipeline.check.verdict import passed, skipped
from pipeline.gguf_file import SIZES
from pipeline.units import count as counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.check.block_formats import Array, Bytes, Scale
    from pipeline.gguf_file import GGUFFile, Tensor
    from pipeline.result import Verdict

# Bytes read at once by a thread: they stay in the cache of its core.
PIECE = 1 << 20
# How much larger than the largest of its weights a block may let weights be. Over all types, with even and with
# extreme imatrices, ggml itself reaches 11 (IQ1_M) and 4 (all other types).
ABSURD = 64


def scan(
    file: GGUFFile,
    reference: GGUFFile | None = None,
    threads: int = 2,
    watch: Callable[[float], None] | None = None,
) -> list[Verdict]:
    """Look at every block of a file; `watch` is told which share of it is done, from whichever thread.

    Of a file that is cut short, what is there is looked at. Raises `OSError` where it cannot be read.
    """
    scanner = _Scanner(file, reference, watch)
    with ThreadPoolExecutor(threads) as pool:
        try:
            for running in [pool.submit(scanner.run) for _ in range(threads)]:
                running.result()
        finally:
            scanner.stop()
    if not scanner.total:
        return [skipped("blocks", "no tensor of a type that is known")]
    verdicts = scanner.faults.verdicts()
    if any(verdict.outcome == "fail" for verdict in verdicts):
        return verdicts
    compared = " and looked up in the reference where odd" if reference else ""
    seen = f"{counted(file.parameters)} weights in {len(file.tensors)} tensors, all scales finite{compared}"
    return verdicts or [passed("blocks", seen)]


class _Scanner:
    """The work of all threads: each takes the next piece until none is left."""

    def __init__(self, file: GGUFFile, reference: GGUFFile | None, watch: Callable[[float], None] | None) -> None:
        self.file = file
        self.reference = reference
        self.watch = watch
        known = [t for t in file.tensors.values() if t.type in FORMATS or t.type in FLOATS]
        self.total = sum(t.size for t in known)
        self.faults = Faults()
        self._pieces = _pieces(file, known)
        self._lock = threading.Lock()
        self._done = 0
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    def run(self) -> None:
        buffer = memoryview(bytearray(PIECE))
        scratch = np.empty(PIECE // 2, "<u2")
        with self.file.path.open("rb") as opened, _Lookup(self.reference) as lookup:
            while piece := self._next():
                tensor, first, size = piece
                position = self.file.data_begin + tensor.offset + first * SIZES[tensor.type][1]
                size = os.preadv(opened.fileno(), [buffer[:size]], position)
                size -= size % SIZES[tensor.type][1]  # shorter where the file was cut meanwhile
                if size:
                    self._look(tensor, first, np.frombuffer(buffer[:size], np.uint8), scratch, lookup)
                self._report(size)

    def _next(self) -> tuple[Tensor, int, int] | None:
        with self._lock:
            return None if self._stopped else next(self._pieces, None)

    def _report(self, size: int) -> None:
        if self.watch:
            with self._lock:
                self._done += size
                self.watch(self._done / self.total)

    def _look(self, tensor: Tensor, first: int, raw: Bytes, scratch: Array, lookup: _Lookup) -> None:
        if (source := lookup.copy(tensor, first, raw.size)) is not None and not np.array_equal(raw, source):
            with self._lock:
                at = int(np.argmax(raw[: source.size] != source)) // SIZES[tensor.type][1]
                self.faults.differs(tensor, first + at)
        if tensor.type in FLOATS:
            self._look_at_floats(tensor, first, raw, scratch, alone=source is None)
            return
        blocks = raw.reshape(-1, SIZES[tensor.type][1])
        zero: Array | None = None
        for scale in FORMATS[tensor.type]:
            found = scale.magnitudes(blocks)
            top = int(found.max())
            if top >= scale.infinite:
                odd = np.flatnonzero(found >= scale.infinite)
                nans = int(np.count_nonzero(found > scale.infinite))
                with self._lock:
                    self.faults.infinite(tensor, scale.name, first + int(odd[0]), nans, odd.size - nans)
            elif source is None:
                self._look_at_scales(tensor, first, scale, found, lookup)
            if zero is None or zero.any():
                zero = (found == 0) if zero is None else zero & (found == 0)
        if source is None and zero is not None and zero.any():
            self._look_at_zeros(tensor, first, np.flatnonzero(zero), lookup)

    def _look_at_floats(self, tensor: Tensor, first: int, raw: Bytes, scratch: Array, *, alone: bool) -> None:
        kind, infinite = FLOATS[tensor.type]
        numbers = raw.view(kind)
        mask = numbers.dtype.type((1 << (8 * numbers.itemsize - 1)) - 1)
        found = np.bitwise_and(numbers, mask, out=scratch.view(kind)[: numbers.size])
        top = int(found.max())
        if top >= infinite:
            odd = np.flatnonzero(found >= infinite)
            nans = int(np.count_nonzero(found > infinite))
            with self._lock:
                self.faults.infinite(tensor, "weight", first + int(odd[0]), nans, odd.size - nans)
        if alone and not top:
            with self._lock:
                self.faults.silent(tensor, first, numbers.size, numbers.size)

    def _look_at_scales(self, tensor: Tensor, first: int, scale: Scale, found: Array, lookup: _Lookup) -> None:
        """Hold the largest scale of a piece against the weights that its block was made of."""
        at = int(found.argmax())
        bound = scale.value(int(found[at])) * scale.level
        if (source := lookup.weights(tensor, first + at, 1)) is not None:
            largest = float(np.abs(source).max())
            if bound > ABSURD * largest + 16 * scale.smallest * scale.level:
                with self._lock:
                    self.faults.absurd(tensor, scale.name, first + at, bound, largest)
            return
        sample = np.sort(found[:: max(1, found.size // 256)])
        usual = scale.value(int(sample[sample.size // 2])) * scale.level
        with self._lock:
            self.faults.spread(tensor, scale, first + at, bound, usual)

    def _look_at_zeros(self, tensor: Tensor, first: int, zeros: Array, lookup: _Lookup) -> None:
        """Hold zeroed blocks against the weights that they were made of.

        A block is rightly zero where its weights are, or are too small for its scale, and may be where most of them
        are: the few others can be of no importance.
        """
        if not lookup.knows(tensor):
            with self._lock:
                self.faults.silent(tensor, first + int(zeros[0]), zeros.size, _longest_run(zeros))
            return
        block = SIZES[tensor.type][0]
        smallest = max(16 * scale.smallest * scale.level for scale in FORMATS[tensor.type])
        wrong = np.zeros(zeros.size, bool)
        # As many blocks at once as make a piece of float32.
        window = zeros // (PIECE // (4 * block))
        for begin, end in pairwise([0, *(np.flatnonzero(np.diff(window)) + 1).tolist(), zeros.size]):
            low, high = int(zeros[begin]), int(zeros[end - 1]) + 1
            if (source := lookup.weights(tensor, first + low, high - low)) is not None:
                held = np.abs(source.reshape(-1, block)[zeros[begin:end] - low])
                wrong[begin:end] = (held.max(axis=1) >= smallest) & (2 * np.count_nonzero(held, axis=1) > block)
        with self._lock:
            self.faults.zeroed(tensor, first + zeros, wrong)


class _Lookup:
    """A thread's own view of the reference."""

    def __init__(self, reference: GGUFFile | None) -> None:
        self._reference = reference
        self._file = reference.path.open("rb") if reference else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def knows(self, tensor: Tensor) -> bool:
        """Whether the reference has the weights that the tensor was made of, as floats."""
        return (source := self._source(tensor)) is not None and source.type in ("F16", "BF16", "F32")

    def weights(self, tensor: Tensor, first: int, blocks: int) -> Array | None:
        """Return the weights that so many blocks were made of; None where the reference does not have them."""
        source = self._source(tensor)
        if source is None or not self.knows(tensor):
            return None
        block = SIZES[tensor.type][0]
        width = SIZES[source.type][1]
        raw = self._read(source, first * block * width, blocks * block * width)
        return None if raw is None else weights(raw, source.type)

    def copy(self, tensor: Tensor, first: int, size: int) -> Bytes | None:
        """Return the same bytes of the reference's tensor, where it is of the same type: llama-quantize copies it."""
        source = self._source(tensor)
        if source is None or source.type != tensor.type:
            return None
        return self._read(source, first * SIZES[tensor.type][1], size)

    def _source(self, tensor: Tensor) -> Tensor | None:
        source = self._reference.tensors.get(tensor.name) if self._reference else None
        return source if source and source.shape == tensor.shape else None

    def _read(self, source: Tensor, begin: int, size: int) -> Bytes | None:
        assert self._reference
        assert self._file
        raw = os.pread(self._file.fileno(), size, self._reference.data_begin + source.offset + begin)
        return np.frombuffer(raw, np.uint8) if len(raw) == size else None


def _pieces(file: GGUFFile, tensors: list[Tensor]) -> Iterator[tuple[Tensor, int, int]]:
    """Yield tensor, first block and bytes of pieces of whole blocks, in the order of the file, as far as it goes."""
    for tensor in sorted(tensors, key=lambda t: t.offset):
        size = SIZES[tensor.type][1]
        there = min(tensor.size, file.size - file.data_begin - tensor.offset) // size
        step = PIECE // size
        for first in range(0, there, step):
            yield tensor, first, min(step, there - first) * size


def _longest_run(numbers: Array) -> int:
    """Return how many neighbours follow each other at most in sorted `numbers`."""
    ends = np.flatnonzero(np.diff(numbers) != 1) + 1
    return int(np.diff([0, *ends.tolist(), numbers.size]).max())
