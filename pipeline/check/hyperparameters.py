"""Do the numbers that a GGUF gives of its model agree with the source's config.json: heads, rope, norms, context."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import numpy as np

from pipeline.check.arrangement import KNOWN
from pipeline.check.huggingface import quiet, reasonable
from pipeline.check.verdict import failed, passed, skipped, warned
from pipeline.errors import BadInputError
from pipeline.ggml import blocks, dequantize, map_file
from pipeline.weights import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.gguf_file import GGUFFile
    from pipeline.result import Verdict

CHECK = "hyperparameters"
AGAIN = "Convert the source again, and set no `--override-kv`: the model computes something else with this value."
LOOK = "Compare the two by hand: this architecture may count differently."
SHOWN = 3
# A float of config.json that the converter wrote as 32 bits.
CLOSE = 1e-5
# Latent attention (DeepSeek) has one head of keys and values of another length.
LATENT = ("attention.head_count_kv", "attention.key_length")


class _Number(NamedTuple):
    key: str
    """Behind `<architecture>.` in the GGUF."""
    name: str
    spellings: tuple[str, ...]
    """In config.json, the first that is there counts."""


NUMBERS = (
    _Number("block_count", "number of layers", ("num_hidden_layers", "n_layer", "n_layers", "num_layers")),
    _Number("embedding_length", "hidden size", ("hidden_size", "n_embd", "d_model")),
    _Number("feed_forward_length", "feed-forward size", ("intermediate_size", "n_inner")),
    _Number("expert_feed_forward_length", "feed-forward size of an expert", ("moe_intermediate_size",)),
    _Number("attention.head_count", "number of attention heads", ("num_attention_heads", "n_head")),
    _Number("attention.head_count_kv", "number of key-value heads", ("num_key_value_heads",)),
    _Number("attention.key_length", "length of a head", ("head_dim",)),
    _Number("context_length", "context length", ("max_position_embeddings", "n_ctx", "n_positions")),
    _Number("attention.layer_norm_rms_epsilon", "epsilon of the norms", ("rms_norm_eps", "norm_eps")),
    _Number(
        "attention.layer_norm_epsilon",
        "epsilon of the norms",
        ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    ),
    _Number("expert_count", "number of experts", ("num_local_experts", "num_experts", "n_routed_experts")),
    _Number("expert_used_count", "number of experts a token", ("num_experts_per_tok", "num_experts_per_token")),
    _Number("attention.sliding_window", "sliding window", ("sliding_window",)),
    _Number("attn_logit_softcapping", "softcap of the attention", ("attn_logit_softcapping",)),
    _Number("final_logit_softcapping", "softcap of the logits", ("final_logit_softcapping",)),
    _Number("embedding_scale", "scale of the embedding", ("embedding_multiplier",)),
    _Number("residual_scale", "scale of the residual", ("residual_multiplier",)),
    _Number("attention.scale", "scale of the attention", ("attention_multiplier",)),
    _Number("expert_weights_scale", "scale of the experts' weights", ("routed_scaling_factor",)),
)
# What the converter writes for state space models, which have neither.
NOT_MEANT = (("feed_forward_length", 0), ("context_length", 1 << 20))
# Without these llama.cpp does not know that it should do what config.json asks for.
NEEDED = ("attn_logit_softcapping", "final_logit_softcapping")


@dataclass(frozen=True)
class _Config:
    """The language model's part of config.json, and the defaults of its class for what it leaves out."""

    given: dict[str, Any]
    defaults: dict[str, Any]

    def find(self, spellings: tuple[str, ...]) -> tuple[str, Any]:
        """Return the spelling that is there and its value; ("", None) for neither."""
        for values in (self.given, self.defaults):
            for name in spellings:
                if values.get(name) is not None:
                    return name, values[name]
        return "", None

    def rope(self, layers: str = "full_attention") -> dict[str, Any]:
        """Return the rope's parameters, in transformers 5's spelling, of some kind of layers."""
        for values in (self.given, self.defaults):
            rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
            rope = rope if isinstance(rope, dict) else {}
            nested = rope.get(layers)
            rope = nested if isinstance(nested, dict) else rope
            theta = rope.get("rope_theta", values.get("rope_theta", values.get("rotary_emb_base")))
            if theta is not None or rope:
                kind = rope.get("rope_type", rope.get("type", "default"))
                return {**rope, "rope_theta": theta, "rope_type": kind}
        return {}


class _Mismatch(NamedTuple):
    key: str
    seen: str


def compare(reference: GGUFFile, source: Path) -> list[Verdict]:
    """Hold the reference's hyperparameters against `config.json` in `source`.

    A mismatch fails where the class of the model is one whose conversion is known through and through.
    """
    try:
        raw = read_json(source / "config.json")
    except BadInputError as error:
        return [skipped(CHECK, f"config.json cannot be read: {str(error)[:200]}")]
    nested = raw.get("text_config")
    given = {**raw, **nested} if isinstance(nested, dict) else raw
    config = _Config(given, _defaults(source, raw))
    compared: list[str] = []
    wrong = [*_numbers(reference, config, compared), *_bases(reference, config, compared)]
    wrong += [
        *_rotated(reference, config, compared),
        *_scaling(reference, config, compared),
        *_vocabulary(reference, config, compared),
    ]
    if wrong:
        seen = "; ".join(mismatch.seen for mismatch in wrong[:SHOWN])
        seen += f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        architectures = raw.get("architectures")
        known = isinstance(architectures, list) and any(isinstance(a, str) and a in KNOWN for a in architectures)
        return [failed(CHECK, seen, AGAIN) if known else warned(CHECK, seen, LOOK)]
    if not compared:
        return [skipped(CHECK, "config.json gives no number that the file gives, too")]
    return [passed(CHECK, f"{len(compared)} hyperparameters agree with config.json")]


def _defaults(source: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """Return every setting of the class that transformers has for this model, empty where it has none."""
    if not isinstance(raw.get("model_type"), str) or not reasonable(raw):
        return {}
    try:
        from transformers import AutoConfig

        with quiet():
            config = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=True)
            settings = config.get_text_config().to_dict()
    except Exception:  # noqa: BLE001 - a config.json may raise anything; the file itself is then all there is
        return {}
    return settings if isinstance(settings, dict) else {}


def _numbers(reference: GGUFFile, config: _Config, compared: list[str]) -> Iterator[_Mismatch]:
    architecture = reference.architecture
    latent = f"{architecture}.attention.kv_lora_rank" in reference.metadata
    for number in NUMBERS:
        key = f"{architecture}.{number.key}"
        spelling, wanted = config.find(number.spellings)
        held = reference.metadata.get(key)
        if latent and number.key in LATENT:
            continue
        if held is None and number.key in NEEDED and _is_number(wanted):
            yield _Mismatch(key, f"the {number.name} is missing, and config.json says {wanted:.6g}: {spelling}")
        if not _is_number(held) or not _is_number(wanted) or (number.key, held) in NOT_MEANT:
            continue
        if number.key == "block_count":
            _, further = config.find(("num_nextn_predict_layers",))
            if _is_number(further) and held == wanted + further:
                wanted = held
        compared.append(key)
        if not math.isclose(held, wanted, rel_tol=CLOSE):
            yield _mismatch(key, number.name, held, wanted, spelling)


def _rotated(reference: GGUFFile, config: _Config, compared: list[str]) -> Iterator[_Mismatch]:
    """How many dimensions of a head the rope turns: all, or the part that the source names."""
    key = f"{reference.architecture}.rope.dimension_count"
    _, length = config.find(("head_dim",))
    _, hidden = config.find(("hidden_size", "n_embd", "d_model"))
    _, heads = config.find(("num_attention_heads", "n_head"))
    if not _is_number(length) and _is_number(hidden) and _is_number(heads) and heads:
        length = hidden // heads
    _, part = config.find(("partial_rotary_factor", "rotary_pct"))
    part = config.rope().get("partial_rotary_factor", part)
    held = reference.metadata.get(key)
    if not _is_number(held) or not _is_number(length) or config.find(("qk_rope_head_dim",))[0]:
        return
    wanted = int(length * (part if _is_number(part) else 1))
    compared.append(key)
    if held != wanted:
        yield _Mismatch(key, f"the rope turns {held} dimensions of each head, and {wanted} of {length} in config.json")


def _bases(reference: GGUFFile, config: _Config, compared: list[str]) -> Iterator[_Mismatch]:
    """The rope's base, and that of layers with a sliding window where it is another."""
    prefix = f"{reference.architecture}.rope"
    key = f"{prefix}.freq_base"
    held, base = reference.metadata.get(key), config.rope().get("rope_theta")
    if _is_number(base) and (_is_number(held) or f"{prefix}.dimension_count" in reference.metadata):
        compared.append(key)
        if not _is_number(held):
            if base != 10000:
                seen = f"the rope base is missing, so that llama.cpp takes 10000, and config.json says {base:g}"
                yield _Mismatch(key, f"{seen}: rope_theta")
        elif not math.isclose(held, base, rel_tol=CLOSE):
            yield _mismatch(key, "rope base", held, base, "rope_theta")
    key = f"{prefix}.freq_base_swa"
    held, base = reference.metadata.get(key), config.given.get("rope_local_base_freq")
    base = base if _is_number(base) else config.rope("sliding_attention").get("rope_theta")
    if _is_number(held) and _is_number(base):
        compared.append(key)
        if not math.isclose(held, base, rel_tol=CLOSE):
            yield _mismatch(key, "rope base of layers with a sliding window", held, base, "rope_theta")


def _scaling(reference: GGUFFile, config: _Config, compared: list[str]) -> Iterator[_Mismatch]:
    """Type, factor and original context of the rope's scaling."""
    prefix = f"{reference.architecture}.rope.scaling"
    wanted = config.rope()
    kind, held_kind = wanted.get("rope_type"), reference.metadata.get(f"{prefix}.type", "none")
    if kind in ("default", "linear", "yarn") and isinstance(held_kind, str):
        expected = "none" if kind == "default" else kind
        compared.append(f"{prefix}.type")
        if held_kind != expected:
            seen = f"the rope scaling is {held_kind[:40]!r}, and config.json says {kind!r}: rope_type"
            yield _Mismatch(f"{prefix}.type", seen)
    original = "original_max_position_embeddings"
    for key, name, spelling in (
        (f"{prefix}.factor", "factor of the rope scaling", "factor"),
        (f"{prefix}.original_context_length", "context length before rope scaling", original),
    ):
        held, number = reference.metadata.get(key), wanted.get(spelling)
        if _is_number(held) and _is_number(number):
            compared.append(key)
            if not math.isclose(held, number, rel_tol=CLOSE):
                yield _mismatch(key, name, held, number, spelling)
    if kind == "llama3":
        compared.append("rope_freqs.weight")
        yield from _frequencies(reference, wanted)


def _frequencies(reference: GGUFFile, rope: dict[str, Any]) -> Iterator[_Mismatch]:
    """Hold the factors of Llama 3's rope scaling against its definition (transformers, modeling_rope_utils.py)."""
    tensor = reference.tensors.get("rope_freqs.weight")
    if tensor is None:
        yield _Mismatch("rope_freqs.weight", "rope_freqs.weight is missing, and config.json says 'llama3': rope_type")
        return
    names = ("rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    base, factor, low, high, context = (rope.get(name) for name in names)
    if not (_is_number(base) and _is_number(factor) and _is_number(low) and _is_number(high) and _is_number(context)):
        return
    if base <= 0 or factor <= 0 or high <= low or context <= 0 or tensor.parameters > 1 << 16:
        return
    held = dequantize(blocks(reference, map_file(reference), tensor), tensor.type).reshape(-1)
    half = tensor.parameters
    turns = context * base ** (-np.arange(half, dtype=np.float64) / half) / (2 * math.pi)
    blend = np.clip((turns - low) / (high - low), 0, 1)
    expected = 1 / ((1 - blend) / factor + blend)
    if not np.allclose(held, expected, rtol=1e-3):
        worst = int(np.abs(held - expected).argmax())
        seen = f"rope_freqs.weight holds {held[worst]:.5g} for frequency {worst}"
        seen += f", and config.json gives {expected[worst]:.5g}: rope_type 'llama3'"
        yield _Mismatch("rope_freqs.weight", seen)


def _vocabulary(reference: GGUFFile, config: _Config, compared: list[str]) -> Iterator[_Mismatch]:
    value = reference.values.get("tokenizer.ggml.tokens")
    _, size = config.find(("vocab_size",))
    if value is None or not _is_number(size):
        return
    with reference.path.open("rb") as file:
        file.seek(value.begin + 4)  # behind the type of the array's values
        tokens = int.from_bytes(file.read(8), "little")
    compared.append("tokenizer.ggml.tokens")
    # Fewer is right where the converter cuts the padding off the embedding.
    if tokens > size:
        yield _Mismatch("tokens", f"the vocabulary has {tokens} tokens, and config.json says {size:g}: vocab_size")


def _mismatch(key: str, name: str, held: float, wanted: float, spelling: str) -> _Mismatch:
    return _Mismatch(key, f"the {name} is {held:.7g}, and config.json says {wanted:.7g}: {spelling}")


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and abs(value) < 1e300
