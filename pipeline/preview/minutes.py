"""How long a job takes: an estimate from measured rates, for a machine without a GPU.

Rates of prompt processing, as `llama-perplexity --kl-divergence` has it, and of generation, with `llama-bench`, were
measured on two cores of an AMD EPYC with SmolLM2-135M and the pinned llama.cpp; those of quantizing on one core of a
Xeon with AVX-512, by tests/bench/kernels.py with an imatrix. Quantizing and prompt processing are taken to grow with
the cores; generation waits for the memory, and is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.chunks import CONTEXT
from pipeline.speed import GENERATED_TOKENS, PROMPT_TOKENS, REPETITIONS

if TYPE_CHECKING:
    from pipeline.gguf_file import GGUFFile
    from pipeline.preview.foreseen import ForeseenQuant

CORES = 16
"""Of the machine that is estimated for."""

# Weights a second and core, times 1e6. Those at 250 would have 340 to 1600, and wait for what is read, hashed and
# written; types that nobody has measured count as slow ones.
_QUANTIZING = {
    "F32": 500.0, "F16": 500.0, "BF16": 500.0, "Q8_0": 250.0, "Q1_0": 250.0, "Q2_0": 250.0, "TQ1_0": 250.0,
    "TQ2_0": 250.0, "MXFP4": 250.0, "Q6_K": 150.0, "Q5_0": 138.0, "Q3_K": 117.0, "Q4_0": 106.0, "NVFP4": 97.0,
    "IQ4_NL": 74.0, "IQ4_XS": 74.0, "Q5_1": 59.0, "Q4_K": 58.0, "Q5_K": 58.0, "Q4_1": 57.0,
    "Q2_K": 45.0, "IQ2_S": 12.0, "IQ3_S": 11.4, "IQ1_S": 9.6, "IQ2_XXS": 8.9, "IQ1_M": 8.2, "IQ3_XXS": 7.0,
    "IQ2_XS": 5.4,
}  # fmt: skip
_UNMEASURED = 5.0
# Weights that meet a token, a second and core: 473 tokens a second of 134.5 million weights on two cores.
_MEETING = 32e9
# Bytes of weights read a second, by all cores.
_READING = 11e9


def minutes(reference: GGUFFile, quant: ForeseenQuant, chunks: int, answer_tokens: int) -> float:
    """Estimate how long it takes to quantize, answer the test prompt, measure over `chunks`, and time."""
    active = _active(reference)
    read = quant.size * active / max(1, reference.parameters)
    runs = REPETITIONS + 1  # one to warm up
    met = chunks * CONTEXT + runs * PROMPT_TOKENS
    generated = answer_tokens + runs * GENERATED_TOKENS
    seconds = sum(t.parameters / _QUANTIZING.get(t.type, _UNMEASURED) for t in quant.tensors.values()) / (1e6 * CORES)
    return (seconds + met * active / (_MEETING * CORES) + generated * read / _READING) / 60


def _active(reference: GGUFFile) -> float:
    """Weights that a token meets: of experts those that are used, and no embedding that has an output beside it."""
    experts = reference.hyperparameter("expert_count")
    used = reference.metadata.get(f"{reference.architecture}.expert_used_count", experts)
    share = min(1.0, used / experts) if experts and isinstance(used, int) else 1.0
    total = 0.0
    for name, tensor in reference.tensors.items():
        if name == "token_embd.weight" and "output.weight" in reference.tensors:
            continue
        total += tensor.parameters * (share if "_exps." in name else 1.0)
    return total
