"""A quant's values against its reference's: every fault by its name, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_gguf

from pipeline import ggml, gguf_file
from pipeline.check import values
from pipeline.weights import from_f32


@pytest.fixture(scope="module")
def tensors():
    return tiny_gguf.converted(tiny_gguf.weights())


@pytest.fixture(scope="module")
def reference(tensors, tmp_path_factory):
    return tiny_gguf.write_gguf(tmp_path_factory.mktemp("reference") / "reference.gguf", tensors)


def compare(reference, tmp_path, tensors, kind="Q8_0"):
    (verdict,) = values.compare(tiny_gguf.write_gguf(tmp_path / "quant.gguf", tensors, kind), reference)
    return verdict


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "TQ1_0", "TQ2_0"])
def test_a_good_quant_passes(reference, tensors, tmp_path, kind):
    verdict = compare(reference, tmp_path, tensors, kind)
    assert verdict.outcome == "pass"
    assert "rows of 21 tensors are the reference's" in verdict.seen


Q, UP, DOWN = "blk.0.attn_q.weight", "blk.0.ffn_up.weight", "blk.1.ffn_down.weight"
OUT = "blk.0.attn_output.weight"


def requantized(tensor, kind):
    type_ = ggml.quants.GGMLQuantizationType[kind]
    return ggml.dequantize(ggml.quants.quantize(tensor, type_), kind)


def some_rows(tensor):
    changed = tensor.copy()
    changed[::4] = np.roll(changed[::4], 1, axis=0)
    return changed


FAULTS = {
    "swapped": (
        lambda t: t | {Q: t["blk.1.attn_q.weight"], "blk.1.attn_q.weight": t[Q]},
        f"{Q} holds the weights of blk.1.attn_q.weight",
    ),
    "shuffled": (lambda t: t | {UP: np.roll(t[UP], 5, axis=0)}, f"{UP} holds the reference's rows in another order"),
    "transposed": (lambda t: t | {OUT: np.ascontiguousarray(t[OUT].T)}, f"{OUT} is the reference's, transposed"),
    "zero": (lambda t: t | {UP: t[UP] * 0}, f"{UP} is all zero, and the reference's is not"),
    "scaled": (lambda t: t | {DOWN: t[DOWN] * 2}, f"{DOWN} holds 2 times the reference's values"),
    "negated": (lambda t: t | {DOWN: -t[DOWN]}, f"{DOWN} holds other values than the reference's"),
    "some rows": (lambda t: t | {UP: some_rows(t[UP])}, f"{UP} holds other values than the reference's in "),
    "norm": (lambda t: t | {"blk.1.ffn_norm.weight": t["blk.0.ffn_norm.weight"]}, "blk.1.ffn_norm.weight holds the"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_tensor_is_named(reference, tensors, tmp_path, fault):
    change, seen = FAULTS[fault]
    verdict = compare(reference, tmp_path, change(dict(tensors)))
    assert verdict.outcome == "fail"
    assert seen in verdict.seen
    assert verdict.advice


def test_a_quant_of_another_model_is_named(reference, tmp_path):
    verdict = compare(reference, tmp_path, tiny_gguf.converted(tiny_gguf.weights(seed=1)), "Q4_0")
    assert verdict.outcome == "fail"
    assert "21 of 21 tensors have nothing in common with the reference's" in verdict.seen


@pytest.mark.parametrize(("kind", "via"), [("Q8_0", "Q4_0"), ("Q8_0", "Q5_0"), ("Q5_1", "Q4_0"), ("F16", "Q8_0")])
def test_a_quant_of_a_quant_is_named(reference, tensors, tmp_path, kind, via):
    twice = {n: requantized(v, via) if v.ndim > 1 else v for n, v in tensors.items()}
    verdict = compare(reference, tmp_path, twice, kind)
    assert verdict.outcome == "fail"
    assert "was it made from a quantized file, or from another revision?" in verdict.seen
    assert "Quantize from the unquantized reference" in verdict.advice


def test_experts_are_looked_at_one_by_one(tmp_path):
    name, random = "blk.0.ffn_up_exps.weight", np.random.default_rng(0)
    experts = random.normal(size=(8, 64, 256)).astype(np.float32)
    reference = tiny_gguf.write_gguf(tmp_path / "reference.gguf", {name: experts})
    assert compare(reference, tmp_path, {name: experts}, "Q4_0").outcome == "pass"
    swapped = experts[[0, 1, 3, 2, 4, 5, 6, 7]]
    verdict = compare(reference, tmp_path, {name: swapped}, "Q4_0")
    assert f"{name} holds other values than the reference's in 2 of 8 experts: 2, 3" in verdict.seen


def test_rows_of_zeros_are_fine(tmp_path):
    name = "token_embd.weight"
    rows = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    rows[::2] = 0
    rows[1] = 1e-6
    reference = tiny_gguf.write_gguf(tmp_path / "reference.gguf", {name: rows})
    assert compare(reference, tmp_path, {name: rows}, "Q4_0").outcome == "pass"


def test_a_broken_block_ends_in_a_verdict(reference, tensors, tmp_path):
    quant = tiny_gguf.write_gguf(tmp_path / "quant.gguf", tensors, "Q8_0")
    tensor = quant.tensors[UP]
    with quant.path.open("r+b") as file:
        file.seek(quant.data_begin + tensor.offset)
        file.write(b"\xff" * tensor.size)
    (verdict,) = values.compare(gguf_file.read(quant.path), reference)
    assert verdict.outcome == "fail"
    assert f"{UP} holds NaN or Inf" in verdict.seen


def test_nothing_to_compare_is_a_skip(reference, tmp_path):
    assert compare(reference, tmp_path, {"other": np.ones((4, 32), np.float32)}).outcome == "skip"


def test_bf16_is_rounded_to_even_and_keeps_nan():
    numbers = np.array([1.0, 1.00390625, 1.01171875, -0.0, np.inf, np.nan], np.float32)
    assert [hex(n) for n in from_f32(numbers, "BF16")] == ["0x3f80", "0x3f80", "0x3f82", "0x8000", "0x7f80", "0x7fc0"]


def test_a_hostile_name_is_escaped(tmp_path):
    name, rows = "\x1b[2J" + "x" * 500, np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    reference = tiny_gguf.write_gguf(tmp_path / "reference.gguf", {name: rows})
    verdict = compare(reference, tmp_path, {name: rows * 2})
    assert verdict.outcome == "fail"
    assert verdict.seen.startswith("'\\x1b[2Jxxx")
    assert len(verdict.seen) < 200
