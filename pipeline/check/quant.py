"""What quantizing must have kept: a quant against its reference and its recipe, without running it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.check import blocks, derivation, metadata, structure, tensor_types, values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pipeline.check.metadata import ImatrixKeys
    from pipeline.gguf_file import GGUFFile
    from pipeline.result import Fallback, Verdict


@dataclass(frozen=True)
class Making:
    """How a quant was to be made, as far as it is known."""

    base: str
    """Its quant type."""
    types: Mapping[str, str]
    """The type that llama-quantize plans for each tensor."""
    fallbacks: Sequence[Fallback]
    """What it announced."""
    imatrix: Path | None
    keys: ImatrixKeys | None
    """What the file has to say of the imatrix."""
    library: Path
    """The toolchain's libggml-base."""


def verdicts(
    file: GGUFFile,
    reference: GGUFFile | None,
    making: Making | None,
    name: str | None = None,
    watch: Callable[[float], None] | None = None,
) -> list[Verdict]:
    """Judge a quant; None for what is not known. `name`: under which it is published, if not its own."""
    found = [structure.layout(file)]
    if reference is not None:
        found += [structure.tensors(file, reference), metadata.metadata(file, reference)]
    if making is None:
        found += [tensor_types.declared(file, name=name), metadata.imatrix_keys(file)]
    else:
        found += [tensor_types.types(file, making.types), tensor_types.declared(file, making.base, name)]
        found.append(structure.fallbacks(file, making.fallbacks))
        found.append(metadata.imatrix_keys(file, making.keys) if making.keys else metadata.no_imatrix(file))
    if found[0].outcome == "fail":  # the data is not all where the header says, so nothing can be said of it
        return found
    found += blocks.scan(file, reference, watch=watch)
    if reference is not None:
        found += values.compare(file, reference)
        if making is not None:
            found += derivation.derive(file, reference, making.imatrix, making.library)
    return found
