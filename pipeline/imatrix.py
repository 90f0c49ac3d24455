"""The importance matrix: how strongly each input of each matrix is driven by the calibration text."""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline import gguf_file, shell
from pipeline.chunks import CONTEXT, chunk_count, chunk_watch
from pipeline.convert import REFERENCE
from pipeline.errors import ToolchainError
from pipeline.store import Step, digest_of
from pipeline.toolchain import PATIENT, tools

if TYPE_CHECKING:
    from pathlib import Path

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
