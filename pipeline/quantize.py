"""One quant: the reference, quantized as the recipe says, with the imatrix.

Tensor by tensor (`pipeline.engine`), so that the quants of a model share what is the same in them; or all at once by
llama-quantize, whose bytes are the measure for both.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline import gguf_file, imatrix, shell
from pipeline import recipe as recipes
from pipeline.artifact import Step, digest_of
from pipeline.check import tensor_types
from pipeline.convert import REFERENCE
from pipeline.engine import assembly, header, plan
from pipeline.engine.assembly import Piece
from pipeline.engine.tensors import DATA, QuantizedTensor, Wanted, Workshop
from pipeline.result import Fallback
from pipeline.toolchain import PATIENT, tools

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.artifact import Artifact
    from pipeline.convert import Reference
    from pipeline.engine.plan import Part
    from pipeline.gguf_file import GGUFFile
    from pipeline.imatrix import Imatrix
    from pipeline.progress import Task
    from pipeline.result import Recipe
    from pipeline.store import Store
    from pipeline.toolchain import Tools

Engine = Literal["by-tensor", "llama-quantize"]
QUANT = "quant.gguf"
FALLBACKS = "fallbacks.json"
FILE_TYPES = {name: number for number, name in tensor_types.FILE_TYPES.items()}
PLANNED = re.compile(r"^\[ *\d+/ *\d+\] (\S+) +- \[[\d, ]+\], type = +(\S+), size = .*?(?:\((\w+)\))?$", re.MULTILINE)


@dataclass(frozen=True)
class Quant(Step):
    """`quant.gguf`, and `fallbacks.json`: the tensors whose rows no block of the wanted type divides."""

    reference: Reference
    imatrix: Imatrix
    recipe: Recipe
    engine: Engine = field(default="by-tensor", compare=False)
    """Who makes it; both make the same bytes, so that it is no input."""
    kind: ClassVar[str] = "quant"

    @property
    def job(self) -> str:
        return f"{self.reference.source.id}:{self.recipe.name}"

    @property
    def label(self) -> str:
        return f"{self.job}: quantize"

    def inputs(self) -> dict[str, Any]:
        # The name of a recipe does not reach the file, so two names for one recipe share it.
        recipe = self.recipe.model_dump(exclude={"name", "tensors"})
        return {
            "reference": digest_of(self.reference),
            "imatrix": digest_of(self.imatrix) if self.recipe.imatrix else None,
            "recipe": recipe | {"tensors": list(self.recipe.tensors.items())},
            "toolchain": self.reference.toolchain.identity,
        }

    def make(self, room: Path, store: Store, task: Task) -> None:
        if self.engine == "by-tensor":
            shop = self._workshop(store)
            printed, parts = self._plan(shop)
            self._put_together(room / QUANT, parts, shop, task)
        else:
            reference = store.get(self.reference).file(REFERENCE)
            llama = tools(store, self.reference.toolchain)
            printed = self._run_llama_quantize(room, reference, self._matrix(store), llama, task)
        found = [f.model_dump() for f in fallbacks(printed)]
        (room / FALLBACKS).write_text(json.dumps(found, indent=1))

    def tensors(self, store: Store) -> list[QuantizedTensor]:
        """Return the tensors that the file is put together from, but for those that are the reference's."""
        _, parts = self._plan(self._workshop(store))
        return [self._tensor(part) for part in parts if not part.is_copied]

    def _matrix(self, store: Store) -> Path | None:
        return store.get(self.imatrix).file(self.imatrix.file_name) if self.recipe.imatrix else None

    def _workshop(self, store: Store) -> Workshop:
        reference, matrix = store.get(self.reference).file(REFERENCE), self._matrix(store)
        toolchain, importance = self.reference.toolchain, imatrix.read(matrix) if matrix else None
        llama = tools(store, toolchain)
        return Workshop(store, toolchain, llama, gguf_file.read(reference), importance, f"making {self.job}")

    def _plan(self, shop: Workshop) -> tuple[str, tuple[Part, ...]]:
        """Return what llama-quantize prints of a dry run, and what becomes of each tensor by that."""
        matrix = shop.importance.path if shop.importance else None
        printed = dry_run(shop.llama, shop.reference.path, self.recipe, matrix, f"planning {self.job}")
        return printed, plan.parts(shop.reference, planned(printed), shop.importance, self.recipe.base)

    def _put_together(self, path: Path, parts: Sequence[Part], shop: Workshop, task: Task) -> None:
        """Write the file from tensors of the store and of the reference."""
        head = header.write(shop.reference, [p.tensor for p in parts], FILE_TYPES[self.recipe.base], shop.importance)
        wanted = [
            Wanted(self._tensor(part), part, (len(head) + part.tensor.offset) % assembly.BLOCK)
            for part in parts
            if not part.is_copied
        ]
        made = shop.quantize(wanted, task)
        assembly.write(path, head, [_piece(part, shop.reference, made) for part in parts])

    def _tensor(self, part: Part) -> QuantizedTensor:
        # The imatrix counts for a tensor only where it changes it.
        matrix = self.imatrix if part.entry else None
        return QuantizedTensor(self.reference, matrix, part.source.name, part.tensor.type)

    def _run_llama_quantize(self, room: Path, reference: Path, matrix: Path | None, llama: Tools, task: Task) -> str:
        options = recipes.arguments(self.recipe)
        if matrix:
            # The tool writes the path that it was given into the file: a bare name is the same everywhere.
            (room / matrix.name).symlink_to(matrix)
            options = ["--imatrix", matrix.name, *options]

        def watch(text: str) -> None:
            if steps := re.findall(r"^\[ *(\d+)/ *(\d+)\]", text, re.MULTILINE):
                done, total = map(int, steps[-1])
                task.advance(done / total, f"{done} of {total} tensors")

        files = [reference, QUANT, self.recipe.base, str(llama.threads)]
        command = [llama.path("llama-quantize"), *options, *files]
        printed = shell.run(command, cwd=room, env=PATIENT, doing=f"making {self.job}", watch=watch)
        if matrix:
            (room / matrix.name).unlink()
        return printed.stdout + printed.stderr


def _piece(part: Part, reference: GGUFFile, made: dict[str, Artifact]) -> Piece:
    tensor = part.tensor
    if part.is_copied:
        return Piece(reference.path, reference.data_begin + part.source.offset, tensor.size, tensor.offset)
    artifact = made[tensor.name]
    return Piece(artifact.file(DATA), artifact.files[DATA].size - tensor.size, tensor.size, tensor.offset)


def dry_run(llama: Tools, reference: Path, recipe: Recipe, imatrix: Path | None, doing: str) -> str:
    """Let llama-quantize say what it would make of each tensor, and return what it prints: see `planned`.

    Raises `ToolchainError` where it refuses.
    """
    matrix = ["--imatrix", imatrix] if imatrix else []
    options = [*matrix, *recipes.arguments(recipe)]
    command = [llama.path("llama-quantize"), "--dry-run", *options, reference, QUANT, recipe.base]
    printed = shell.run(command, cwd=reference.parent, env=PATIENT, doing=doing)
    return printed.stdout + printed.stderr


def planned(printed: str) -> dict[str, str]:
    """Read the type that each tensor gets, by its name, off a dry run."""
    return {name: (becomes or was).upper() for name, was, becomes in PLANNED.findall(printed)}


def fallbacks(printed: str) -> list[Fallback]:
    """Read the tensors that llama-quantize gave another type than the recipe wanted."""
    lines = re.findall(
        r"warning: (\S+) +- ncols +\d+ not divisible by +\d+ \(required for type +(\S+)\)"
        r".*?-> falling back to +(\S+)",
        printed,
    )
    return [Fallback(tensor=tensor, wanted=wanted.upper(), used=used.upper()) for tensor, wanted, used in lines]
