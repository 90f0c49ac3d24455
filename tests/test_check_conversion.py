"""The converted reference against the safetensors: every fault by its name, and nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_gguf

from pipeline.check import arrangement, conversion
from pipeline.gguf_file import Tensor
from pipeline.weights import Weight


@pytest.fixture
def source(tmp_path):
    return tiny_gguf.write_source(tmp_path / "source", tiny_gguf.weights())


def verdicts(tmp_path, source, change=None):
    tensors = tiny_gguf.converted(tiny_gguf.weights())
    if change:
        tensors = change(dict(tensors)) or tensors
    return conversion.tensors(tiny_gguf.write_gguf(tmp_path / "reference.gguf", tensors), source)


def test_a_true_conversion_passes(tmp_path, source):
    (verdict,) = verdicts(tmp_path, source)
    assert verdict.outcome == "pass"
    assert verdict.seen == "21 of 21 tensors hold the source's values, 4 of them in llama.cpp's own order"


Q, K, UP = "blk.0.attn_q.weight", "blk.1.attn_q.weight", "blk.0.ffn_up.weight"


def swap(tensors):
    return tensors | {Q: tensors[K], K: tensors[Q]}


def unpermute(tensors):
    return tensors | {Q: tiny_gguf.weights()["model.layers.0.self_attn.q_proj.weight"]}


def transpose(tensors):
    return tensors | {"blk.0.attn_output.weight": np.ascontiguousarray(tensors["blk.0.attn_output.weight"].T)}


def reverse(tensors):
    return tensors | {UP: np.ascontiguousarray(tensors[UP][::-1])}


def shuffle(tensors):
    return tensors | {UP: tensors[UP][np.random.default_rng(1).permutation(512)]}


def one_value(tensors):
    changed = tensors[UP].copy()
    changed[3, 5] = 0.5
    return tensors | {UP: changed}


def norm_plus_one(tensors):
    return tensors | {"blk.1.ffn_norm.weight": tensors["blk.1.ffn_norm.weight"] + 1}


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (swap, f"{Q} holds the weights of {K}; {K} holds the weights of {Q}"),
        (unpermute, f"{Q} holds its rows in the source's order, and this architecture needs them permuted"),
        (transpose, "blk.0.attn_output.weight is transposed"),
        (reverse, f"{UP} holds its rows in reverse"),
        (shuffle, f"{UP} holds the source's values in another order"),
        (one_value, f"{UP} differs in 1 of 131072 values, first in row 3, column 5: 0.5, and "),
        (norm_plus_one, "blk.1.ffn_norm.weight holds the source's norm plus one"),
    ],
)
def test_a_wrong_tensor_is_named(tmp_path, source, change, seen):
    (verdict,) = verdicts(tmp_path, source, change)
    assert verdict.outcome == "fail"
    assert seen in verdict.seen
    assert verdict.advice


def test_a_stale_reference_is_named(tmp_path):
    other = tiny_gguf.write_source(tmp_path / "source", tiny_gguf.weights(seed=1))
    (verdict,) = verdicts(tmp_path, other)
    assert verdict.outcome == "fail"
    assert "21 of 21 tensors hold other values" in verdict.seen
    assert "another revision or model" in verdict.seen


def test_a_dropped_tensor_is_named(tmp_path, source):
    (verdict,) = verdicts(tmp_path, source, lambda t: {n: v for n, v in t.items() if n != UP})
    assert verdict.outcome == "fail"
    assert "1 weight of the source is not in the reference: 'model.layers.0.mlp.up_proj.weight'" in verdict.seen


def test_a_tied_output_may_be_left_out_and_another_may_not(tmp_path):
    values = tiny_gguf.weights()
    without = {n: v for n, v in tiny_gguf.converted(values).items() if n != "output.weight"}
    reference = tiny_gguf.write_gguf(tmp_path / "reference.gguf", without)
    tied = values | {"lm_head.weight": values["model.embed_tokens.weight"]}
    (verdict,) = conversion.tensors(reference, tiny_gguf.write_source(tmp_path / "tied", tied))
    assert verdict.outcome == "pass"
    (verdict,) = conversion.tensors(reference, tiny_gguf.write_source(tmp_path / "untied", values))
    assert verdict.outcome == "fail"
    assert "'lm_head.weight'" in verdict.seen


def test_nan_in_the_source_is_named(tmp_path):
    values = tiny_gguf.weights()
    values["model.layers.1.mlp.up_proj.weight"][7, 7] = np.nan
    source = tiny_gguf.write_source(tmp_path / "source", values)
    reference = tiny_gguf.write_gguf(tmp_path / "reference.gguf", tiny_gguf.converted(values))
    (verdict,) = conversion.tensors(reference, source)
    assert verdict.outcome == "fail"
    assert verdict.seen == "the source of blk.1.ffn_up.weight holds 1 NaN; 1 such tensors"


def test_an_unknown_class_fails_only_for_what_no_converter_changes(tmp_path):
    config = {"architectures": ["StrangeForCausalLM"]}
    source = tiny_gguf.write_source(tmp_path / "source", tiny_gguf.weights(), **config)
    (verdict,) = verdicts(tmp_path, source, lambda t: t | {UP: t[UP] * 2})
    assert verdict.outcome == "pass"
    assert "20 of 21 tensors" in verdict.seen
    (verdict,) = verdicts(tmp_path, source, lambda t: t | {"output.weight": t["output.weight"] * 2})
    assert verdict.outcome == "fail"
    assert "output.weight holds 2 times the source's values" in verdict.seen
    (verdict,) = verdicts(tmp_path, source, swap)
    assert verdict.outcome == "fail"


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"architectures": 7, "num_hidden_layers": []}'])
def test_a_strange_config_ends_in_a_verdict(tmp_path, source, content):
    (source / "config.json").write_bytes(content)
    assert verdicts(tmp_path, source)


def test_a_damaged_source_is_skipped(tmp_path, source):
    file = source / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    (verdict,) = verdicts(tmp_path, source)
    assert (verdict.outcome, "damaged" in verdict.seen) == ("skip", True)


def test_quantized_tensors_of_the_source_are_skipped(tmp_path, source):
    head, _, data = (source / "model.safetensors").read_bytes().partition(b"}}")
    header = json.loads(head[8:] + b"}}")
    for name in header:
        if name.endswith("gate_proj.weight"):
            entry = header[name]
            entry |= {"dtype": "F8_E4M3", "shape": [entry["shape"][0], entry["shape"][1] * 2]}
    text = json.dumps(header).encode()
    (source / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    skipped, passed = verdicts(tmp_path, source)
    assert "2 tensors of the source are quantized" in skipped.seen
    assert "19 of 21 tensors" in passed.seen


def layout_names(tensor, *parts, name="LlamaForCausalLM"):
    weights = [Weight(n, "F32", a.shape, a) for n, a in parts]
    known = name in arrangement.KNOWN
    rules = arrangement.Rules(known, name in arrangement.INTERLEAVED, name in arrangement.PLUS_ONE, 4, 2)
    return [(layout.name, layout.change) for layout in arrangement.layouts(tensor, weights, rules)]


def test_layouts_follow_the_architecture():
    square, tall = np.zeros((8, 8), np.float32), np.zeros((16, 8), np.float32)
    q = Tensor.of("blk.0.attn_q.weight", (8, 8), "F32")
    assert layout_names(q, ("q_proj.weight", square)) == [("permuted rows", "")]
    assert layout_names(q, ("q_proj.weight", square), name="Qwen2ForCausalLM") == [("", "")]
    assert ("transposed", "") in layout_names(q, ("h.0.attn.c_attn.weight", square), name="GPT2LMHeadModel")
    norm = Tensor.of("blk.0.attn_norm.weight", (8,), "F32")
    assert layout_names(norm, ("norm.weight", square[0]), name="GemmaForCausalLM") == [("plus one", "plus one")]
    assert layout_names(norm, ("norm.weight", square[0])) == [("", "")]
    gate = Tensor.of("blk.0.ffn_gate_exps.weight", (8, 8, 2), "F32")
    halves = layout_names(gate, ("mlp.experts.gate_up_proj", np.stack([tall, tall])))
    assert halves[0] == ("a half", "")
    experts = [(f"experts.{n}.gate_proj.weight", square) for n in range(2)]
    assert layout_names(gate, *experts) == [("", "")]
    embedding = Tensor.of("token_embd.weight", (8, 12), "F32")
    assert layout_names(embedding, ("embed_tokens.weight", tall)) == [("fewer rows", "")]
    assert layout_names(embedding, ("embed_tokens.weight", square)) == [("padding", "")]
