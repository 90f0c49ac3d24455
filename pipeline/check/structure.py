"""Is the file whole, and does it hold what the reference holds: the same tensors, in the same shapes."""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

from pipeline.check.verdict import failed, passed, warned
from pipeline.gguf_file import shown
from pipeline.units import size as sized

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pipeline.gguf_file import GGUFFile, Tensor, UnreadableError
    from pipeline.result import Fallback, Verdict

AGAIN = "Quantize again; if it stays so, llama-quantize and the converter of this llama.cpp do not fit together."
DOWNLOAD = "Download it again, or make it anew."
# A name is shorter (GGML_MAX_NAME of ggml.h, with the byte that ends it).
MAX_NAME = 64
# Of a file with more holes than this, the rest is not looked at.
MAX_HOLES = 10_000
TRAILER = 1 << 20


def damaged(error: UnreadableError) -> Verdict:
    """Say as a verdict why `gguf_file.parse` could not read a header."""
    return failed("file", error.fault, error.advice)


def layout(file: GGUFFile) -> Verdict:
    """Check where the tensors' data lies: all of it there, one behind the other, as llama.cpp demands, and no more.

    `file` comes from `gguf_file.parse`, which takes a file that is cut short. Source of the rules: ggml/src/gguf.cpp.
    """
    if fault := _misplaced(file):
        return failed("file", fault, DOWNLOAD)
    if file.size < file.needed:
        first = min((t for t in file.tensors.values() if _end(file, t) > file.size), key=lambda t: t.offset)
        seen = f"truncated: it needs {file.needed} bytes and has {file.size}, the data ends in {shown(first.name)}"
        return failed("file", seen, "Download it again.")
    if named := next((name for name in file.tensors if len(name.encode()) >= MAX_NAME), None):
        seen = f"{shown(named)} has a name of {len(named.encode())} bytes, and llama.cpp takes {MAX_NAME - 1}"
        return failed("file", seen, "Convert the model again.")
    if unwritten := _unwritten(file):
        return unwritten
    if (spare := file.size - _padded(file.needed, file.alignment)) > 0 and file.tensors:
        seen = f"{spare} bytes follow the last tensor, {shown(list(file.tensors)[-1])}"
        if _is_zero(file.path, file.needed, TRAILER):
            return warned("file", f"{seen}, all zero as far as looked at", DOWNLOAD)
        return failed("file", f"{seen}: trailing bytes that belong to no tensor", DOWNLOAD)
    if empty := [name for name, tensor in file.tensors.items() if not tensor.parameters]:
        return warned("file", f"{len(empty)} tensors without any weight: {_some(empty)}", "Convert the model again.")
    return passed("file", f"{sized(file.size)}, {len(file.tensors)} tensors one behind the other, all there")


def _misplaced(file: GGUFFile) -> str:
    """Name the first tensor that does not begin where the one before it ends, padded to the alignment."""
    expected, before = 0, ""
    for name, tensor in file.tensors.items():
        if tensor.offset % file.alignment:
            return f"{shown(name)} begins at {tensor.offset}, which is no multiple of the alignment, {file.alignment}"
        if tensor.offset != expected:
            where = f"{shown(name)} begins at {tensor.offset}, {shown(before)} before it ends at {expected}"
            if other := _overlapped(file, tensor):
                return f"two tensors overlap: {shown(name)} begins at {tensor.offset}, within {shown(other)}"
            if not before:
                return f"{shown(name)}, the first tensor, begins at {tensor.offset}, not at 0"
            if tensor.offset > expected:
                return f"a gap of {tensor.offset - expected} bytes between tensors: {where}"
            return f"tensors are out of order: {where}"
        expected, before = _padded(tensor.offset + tensor.size, file.alignment), name
    return ""


def _overlapped(file: GGUFFile, tensor: Tensor) -> str:
    """Name a tensor in whose place another begins; empty for none."""
    places = ((t.name, t.offset, t.offset + t.size) for t in file.tensors.values() if t is not tensor)
    return next((name for name, begin, end in places if begin <= tensor.offset < end), "")


def _unwritten(file: GGUFFile) -> Verdict | None:
    """Look for holes: parts of the data that nothing was ever written to, and which read as zeros.

    A downloader that reserves the space first and is interrupted leaves them. llama-quantize and llama-gguf-split
    leave none. Copying with `cp --sparse=always` makes holes of real zeros, so that in vectors and in embeddings,
    where real models have zeros, they are a warning.
    """
    tensors = sorted((t for t in file.tensors.values() if t.size), key=lambda t: t.offset)
    lost: dict[str, int] = {}
    position = 0
    for begin, end in _holes(file):
        while position < len(tensors) and _end(file, tensors[position]) <= begin:
            position += 1
        for tensor in tensors[position:]:
            if file.data_begin + tensor.offset >= end:
                break
            overlap = min(end, _end(file, tensor)) - max(begin, file.data_begin + tensor.offset)
            lost[tensor.name] = lost.get(tensor.name, 0) + overlap
    if not lost:
        return None
    seen = f"{sum(lost.values())} bytes in {len(lost)} tensors were never written (holes in the file): {_some(lost)}"
    if any(len(file.tensors[name].shape) > 1 and "embd" not in name for name in lost):
        return failed("file", seen, "Download it again: a download that was interrupted leaves such a file.")
    advice = "Compare its sha256 with the publisher's: zeros may be right here, and an unfinished download leaves them."
    return warned("file", seen, advice)


def _holes(file: GGUFFile) -> Iterator[tuple[int, int]]:
    """Yield where holes begin and end in the file, the first few thousand; none where the file system knows of none."""
    if not hasattr(os, "SEEK_HOLE"):
        return
    with file.path.open("rb") as opened:
        end = file.data_begin
        try:
            for _ in range(MAX_HOLES):
                if (begin := os.lseek(opened.fileno(), end, os.SEEK_HOLE)) >= file.size:
                    return
                try:
                    end = os.lseek(opened.fileno(), begin, os.SEEK_DATA)
                except OSError as error:
                    if error.errno != errno.ENXIO:
                        raise
                    end = file.size  # no data follows
                yield begin, end
                if end >= file.size:
                    return
        except OSError:
            return


def tensors(quant: GGUFFile, reference: GGUFFile) -> Verdict:
    """Compare names and shapes.

    The order decides nothing, since llama.cpp finds tensors by their names. llama-quantize sorts them by layer and
    name (`weight_name_comparer` in src/llama-model-loader.h).
    """
    missing = [name for name in reference.tensors if name not in quant.tensors]
    foreign = [name for name in quant.tensors if name not in reference.tensors]
    reshaped = [
        f"{shown(name)} is {_shape(tensor)} and {_shape(reference.tensors[name])} in the reference"
        f"{_how(tensor, reference.tensors[name])}"
        for name, tensor in quant.tensors.items()
        if name in reference.tensors and tensor.shape != reference.tensors[name].shape
    ]
    total = len(reference.tensors)
    faults = [
        f"{len(names)} of {total} tensors {what}: {_some(names)}"
        for what, names in (("missing", missing), ("not the reference's", foreign), ("of another shape", reshaped))
        if names
    ]
    if faults:
        return failed("tensors", "; ".join(faults), AGAIN)
    names = list(quant.tensors)
    order = "" if names in (list(reference.tensors), sorted(names, key=sorting)) else ", in an order of their own"
    return passed("tensors", f"{len(names)} tensors with the names and shapes of the reference's{order}")


def fallbacks(quant: GGUFFile, announced: Sequence[Fallback]) -> Verdict:
    """Hold the fallbacks that llama-quantize announced against the types in the file."""
    wrong = [f for f in announced if f.tensor not in quant.tensors or quant.tensors[f.tensor].type != f.used]
    if wrong:
        first = wrong[0]
        seen = f"{first.tensor} should have fallen back to {first.used}; {len(wrong)} such tensors"
        return failed("fallbacks", seen, AGAIN)
    if not announced:
        return passed("fallbacks", "every tensor has the type of its recipe")
    seen = f"{len(announced)} of {len(quant.tensors)} tensors have rows that no block of the wanted type divides"
    return warned("fallbacks", seen, "Choose by the bits per weight that the file really has, not by its name.")


def _how(tensor: Tensor, other: Tensor) -> str:
    ours, theirs = tensor.shape, other.shape
    if sorted(ours) == sorted(theirs) and len(ours) > 1:
        return " (transposed)"
    if tensor.parameters == other.parameters:
        return " (as many weights, in another shape)"
    return ""


def sorting(name: str) -> tuple[int, str]:
    """Return what llama-quantize sorts tensors by: layer, -1 for those of none, and name."""
    layer = re.match(r"blk\.(\d{1,9})", name)
    return int(layer[1]) if layer else -1, name


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "one number"


def _some(names: Sequence[str] | dict[str, int]) -> str:
    first = [shown(name, 200) for name in list(names)[:3]]
    return ", ".join(first) + (" …" if len(names) > 3 else "")


def _end(file: GGUFFile, tensor: Tensor) -> int:
    return file.data_begin + tensor.offset + tensor.size


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _is_zero(path: Path, begin: int, most: int) -> bool:
    with path.open("rb") as file:
        file.seek(begin)
        return not file.read(most).strip(b"\0")
