"""Quantized tensors in the store, made many at a time by the program `pipeline.engine.worker`."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pipeline import shell
from pipeline.engine.worker import Job, Work
from pipeline.ggml import LIBRARY, NUMBERS, row_bytes
from pipeline.gguf_file import shown
from pipeline.store import Named, digest_of
from pipeline.toolchain import PATIENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.convert import Reference
    from pipeline.engine.plan import Part
    from pipeline.gguf_file import GGUFFile
    from pipeline.imatrix import Imatrix, ImatrixFile
    from pipeline.progress import Task
    from pipeline.store import Store
    from pipeline.toolchain import Tools

ROOT = Path(__file__).parent.parent.parent
SCRIPT = "pipeline.engine.worker"
DATA = "data"
# ggml makes its tables by OpenMP, whose threads then wait for more; and it would start a debugger where it gives up.
ENVIRONMENT: Final = {**PATIENT, "GGML_NO_BACKTRACE": "1"}
# What is lost when a run is killed: at most so much is made before it is kept. A tensor in the making is an open lock.
MOST_TENSORS: Final = 256
MOST_WEIGHTS: Final = 1 << 31


@dataclass(frozen=True)
class QuantizedTensor(Named):
    """`data`: a tensor of the reference in another type, as it stands in a GGUF."""

    reference: Reference
    imatrix: Imatrix | None
    """None where it changes nothing: for a type that ignores it, and a tensor that it does not cover."""
    name: str
    type: str
    kind: ClassVar[str] = "tensor"

    @property
    def label(self) -> str:
        return f"{self.reference.source.id}: {shown(self.name)} as {self.type}"

    def inputs(self) -> dict[str, Any]:
        return {
            "reference": digest_of(self.reference),
            "imatrix": digest_of(self.imatrix) if self.imatrix else None,
            "tensor": self.name,
            "type": self.type,
            "toolchain": self.reference.toolchain.identity,
        }


def quantize(
    store: Store,
    llama: Tools,
    files: tuple[GGUFFile, ImatrixFile | None],
    wanted: Sequence[tuple[QuantizedTensor, Part]],
    task: Task,
    doing: str,
) -> dict[str, Path]:
    """Return the data of each wanted tensor by its name, making what the store does not have.

    `files` are the reference and the imatrix. `doing` ends the sentence "… failed while …" of a `ToolchainError`.
    """
    reference, importance = files
    parts = {digest_of(tensor): part for tensor, part in wanted}
    paths: dict[str, Path] = {}

    def watch(text: str) -> None:
        if steps := re.findall(r"^\[ *(\d+)/ *(\d+)\]", text, re.MULTILINE):
            ready, of = len(paths) + int(steps[-1][0]), len(wanted)
            task.advance(ready / of, f"{ready} of {of} tensors")

    def make(rooms: Mapping[str, Path]) -> None:
        job = Job(
            library=str(llama.path(LIBRARY)),
            reference=str(reference.path),
            imatrix=str(importance.path) if importance else None,
            legacy=importance is not None and importance.legacy,
            threads=llama.threads,
            works=[_work(parts[digest], reference, room / DATA) for digest, room in rooms.items()],
        )
        # Beside the data of its first tensor until that is whole.
        path = next(iter(rooms.values())) / "job"
        job.write(path)
        shell.run([sys.executable, "-m", SCRIPT, path], cwd=ROOT, env=ENVIRONMENT, doing=doing, watch=watch)
        path.unlink()

    for batch in _batches(wanted):
        tensors = [tensor for tensor, _ in batch]
        found = store.get_all(tensors, make)
        paths |= {tensor.name: artifact.file(DATA) for tensor, artifact in zip(tensors, found, strict=True)}
    return paths


def _batches(wanted: Sequence[tuple[QuantizedTensor, Part]]) -> Iterator[list[tuple[QuantizedTensor, Part]]]:
    batch: list[tuple[QuantizedTensor, Part]] = []
    weights = 0
    for tensor, part in wanted:
        weights += part.source.parameters
        if batch and (len(batch) == MOST_TENSORS or weights > MOST_WEIGHTS):
            yield batch
            batch, weights = [], part.source.parameters
        batch.append((tensor, part))
    if batch:
        yield batch


def _work(part: Part, reference: GGUFFile, out: Path) -> Work:
    source = part.source
    row = source.shape[0]
    return Work(
        name=shown(source.name),
        begin=reference.data_begin + source.offset,
        source_type=NUMBERS[source.type],
        type=NUMBERS[part.tensor.type],
        row=row,
        rows=source.parameters // row,
        expert_rows=source.shape[1],
        source_row_bytes=row_bytes(source),
        row_bytes=row_bytes(part.tensor),
        out=str(out),
        sums=part.entry.sums if part.entry else None,
        counts=part.entry.counts if part.entry else 0,
        matrices=part.entry.matrices if part.entry else 1,
    )
