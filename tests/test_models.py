"""The tiny models are what they say they are, and the same every time."""

from __future__ import annotations

import hashlib
import json

import pytest
from models import CONTEXT, KINDS, build

pytestmark = pytest.mark.real


def digest(directory):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in directory.iterdir()}


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_built_the_same_twice(kind, tmp_path):
    assert digest(build(kind, tmp_path / "a")) == digest(build(kind, tmp_path / "b"))


@pytest.mark.parametrize("kind", KINDS)
def test_it_loads_and_has_opinions(kind, tmp_path):
    import torch
    import transformers

    directory = build(kind, tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    tokens = tokenizer("What is a large language model?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(tokens).logits.float()
    assert tokens[0, 0] == model.config.bos_token_id
    assert model.config.max_position_embeddings == CONTEXT
    assert 1e6 < model.num_parameters() < 3e6
    assert logits.isfinite().all()
    assert 0.5 < logits.std() < 5


def test_llama_is_a_sharded_chat_model(tmp_path):
    directory = build("llama", tmp_path)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == 2
    assert {"lm_head.weight", "model.embed_tokens.weight"} < set(index["weight_map"])
    assert {"LICENSE", "README.md", "chat_template.jinja"} < {p.name for p in directory.iterdir()}


def test_gemma_is_a_gated_base_model(tmp_path):
    directory = build("gemma", tmp_path)
    card = (directory / "README.md").read_text(encoding="utf-8")
    assert "license: gemma" in card
    assert "extra_gated_prompt: >-" in card
    assert not (directory / "chat_template.jinja").exists()
    assert json.loads((directory / "config.json").read_text())["tie_word_embeddings"]


def test_odd_rows_are_no_multiple_of_256(tmp_path):
    config = json.loads((build("odd", tmp_path) / "config.json").read_text())
    assert all(config[rows] % 256 and config[rows] % 32 == 0 for rows in ("hidden_size", "intermediate_size"))
