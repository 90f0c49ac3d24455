"""The checks that read whole files or run a model, as steps: done once, and kept in the store."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import TypeAdapter

from pipeline import gguf_file, imatrix, quantize, shell
from pipeline.artifact import Step, digest_of
from pipeline.check import VERSION, quant
from pipeline.check.logits import Parity
from pipeline.check.metadata import ImatrixKeys
from pipeline.convert import OFFLINE, REFERENCE
from pipeline.errors import GateError
from pipeline.ggml import LIBRARY
from pipeline.measure import LOGITS
from pipeline.quantize import FALLBACKS, QUANT
from pipeline.result import Fallback, Verdict
from pipeline.toolchain import tools

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.convert import Reference
    from pipeline.measure import ReferenceLogits
    from pipeline.progress import Task
    from pipeline.result import Recipe
    from pipeline.store import Store
    from pipeline.toolchain import Tools

FOUND = "found.json"
VERDICTS: TypeAdapter[tuple[Verdict, ...]] = TypeAdapter(tuple[Verdict, ...])
PARITIES: TypeAdapter[Parity | str] = TypeAdapter(Parity | str)


@dataclass(frozen=True)
class Vetted(Step):
    """The verdicts on the reference: it has kept what the source has."""

    reference: Reference
    kind: ClassVar[str] = "vetting"

    @property
    def label(self) -> str:
        return f"{self.reference.source.id}: check the reference"

    def inputs(self) -> dict[str, Any]:
        return {"reference": digest_of(self.reference), "checks": VERSION}

    def make(self, room: Path, store: Store, task: Task) -> None:  # noqa: ARG002
        source = self.reference.source
        llama = tools(store, self.reference.toolchain)
        options = ["--tools", llama.directory, "--tree", llama.converter.parent]
        _apart(room, store, self.reference, options, f"checking the reference of {source.id}")


@dataclass(frozen=True)
class Compared(Step):
    """How far the reference's predictions are from those of transformers, or why nobody knows."""

    logits: ReferenceLogits
    kind: ClassVar[str] = "parity"

    @property
    def label(self) -> str:
        return f"{self.logits.reference.source.id}: compare with transformers"

    def inputs(self) -> dict[str, Any]:
        return {"logits": digest_of(self.logits), "checks": VERSION}

    def make(self, room: Path, store: Store, task: Task) -> None:  # noqa: ARG002
        reference = self.logits.reference
        options = ["--logits", store.get(self.logits).file(LOGITS)]
        _apart(room, store, reference, options, f"comparing {reference.source.id} with transformers")


@dataclass(frozen=True)
class Checked(Step):
    """The verdicts on a quant, without running it: it has kept what the reference has."""

    quant: quantize.Quant
    kind: ClassVar[str] = "checks"

    @property
    def label(self) -> str:
        return f"{self.quant.job}: check"

    def inputs(self) -> dict[str, Any]:
        return {"quant": digest_of(self.quant), "checks": VERSION}

    def make(self, room: Path, store: Store, task: Task) -> None:
        made = store.get(self.quant)
        reference = store.get(self.quant.reference).file(REFERENCE)
        matrix = None
        if self.quant.recipe.imatrix:
            matrix = store.get(self.quant.imatrix).file(self.quant.imatrix.file_name)
        announced = [Fallback(**f) for f in json.loads(made.file(FALLBACKS).read_bytes())]
        llama = tools(store, self.quant.reference.toolchain)
        how = making(llama, reference, self.quant.recipe, matrix, announced, self.quant.job)
        file = gguf_file.parse(made.file(QUANT))
        found = quant.verdicts(file, gguf_file.read(reference), how, watch=task.advance)
        (room / FOUND).write_bytes(VERDICTS.dump_json(tuple(found)))


def making(
    llama: Tools, reference: Path, recipe: Recipe, matrix: Path | None, announced: Sequence[Fallback], job: str
) -> quant.Making:
    """Ask llama-quantize what it makes of the reference, and say how the quant is bound to it and to the imatrix."""
    keys = None
    if matrix is not None:
        found = imatrix.read(matrix)
        dataset = found.datasets[0] if found.datasets else None
        keys = ImatrixKeys(matrix.name, len(found.entries), found.chunks, dataset)
    said = quantize.dry_run(llama, reference, recipe, matrix, f"checking {job}")
    return quant.Making(recipe.base, quantize.planned(said), announced, matrix, keys, llama.path(LIBRARY))


def verdicts(store: Store, step: Vetted | Checked) -> tuple[Verdict, ...]:
    return VERDICTS.validate_json(store.get(step).file(FOUND).read_bytes())


def parity(store: Store, step: Compared) -> Parity | str:
    return PARITIES.validate_json(store.get(step).file(FOUND).read_bytes())


def demand(subject: str, found: Sequence[Verdict]) -> None:
    """Raise `GateError` for a fail, a line each: whatever is made of this would be no better."""
    if failures := [verdict for verdict in found if verdict.outcome == "fail"]:
        raise GateError("\n".join(f"{subject}, {v.check}: {v.seen}. {v.advice}" for v in failures))


def _apart(room: Path, store: Store, reference: Reference, options: Sequence[object], doing: str) -> None:
    file = store.get(reference).file(REFERENCE)
    command = [sys.executable, "-m", "pipeline.check", room / FOUND, file, reference.source.open(store), *options]
    shell.run(command, cwd=room, env=OFFLINE, doing=doing)
