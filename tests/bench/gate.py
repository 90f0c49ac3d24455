"""`python tests/bench/gate.py [FILE…]`: how fast the block scan is, beside reading the file and no more.

Without a file, one of 1 GiB is made for each of some types: random blocks with scales like a model's. All figures are
medians of 5 with the file in the page cache, and both are done by turns, so that whatever else the machine does
counts for both. A `--reference` is used in the scan as the gate does.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from pipeline import gguf_file
from pipeline.check import blocks
from pipeline.check.block_formats import FORMATS

TYPES = ("Q4_K", "Q6_K", "Q8_0", "Q4_0", "IQ4_XS", "MXFP4", "BF16", "F16", "F32")
REPEATS = 5
ROW = 4096
IDS = {name: number for number, name in gguf_file.TYPES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--types", nargs="+", default=TYPES, metavar="TYPE", help=f"of {', '.join(FORMATS)}, BF16 …")
    parser.add_argument("--size", type=float, default=1.0, help="GiB of each file that is made")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    reference = gguf_file.read(options.reference) if options.reference else None
    print(f"{'':32} {'size':>8} {'reading':>11} {'scan':>11}  scan/reading")
    for path in options.files:
        report(path.name, path, reference, options.threads)
    if not options.files:
        with tempfile.TemporaryDirectory(prefix="llm-quantizer-") as scratch:
            for kind in options.types:
                path = Path(scratch) / f"{kind}.gguf"
                write(path, kind, int(options.size * 2**30))
                report(kind, path, None, options.threads)
                path.unlink()


def report(label: str, path: Path, reference: gguf_file.GGUFFile | None, threads: int) -> None:
    file = gguf_file.read(path)
    reading, scanning, verdicts = [], [], []
    read(path, file.size, threads)  # fills the page cache
    for _ in range(REPEATS):
        reading.append(timed(lambda: read(path, file.size, threads)))
        scanning.append(timed(lambda: verdicts.extend(blocks.scan(file, reference, threads))))
    read_rate, scan_rate = (file.size / statistics.median(seconds) / 1e9 for seconds in (reading, scanning))
    outcome = ", ".join(sorted({verdict.outcome for verdict in verdicts}))
    size = f"{file.size / 1e9:.2f} GB"
    print(f"{label:32} {size:>8} {read_rate:6.2f} GB/s {scan_rate:6.2f} GB/s  {scan_rate / read_rate:.2f}  {outcome}")


def timed(work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def read(path: Path, size: int, threads: int) -> None:
    """Read a file with as many threads, and in the same pieces, as the scan does, each into its one buffer."""
    pieces = iter(range(0, size, blocks.PIECE))

    def run() -> None:
        buffer = bytearray(blocks.PIECE)
        with path.open("rb") as file:
            for begin in pieces:
                os.preadv(file.fileno(), [buffer], begin)

    with ThreadPoolExecutor(threads) as pool:
        for running in [pool.submit(run) for _ in range(threads)]:
            running.result()


def write(path: Path, kind: str, size: int) -> None:
    """Write a model of matrices of one type, each of some MB, the same blocks in all of them."""
    weights, width = gguf_file.SIZES[kind]
    rows = 2**24 // (ROW // weights * width)
    writer = GGUFWriter(path, "llama")
    content = random_blocks(kind, rows * ROW // weights)
    for number in range(max(1, size // content.nbytes)):
        name = f"blk.{number}.ffn_up.weight"
        writer.add_tensor(name, content.reshape(rows, -1), raw_dtype=IDS[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_blocks(kind: str, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    scale = np.abs(rng.standard_normal((count, 1))) * 0.01 + 0.001
    if kind not in FORMATS:
        numbers = (rng.standard_normal((count, 1)) * 0.02).astype({"F16": "<f2"}.get(kind, "<f4"))
        return numbers.view("<u2")[:, 1:].copy().view(np.uint8) if kind == "BF16" else numbers.view(np.uint8)
    blocks_ = rng.integers(0, 256, (count, gguf_file.SIZES[kind][1]), np.uint8)
    for field in FORMATS[kind]:
        if field.coding == "f16":
            blocks_[:, field.offset : field.offset + 2] = (scale / field.level).astype("<f2").view(np.uint8)
        elif field.coding == "iq1_m":
            blocks_[:, field.offset + 7] = 0x20
        else:
            blocks_[:, field.offset] = 0x70 if field.coding == "e8m0" else 0x30
    return blocks_


if __name__ == "__main__":
    main()
