"""What files of the zoo are made of: SmolLM2-135M, a tiny mixture of experts, and the real tools."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import models
from machine import ROOT, empty_store

from pipeline import demo, inspection, job, matrix, recipe, run
from pipeline.convert import REFERENCE
from pipeline.measure import LOGITS, write_logits
from pipeline.quantize import QUANT, Quant
from pipeline.text import TEXTS
from pipeline.toolchain import tools
from zoo.draft import Draft

if TYPE_CHECKING:
    from pipeline.result import Recipe
    from pipeline.store import Store
    from pipeline.toolchain import Toolchain, Tools


@dataclass
class Model:
    """A model's source, its reference and its imatrix, and quants of it, out of the store."""

    store: Store
    steps: job.Steps

    @property
    def source(self) -> Path:
        return self.steps.source.open(self.store)

    @property
    def reference(self) -> Path:
        return self.store.get(self.steps.reference).file(REFERENCE)

    @property
    def imatrix(self) -> Path:
        return self.store.get(self.steps.imatrix).file(self.steps.imatrix.file_name)

    def quant(self, recipe_: Recipe) -> Path:
        return self.store.get(Quant(self.steps.reference, self.steps.imatrix, recipe_)).file(QUANT)


@dataclass
class Kit:
    """The models, and a room for what is made of them."""

    store: Store
    toolchain: Toolchain
    room: Path

    @cached_property
    def llama(self) -> Tools:
        return tools(self.store, self.toolchain)

    @cached_property
    def smol(self) -> Model:
        """SmolLM2-135M-Instruct: the demo's model, whose artifacts a finished demo has left in the store."""
        return self.model(demo.model(self.store))

    @cached_property
    def experts(self) -> Model:
        return self.tiny(models.build("mixtral", self.room / "mixtral"))

    def tiny(self, directory: Path) -> Model:
        """A model of `tests/models.py`, or one in its manner, with little calibration text."""
        path = self.room / f"{directory.name}.yml"
        pin = matrix.load(ROOT / "matrix.yml").llama_cpp
        path.write_text(
            "version: 1\n"
            f"llama_cpp: {{sdist: {pin.name}=={pin.version}, sha256: {pin.sha256}, commit: '{pin.commit}'}}\n"
            "defaults: {organization: zoo, quants: [Q8_0], calibration_chunks: 4, evaluation_chunks: 4}\n"
            f"models: [{{source: tiny/{directory.name}, path: {directory}}}]\n"
        )
        return self.model(matrix.load(path).models[0])

    def model(self, model: matrix.model.Model) -> Model:
        (steps,) = run.look([model], self.toolchain, Path("matrix.yml"))
        return Model(self.store, steps)

    def logits(self, model: Model) -> Path:
        """The reference's log-probabilities over a few chunks, as `inspect` computes them for each file anew."""
        place = self.room / f"logits-{model.steps.model.name}"
        if not place.exists():
            place.mkdir()
            text = TEXTS / inspection.TEXT.name
            write_logits(
                self.llama, model.reference, text, inspection.CHUNKS, place, "logits for the zoo", lambda _: None
            )
        return place / LOGITS

    def directory(self) -> Path:
        """A new directory, until `clear`."""
        scratch = self.room / "scratch"
        scratch.mkdir(exist_ok=True)
        return Path(tempfile.mkdtemp(dir=scratch))

    def clear(self) -> None:
        """Remove what was made of the models: it is some gigabytes in all."""
        shutil.rmtree(self.room / "scratch", ignore_errors=True)

    def draft(self, quant: str | None = None) -> Draft:
        """SmolLM2's reference, or one of its quants, taken apart."""
        return Draft(self.smol.quant(recipe.builtin(quant)) if quant else self.smol.reference)

    def write(self, draft: Draft, name: str = "SmolLM2-135M-Instruct.gguf") -> Path:
        return draft.write(self.directory() / name)


def open_kit(machine_store: Store, toolchain: Toolchain, room: Path) -> Kit:
    """A kit whose store begins with what the machine's has of SmolLM2; what is made besides is thrown away."""
    (steps,) = run.look([demo.model(machine_store)], toolchain, Path("matrix.yml"))
    machine_store.get(steps.imatrix)
    store = empty_store(machine_store, room / "store")
    for kind in ("demo-model", "reference", "imatrix", "logits", "quant"):
        (store.root / kind).mkdir()
        for artifact in (machine_store.root / kind).glob("*"):
            (store.root / kind / artifact.name).symlink_to(artifact)
    return Kit(store, toolchain, room)
