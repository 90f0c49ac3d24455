"""What llama.cpp makes of a model, known from its headers alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.gguf_file import GGUFFile
    from pipeline.result import Fallback, Recipe


@dataclass(frozen=True)
class ForeseenQuant:
    """One quant, to the byte."""

    recipe: Recipe
    size: int
    bits_per_weight: float
    types: dict[str, int]
    """Number of tensors of each ggml type."""
    fallbacks: tuple[Fallback, ...]
    shards: int
    """Files that it is published as; 1 for a whole one."""


@dataclass(frozen=True)
class Foreseen:
    """A model and its quants, in the order of the matrix."""

    reference: GGUFFile
    reference_size: int
    imatrix_size: int
    quants: tuple[ForeseenQuant, ...]
