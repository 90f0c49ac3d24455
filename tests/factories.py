"""Plausible releases, of as many quants as a test wants."""

from __future__ import annotations

import hashlib
import math

from pipeline.result import (
    Answer,
    Estimate,
    Fallback,
    FileEntry,
    Offload,
    Provenance,
    Quality,
    QuantFile,
    Recipe,
    Release,
    Result,
    Speed,
    TextUse,
    Verdict,
)

PARAMETERS = 2_506_172_416
BITS = {
    "IQ1_S": 2.0,
    "IQ1_M": 2.2,
    "IQ2_XXS": 2.5,
    "IQ2_XS": 2.7,
    "IQ2_S": 2.8,
    "IQ2_M": 3.0,
    "Q2_K": 3.7,
    "IQ3_XXS": 3.4,
    "IQ3_XS": 3.7,
    "IQ3_S": 3.9,
    "IQ3_M": 4.0,
    "Q3_K_S": 3.9,
    "Q3_K_M": 4.2,
    "Q3_K_L": 4.5,
    "IQ4_XS": 4.6,
    "IQ4_NL": 4.8,
    "Q4_0": 4.8,
    "Q4_1": 5.2,
    "Q4_K_S": 4.9,
    "Q4_K_M": 5.2,
    "Q5_0": 5.7,
    "Q5_1": 6.2,
    "Q5_K_S": 5.7,
    "Q5_K_M": 5.9,
    "Q6_K": 6.6,
    "Q8_0": 8.5,
}
"""Bits per weight of a model with a large embedding, by quant."""

_CPU = Offload(layers=0, of=19)
_TEXT = "A large language model is a program that has read much text and guesses, word by word, what comes next."


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def quality(bits=5.2, **overrides):
    kld = 40 * math.exp(-1.42 * bits)
    return Quality(
        **{
            "mean_kld": Estimate(value=kld, error=kld / 60),
            "median_kld": kld / 3,
            "p999_kld": kld * 21,
            "max_kld": kld * 60,
            "ppl_ratio": Estimate(value=1 + kld * 1.1, error=kld / 20 + 0.0001),
            "same_top": Estimate(value=100 - 33 * math.sqrt(kld), error=0.12),
            "ppl": Estimate(value=11.4 * (1 + kld * 1.1), error=0.11),
            "chunks": 64,
            "context": 512,
            "offload": _CPU,
        }
        | overrides,
    )


def file(name="gemma-2b-Q4_K_M.gguf", bits=5.2, **overrides):
    return QuantFile(
        **{
            "name": name,
            "size": int(PARAMETERS * bits / 8) + 5_000_000,
            "sha256": digest(name),
            "parameters": PARAMETERS,
            "bits_per_weight": bits,
            "types": {"Q4_K": 108, "Q6_K": 19, "F32": 37},
            "weights": {"Q4_K": PARAMETERS - 600_000_000, "Q6_K": 599_900_000, "F32": 100_000},
            "fallbacks": (),
        }
        | overrides,
    )


def result(quant="Q4_K_M", *, withheld=False, **overrides):
    bits = BITS.get(quant, 5.0)
    verdicts = [
        Verdict(check="tensors", outcome="pass", seen="164 tensors, as in the source"),
        Verdict(check="tokenizer", outcome="pass", seen="1,214 texts, the same tokens"),
        Verdict(check="coherence", outcome="pass", seen="repeats no more than the reference"),
    ]
    if withheld:
        seen = f"same top token {100 - 33 * math.sqrt(quality(bits).mean_kld.value):.0f} % of the time"
        verdicts[-1] = Verdict(
            check="divergence", outcome="fail", seen=seen, advice="Take a larger type, or loosen the gate."
        )
    return Result(
        **{
            "job": f"google/gemma-2b:{quant}",
            "recipe": Recipe(name=quant, base=quant),
            "artifact": digest(f"artifact {quant}"),
            "file": file(f"gemma-2b-{quant}.gguf", bits),
            "verdicts": tuple(verdicts),
            "answer": Answer(text=f"{_TEXT}\n\n({quant} would say so.)", stopped=False),
            "quality": quality(bits),
            "speed": Speed(
                prompt_tokens=512,
                prompt_rate=Estimate(value=240 - 9 * bits, error=1.2),
                generated_tokens=128,
                generation_rate=Estimate(value=110 / bits, error=0.2),
                repetitions=5,
                threads=16,
                machine="AMD EPYC 9354, 16 cores, 64 GB",
                offload=_CPU,
            ),
            "provenance": provenance(),
        }
        | overrides,
    )


def provenance(**overrides):
    return Provenance(
        **{
            "source": "google/gemma-2b",
            "revision": "9cf48e52b224239de00d483ec8eb84fb8d0f3a3a",
            "source_digest": digest("source"),
            "architecture": "gemma",
            "context_length": 8192,
            "llama_cpp": "0c1e57098",
            "llama_cpp_origin": "llama-cpp-python==0.3.36",
            "flags": ("-DGGML_NATIVE=OFF", "-ffp-contract=off"),
            "reference": file("gemma-2b-BF16.gguf", 16.0, types={"BF16": 127, "F32": 37}),
            "reference_quality": quality(
                mean_kld=Estimate(value=0.00031, error=0.00001),
                median_kld=0.00012,
                p999_kld=0.0031,
                max_kld=0.012,
                ppl_ratio=Estimate(value=1.0, error=0.00011),
                same_top=Estimate(value=99.6, error=0.05),
                ppl=Estimate(value=11.4, error=0.11),
            ),
            "reference_answer": Answer(text=_TEXT, stopped=False),
            "prompt": "What is a Large Language Model?",
            "max_tokens": 512,
            "chat_template": False,
            "imatrix": FileEntry(name="imatrix.gguf", size=2_068_563, sha256=digest("imatrix")),
            "imatrix_entries": 126,
            "calibration": TextUse(name="calibration.txt", sha256=digest("calibration"), chunks=100, context=512),
            "evaluation": TextUse(name="evaluation.txt", sha256=digest("evaluation"), chunks=64, context=512),
        }
        | overrides,
    )


def fallbacks(count=3, wanted="Q4_K", used="Q5_0"):
    return tuple(Fallback(tensor=f"blk.{n}.ffn_down.weight", wanted=wanted, used=used) for n in range(count))


def release(quants=("Q2_K", "Q4_K_M", "Q8_0"), withheld=(), **overrides):
    """A release of these quants, and of these that were withheld, in that order; names or whole results."""
    results = [result(q) if isinstance(q, str) else q for q in quants]
    results += [result(q, withheld=True) if isinstance(q, str) else q for q in withheld]
    files = [FileEntry(name=r.file.name, size=r.file.size, sha256=r.file.sha256) for r in results if not r.withheld]
    common = overrides.get("provenance") or provenance()
    return Release(
        **{
            "id": digest("release")[:16],
            "repo": "nold/gemma-2b-GGUF",
            "base_model": "google/gemma-2b",
            "pipeline": "0.1.0",
            "provenance": common,
            "results": tuple(results),
            "files": (*files, common.imatrix),
        }
        | overrides,
    )
