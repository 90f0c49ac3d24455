"""The reference's logits against transformers', on logits made here."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import tiny_gguf

from pipeline.check import logits

CONTEXT, VOCABULARY = 64, 320


def write_logits(path, predictions):
    """Write log-probabilities as llama-perplexity does; `predictions` a position a row."""
    tokens = np.arange(CONTEXT, dtype=np.int32)
    content = struct.pack("<8sIII", b"_logits_", CONTEXT, VOCABULARY, 1) + tokens.tobytes()
    for row in predictions:
        low = max(row.min(), row.max() - 16)
        scale = (row.max() - low) / 65535
        numbers = np.rint(np.clip(row - low, 0, None) / scale).astype(np.uint16)
        content += struct.pack("<ff", scale, low) + numbers.tobytes()
    path.write_bytes(content)
    return path


def log_probabilities(seed=0, spread=3.0):
    values = np.random.default_rng(seed).normal(size=(CONTEXT - CONTEXT // 2 - 1, VOCABULARY)) * spread
    return values - np.log(np.exp(values).sum(1, keepdims=True))


def test_a_file_of_logits_is_read_back(tmp_path):
    predictions = log_probabilities()
    tokens, read = logits.read_chunk(write_logits(tmp_path / "logits", predictions))
    assert tokens.tolist() == list(range(CONTEXT))
    floor = predictions.max(1, keepdims=True) - 16
    assert np.abs(read - np.maximum(predictions, floor)).max() < 2e-4


@pytest.mark.parametrize("content", [b"", b"_logits_", b"x" * 500, struct.pack("<8sIII", b"_logits_", 512, 320, 1)])
def test_what_is_no_file_of_logits_is_a_reason(tmp_path, content):
    source = tiny_gguf.write_source(tmp_path / "source", tiny_gguf.weights())
    (tmp_path / "logits").write_bytes(content)
    found = logits.parity(tmp_path / "logits", source, add_bos=None, available_bytes=None)
    assert isinstance(found, str)
    assert found.startswith("the reference logits cannot be read")


def test_measures():
    ours = log_probabilities().astype(np.float32)
    same = logits.measure(ours, ours)
    assert (same.nmse, same.mean_kld, same.same_top, same.positions) == (0, 0, 100, 31)
    assert logits.judge(same).outcome == "pass"
    noise = np.random.default_rng(2).normal(size=ours.shape).astype(np.float32)
    near = logits.measure(ours, ours + noise * 0.2)
    assert 0.003 < near.nmse < 0.006
    assert logits.judge(near).outcome == "warn"
    assert logits.judge(near.model_copy(update={"routed": True})).outcome == "pass"
    other = logits.measure(ours, log_probabilities(seed=1).astype(np.float32))
    assert other.nmse > 1
    verdict = logits.judge(other)
    assert (verdict.outcome, "an NMSE of at most 0.01 is allowed" in verdict.seen) == ("fail", True)
    assert isinstance(logits.measure(ours * np.nan, ours), str)


def test_a_model_that_does_not_fit_is_a_reason(tmp_path):
    source = tiny_gguf.write_source(tmp_path / "source", tiny_gguf.weights())
    path = write_logits(tmp_path / "logits", log_probabilities())
    found = logits.parity(path, source, add_bos=None, available_bytes=10_000_000)
    assert found == "transformers needs about 1.2 GB of memory for it, and 0.0 are free"


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "strange", "auto_map": {"AutoConfig": "evil.py--Evil"}}, "transformers cannot run it"),
        ({"num_hidden_layers": 10**9}, "config.json counts more layers"),
        ({"vocab_size": 10**8}, "config.json asks for a larger model than the weights are"),
        ({"quantization_config": {"quant_method": "fp8"}}, "the source is quantized"),
    ],
)
def test_a_model_that_transformers_cannot_run_is_a_reason(tmp_path, config, why):
    source = tiny_gguf.write_source(tmp_path / "source", tiny_gguf.weights(), **config)
    path = write_logits(tmp_path / "logits", log_probabilities())
    assert why in str(logits.parity(path, source, add_bos=None, available_bytes=None))


def test_the_source_is_run(tmp_path):
    """What transformers predicts of this very model, written down and read back, is near to itself."""
    import torch
    import transformers

    source = tiny_gguf.write_source(tmp_path / "source", tiny_gguf.weights())
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    tokens = torch.arange(CONTEXT)
    tokens[0] = 7
    with torch.inference_mode():
        predicted = torch.log_softmax(model(tokens[None]).logits[0, CONTEXT // 2 : -1], -1).numpy()
    path = write_logits(tmp_path / "logits", predicted)
    found = logits.parity(path, source, add_bos=7, available_bytes=None)
    assert found.nmse < 1e-6
    assert found.same_top == 100
    without = logits.parity(path, source, add_bos=None, available_bytes=None)
    assert without.nmse > found.nmse
