"""Quantized tensors in the store, made many at a time by the program `pipeline.engine.worker`."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from pipeline import shell
from pipeline.artifact import Named, digest_of
from pipeline.engine import worker
from pipeline.engine.worker import Job, Kernels, Work
from pipeline.ggml import LIBRARY, NUMBERS, row_bytes
from pipeline.gguf_file import TYPES, shown
from pipeline.kernels import build, proof
from pipeline.toolchain import LOADS_GGML

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.artifact import Artifact
    from pipeline.convert import Reference
    from pipeline.engine.plan import Part
    from pipeline.gguf_file import GGUFFile
    from pipeline.imatrix import Imatrix, ImatrixFile
    from pipeline.progress import Task
    from pipeline.store import Store
    from pipeline.toolchain import Toolchain, Tools

DATA = "data"
# What is lost when a run is killed: at most so much is made before it is kept. A tensor in the making is an open lock.
MOST_TENSORS: Final = 256
MOST_WEIGHTS: Final = 1 << 31


@dataclass(frozen=True)
class QuantizedTensor(Named):
    """`data`: a tensor of the reference in another type, as it stands in a GGUF; to its end, after some zeros.

    With them it begins as far behind the beginning of a block of the disk as in the quant that it was first made for,
    so that file systems that can share blocks between files do.
    """

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


class Wanted(NamedTuple):
    tensor: QuantizedTensor
    part: Part
    phase: int
    """Where its data begins within a block of the quant (`assembly.BLOCK`)."""


@dataclass(frozen=True)
class Workshop:
    """What tensors are quantized with, and from."""

    store: Store
    toolchain: Toolchain
    llama: Tools
    """Those of the toolchain."""
    reference: GGUFFile
    importance: ImatrixFile | None
    doing: str
    """Ends the sentence "… failed while …" of a `ToolchainError`."""

    def quantize(self, wanted: Sequence[Wanted], task: Task) -> dict[str, Artifact]:
        """Return the wanted tensors by their names, making what the store does not have."""
        by_digest = {digest_of(one.tensor): one for one in wanted}
        found: dict[str, Artifact] = {}

        def watch(text: str) -> None:
            if steps := re.findall(r"^\[ *(\d+)/ *(\d+)\]", text, re.MULTILINE):
                ready, of = len(found) + int(steps[-1][0]), len(wanted)
                task.advance(ready / of, f"{ready} of {of} tensors")

        def make(rooms: Mapping[str, Path]) -> None:
            works = [_work(by_digest[digest], self.reference, room / DATA) for digest, room in rooms.items()]
            # Beside the data of its first tensor until that is whole.
            self._run(works, next(iter(rooms.values())) / "job", watch)

        for batch in _batches(wanted):
            made = self.store.get_all([one.tensor for one in batch], make)
            found |= {one.tensor.name: artifact for one, artifact in zip(batch, made, strict=True)}
        return found

    def _run(self, works: list[Work], path: Path, watch: Callable[[str], None]) -> None:
        importance = self.importance
        job = Job(
            library=str(self.llama.path(LIBRARY)),
            reference=str(self.reference.path),
            imatrix=str(importance.path) if importance else None,
            legacy=importance is not None and importance.legacy,
            threads=self.llama.threads,
            works=works,
            kernels=list(self._kernels({TYPES[work.type] for work in works})),
        )
        job.write(path)
        # By its path, and without the modules beside it: it needs nothing of ours.
        command = [sys.executable, "-P", worker.__file__, path]
        shell.run(command, cwd=path.parent, env=LOADS_GGML, doing=self.doing, watch=watch)
        path.unlink()

    def _kernels(self, types: set[str]) -> Iterator[Kernels]:
        for target in (build.GPU, build.CPU) if self.toolchain.cuda else (build.CPU,):
            found = proof.proven(self.store, self.toolchain, types, target)
            if found.types:
                yield Kernels(str(found.library), {name: NUMBERS[name] for name in found.types}, target.piece)


def _batches(wanted: Sequence[Wanted]) -> Iterator[list[Wanted]]:
    batch: list[Wanted] = []
    weights = 0
    for one in wanted:
        weights += one.part.source.parameters
        if batch and (len(batch) == MOST_TENSORS or weights > MOST_WEIGHTS):
            yield batch
            batch, weights = [], one.part.source.parameters
        batch.append(one)
    if batch:
        yield batch


def _work(wanted: Wanted, reference: GGUFFile, out: Path) -> Work:
    part, source = wanted.part, wanted.part.source
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
        skipped=wanted.phase,
        sums=part.entry.sums if part.entry else None,
        counts=part.entry.counts if part.entry else 0,
        matrices=part.entry.matrices if part.entry else 1,
    )
