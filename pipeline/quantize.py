"""One quant: llama-quantize on the reference with the imatrix and the recipe."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline import recipe as recipes
from pipeline import shell
from pipeline.convert import REFERENCE
from pipeline.result import Fallback
from pipeline.store import Step, digest_of
from pipeline.toolchain import tools

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.convert import Reference
    from pipeline.imatrix import Imatrix
    from pipeline.progress import Task
    from pipeline.result import Recipe
    from pipeline.store import Store
    from pipeline.toolchain import Tools

QUANT = "quant.gguf"
FALLBACKS = "fallbacks.json"
PLANNED = re.compile(r"^\[ *\d+/ *\d+\] (\S+) +- \[[\d, ]+\], type = +(\S+), size = .*?(?:\((\w+)\))?$", re.MULTILINE)


@dataclass(frozen=True)
class Quant(Step):
    """`quant.gguf`, and `fallbacks.json`: the tensors whose rows no block of the wanted type divides."""

    reference: Reference
    imatrix: Imatrix
    recipe: Recipe
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
        reference = store.get(self.reference).file(REFERENCE)
        llama = tools(store, self.reference.toolchain)
        matrix: list[str] = []
        if self.recipe.imatrix:
            # The tool writes the path that it was given into the file: a bare name is the same everywhere.
            (room / self.imatrix.file_name).symlink_to(store.get(self.imatrix).file(self.imatrix.file_name))
            matrix = ["--imatrix", self.imatrix.file_name]

        def watch(text: str) -> None:
            if steps := re.findall(r"^\[ *(\d+)/ *(\d+)\]", text, re.MULTILINE):
                done, total = map(int, steps[-1])
                task.advance(done / total, f"{done} of {total} tensors")

        options = [*matrix, *recipes.arguments(self.recipe)]
        files = [reference, QUANT, self.recipe.base, str(llama.threads)]
        printed = shell.run(
            [llama.path("llama-quantize"), *options, *files], cwd=room, doing=f"making {self.job}", watch=watch
        )
        (room / self.imatrix.file_name).unlink(missing_ok=True)
        found = [f.model_dump() for f in fallbacks(printed.stdout + printed.stderr)]
        (room / FALLBACKS).write_text(json.dumps(found, indent=1))


def dry_run(llama: Tools, reference: Path, recipe: Recipe, imatrix: Path | None, doing: str) -> str:
    """Let llama-quantize say what it would make of each tensor, and return what it prints: see `planned`.

    Raises `ToolchainError` where it refuses.
    """
    matrix = ["--imatrix", imatrix] if imatrix else []
    options = [*matrix, *recipes.arguments(recipe)]
    command = [llama.path("llama-quantize"), "--dry-run", *options, reference, QUANT, recipe.base]
    printed = shell.run(command, cwd=reference.parent, doing=doing)
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
