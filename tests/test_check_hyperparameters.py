"""The reference's numbers against config.json."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_gguf

from pipeline.check import hyperparameters


def compare(tmp_path, metadata=None, config=None, tensors=None):
    given = {"output_norm.weight": np.zeros(256, np.float32)} | (tensors or {})
    reference = tiny_gguf.write_gguf(tmp_path / "reference.gguf", given, **(metadata or {}))
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    (source / "config.json").write_text(json.dumps(tiny_gguf.CONFIG | (config or {})))
    (verdict,) = hyperparameters.compare(reference, source)
    return verdict


def test_what_agrees_passes(tmp_path):
    verdict = compare(tmp_path)
    assert (verdict.outcome, verdict.seen) == ("pass", "12 hyperparameters agree with config.json")


@pytest.mark.parametrize(
    ("metadata", "seen"),
    [
        ({"rope.freq_base": 10000.0}, "the rope base is 10000, and config.json says 100000: rope_theta"),
        ({"rope.freq_base": None}, "the rope base is missing, so that llama.cpp takes 10000, and config.json says"),
        (
            {"attention.layer_norm_rms_epsilon": 1e-6},
            "the epsilon of the norms is 1e-06, and config.json says 1e-05: rms_norm_eps",
        ),
        ({"context_length": 4096}, "the context length is 4096, and config.json says 2048"),
        ({"attention.head_count_kv": 4}, "the number of key-value heads is 4, and config.json says 2"),
        ({"block_count": 1}, "the number of layers is 1, and config.json says 2"),
        ({"rope.dimension_count": 32}, "the rope turns 32 dimensions of each head, and 64 of 64 in config.json"),
        ({"rope.scaling.type": "yarn"}, "the rope scaling is 'yarn', and config.json says 'default'"),
    ],
)
def test_a_wrong_number_is_named_with_both_values(tmp_path, metadata, seen):
    verdict = compare(tmp_path, metadata)
    assert verdict.outcome == "fail"
    assert seen in verdict.seen


def test_a_part_of_each_head_may_be_turned(tmp_path):
    assert compare(tmp_path, {"rope.dimension_count": 16}, {"partial_rotary_factor": 0.25}).outcome == "pass"
    seen = compare(tmp_path, {}, {"partial_rotary_factor": 0.25}).seen
    assert "the rope turns 64 dimensions of each head, and 16 of 64 in config.json" in seen


def test_both_spellings_of_the_rope_are_read(tmp_path):
    old = {"rope_parameters": None, "rope_theta": 100000.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    scaled = {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}
    assert compare(tmp_path, scaled, old).outcome == "pass"
    wrong = compare(tmp_path, scaled | {"rope.scaling.factor": 4.0}, old)
    assert "the factor of the rope scaling is 4, and config.json says 2: factor" in wrong.seen
    assert "the rope scaling is 'none', and config.json says 'linear'" in compare(tmp_path, {}, old).seen


def test_what_config_json_leaves_out_is_the_default_of_its_class(tmp_path):
    """Llama's default epsilon is 1e-6."""
    config = {"rms_norm_eps": None}
    source = {k: v for k, v in (tiny_gguf.CONFIG | config).items() if v is not None}
    reference = tiny_gguf.write_gguf(tmp_path / "r.gguf", {"output_norm.weight": np.zeros(256, np.float32)})
    (tmp_path / "config.json").write_text(json.dumps(source))
    (verdict,) = hyperparameters.compare(reference, tmp_path)
    assert "the epsilon of the norms is 1e-05, and config.json says 1e-06" in verdict.seen


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}


def test_the_factors_of_llama_3(tmp_path):
    scaled = {"rope.freq_base": 500000.0}
    assert "rope_freqs.weight is missing" in compare(tmp_path, scaled, {"rope_parameters": LLAMA3}).seen
    wavelength = 2 * np.pi * 500000.0 ** (np.arange(32) / 32)
    smooth = (1024 / wavelength - 1) / 3
    factors = np.where(wavelength < 256, 1, np.where(wavelength > 1024, 8, 1 / ((1 - smooth) / 8 + smooth)))
    factors = factors.astype(np.float32)
    right = compare(tmp_path, scaled, {"rope_parameters": LLAMA3}, {"rope_freqs.weight": factors})
    assert right.outcome == "pass"
    wrong = compare(tmp_path, scaled, {"rope_parameters": LLAMA3 | {"factor": 32.0}}, {"rope_freqs.weight": factors})
    assert "rope_freqs.weight holds 8 for frequency" in wrong.seen
    assert "config.json gives 32" in wrong.seen


def test_an_unknown_class_only_warns(tmp_path):
    config = {"architectures": ["StrangeForCausalLM"], "model_type": "strange"}
    assert compare(tmp_path, {"context_length": 4096}, config).outcome == "warn"


def test_a_vocabulary_that_is_too_large(tmp_path):
    assert "the vocabulary has 320 tokens, and config.json says 300" in compare(tmp_path, {}, {"vocab_size": 300}).seen
    assert compare(tmp_path, {}, {"vocab_size": 384}).outcome == "pass"


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": ["x"], "rope_parameters": "no", "hidden_size": "256", "rms_norm_eps": float("nan")},
        {"model_type": "llama", "num_hidden_layers": -1, "num_attention_heads": 0},
        {"text_config": {"hidden_size": 10**400}, "auto_map": {"AutoConfig": "evil.py--Evil"}},
    ],
)
def test_a_hostile_config_ends_in_a_verdict(tmp_path, config):
    assert compare(tmp_path, {}, config).seen
