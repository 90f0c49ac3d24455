"""Has each tensor the type that was planned, and is a file of the quant type that its header and its name say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from pipeline.check.verdict import failed, passed, skipped, warned
from pipeline.gguf_file import SIZES, shown
from pipeline.recipe import QUANT_TYPES, quant_type

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from pipeline.gguf_file import GGUFFile, Tensor
    from pipeline.result import Verdict

AGAIN = "Quantize again with the recipe's options."
RENAME = "Name the file after what it holds, or quantize again."
RELABEL = "Quantize again, unless the types were chosen tensor by tensor."
# Of `enum llama_ftype` in include/llama.h: what llama-quantize can make.
FILE_TYPES: Final[Mapping[int, str]] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    40: "Q1_0",
    41: "Q2_0",
}
# Set where a loader guessed the type (LLAMA_FTYPE_GUESSED).
GUESSED = 1024
# Beside its main type, what a quant type gives to tensors of blocks (`llama_tensor_get_type_impl` in
# src/llama-quant.cpp), tensors of the embedding and the output left out.
_MIXED: Final[Mapping[str, str]] = {
    "Q4_0": "Q4_1",
    "Q5_0": "Q5_1",
    "MXFP4_MOE": "Q8_0",
    "Q2_K": "Q3_K Q4_K Q5_K",
    "Q2_K_S": "Q4_K Q5_K",
    "Q3_K_S": "Q5_K",
    "Q3_K_M": "Q4_K Q5_K",
    "Q3_K_L": "Q4_K Q5_K",
    "Q4_K_S": "Q5_K",
    "Q4_K_M": "Q5_K Q6_K",
    "Q5_K_M": "Q6_K",
    "IQ1_S": "IQ2_XXS Q2_K Q4_K Q5_K",
    "IQ1_M": "IQ2_XXS Q2_K Q4_K Q5_K",
    "IQ2_XXS": "Q2_K Q4_K Q5_K",
    "IQ2_XS": "Q2_K Q4_K Q5_K",
    "IQ2_S": "IQ3_S Q4_K Q5_K",
    "IQ2_M": "IQ3_S Q4_K Q5_K",
    "IQ3_XXS": "IQ2_S IQ3_S Q3_K Q4_K Q5_K",
    "IQ3_XS": "IQ3_XXS Q4_K Q5_K",
    "IQ3_S": "Q4_K Q5_K",
    "IQ3_M": "Q4_K Q5_K",
    "IQ4_NL": "Q5_K",
    "IQ4_XS": "Q5_K",
}
# Where rows do not divide into blocks (`tensor_type_fallback` there).
_FALLBACK: Final[Mapping[str, str]] = {
    **dict.fromkeys(["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"], "IQ4_NL"),
    **dict.fromkeys(["Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"], "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
_FLOATS = frozenset({"F32", "F16", "BF16"})
# Types that models come in, and that quantizing may leave as they are.
_NATIVE = frozenset({"MXFP4", "NVFP4"})
_NAMES = "|".join(sorted([*QUANT_TYPES, "Q3_K", "Q4_K", "Q5_K"], key=len, reverse=True))


def types(quant: GGUFFile, planned: Mapping[str, str]) -> Verdict:
    """Compare each tensor's type with the plan: its name to its type in upper case, as `--dry-run` prints it."""
    wrong = [t for name, t in quant.tensors.items() if planned.get(name, t.type) != t.type]
    if wrong:
        first = ", ".join(f"{shown(t.name)} is {t.type} and not {planned[t.name]}" for t in wrong[:3])
        seen = f"{len(wrong)} of {len(quant.tensors)} tensors are not of the planned type: {first}"
        return failed("types", f"{seen}{' …' if len(wrong) > 3 else ''}", AGAIN)
    if left_out := [name for name in quant.tensors if name not in planned]:
        return warned("types", f"{len(left_out)} tensors are not in the plan: {shown(left_out[0])}", AGAIN)
    return passed("types", f"{len(quant.tensors)} tensors of the planned types")


def declared(quant: GGUFFile, base: str | None = None, name: str | None = None) -> Verdict:
    """Hold the types of the tensors against what general.file_type and the file's name say.

    Only what llama-quantize could never make of that type is a mismatch; a name that is no quant type's (Q4_K_L,
    UD-Q2_K_XL) claims nothing. `base`: the quant type that it was made as, where that is known: general.file_type has
    to be this one, and the types are left to the plan. `name`: under which it is published, if not the name it has.
    """
    named = name_claim(name or quant.path.name)
    number = quant.metadata.get("general.file_type")
    header = FILE_TYPES.get(number & ~GUESSED) if isinstance(number, int) else None
    if base is not None and header != base:
        said = header or f"{shown(str(number))}, which is none" if number is not None else "nothing"
        return failed("types", f"made as {base}, and general.file_type says {said}: mislabelled", AGAIN)
    judged = _judged(quant.tensors.values())
    for claim, what, verdict, advice in (
        (named, "named", failed, RENAME),
        (None if base else header, "labelled (general.file_type)", warned, RELABEL),
    ):
        if claim and (other := _contradiction(claim, judged)):
            return verdict("types", f"{what} {claim}, but {other}: mislabelled", advice)
    if named and header and named != header and not (named in _FLOATS and header in _FLOATS):
        return warned("types", f"named {named}, and general.file_type says {header}", RENAME)
    if named or header:
        return passed("types", f"the types of the quant type {named or header}")
    return skipped("types", "neither the file's name nor general.file_type names a quant type")


def name_claim(file_name: str) -> str | None:
    """Return the quant type that a file's name ends in, None where it names none, or one with a prefix of its own."""
    stem = re.sub(r"(-\d{5}-of-\d{5})?(\.gguf)?$", "", file_name, flags=re.IGNORECASE)
    found = re.search(rf"(?<![a-z0-9])({_NAMES})(?:-imat)?$", stem, re.IGNORECASE | re.ASCII)
    # "UD": types chosen tensor by tensor.
    return quant_type(found[1]) if found and not re.search(r"UD[-_.]$", stem[: found.start()], re.IGNORECASE) else None


class _Share(NamedTuple):
    """Weights of one type in rows that 256, 32 or neither divides."""

    type: str
    block: int
    weights: int


def _judged(tensors: Collection[Tensor]) -> list[_Share]:
    """Return the matrices whose types tell what a file is: of the blocks, or all where there are no others."""
    matrices = [t for t in tensors if len(t.shape) > 1 and t.name.endswith("weight") and t.parameters]
    inner = [t for t in matrices if "embd" not in t.name and t.name != "output.weight"]
    blocks = (256, 128, 64, 32, 1)
    return [_Share(t.type, next(b for b in blocks if t.shape[0] % b == 0), t.parameters) for t in inner or matrices]


def _contradiction(claim: str, judged: list[_Share]) -> str:
    """Name the type of most weights where llama-quantize gives it to no block of a quant type `claim`.

    Or where hardly any weight has the claim's main type: over all architectures that we planned, a third has it.
    """
    total = sum(share.weights for share in judged)
    foreign = _counts(share for share in judged if share.type not in _possible(claim, share.block))
    if 2 * sum(foreign.values()) > total:
        return _most(foreign, total)
    main = QUANT_TYPES[claim].tensor_type
    counts = _counts(share for share in judged if share.type not in _FLOATS | _NATIVE)
    fitting = sum(share.weights for share in judged if share.type in _fitting(main, share.block))
    if claim == "MXFP4_MOE" or main in _FLOATS or 10 * fitting >= sum(counts.values()):
        return ""
    return f"{_most(counts, sum(counts.values()))}, and hardly any {main}"


def _counts(shares: Iterable[_Share]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for share in shares:
        counts[share.type] = counts.get(share.type, 0) + share.weights
    return counts


def _most(counts: dict[str, int], total: int) -> str:
    most = max(counts, key=lambda name: counts[name])
    part = 100 * counts[most] / total
    return f"most weights are {most} ({part:.0f} %)" if part > 50 else f"the most frequent type is {most}"


def _possible(claim: str, block: int) -> set[str]:
    """Types that tensors may have whose rows are divided by `block` weights."""
    main = QUANT_TYPES[claim].tensor_type
    kinds = (main, *_MIXED.get(claim, "").split())
    return set().union(_NATIVE, *(_fitting(kind, block) for kind in kinds))


def _fitting(kind: str, block: int) -> set[str] | frozenset[str]:
    """A type, or what takes its place in rows that are divided by `block` weights."""
    if kind in _FLOATS:
        return _FLOATS | _NATIVE
    fitting = kind if block % SIZES[kind][0] == 0 else _FALLBACK.get(kind, kind)
    return {fitting} if block % SIZES[fitting][0] == 0 else _FLOATS
