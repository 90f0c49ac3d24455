"""Good files, over architectures, types and recipes: each as the pipeline makes it, and nothing wrong with it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import models

from pipeline import recipe
from pipeline.inspection import Inputs, examine
from pipeline.result import Recipe
from zoo.draft import Draft
from zoo.releases import split
from zoo.speech import TOOLS, templated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipeline.result import Verdict
    from zoo.kit import Kit, Model

TYPES = "Q8_0 Q6_K Q5_K_M Q5_0 Q4_K_M Q4_1 IQ4_NL IQ4_XS Q3_K_M IQ3_M Q2_K IQ2_M"

RECIPES = {
    "Q4_K_M without an imatrix": Recipe(name="Q4_K_M", base="Q4_K_M", imatrix=False),
    "Q4_K_M with a larger embedding": Recipe(name="Q4_K_L", base="Q4_K_M", token_embedding="Q8_0", output="Q8_0"),
    "Q5_K_M tensor by tensor": Recipe(name="Q5_K_X", base="Q5_K_M", tensors={r"ffn_down": "Q6_K", r"attn_v": "Q8_0"}),
    "F16": Recipe(name="F16", base="F16", imatrix=False),
}
_ROW = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
_GROUPED = {**_ROW, "num_key_value_heads": 2}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
ARCHITECTURES = {
    "MistralForCausalLM": _GROUPED,
    "Qwen3ForCausalLM": {**_GROUPED, "head_dim": 64},
    "Qwen3MoeForCausalLM": {
        **_GROUPED,
        **_EXPERTS,
        "head_dim": 64,
        "moe_intermediate_size": 256,
        "norm_topk_prob": True,
    },
    "OlmoeForCausalLM": {**_ROW, **_EXPERTS, "num_key_value_heads": 4},
    "Olmo2ForCausalLM": _GROUPED,
    "GraniteForCausalLM": {**_GROUPED, "attention_multiplier": 0.125},
    "Starcoder2ForCausalLM": {**_GROUPED, "use_bias": True},
    "StableLmForCausalLM": _GROUPED,
    "PhiForCausalLM": {**_ROW, "intermediate_size": 1024, "partial_rotary_factor": 0.5},
    "SmolLM3ForCausalLM": {**_GROUPED, "pad_token_id": 0},
}
"""By their classes in transformers, in the smallest shape in which every type has whole blocks."""


@dataclass(frozen=True)
class Good:
    name: str
    gate: Callable[[], list[Verdict]]
    file: Path
    real: bool
    """Whether it is of a model that was trained, so that its perplexity says something."""


def files(kit: Kit) -> Iterator[Good]:
    """Make the good files, one after the other."""
    smol = kit.smol
    yield _reference(kit, smol, "SmolLM2", real=True)
    for name in TYPES.split():
        yield _quant(kit, smol, "SmolLM2", recipe.builtin(name), real=True)
    for name, of in RECIPES.items():
        yield _quant(kit, smol, f"SmolLM2: {name}", of, real=True)
    first, *_ = split(kit, "Q4_K_M")
    parts = Inputs(first, reference=smol.reference)
    yield Good("SmolLM2 Q4_K_M in three shards", lambda: examine(parts, kit.llama), first, real=True)
    tools = kit.write(Draft(smol.reference).set(tokenizer__chat_template=TOOLS))
    spoken = Inputs(tools, source=templated(kit, TOOLS))
    yield Good("SmolLM2 with a template that calls tools", lambda: examine(spoken, kit.llama), tools, real=True)
    for kind in models.KINDS:
        tiny = kit.tiny(models.build(kind, kit.room / kind))
        yield _reference(kit, tiny, kind)
        for name in ("Q8_0", "Q5_K_M", "Q4_K_M", "IQ4_XS"):
            yield _quant(kit, tiny, kind, recipe.builtin(name))
    for architecture, shape in ARCHITECTURES.items():
        model = kit.tiny(build(kit, architecture, shape))
        yield _reference(kit, model, architecture)
        for name in ("Q6_K", "Q4_K_M"):
            yield _quant(kit, model, architecture, recipe.builtin(name))


def build(kit: Kit, architecture: str, shape: dict[str, object]) -> Path:
    """Write a model of random weights with SmolLM2's tokenizer."""
    import torch
    import transformers

    directory = kit.room / architecture
    directory.mkdir()
    for path in kit.smol.source.iterdir():
        if path.suffix in (".json", ".txt", ".jinja", ".md") and path.name not in (
            "config.json",
            "generation_config.json",
        ):
            shutil.copyfile(path, directory / path.name)
    kind = getattr(transformers, architecture)
    config = kind.config_class(
        **shape,
        vocab_size=49152,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = kind(config).to(torch.bfloat16)
    with torch.no_grad():
        for _, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape) / weight.shape[-1] ** 0.5)
    model.save_pretrained(directory)
    return directory


def _reference(kit: Kit, model: Model, name: str, *, real: bool = False) -> Good:
    inputs = Inputs(model.reference, source=model.source)
    return Good(f"{name} unquantized", lambda: examine(inputs, kit.llama), model.reference, real)


def _quant(kit: Kit, model: Model, name: str, of: Recipe, *, real: bool = False) -> Good:
    """A quant under the name that it is published under, held against all that there is."""
    file = kit.directory() / f"{name.split(':', maxsplit=1)[0]}-{of.name}.gguf"
    file.symlink_to(model.quant(of))
    matrix = model.imatrix if of.imatrix else None
    inputs = Inputs(file, reference=model.reference, imatrix=matrix, recipe=of, logits=kit.logits(model))
    shown = name if ":" in name else f"{name} {of.name}"
    return Good(shown, lambda: examine(inputs, kit.llama), file, real)
