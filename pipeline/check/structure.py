"""Does the file hold what the reference holds: the same tensors, in the same shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.result import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.gguf_file import GGUFFile
    from pipeline.result import Fallback

AGAIN = "Quantize again; if it stays so, llama-quantize and the converter of this llama.cpp do not fit together."


def tensors(quant: GGUFFile, reference: GGUFFile) -> Verdict:
    """Compare names and shapes. The order is llama-quantize's own, which sorts tensors by layer."""
    missing = [name for name in reference.tensors if name not in quant.tensors]
    foreign = [name for name in quant.tensors if name not in reference.tensors]
    reshaped = [
        name
        for name, tensor in quant.tensors.items()
        if name in reference.tensors and tensor.shape != reference.tensors[name].shape
    ]
    for what, names in (("missing", missing), ("not the reference's", foreign), ("of another shape", reshaped)):
        if names:
            seen = f"{len(names)} of {len(reference.tensors)} tensors {what}: {', '.join(names[:3])}"
            return Verdict(check="tensors", outcome="fail", seen=seen, advice=AGAIN)
    seen = f"{len(quant.tensors)} tensors with the names and shapes of the reference's"
    return Verdict(check="tensors", outcome="pass", seen=seen)


def fallbacks(quant: GGUFFile, announced: Sequence[Fallback]) -> Verdict:
    """Hold the fallbacks that llama-quantize announced against the types in the file."""
    wrong = [f for f in announced if f.tensor not in quant.tensors or quant.tensors[f.tensor].type != f.used]
    if wrong:
        first = wrong[0]
        seen = f"{first.tensor} should have fallen back to {first.used}; {len(wrong)} such tensors"
        return Verdict(check="fallbacks", outcome="fail", seen=seen, advice=AGAIN)
    if not announced:
        return Verdict(check="fallbacks", outcome="pass", seen="every tensor has the type of its recipe")
    seen = f"{len(announced)} of {len(quant.tensors)} tensors have rows that no block of the wanted type divides"
    advice = "Choose by the bits per weight that the file really has, not by its name."
    return Verdict(check="fallbacks", outcome="warn", seen=seen, advice=advice)
