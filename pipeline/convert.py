"""Safetensors to the reference GGUF, in bf16 or f16 as the source is, by llama.cpp's own converter."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline import shell
from pipeline.artifact import Step
from pipeline.errors import ToolchainError
from pipeline.source import CARD
from pipeline.toolchain import tools

if TYPE_CHECKING:
    from pipeline.progress import Task
    from pipeline.source import Source
    from pipeline.store import Store
    from pipeline.toolchain import Toolchain

REFERENCE = "reference.gguf"
CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
# No code from a model and no network: what the converter needs is in the directory, or it fails.
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@dataclass(frozen=True)
class Reference(Step):
    """The model as GGUF without any loss that we add: what every quant is made from and compared with."""

    source: Source
    toolchain: Toolchain
    kind: ClassVar[str] = "reference"

    @property
    def label(self) -> str:
        return f"{self.source.id}: convert"

    def inputs(self) -> dict[str, Any]:
        return {
            "source": self.source.digest,
            "toolchain": self.toolchain.identity,
            "transformers": transformers_version(),
        }

    def make(self, room: Path, store: Store, task: Task) -> None:
        layout = lay_out(self.source, self.source.open(store), room)

        def watch(text: str) -> None:
            if percents := re.findall(r"Writing:\s+(\d+)%", text):
                task.advance(int(percents[-1]) / 100, "writing")

        converter = tools(store, self.toolchain).converter
        shell.run(
            [sys.executable, converter, *arguments(layout, room)],
            cwd=room,
            env=OFFLINE,
            doing=f"converting {self.source.id}",
            watch=watch,
        )
        shutil.rmtree(layout.parent)


def lay_out(source: Source, directory: Path, room: Path) -> Path:
    """Show the converter the files of a source, which are in `directory`, in the one way that it always sees.

    It writes the directory's name into the file and reads the card beside the weights: so it gets a directory with the
    model's name and the files that we know.
    """
    layout = room / "layout" / source.name
    layout.mkdir(parents=True)
    for file in source.converted:
        (layout / file.name).symlink_to(directory.resolve() / file.name)
    if source.card:
        (layout / CARD).write_text(source.card, encoding="utf-8")
    return layout


def arguments(layout: Path, room: Path) -> list[object]:
    """Return the converter's arguments, with which it writes `REFERENCE` into `room`."""
    return [layout, "--outfile", room / REFERENCE, "--outtype", "auto"]


@cache
def transformers_version() -> str:
    """Return the version of the library that reads tokenizers for the converter: it decides bytes, too."""
    try:
        return version("transformers")
    except PackageNotFoundError as error:
        # Where nothing is converted, as where a run is planned, it counts which one the converting machines install.
        if CONSTRAINTS.is_file() and (
            pin := re.search(r"^transformers==(\S+)$", CONSTRAINTS.read_text(), re.MULTILINE)
        ):
            return pin[1]
        raise ToolchainError(
            "The converter needs packages that are not installed. Run `make setup`, or `pip install -e '.[convert]'`."
        ) from error
