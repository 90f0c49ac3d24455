"""What llama-quantize can make: its quant types, the tensor types in them, and the options a recipe asks for.

The tables follow llama.cpp as pinned in matrix.yml. Sources: `QUANT_OPTIONS` in tools/quantize/quantize.cpp
(types and aliases), `ggml_quantize_chunk` in ggml/src/ggml.c (what can be written at all),
`tensor_requires_imatrix` in src/llama-quant.cpp, and the block structs in ggml/src/ggml-common.h.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from pipeline.result import Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping

TENSOR_TYPES: Final[Mapping[str, float]] = MappingProxyType(
    {
        "F32": 32.0,
        "F16": 16.0,
        "BF16": 16.0,
        "Q1_0": 1.125,
        "Q2_0": 2.25,
        "Q4_0": 4.5,
        "Q4_1": 5.0,
        "Q5_0": 5.5,
        "Q5_1": 6.0,
        "Q8_0": 8.5,
        "MXFP4": 4.25,
        "NVFP4": 4.5,
        "Q2_K": 2.625,
        "Q3_K": 3.4375,
        "Q4_K": 4.5,
        "Q5_K": 5.5,
        "Q6_K": 6.5625,
        "TQ1_0": 1.6875,
        "TQ2_0": 2.0625,
        "IQ1_S": 1.5625,
        "IQ1_M": 1.75,
        "IQ2_XXS": 2.0625,
        "IQ2_XS": 2.3125,
        "IQ2_S": 2.5625,
        "IQ3_XXS": 3.0625,
        "IQ3_S": 3.4375,
        "IQ4_NL": 4.5,
        "IQ4_XS": 4.25,
    }
)
"""ggml types that llama-quantize can write to bits per weight: the size of a block over its weights.

ggml has more types (Q8_1, Q8_K, integers, F64); asked for one of them, llama-quantize aborts.
"""

EMBEDDING_TYPES: Final[tuple[str, ...]] = tuple(
    name for name in TENSOR_TYPES if name not in {"IQ1_S", "IQ2_XS", "IQ2_XXS"}
)
"""Types for the token embedding and the output tensor.

An imatrix does not cover these two tensors, and the types left out cannot be written without one
(`ggml_quantize_requires_imatrix`): llama-quantize aborts on them.
"""

NEED_IMATRIX: Final = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})


class QuantType(NamedTuple):
    """One quant type. `tensor_type`: what most tensors get, and all of them in a pure quant.

    `bits`: bits per weight of a whole model, nominally. A model with a large vocabulary, or with rows that
    do not divide into blocks, lands above it (gemma-2b: +6 %, SmolLM2-135M: +30 %).
    """

    tensor_type: str
    bits: float
    needs_imatrix: bool = False


# Bits come from the table of Llama-3.1-8B in tools/quantize/README.md. Types it lacks: Q4_0 to Q5_1 from the
# sizes that `llama-quantize --help` gives for Llama-3-8B (8.03e9 weights); Q1_0, Q2_0 and the ternary types
# from block sizes, with the types that src/llama-quant.cpp gives to the embedding and the output tensor.
# MXFP4_MOE is counted as the Q8_0 that it is for everything but experts, so an estimate errs upwards.
QUANT_TYPES: Final[Mapping[str, QuantType]] = MappingProxyType(
    {
        "Q1_0": QuantType("Q1_0", 1.48),
        "Q2_0": QuantType("Q2_0", 2.68),
        "Q4_0": QuantType("Q4_0", 4.64),
        "Q4_1": QuantType("Q4_1", 5.11),
        "MXFP4_MOE": QuantType("MXFP4", 8.5),
        "Q5_0": QuantType("Q5_0", 5.57),
        "Q5_1": QuantType("Q5_1", 6.04),
        "IQ2_XXS": QuantType("IQ2_XXS", 2.3824, needs_imatrix=True),
        "IQ2_XS": QuantType("IQ2_XS", 2.5882, needs_imatrix=True),
        "IQ2_S": QuantType("IQ2_XS", 2.7403, needs_imatrix=True),
        "IQ2_M": QuantType("IQ2_S", 2.9294, needs_imatrix=True),
        "IQ1_S": QuantType("IQ1_S", 2.0042, needs_imatrix=True),
        "IQ1_M": QuantType("IQ1_M", 2.1460, needs_imatrix=True),
        "TQ1_0": QuantType("TQ1_0", 2.19),
        "TQ2_0": QuantType("TQ2_0", 2.52),
        "Q2_K": QuantType("Q2_K", 3.1593),
        "Q2_K_S": QuantType("Q2_K", 2.9697, needs_imatrix=True),
        "IQ3_XXS": QuantType("IQ3_XXS", 3.2548, needs_imatrix=True),
        "IQ3_S": QuantType("IQ3_S", 3.6606),
        "IQ3_M": QuantType("IQ3_S", 3.7628),
        "IQ3_XS": QuantType("IQ3_S", 3.4977, needs_imatrix=True),
        "Q3_K_S": QuantType("Q3_K", 3.6429),
        "Q3_K_M": QuantType("Q3_K", 3.9960),
        "Q3_K_L": QuantType("Q3_K", 4.2979),
        "IQ4_NL": QuantType("IQ4_NL", 4.6818),
        "IQ4_XS": QuantType("IQ4_XS", 4.4597),
        "Q4_K_S": QuantType("Q4_K", 4.6672),
        "Q4_K_M": QuantType("Q4_K", 4.8944),
        "Q5_K_S": QuantType("Q5_K", 5.5704),
        "Q5_K_M": QuantType("Q5_K", 5.7036),
        "Q6_K": QuantType("Q6_K", 6.5633),
        "Q8_0": QuantType("Q8_0", 8.5008),
        "F16": QuantType("F16", 16.0005),
        "BF16": QuantType("BF16", 16.0005),
        "F32": QuantType("F32", 32.0),
    }
)
"""Every quant type of llama-quantize but COPY, which quantizes nothing; in the order of its help."""

ALIASES: Final[Mapping[str, str]] = MappingProxyType({"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"})


def quant_type(name: str) -> str | None:
    """The one name of a quant type, in any case, alias or not; None for any other."""
    upper = name.upper() if name.isascii() else ""  # a dotless i becomes an I, and is none
    upper = ALIASES.get(upper, upper)
    return upper if upper in QUANT_TYPES else None


def tensor_type(name: str) -> str | None:
    """The name of a tensor type in upper case, whatever its case; None for what cannot be written."""
    upper = name.upper() if name.isascii() else ""
    return upper if upper in TENSOR_TYPES else None


def builtin(name: str) -> Recipe:
    """The recipe that is a quant type and nothing else. KeyError for a name that is none."""
    known = quant_type(name)
    if known is None:
        raise KeyError(name)
    return Recipe(name=known, base=known)


def needs_imatrix(recipe: Recipe) -> bool:
    """Whether llama-quantize refuses the recipe without an imatrix."""
    # A pure IQ3_XS has none of the IQ3_XXS tensors for which it needs one.
    by_base = QUANT_TYPES[recipe.base].needs_imatrix and not (recipe.pure and recipe.base == "IQ3_XS")
    return by_base or not NEED_IMATRIX.isdisjoint(recipe.tensors.values())


def mixes(base: str) -> bool:
    """Whether `tensors` has an effect on this quant type: llama-quantize ignores it for floats."""
    return QUANT_TYPES[base].tensor_type not in {"F32", "F16", "BF16"}


def bits_per_weight(recipe: Recipe) -> float:
    """Nominal bits per weight, for a first estimate of size: the base's, without the recipe's own tensors."""
    base = QUANT_TYPES[recipe.base]
    return TENSOR_TYPES[base.tensor_type] if recipe.pure else base.bits


def arguments(recipe: Recipe) -> list[str]:
    """The recipe's options for llama-quantize; the base goes after the file names, as its type."""
    options = []
    if recipe.token_embedding:
        options += ["--token-embedding-type", recipe.token_embedding.lower()]
    if recipe.output:
        options += ["--output-tensor-type", recipe.output.lower()]
    for regex, kind in recipe.tensors.items():
        options += ["--tensor-type", f"{regex}={kind.lower()}"]
    if recipe.pure:
        options.append("--pure")
    return options
