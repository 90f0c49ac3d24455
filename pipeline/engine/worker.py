"""The program that quantizes: `python worker.py JOB`, with a `Job` as JSON.

It is a program of its own because ggml ends the process where something is wrong, and so that its memory is its own.
It calls what llama-quantize calls (`llama_tensor_dequantize_impl`, `llama_tensor_quantize_impl` in src/llama-quant.cpp)
on rows that no thread needs to know the neighbours of: a row depends on nothing but itself and its imatrix. For the
types that the job names it calls a kernel of ours instead, which gives the same bytes sooner; the GPU's, where there is
one, and the CPU's while the GPU is busy or has no memory left.

Memory: a thread holds `PIECE` weights, or one row where that is longer, as they are in the reference, as float32 and
as they become: at most 1.6 MB for the usual types. Of the imatrix, the weights of the tensors that threads are at.
With `GPU_PIECE` it is 38 MB a thread, and 25 MB of the GPU's memory for each of two calls at once.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

PIECE = 1 << 17
"""Weights that a thread quantizes at a time, where a row is not longer."""
GPU_PIECE = 1 << 22
"""The same where a GPU does: 16,384 super-blocks, of which its threads take one each."""
F32, F16, BF16 = 0, 1, 30


@dataclass(frozen=True)
class Work:
    """One tensor to be quantized. Types are ggml's numbers for F32, F16 or BF16, and for what it becomes."""

    name: str
    begin: int
    """Where in the reference its data begins."""
    source_type: int
    type: int
    row: int
    """Weights a row."""
    rows: int
    expert_rows: int
    """Rows a matrix: all, or those of one expert."""
    source_row_bytes: int
    row_bytes: int
    out: str
    """The file to write, which is not there yet."""
    skipped: int
    """Where in it to begin."""
    sums: int | None = None
    """Where in the imatrix its sums begin (float32); None for a tensor that is quantized without it."""
    counts: int = 0
    """Where its counts begin."""
    matrices: int = 1
    """How many counts there are."""


@dataclass(frozen=True)
class Kernels:
    """Our own quantizers (pipeline/kernels), by pipeline/kernels/kernels.h."""

    library: str
    types: dict[str, int]
    """The types that they are used for, with ggml's numbers."""
    piece: int = PIECE


@dataclass(frozen=True)
class Job:
    """All tensors that are quantized in one go."""

    library: str
    """libggml-base"""
    reference: str
    imatrix: str | None
    legacy: bool
    """Whether the imatrix is in llama.cpp's older format."""
    threads: int
    works: list[Work]
    kernels: list[Kernels] = field(default_factory=list)
    """Those to be tried first come first."""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Job:
        fields = json.loads(path.read_bytes())
        works = [Work(**work) for work in fields["works"]]
        return cls(**fields | {"works": works, "kernels": [Kernels(**some) for some in fields["kernels"]]})


class Failure(Exception):  # noqa: N818 - a sentence for whoever started us
    pass


class Ggml:
    """The functions of libggml-base that are called, by ggml/include/ggml.h; calls release the interpreter's lock.

    Kernels stand in for `ggml_quantize_chunk`.
    """

    def __init__(self, library: str, kernels: list[Kernels]) -> None:
        ggml = ctypes.CDLL(library)
        pointer, number, size, type_ = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t, ctypes.c_int
        self._quantize = ggml.ggml_quantize_chunk
        self._quantize.argtypes = [type_, pointer, pointer, number, number, number, pointer]
        self._quantize.restype = size
        self._kernels: dict[int, list[Any]] = {}
        self._pieces: dict[int, int] = {}
        for some in kernels:
            ours = ctypes.CDLL(some.library)
            for name, type_number in some.types.items():
                kernel = ours[f"quantize_{name.lower()}"]
                kernel.argtypes = [pointer, pointer, number, number, pointer]
                kernel.restype = size
                self._kernels.setdefault(type_number, []).append(kernel)
                self._pieces.setdefault(type_number, some.piece)
        self.is_valid = ggml.ggml_validate_row_data
        self.is_valid.argtypes = [type_, pointer, size]
        self.is_valid.restype = ctypes.c_bool
        self.to_f32 = {F16: ggml.ggml_fp16_to_fp32_row, BF16: ggml.ggml_bf16_to_fp32_row}
        for convert in self.to_f32.values():
            convert.argtypes = [pointer, pointer, number]
            convert.restype = None

    def piece(self, type_: int) -> int:
        """Return how many weights are best quantized at a time."""
        return self._pieces.get(type_, PIECE)

    def quantize(self, type_: int, values: int, out: int, rows: int, row: int, importance: int | None) -> int:
        """Return the bytes written: the one door to all, and none is told by its bytes. A kernel may have made none."""
        for kernel in self._kernels.get(type_, ()):
            if made := int(kernel(values, out, rows, row, importance)):
                return made
        return int(self._quantize(type_, values, out, 0, rows, row, importance))


class Piece(NamedTuple):
    """Rows of one matrix of a tensor."""

    tensor: _Tensor
    first: int
    rows: int


class _Tensor:
    """A tensor that is being quantized: its file, its weights for columns, and how many pieces are to come."""

    def __init__(self, work: Work, importance: NDArray[np.float32] | None, piece: int) -> None:
        self.work = work
        self.importance = importance
        self.file = os.open(work.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        each = max(1, piece // work.row)
        self.pieces = [
            Piece(self, expert + first, min(each, work.expert_rows - first))
            for expert in range(0, work.rows, work.expert_rows)
            for first in range(0, work.expert_rows, each)
        ]
        self.left = len(self.pieces)

    def weights_of(self, row: int) -> int | None:
        """Return the address of the imatrix's weights for a row."""
        if self.importance is None:
            return None
        return int(self.importance[row // self.work.expert_rows :].ctypes.data)


class Run:
    """All tensors of a job, by as many threads as it wants."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.ggml = Ggml(job.library, job.kernels)
        self.reference = os.open(job.reference, os.O_RDONLY)
        self.lock = threading.Lock()
        self.stopped = False
        self.done = 0
        self.pieces = self._pieces()

    def go(self) -> None:
        """Raises the first failure of a thread, when the others have ended the piece that they were at."""
        with ThreadPoolExecutor(self.job.threads) as pool:
            running = [pool.submit(self._work) for _ in range(self.job.threads)]
            wait(running, return_when=FIRST_EXCEPTION)
            self.stopped = True
        for thread in running:
            thread.result()

    def _pieces(self) -> Iterator[Piece]:
        for work in self.job.works:
            yield from _Tensor(work, self._importance(work), self.ggml.piece(work.type)).pieces

    def _importance(self, work: Work) -> NDArray[np.float32] | None:
        """Return a row of weights a matrix, as `load_imatrix` in tools/quantize/quantize.cpp makes them."""
        if work.sums is None or self.job.imatrix is None:
            return None
        values = work.row * (work.rows // work.expert_rows)
        with Path(self.job.imatrix).open("rb") as file:
            file.seek(work.counts)
            counts = np.fromfile(file, "<i4" if self.job.legacy else "<f4", work.matrices)
            file.seek(work.sums)
            sums = np.fromfile(file, "<f4", values)
        if sums.size != values or counts.size != work.matrices:
            raise Failure(f"The imatrix ends within the numbers of {work.name}. Compute it again.")
        # `lround` of a float: halves away from zero.
        whole = np.floor(counts.astype(np.float64) + 0.5).astype(np.float32)[:, None]
        unseen = sums.reshape(work.matrices, -1) if self.job.legacy else np.float32(1)
        weights = sums.reshape(work.matrices, -1) / np.where(whole > 0, whole, np.float32(1))
        return np.where(whole > 0, weights, unseen).astype(np.float32).reshape(-1, work.row)

    def _work(self) -> None:
        buffers = _Buffers()
        while True:
            with self.lock:
                piece = None if self.stopped else next(self.pieces, None)
            if piece is None:
                return
            self._quantize(piece, buffers)
            with self.lock:
                piece.tensor.left -= 1
                if piece.tensor.left == 0:
                    os.close(piece.tensor.file)
                    self.done += 1
                    print(f"[{self.done:4d}/{len(self.job.works):4d}] {piece.tensor.work.name}", flush=True)

    def _quantize(self, piece: Piece, buffers: _Buffers) -> None:
        work, ggml = piece.tensor.work, self.ggml
        buffers.fit(piece)
        size = piece.rows * work.source_row_bytes
        _read(self.reference, buffers.raw, size, work.begin + piece.first * work.source_row_bytes, work.name)
        source = buffers.raw.ctypes.data
        if not ggml.is_valid(work.source_type, source, size):
            raise Failure(f"{work.name} holds numbers in the reference that are not finite. Convert the model again.")
        if work.source_type != F32:
            ggml.to_f32[work.source_type](source, buffers.values.ctypes.data, piece.rows * work.row)
            source = buffers.values.ctypes.data
        out = buffers.out.ctypes.data
        made = ggml.quantize(work.type, source, out, piece.rows, work.row, piece.tensor.weights_of(piece.first))
        if made != piece.rows * work.row_bytes or not ggml.is_valid(work.type, out, made):
            raise Failure(f"What ggml makes of {work.name} is not valid. Take another type for it.")
        _write(piece.tensor.file, buffers.out, made, work.skipped + piece.first * work.row_bytes)


class _Buffers:
    """What a thread holds: rows as they are in the reference, as float32, and as they become."""

    def __init__(self) -> None:
        self.raw: NDArray[Any] = np.empty(0, np.uint8)
        self.values: NDArray[Any] = np.empty(0, np.float32)
        self.out: NDArray[Any] = np.empty(0, np.uint8)

    def fit(self, piece: Piece) -> None:
        work = piece.tensor.work
        self.raw = _grown(self.raw, piece.rows * work.source_row_bytes)
        self.values = _grown(self.values, piece.rows * work.row)
        self.out = _grown(self.out, piece.rows * work.row_bytes)


def _grown(array: NDArray[Any], size: int) -> NDArray[Any]:
    return array if array.size >= size else np.empty(size, array.dtype)


def _read(file: int, into: NDArray[Any], size: int, begin: int, name: str) -> None:
    buffer, done = into.data[:size], 0
    while done < size:
        got = os.preadv(file, [buffer[done:]], begin + done)
        if not got:
            raise Failure(f"The reference ends within {name}. Convert the model again.")
        done += got


def _write(file: int, content: NDArray[Any], size: int, begin: int) -> None:
    buffer, done = content.data[:size], 0
    while done < size:
        done += os.pwrite(file, buffer[done:], begin + done)


def main() -> None:
    try:
        Run(Job.read(Path(sys.argv[1]))).go()
    except (Failure, OSError, AttributeError) as error:  # the last: a library without one of the functions
        sys.exit(str(error))


if __name__ == "__main__":
    main()
