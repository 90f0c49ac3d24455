"""What llama.cpp makes of a model, known from its headers alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline import gguf_file

if TYPE_CHECKING:
    from pipeline.gguf_file import GGUFFile, Tensor
    from pipeline.result import Fallback, Recipe


@dataclass(frozen=True)
class ForeseenQuant:
    recipe: Recipe
    size: int
    """Bytes of the whole file."""
    tensors: dict[str, Tensor]
    """In the order of the file."""
    fallbacks: tuple[Fallback, ...]
    shards: tuple[int, ...]
    """Bytes of each, where the file is too large to be published whole; else empty."""

    @property
    def bits_per_weight(self) -> float:
        return gguf_file.bits_per_weight(self.tensors.values())

    @property
    def types(self) -> dict[str, int]:
        """Number of tensors of each type, most frequent first."""
        return gguf_file.type_counts(self.tensors.values())

    @property
    def files(self) -> tuple[int, ...]:
        """Bytes of each file that is published."""
        return self.shards or (self.size,)


@dataclass(frozen=True)
class Foreseen:
    reference: GGUFFile
    """Its metadata and tensors; its path is a bare name, since no file is left."""
    reference_size: int
    imatrix_size: int
    imatrix_exact: bool
    """Whether `imatrix_size` is more than an estimate; the others always are."""
    quants: tuple[ForeseenQuant, ...]
    """In the matrix's order."""

    @property
    def tensors_size(self) -> int:
        """Bytes of all quantized tensors, which the store keeps once for all quants."""
        sizes = {
            (name, tensor.type, quant.recipe.imatrix): tensor.size
            for quant in self.quants
            for name, tensor in quant.tensors.items()
            if tensor.type != self.reference.tensors[name].type
        }
        return sum(sizes.values())
