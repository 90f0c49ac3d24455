"""The importance matrix: how strongly each input of each matrix is driven by the calibration text."""

from __future__ import annotations

import errno
import os
import shutil
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from pipeline import gguf_file, shell
from pipeline.artifact import Step, digest_of
from pipeline.chunks import CONTEXT, chunk_count, chunk_watch
from pipeline.convert import REFERENCE
from pipeline.errors import ToolchainError
from pipeline.toolchain import PATIENT, tools

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.convert import Reference
    from pipeline.progress import Task
    from pipeline.store import Store
    from pipeline.text import Text

CHUNKS = "chunks"


@dataclass(frozen=True)
class Imatrix(Step):
    """`imatrix.gguf`, or `imatrix.dat` in llama.cpp's older format, from `chunks` of 512 tokens (None: all)."""

    reference: Reference
    text: Text
    chunks: int | None
    format: Literal["gguf", "dat"]
    kind: ClassVar[str] = "imatrix"

    @property
    def label(self) -> str:
        return f"{self.reference.source.id}: imatrix"

    @property
    def file_name(self) -> str:
        return f"imatrix.{self.format}"

    def inputs(self) -> dict[str, Any]:
        return {
            "reference": digest_of(self.reference),
            "text": [self.text.name, self.text.sha256],
            "chunks": self.chunks,
            "context": CONTEXT,
            "format": self.format,
        }

    def make(self, room: Path, store: Store, task: Task) -> None:
        reference = store.get(self.reference).file(REFERENCE)
        llama = tools(store, self.reference.toolchain)
        # The tool writes the text's path into the file: a bare name says the same on every machine.
        scratch = room / "scratch"
        scratch.mkdir()
        (scratch / self.text.name).symlink_to(self.text.open(store).resolve())
        imatrix = room / self.file_name
        command = [llama.path("llama-imatrix"), "-m", reference, "-f", self.text.name, "-o", imatrix]
        options = ["-c", str(CONTEXT), "--output-format", self.format, "--threads", str(llama.threads)]
        limit = ["--chunks", str(self.chunks)] if self.chunks else []
        doing = f"computing the imatrix of {self.reference.source.id}"
        printed = shell.run(
            [*command, *options, *limit], cwd=scratch, env=PATIENT, doing=doing, watch=chunk_watch(task)
        )
        chunks = chunk_count(printed, self.text, doing)
        shutil.rmtree(scratch)
        if not _is_whole(imatrix):
            raise OSError(errno.ENOSPC, "llama-imatrix wrote no whole imatrix")
        (room / CHUNKS).write_text(str(chunks))


class Entry(NamedTuple):
    """What an imatrix has of one tensor: where its numbers lie in the file, and how many."""

    sums: int
    """Byte offset of the sums of squared inputs (float32), one row a matrix."""
    values: int
    counts: int
    """Byte offset of how many inputs each matrix saw (float32); in the older format of one int32 for the tensor."""
    matrices: int
    """How many counts there are: one an expert where a router chose the inputs, else one."""


@dataclass(frozen=True)
class ImatrixFile:
    """An imatrix, read back; the numbers themselves are read a tensor at a time."""

    path: Path
    legacy: bool
    chunks: int
    """0 where the file does not say, as old files of the older format do not."""
    chunk_size: int
    """Tokens; 0 in the older format, which does not say."""
    datasets: tuple[str, ...]
    entries: dict[str, Entry]

    def numbers(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return a tensor's sums, a row a count, and its counts.

        In the older format a sum is the mean times the count, and an expert that saw nothing has the count in every
        place; there is one count for the whole tensor.
        """
        entry = self.entries[name]
        with self.path.open("rb") as file:
            file.seek(entry.sums)
            sums = np.fromfile(file, "<f4", entry.values)
        return sums.reshape(entry.matrices, -1), self.counts(name)

    def counts(self, name: str) -> NDArray[np.float32]:
        entry = self.entries[name]
        with self.path.open("rb") as file:
            file.seek(entry.counts)
            return np.fromfile(file, "<i4" if self.legacy else "<f4", entry.matrices).astype(np.float32)


def read(path: Path) -> ImatrixFile:
    """Read an imatrix of either format, known by its first bytes.

    Format: llama.cpp, tools/imatrix/imatrix.cpp and common/imatrix-loader.cpp. Raises `ToolchainError` for a file that
    is none.
    """
    try:
        with path.open("rb") as file:
            legacy = file.read(4) != gguf_file.MAGIC
        return _read_legacy(path) if legacy else _read_gguf(path)
    except (OSError, ValueError, KeyError, OverflowError, struct.error) as error:
        raise ToolchainError(f"{path.name} is no imatrix: {error}.") from error


def _read_gguf(path: Path) -> ImatrixFile:
    file = gguf_file.read(path)
    entries: dict[str, Entry] = {}
    for name, sums in file.tensors.items():
        tensor, dot, kind = name.rpartition(".")
        if kind == "counts" and f"{tensor}.in_sum2" not in file.tensors:
            raise ValueError(f"{tensor[:80]!r} has counts and no sums")
        if not dot or kind != "in_sum2":
            continue
        counts = file.tensors.get(f"{tensor}.counts")
        if counts is None or sums.type != "F32" or counts.type != "F32":
            raise ValueError(f"{tensor[:80]!r} has no sums and counts in F32")
        if not counts.parameters or not sums.parameters or sums.parameters % counts.parameters:
            raise ValueError(f"{tensor[:80]!r} has {sums.parameters} sums and {counts.parameters} counts")
        begin = file.data_begin
        entries[tensor] = Entry(begin + sums.offset, sums.parameters, begin + counts.offset, counts.parameters)
    keys = [f"imatrix.{key}" for key in ("datasets", "chunk_count", "chunk_size")]
    missing = [key for key in keys if key not in file.values]
    if missing or not entries:
        raise ValueError(f"it has no {' and no '.join(missing or ['entry'])}")
    chunks, size = (int(file.metadata[key]) for key in keys[1:])
    return ImatrixFile(path, False, chunks, size, tuple(map(str, file.array(keys[0]))), entries)


def _read_legacy(path: Path) -> ImatrixFile:
    entries: dict[str, Entry] = {}
    size = path.stat().st_size
    with path.open("rb") as file:

        def number() -> int:
            return int(struct.unpack("<i", file.read(4))[0])

        def take(length: int, what: str) -> int:
            here = file.tell()
            if not 0 < length <= size - here:
                raise ValueError(f"{what} of {length} bytes does not fit into what is left of it")
            return here

        if (wanted := number()) < 1:
            raise ValueError("it has no entry")
        while len(entries) < wanted:
            length = number()
            take(length, "a name")
            name = file.read(length).decode(errors="replace")
            counts = file.tell()
            number()
            values = number()
            sums = take(4 * values, f"the entry of {name[:80]!r}")
            if name in entries:
                raise ValueError(f"{name[:80]!r} is in it twice")
            entries[name] = Entry(sums, values, counts, 1)
            file.seek(4 * values, os.SEEK_CUR)
        if file.tell() == size:
            return ImatrixFile(path, True, 0, 0, (), entries)
        chunks, length = number(), number()
        take(length, "the name of the text")
        return ImatrixFile(path, True, chunks, 0, (file.read(length).decode(errors="replace"),), entries)


def entries(path: Path) -> int:
    """Return how many tensors an imatrix covers.

    `imatrix.gguf` holds `<name>.in_sum2` and `<name>.counts` for each; the older format begins with the number
    (int32), then the entries (llama.cpp, tools/imatrix).
    """
    if path.suffix == ".dat":
        with path.open("rb") as file:
            return int.from_bytes(file.read(4), "little")
    return sum(name.endswith(".in_sum2") for name in gguf_file.read(path).tensors)


def _is_whole(imatrix: Path) -> bool:
    """Whether it was written to its end: llama-imatrix ends well on a full disk, leaving nothing or half a file."""
    try:
        return imatrix.stat().st_size > 0 and entries(imatrix) > 0
    except (FileNotFoundError, ToolchainError):
        return False
