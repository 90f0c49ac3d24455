"""What was measured is held against limits that go by the bits of a file's weights."""

from __future__ import annotations

import json

import factories
import pytest
from machine import ROOT

from pipeline.check import quality
from pipeline.matrix import Gates, Limit
from pipeline.result import Estimate, QuantFile

SEEN = {row["file"]: row for row in json.loads((ROOT / "tests/data/quality.json").read_text())}
"""Real files: every type of SmolLM2-135M, as it is and padded so that no tensor falls back, and tiny random models."""
NONSENSE = {"TQ1_0", "TQ2_0", "Q2_0", "padded TQ1_0", "padded Q1_0", "padded Q2_0", "padded TQ2_0"}
"""Types for models that were trained in them; of any other model nothing is left."""
# Llama-3-8B on wikitext-2 (llama.cpp, tools/perplexity/README.md): type of most weights, mean KLD, same top.
LLAMA_3_8B = [
    ("Q8_0", 0.0014, 97.7),
    ("Q6_K", 0.0055, None),
    ("Q5_K", 0.0108, None),
    ("Q4_K", 0.0313, 91.9),
    ("IQ4_XS", 0.0363, None),
    ("Q4_0", 0.0719, None),
    ("Q3_K", 0.0844, None),
    ("IQ3_XXS", 0.184, None),
    ("Q2_K", 0.445, 71.0),
    ("IQ2_XXS", 0.81, None),
    ("IQ1_S", 2.2, None),
]


def read(row):
    return factories.quality(
        mean_kld=Estimate(value=row["mean_kld"], error=0),
        p999_kld=row["p999_kld"],
        same_top=Estimate(value=row["same_top"], error=0),
        ppl_ratio=Estimate(value=row["ppl_ratio"], error=0),
    )


def judged(row, limits=None):
    file = factories.file(weights=row["weights"])
    return quality.gates(read(row), file, limits or Gates())


@pytest.mark.parametrize("file", SEEN)
def test_the_defaults_let_healthy_files_pass_and_stop_nonsense(file):
    found = judged(SEEN[file])
    assert ("fail" in {v.outcome for v in found}) == (file in NONSENSE), found
    if file in NONSENSE:
        assert {"mean KLD", "perplexity ratio"} <= {v.check for v in found if v.outcome == "fail"}


def smallest(name):
    """Whether a type is below what a model of 135M parameters is any good in: it passes, and needs no headroom."""
    return name in {"padded IQ1_S", "padded IQ2_XXS"}


@pytest.mark.parametrize("file", [name for name in SEEN if name not in NONSENSE and not smallest(name)])
def test_three_times_what_healthy_files_read_still_passes(file):
    row = SEEN[file]
    worse = {name: row[name] * 3 for name in ("mean_kld", "p999_kld")} | {"ppl_ratio": row["ppl_ratio"] ** 3}
    if "tiny" not in file:  # random models have no favourite token
        worse["same_top"] = max(100 - 3 * (100 - row["same_top"]), row["same_top"] / 3)
    failed = [v for v in judged(row | worse) if v.outcome == "fail"]
    assert failed == []


@pytest.mark.parametrize(("kind", "kld", "same_top"), LLAMA_3_8B)
def test_three_times_what_a_large_model_reads_would_still_pass(kind, kld, same_top):
    limits, (_, bits) = Gates(), quality.bits_of(factories.file(weights={kind: 1}))
    assert 3 * kld <= limits.max_mean_kld.at(bits)
    if same_top:
        assert 100 - 2.5 * (100 - same_top) >= limits.min_same_top.at(bits)


@pytest.mark.parametrize(
    ("weights", "kind", "bits"),
    [
        ({"Q4_K": 70, "Q6_K": 30, "F32": 1}, "Q4_K", 4.5),
        ({"Q8_0": 100, "F32": 1}, "Q8_0", 8.5),
        ({"BF16": 100, "F32": 1}, "BF16", 16.0),
        ({"F32": 5}, "F32", 32.0),
        # SmolLM2's IQ1_S: a fifth of it is, and that decides.
        ({"IQ4_NL": 57, "Q8_0": 21, "IQ1_S": 18, "Q2_K": 2, "Q4_0": 2}, "IQ1_S", 1.5625),
        # What little has does not: it needs what is above it to make a twentieth.
        ({"IQ4_NL": 80, "Q8_0": 16, "Q2_K": 4}, "IQ4_NL", 4.5),
        ({"IQ4_NL": 80, "Q8_0": 14, "Q2_K": 4, "Q3_K": 2}, "Q3_K", 3.4375),
        ({"NEW_1": 80, "Q8_0": 20}, "Q8_0", 8.5),
        ({"NEW_1": 80}, "no known type", 32.0),
    ],
)
def test_the_class_of_a_file(weights, kind, bits):
    assert quality.bits_of(factories.file(weights=weights)) == (kind, bits)


def test_a_result_of_before_weights_were_counted_goes_by_tensors():
    file = factories.file().model_dump(mode="json")
    del file["weights"]
    assert quality.bits_of(QuantFile.model_validate(file)) == ("Q4_K", 4.5)


def test_limits_by_bits():
    limit = Limit.of({4: 0.5, 8: 0.1})
    assert [limit.at(bits) for bits in (16, 8, 7.9, 4, 3.9)] == [0.1, 0.1, 0.5, 0.5, None]
    assert Limit.of({0.0: 3}).at(1.5) == 3


def test_both_numbers_and_the_class_are_named():
    limits = Gates(max_mean_kld=Limit.of({4: 0.09}), min_same_top=Limit.of({0: 91}))
    measured = factories.quality(mean_kld=Estimate(value=0.1, error=0.001), same_top=Estimate(value=90, error=0.2))
    found = {v.check: v for v in quality.gates(measured, factories.file(), limits)}
    where = "for files with weights in Q4_K (4.5 bits)"
    assert found["mean KLD"].seen == f"mean KL divergence 0.1, at most 0.09 allowed {where}"
    assert found["same top"].seen == f"same top token 90 %, at least 91 % wanted {where}"
    assert {v.outcome for v in found.values() if v.check in ("mean KLD", "same top")} == {"fail"}
    assert all(v.advice for v in found.values() if v.outcome == "fail")
    assert {v.check for v in found.values()} == set(quality.CHECKS)


def test_what_has_no_limit_is_not_judged():
    off = Gates(max_mean_kld=None, max_p999_kld=None, min_same_top=None, max_ppl_ratio=Limit.of({8: 1.1}))
    assert quality.gates(factories.quality(), factories.file(), off) == []


def test_finite():
    assert quality.finite(None).outcome == "fail"
    assert quality.finite(factories.quality()).outcome == "pass"


def made(quant, size, kld, error=0.001, **overrides):
    measured = factories.quality(mean_kld=Estimate(value=kld, error=error))
    file = factories.file(f"{quant}.gguf").model_copy(update={"size": size})
    return factories.result(quant, quality=measured, file=file, **overrides)


def test_a_larger_file_that_is_worse_is_dominated():
    found = quality.dominated([made("Q8_0", 900, 0.02), made("Q4_1", 500, 0.01), made("Q2_K", 300, 0.4)])
    assert set(found) == {"Q8_0"}
    verdict = found["Q8_0"]
    assert (verdict.check, verdict.outcome) == ("dominated", "warn")
    assert verdict.seen == (
        "mean KL divergence 0.02 ± 0.002 in 900 bytes, where the smaller Q4_1 reads 0.01 ± 0.002 in 500"
    )
    assert verdict.advice == "Take Q4_1: it is smaller and nearer to the model."


@pytest.mark.parametrize(
    ("larger", "smaller"),
    [
        ((0.0110, 0.001), (0.0100, 0.001)),  # within both intervals
        ((0.0014, 0), (0.0012, 0)),  # below the noise floor
        ((0.0100, 0.001), (0.0200, 0.001)),  # better
        ((float("nan"), 0.001), (0.0200, 0.001)),
    ],
)
def test_what_is_not_measurably_worse_is_not_dominated(larger, smaller):
    assert quality.dominated([made("Q8_0", 900, *larger), made("Q4_1", 500, *smaller)]) == {}


def test_files_of_one_size_and_unmeasured_ones_dominate_nothing():
    broken = factories.result("Q2_K", quality=None)
    assert quality.dominated([made("Q4_0", 500, 0.5), made("Q4_K_S", 500, 0.01), broken]) == {}
    assert quality.dominated([]) == {}
