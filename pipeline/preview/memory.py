"""How much memory a quant takes to run: its weights, and the cache of keys and values, which grows with the context.

Formula: llama.cpp, src/llama-kv-cache.cpp (a row of keys and a row of values a token in each layer),
src/llama-kv-cache-iswa.cpp (layers with a sliding window keep the window and one batch), src/llama-context.cpp (the
context is rounded up to 256 tokens), src/llama-hparams.cpp and the `load_arch_hparams` of src/models/*.cpp (which
layers slide). For one conversation, with the 16-bit cache and the batch of 512 tokens that llama.cpp takes by default.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pipeline.gguf_file import LAYERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.gguf_file import GGUFFile

SHORT, LONG = 4_096, 32_768
F16_BYTES = 2
CELLS = 256
BATCH = 512
# What no machine has: a config.json is free to claim any number of heads.
MOST_BYTES = 1 << 50

# Hyperparameters that the formula reads, and those that no cache depends on. A model with any other is not one that
# the formula was read for: it may be recurrent, share layers, or keep an index beside the keys.
_KNOWN = re.compile(
    r"vocab_size|context_length|embedding_length(_per_layer_input)?|block_count|leading_dense_block_count"
    r"|(expert_(shared_)?)?feed_forward_length|expert_\w+|moe_every_n_layers|interleave_moe_layer_step"
    r"|nextn_predict_layers|use_parallel_residual|tensor_data_layout|hidden_activation|logit_scale|residual_scale"
    r"|embedding_scale|(attn|final|router)_logit_softcapping|rope\..*"
    r"|attention\.(head_count|head_count_kv|(key|value)_length(_mla|_swa)?|(q|kv)_lora_rank|shared_kv_layers)"
    r"|attention\.(sliding_window(_pattern)?|causal|scale|output_scale|clamp_kqv|max_alibi_bias)"
    r"|attention\.(temperature_(length|scale)|(layer_norm|layer_norm_rms|group_norm)_epsilon|group_norm_groups)"
)
_BY_LAYER = re.compile(
    r"(expert_)?feed_forward_length|expert_used_count|rope\..*"
    r"|attention\.(head_count|head_count_kv|sliding_window_pattern)"
)
# One layer in so many has no sliding window, where the file does not say which; 0 for those that always do.
_PERIODS = {"gemma2": 2, "gemma3": 6, "gemma4": 0, "cohere2": 4, "gpt-oss": 2, "olmo2": 4}
# The window that the file gives is not used: src/models/phi3.cpp.
_WINDOWLESS = frozenset({"phi3"})
# These have windows, or layers without a cache, that no hyperparameter tells of.
_UNTOLD = frozenset({"exaone-moe", "exaone4", "gemma3n", "llama4", "smallthinker"})


def contexts(file: GGUFFile) -> tuple[int, ...]:
    """The lengths that memory is given for: what a chat takes, and the longest one or 32,768 tokens of it.

    Few who run a file at home fill the 128k and more that models promise, and the figure for it would only frighten.
    """
    longest = file.hyperparameter("context_length") or SHORT
    return tuple(sorted({min(SHORT, longest), min(LONG, longest)}))


def cache_bytes(file: GGUFFile, context: int) -> int | None:
    """Return the bytes of the cache for `context` tokens, None for an architecture whose cache is another."""
    start = f"{file.architecture}."
    known = {key.removeprefix(start): value for key, value in file.metadata.items() if key.startswith(start)}
    if file.architecture in _UNTOLD or not all(_KNOWN.fullmatch(name) for name in known):
        return None
    if not known.get("attention.causal", True):
        return None
    if any(isinstance(value, tuple) and not _BY_LAYER.fullmatch(name) for name, value in known.items()):
        return None
    layers = int(known.get("block_count", 0))
    if layers > LAYERS:
        return None
    sliding = _sliding(file.architecture, known, layers)
    heads = _by_layer(known.get("attention.head_count", 0), layers)
    heads_kv = _by_layer(known.get("attention.head_count_kv", heads), layers)
    if sliding is None or not heads or not heads_kv or not heads[0]:
        return None
    cells = _padded(context)
    window = min(cells, _padded(int(known.get("attention.sliding_window", 0)) + BATCH))
    width = int(known.get("embedding_length", 0)) // heads[0]
    held = layers - int(known.get("nextn_predict_layers", 0)) - int(known.get("attention.shared_kv_layers", 0))
    total = 0
    for slides, count in list(zip(sliding, heads_kv, strict=True))[:held]:
        total += (window if slides else cells) * count * _row(known, width, slides=slides) * F16_BYTES
    return total if total <= MOST_BYTES else None


def _row(known: Mapping[str, Any], width: int, *, slides: bool) -> int:
    """Values kept of a head and token: a key and a value, or with latent attention (MLA) the key alone."""
    lengths = []
    for part in ("key", "value"):
        full = int(known.get(f"attention.{part}_length", width))
        lengths.append(int(known.get(f"attention.{part}_length_swa", full)) if slides else full)
    return lengths[0] if "attention.key_length_mla" in known else sum(lengths)


def _sliding(architecture: str, known: Mapping[str, Any], layers: int) -> list[bool] | None:
    """Return which layers have a sliding window, None where that is not known."""
    if architecture in _WINDOWLESS or not known.get("attention.sliding_window"):
        return [False] * layers
    if architecture not in _PERIODS:
        return None
    pattern = known.get("attention.sliding_window_pattern", _PERIODS[architecture])
    if isinstance(pattern, tuple):
        return [bool(slides) for slides in pattern] if len(pattern) == layers else None
    return [pattern == 0 or layer % pattern < pattern - 1 for layer in range(layers)]


def _by_layer(value: Any, layers: int) -> list[int] | None:
    if isinstance(value, tuple | list):
        return [int(number) for number in value] if len(value) == layers else None
    return [int(value)] * layers


def _padded(tokens: int) -> int:
    return -(-tokens // CELLS) * CELLS
