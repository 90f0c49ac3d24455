"""What becomes of each tensor of the reference: copied as it is, or quantized, with the imatrix or without.

Follows `llama_model_quantize_impl` and `tensor_requires_imatrix` in llama.cpp's src/llama-quant.cpp, and refuses what
they refuse. The types themselves come from llama-quantize, which is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipeline.errors import ToolchainError
from pipeline.gguf_file import ALIGNMENT, SIZES, Tensor, shown
from pipeline.recipe import EMBEDDING_TYPES, NEED_IMATRIX
from pipeline.weights import ARRAYS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.gguf_file import GGUFFile
    from pipeline.imatrix import Entry, ImatrixFile

EMBEDDINGS: Final = frozenset({"token_embd.weight", "per_layer_token_embd.weight"})
# ggml does not read the imatrix for these (`quantize_…` in ggml/src/ggml-quants.c).
WITHOUT_IMATRIX: Final = frozenset({"F32", "F16", "BF16", "Q1_0", "Q2_0", "Q8_0", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"})


@dataclass(frozen=True)
class Part:
    """A tensor of the file to be."""

    source: Tensor
    """As the reference has it."""
    tensor: Tensor
    """As the quant has it."""
    entry: Entry | None = None
    """What the imatrix has of it, where it changes any byte."""

    @property
    def is_copied(self) -> bool:
        return self.source.type == self.tensor.type


def parts(reference: GGUFFile, types: Mapping[str, str], importance: ImatrixFile | None, base: str) -> tuple[Part, ...]:
    """Return the tensors of a quant in the order of its file.

    `types` is what `llama-quantize --dry-run` says, `base` the quant type. Raises `ToolchainError` for what
    llama-quantize refuses only when it comes to the tensor.
    """
    if types.keys() != reference.tensors.keys():
        raise ToolchainError(
            f"llama-quantize plans {len(types)} tensors and {reference.path.name} has {len(reference.tensors)}: what"
            " it prints is not understood. Run with --engine llama-quantize."
        )
    found: list[Part] = []
    end = 0
    for name, type_ in types.items():
        found.append(_part(reference.tensors[name], type_, end, importance, base))
        end += padded(found[-1].tensor.size)
    return tuple(found)


def padded(size: int) -> int:
    # llama-quantize pads to this even where general.alignment is another.
    return -(-size // ALIGNMENT) * ALIGNMENT


def _part(source: Tensor, type_: str, offset: int, importance: ImatrixFile | None, base: str) -> Part:
    tensor = Tensor.of(source.name, source.shape, type_, offset)
    if source.type == type_:
        return Part(source, tensor)
    if source.type not in ARRAYS or source.type == "F64":
        raise ToolchainError(
            f"{shown(source.name)} is {source.type} in the reference, and is not quantized again. Leave it as it is, by"
            " a recipe whose `tensors` give it this type."
        )
    block, _ = SIZES[type_]
    if source.shape[0] % block:
        raise ToolchainError(
            f"{shown(source.name)} has rows of {source.shape[0]} weights, which blocks of {type_}, {block} each, do not"
            " fill. Give it another type, such as Q8_0, in the recipe."
        )
    entry = _entry(source, importance)
    if entry is None and _needs_imatrix(source.name, type_, base):
        raise ToolchainError(
            f"{shown(source.name)} becomes {type_}, which cannot be made without an imatrix, and there is none for it."
            " Take a larger type, or a longer calibration text."
        )
    return Part(source, tensor, None if type_ in WITHOUT_IMATRIX else entry)


def _entry(source: Tensor, importance: ImatrixFile | None) -> Entry | None:
    entry = importance.entries.get(source.name) if importance else None
    wanted = source.shape[0] * (source.shape[2] if len(source.shape) > 2 else 1)
    if entry is None or entry.values == wanted:
        return entry
    if source.name in EMBEDDINGS:
        return None
    raise ToolchainError(
        f"The imatrix has {entry.values} numbers for {shown(source.name)}, which needs {wanted}: it is of another"
        " model. Compute it from this reference."
    )


def _needs_imatrix(name: str, type_: str, base: str) -> bool:
    if name in EMBEDDINGS or name == "output.weight":
        return type_ not in EMBEDDING_TYPES
    return type_ in NEED_IMATRIX or (type_ == "Q2_K" and base == "Q2_K_S")
