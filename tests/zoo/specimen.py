"""A broken file: after which incident, how it is made, and what the gate has to say of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.inspection import Inputs, examine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.result import Recipe, Verdict
    from zoo.kit import Kit


@dataclass(frozen=True)
class Subject:
    """What is judged: by the gate, and by upstream's own check."""

    gate: Callable[[], list[Verdict]]
    file: Callable[[], Path] | None
    """Makes the GGUF that llama.cpp is to load, and raises `ToolchainError` where a tool of it refuses; None where
    there is no file to load."""


@dataclass(frozen=True)
class Specimen:
    kind: str
    name: str
    incident: str
    """Where the like of it was published or reported: an issue or a pull request, else in words."""
    told: str
    """A pattern that the message must match: it names the fault, and no symptom of it."""
    make: Callable[[Kit], Subject]


SPECIMENS: list[Specimen] = []


def broken(kind: str, incident: str, told: str) -> Callable[[Callable[[Kit], Subject]], Callable[[Kit], Subject]]:
    """Register a maker of a broken file; its name is the file's."""

    def register(make: Callable[[Kit], Subject]) -> Callable[[Kit], Subject]:
        SPECIMENS.append(Specimen(kind, make.__name__.replace("_", " "), incident, told, make))
        return make

    return register


def named(specimen: Specimen, failures: Sequence[Verdict]) -> str | None:
    """Return the message that names the fault, None where none does."""
    messages = (f"{verdict.check}: {verdict.seen}" for verdict in failures)
    return next((message for message in messages if re.search(specimen.told, message)), None)


def converted(kit: Kit, file: Path, source: Path | None = None) -> Subject:
    """A reference, held against its source."""
    inputs = Inputs(file, source=source or kit.smol.source)
    return Subject(lambda: examine(inputs, kit.llama), lambda: file)


def quantized(kit: Kit, file: Path, recipe: Recipe | None) -> Subject:
    """A quant of SmolLM2, held against its reference, and against its recipe and our imatrix where there is one."""
    inputs = Inputs(file, reference=kit.smol.reference, imatrix=kit.smol.imatrix, recipe=recipe)
    return Subject(lambda: examine(inputs, kit.llama), lambda: file)
