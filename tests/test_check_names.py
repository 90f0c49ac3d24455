"""Every file name of a release leads to its own file; where one does not, it is said which, and to which."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pipeline import file_names, matrix
from pipeline.check.names import names
from pipeline.errors import BadInputError
from pipeline.recipe import QUANT_TYPES

PATTERNS = ("{m}-{q}.gguf", "{m}_{q}.gguf", "{m}.{q}.gguf", "{q}.gguf")


def judged(*quants, model="gemma-2b", pattern="{m}-{q}.gguf", others=("imatrix.gguf",)):
    files = {q: [pattern.replace("{m}", model).replace("{q}", q)] for q in quants}
    return names(files, others)


def outcomes(verdicts):
    return [v.outcome for v in verdicts]


def only(verdicts):
    (verdict,) = verdicts
    assert verdict.check == "names"
    return verdict


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("model", ["gemma-2b", "SmolLM2-135M-Instruct", "Llama-3.2-1B", "Qwen3.5-27B-A3B", "GGUF-7b"])
def test_every_quant_type_of_llama_quantize_passes(pattern, model):
    quants = [q for q in QUANT_TYPES if q != "F16"]  # which BF16 would be taken for
    assert outcomes(judged(*quants, model=model, pattern=pattern)) == ["pass"]
    assert outcomes(judged(*(q for q in QUANT_TYPES if q != "BF16"), model=model, pattern=pattern)) == ["pass"]


def test_bf16_in_place_of_f16():
    verdict = only(judged("F16", "BF16"))
    assert verdict.outcome == "fail"
    assert verdict.seen == "`-hf repo:F16` leads to gemma-2b-BF16.gguf, not to gemma-2b-F16.gguf"
    assert "Take F16 or BF16 out of `quants`" in verdict.advice


def test_a_variant_in_place_of_its_type():
    tag, label = judged("IQ4_XS", "IQ4_XS-EMB8")
    assert (tag.outcome, label.outcome) == ("fail", "fail")
    assert "`-hf repo:IQ4_XS` leads to gemma-2b-IQ4_XS-EMB8.gguf" in tag.seen
    assert "the Hub labels IQ4_XS-EMB8 IQ4_XS too" in label.seen
    assert "2 files to Ollama and LM Studio" in label.seen


def test_a_label_that_two_quants_share_though_llama_cpp_tells_them_apart():
    verdict = only(judged("Q8_0", "Q8_0_4"))
    assert verdict.outcome == "fail"
    assert "the Hub labels Q8_0_4 Q8_0 too (gemma-2b-Q8_0_4.gguf)" in verdict.seen


@pytest.mark.parametrize("recipe", ["Q4_K_L", "Q5_K_L", "mine"])
def test_a_recipe_that_the_hub_has_no_label_for_is_a_warning(recipe):
    verdict = only(judged("Q4_K_M", recipe, "Q8_0"))
    assert verdict.outcome == "warn"
    assert f"the Hub reads no quant in gemma-2b-{recipe}.gguf" in verdict.seen


@pytest.mark.parametrize("recipe", ["Q6_K_L", "Q2_K_L", "Q3_K_XL", "UD-Q4_K_XL", "q8_0_xl"])
def test_recipes_that_the_hub_does_label(recipe):
    assert outcomes(judged("Q2_K", "Q4_K_M", recipe, "Q6_K")) == ["pass"]


def test_a_recipe_under_another_label():
    verdict = only(judged("Q4_K_M", "Q8_0-emb"))
    assert verdict.outcome == "warn"
    assert "the Hub labels gemma-2b-Q8_0-emb.gguf Q8_0, not Q8_0-emb" in verdict.seen


def test_a_model_that_is_called_like_a_quant():
    verdict = only(judged("Q2_K", "Q6_K", model="foo-Q8_0-distill"))
    assert verdict.outcome == "warn"
    assert verdict.seen == "`-hf repo:Q8_0`, which is no quant of this release, leads to foo-Q8_0-distill-Q2_K.gguf"
    wrong = only(judged("Q2_K", "Q8_0", model="foo-Q8_0-distill"))
    assert wrong.outcome == "fail"
    assert "`-hf repo:Q8_0` leads to foo-Q8_0-distill-Q2_K.gguf, not to foo-Q8_0-distill-Q8_0.gguf" in wrong.seen
    assert "Change `filename` in matrix.yml" in wrong.advice
    assert outcomes(judged("Q2_K", "Q8_0", model="foo-Q8_0-distill", pattern="{q}.gguf")) == ["pass"]


def test_a_recipe_that_is_called_like_a_part_of_the_model():
    verdict = judged("Q2_K", "small", model="smollm-small-2b")[0]
    assert verdict.outcome == "fail"
    assert "`-hf repo:small` leads to smollm-small-2b-Q2_K.gguf" in verdict.seen


@pytest.mark.parametrize("model", ["foo-mmproj", "imatrix-7b", "mtp-1b"])
def test_a_model_that_llama_cpp_takes_for_none(model):
    verdict = only(judged("Q2_K", "Q8_0", model=model))
    assert verdict.outcome == "warn"
    assert "`-hf repo:Q2_K` leads to no file, and so for 2 of 2 quants" in verdict.seen


def test_a_quant_that_is_not_last():
    assert outcomes(judged("Q2_K", "Q8_0", pattern="{q}-{m}.gguf")) == ["pass"]
    found = judged("Q2_K", "Q8_0", model="gemma", pattern="{q}_{m}.gguf")
    assert outcomes(found) == ["warn", "warn"]
    assert "leads to no file" in found[0].seen
    assert "labels Q2_K_gemma.gguf Q2_K_GEMMA, not Q2_K; 1 more" in found[1].seen


def test_shards():
    shards = [f"m-Q8_0-{n:05}-of-00003.gguf" for n in (1, 2, 3)]
    assert outcomes(names({"Q4_K_M": ["m-Q4_K_M.gguf"], "Q8_0": shards})) == ["pass"]
    found = names({"Q8_0": ["m-Q8_0-00001-of-00002.gguf"]})
    assert only(found).outcome == "fail"
    assert "m-Q8_0-00001-of-00002.gguf of Q8_0 is whole, and is named like one of several shards" in found[0].seen


def test_names_that_no_disk_takes():
    found = judged("Q8_0", "con", pattern="{q}.gguf")
    assert found[0].seen == "con.gguf is the name of a device on Windows"
    assert found[0].outcome == "fail"
    assert "con-fusion-Q8_0.gguf" not in str(judged("Q8_0", model="con-fusion"))
    assert "holds ':', which no file may on Windows" in names({"Q8_0": ["a:Q8_0.gguf"]})[0].seen
    assert "ends in a dot or a blank" in names({}, ["LICENSE."])[0].seen
    assert "longer than 255 bytes" in names({"Q8_0": ["a" * 300 + "-Q8_0.gguf"]})[0].seen
    assert "\x1b" not in names({"Q8_0": ["\x1b[31m-Q8_0.gguf"]})[0].seen


def test_two_files_of_one_name():
    found = judged("Q8_0", "imatrix", pattern="{q}.gguf")
    assert found[0].seen == "imatrix.gguf is the name of two files of the release"
    found = judged("Q8_0", others=["LICENSE", "license"])
    assert found[0].seen == "LICENSE and license differ in case only, and are one file on Windows and macOS"
    assert {v.outcome for v in found} == {"fail"}


@pytest.mark.parametrize(
    ("name", "label"),
    [  # as @huggingface/gguf's own tests have them
        ("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("Codestral-22B-v0.1.gguf", None),
        ("Codestral-22B-v0.1-F32-Q2_K.gguf", "Q2_K"),
        ("Codestral-22B-v0.1-IQ3_XS.gguf", "IQ3_XS"),
        ("Codestral-22B-v0.1-Q4_0_4_4.gguf", "Q4_0"),
        ("Qwen3-4B-UD-Q2_K_XL.gguf", "UD-Q2_K_XL"),
        ("gpt-oss-20b-MXFP4.gguf", "MXFP4"),
        ("Qwable-v1-35B-A3B-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("gemma-2b_IQ3_S.gguf", "IQ3_S"),
        ("gemma-2b-q8_0.gguf", "Q8_0"),
    ],
)
def test_labels_of_the_hub(name, label):
    assert file_names.label(name) == label


MATRIX = """\
version: 1
llama_cpp: {{git: https://github.com/ggml-org/llama.cpp, commit: {commit}}}
defaults: {{organization: me, quants: [Q8_0, F16, BF16]}}
recipes:
  imatrix: {{base: Q8_0}}
models:
  - {{source: a/one}}
  - {{source: a/two}}
  - {{source: a/foo-Q8_0-distill, quants: [Q2_K, Q8_0]}}
  - {{source: a/three, quants: [Q8_0, imatrix], filename: "{{quant}}.gguf"}}
  - {{source: a/four, quants: [Q8_0, imatrix], imatrix_format: dat, filename: "{{quant}}.gguf"}}
  - {{source: a/good, quants: [Q8_0, Q4_K_M]}}
"""


def test_the_matrix_refuses_them_before_any_work():
    text = MATRIX.format(commit="a" * 40)
    with pytest.raises(BadInputError) as raised:
        matrix.parse(text.encode(), "matrix.yml", Path("/nowhere"))
    said = str(raised.value).splitlines()
    assert len(said) == 3
    assert said[0].startswith("matrix.yml:3:38: `-hf repo:F16` leads to one-BF16.gguf, not to one-F16.gguf. Take F16")
    assert "matrix.yml:9:" in said[1]
    assert "`-hf repo:Q8_0` leads to foo-Q8_0-distill-Q2_K.gguf" in said[1]
    assert "imatrix.gguf is the name of two files of the release" in said[2]


def test_a_matrix_of_very_many_quants_is_judged_at_once():
    files = {f"R{n}": [f"a-model-of-theirs-R{n}.gguf"] for n in range(20_000)}
    began = time.monotonic()
    assert outcomes(names(files)) == ["warn"]
    assert time.monotonic() - began < 5
