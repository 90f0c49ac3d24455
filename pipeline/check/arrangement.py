"""How llama.cpp's converter lays a source's weights out in a GGUF: under which names, and in which order.

The facts are read off `modify_tensors` and `filter_tensors` in llama.cpp's conversion/*.py. Everything here is a view
of the source's data; nothing is copied before it is compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import gguf
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from pipeline.gguf_file import GGUFFile, Tensor
    from pipeline.weights import Weight

Change = Literal["", "plus one", "minus exp"]

# Classes whose Q and K lie in the GGUF with the two halves of each head interleaved, for llama.cpp's "norm" rope.
INTERLEAVED = frozenset({
    "LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "GraniteForCausalLM",
    "GraniteMoeForCausalLM", "SmolLM3ForCausalLM", "OlmoForCausalLM", "ArceeForCausalLM", "DeepseekForCausalLM",
    "InternLM3ForCausalLM",
})  # fmt: skip
# Classes whose norms hold the weight less one, and which the converter completes.
PLUS_ONE = frozenset({
    "GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration",
    "NemotronForCausalLM",
})  # fmt: skip
# Classes for which this module knows every change that the converter makes: what differs otherwise is wrong.
KNOWN = INTERLEAVED | PLUS_ONE - {"NemotronForCausalLM"} | {
    "BloomForCausalLM", "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "FalconForCausalLM", "GPT2LMHeadModel",
    "GPTBigCodeForCausalLM", "GPTNeoXForCausalLM", "GptOssForCausalLM", "MambaForCausalLM", "Mamba2ForCausalLM",
    "Olmo2ForCausalLM", "OlmoeForCausalLM", "PhiForCausalLM", "Phi3ForCausalLM", "PhiMoEForCausalLM",
    "Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "StableLmForCausalLM",
    "Starcoder2ForCausalLM", "InternLM2ForCausalLM",
}  # fmt: skip

# Parts of a multimodal model that are no part of its language model.
OTHER_MODALITY = re.compile(
    r"^(mlp|vit\.|vpm\.|siglip2\.|conformer\.|merger\.|resampler\.|sound_|speech_)|visual\.|vision|audio|talker\."
    r"|token2wav\.|code2wav\.|projector|image_newline|view_seperator|patch_embed|patch_merge|model\.connector\."
)
# Buffers that a model computes itself, and what belongs to the heads for predicting several tokens.
BUFFER = re.compile(r"(\.rotary_emb\.inv_freq|\.masked_bias|\.attention\.bias|\.attn\.bias)$|^(model\.)?mtp\.")
EXPERT = re.compile(r"\.experts\.(\d+)\.")
NORM = re.compile(r"norm\.weight$")

# Source tensors that the package's table of names does not know, and what becomes of them.
SPLIT = {
    r"(mlp|block_sparse_moe)\.(experts\.gate_up_proj|input_linear)": ("ffn_gate_exps", "ffn_up_exps"),
    r"shared_mlp\.input_linear": ("ffn_gate_shexp", "ffn_up_shexp", "ffn_gate", "ffn_up"),
    r"attention\.wqkv": ("attn_q", "attn_k", "attn_v"),
    r"(mlp|block_sparse_moe)\.experts\.down_proj": ("ffn_down_exps",),
    r"shared_mlp\.output_linear": ("ffn_down_shexp", "ffn_down"),
    r"self_attn\.kv_b_proj": ("attn_kv_b", "attn_k_b", "attn_v_b"),
}


class Layout(NamedTuple):
    """One way in which a tensor may hold its sources: `pieces` one after the other, each in C order."""

    name: str
    """Empty for the source's own order."""
    pieces: list[NDArray[Any]]
    dtype: str
    change: Change = ""
    zeros: int = 0
    """Values of padding behind the pieces."""

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces) + self.zeros


@dataclass(frozen=True)
class Rules:
    """What is known of the source's class, and the numbers of heads."""

    known: bool
    interleaved: bool | None
    """None where it is not known."""
    plus_one: bool | None
    heads: int
    kv_heads: int

    @classmethod
    def of(cls, architectures: Any, reference: GGUFFile) -> Rules:
        named = architectures if isinstance(architectures, list) else []
        name = named[0] if named and isinstance(named[0], str) else ""
        known = name in KNOWN
        heads = _number(reference.metadata.get(f"{reference.architecture}.attention.head_count"))
        kv_heads = _number(reference.metadata.get(f"{reference.architecture}.attention.head_count_kv")) or heads
        return cls(
            known, (name in INTERLEAVED) if known else None, (name in PLUS_ONE) if known else None, heads, kv_heads
        )


def _number(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def targets(name: str, find: Callable[[str], str | None]) -> list[str] | None:
    """Return which tensors of a GGUF a source tensor may go to; None for what is no weight of the language model.

    `find` is the package's table of names, without the ending `.weight` or `.bias`.
    """
    if OTHER_MODALITY.search(name) or BUFFER.search(name):
        return None
    clean = name.replace("language_model.", "").replace("text_model.", "")
    clean = clean.replace("e_score_correction_bias", "e_score_correction.bias")
    clean = re.sub(r"\.dt_bias$", ".dt_proj.bias", clean)
    clean = re.sub(r"layernorm\.norms\.\d+\.", "layernorm.", clean)
    clean = EXPERT.sub(".experts.", clean)
    spellings = (clean, f"model.{clean}", clean.removeprefix("transformer."))
    found = next((name for name in map(find, spellings) if name), None)
    block = re.search(r"\.(\d+)\.", clean)
    suffix = ".bias" if clean.endswith("bias") else ".weight"
    parts = [part for pattern, names in SPLIT.items() if block and re.search(pattern, clean) for part in names]
    whole = [found, f"{found}.weight"] if found else []  # some parameters of the source are named without an ending
    return list(dict.fromkeys([*whole, *(f"blk.{block[1]}.{part}{suffix}" for part in parts if block)]))


def name_finder(architecture: str, blocks: int) -> Callable[[str], str | None] | None:
    """Return the package's table of names for an architecture of GGUF, None for one that it does not know."""
    kind = next((kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture), None)
    if kind is None or not 0 < blocks <= 4096:
        return None
    table = gguf.get_tensor_name_map(kind, blocks)
    return lambda name: table.get_name(name, try_suffixes=(".weight", ".bias"))


def layouts(tensor: Tensor, parts: list[Weight], rules: Rules) -> Iterator[Layout]:
    """Yield the ways in which the converter may have laid `parts` out in `tensor`, of the tensor's size."""
    return (layout for layout in _layouts(tensor, parts, rules) if layout.size == tensor.parameters)


def _layouts(tensor: Tensor, parts: list[Weight], rules: Rules) -> Iterator[Layout]:
    arrays = [part.array for part in parts if part.array is not None]
    dtype = parts[0].dtype
    if len(arrays) != len(parts) or any(part.dtype != dtype for part in parts) or not arrays:
        return
    if NORM.search(tensor.name) and rules.plus_one is not False:
        yield Layout("plus one", arrays, dtype, "plus one")
    if NORM.search(tensor.name) and rules.plus_one:
        return
    if tensor.name.endswith("ssm_a") and parts[0].name.endswith("A_log"):
        yield Layout("", arrays, dtype, "minus exp")
        return
    turned = re.search(r"attn_[qk]\.(weight|bias)$", tensor.name) is not None
    if turned and len(arrays) == 1 and rules.interleaved is not False:
        heads = rules.heads if "attn_q" in tensor.name else rules.kv_heads
        if heads and arrays[0].ndim and arrays[0].shape[0] % (2 * heads) == 0:
            yield Layout("permuted rows", [interleave(arrays[0], heads)], dtype)
    if not (turned and rules.interleaved):
        yield Layout("", arrays, dtype)
    for name, pieces in (*_parted(tensor, arrays, rules), *_turned(tensor, parts, arrays, rules)):
        yield Layout(name, pieces, dtype)
    if len(arrays) == 1 and tensor.name in ("token_embd.weight", "output.weight") and arrays[0].ndim == 2:
        missing = tensor.parameters - arrays[0].size
        rows = tensor.parameters // max(arrays[0].shape[1], 1)
        yield Layout("fewer rows" if missing < 0 else "padding", [arrays[0][:rows]], dtype, zeros=max(missing, 0))


def interleave(array: NDArray[Any], heads: int) -> NDArray[Any]:
    """Return the rows with the two halves of each head interleaved."""
    return array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:]).swapaxes(1, 2)


def _parted(tensor: Tensor, arrays: list[NDArray[Any]], rules: Rules) -> Iterable[tuple[str, list[NDArray[Any]]]]:
    """Parts of a tensor that the source keeps in one: gate and up, latent keys and values, Q, K and V."""
    array = arrays[0]
    if len(arrays) > 1 or array.ndim == 0:
        return
    second = "ffn_up" in tensor.name
    if array.size == 2 * tensor.parameters and "ffn_" in tensor.name:
        for view in (array, array.swapaxes(-1, -2)) if array.ndim > 1 else (array,):
            axis = max(view.ndim - 2, 0) if tensor.name.endswith(".weight") else view.ndim - 1
            half = view.shape[axis] // 2
            before = (slice(None),) * axis
            yield "a half", [view[(*before, slice(half, None) if second else slice(half))]]
            yield "every other row", [view[(*before, slice(int(second), None, 2))]]
    if re.search(r"attn_[kv]_b\.weight$", tensor.name) and array.ndim == 2 and len(tensor.shape) == 3:
        heads, keys = tensor.shape[2], "attn_k_b" in tensor.name
        width = tensor.shape[0] if keys else tensor.shape[1]
        if array.shape[0] % heads == 0:
            both = array.reshape(heads, -1, array.shape[1])
            yield "parted", [both[:, :width].swapaxes(1, 2) if keys else both[:, -width:]]
    if rules.heads and rules.kv_heads and rules.heads % rules.kv_heads == 0:
        yield from _attention(tensor, array, rules)


def _attention(tensor: Tensor, array: NDArray[Any], rules: Rules) -> Iterable[tuple[str, list[NDArray[Any]]]]:
    """Q, K and V that the source keeps in one tensor, head by head."""
    group = rules.heads // rules.kv_heads + 2
    if array.shape[0] % (rules.kv_heads * group):
        return
    by_head = array.reshape(rules.kv_heads, group, -1, *array.shape[1:])
    if "attn_qkv" in tensor.name:  # Falcon, Bloom, GPT-NeoX
        yield "permuted rows", [by_head[:, :-2], by_head[:, -2], by_head[:, -1]]
    elif found := re.search(r"attn_([qkv])\.weight$", tensor.name):  # InternLM2
        part = {"q": by_head[:, :-2], "k": by_head[:, -2], "v": by_head[:, -1]}[found[1]]
        rows = part.reshape(-1, *array.shape[1:])
        heads = {"q": rules.heads, "k": rules.kv_heads, "v": 0}[found[1]]
        if not heads:
            yield "permuted rows", [rows]
        elif rows.shape[0] % (2 * heads) == 0:
            yield "permuted rows", [interleave(rows, heads)]


def _turned(
    tensor: Tensor, parts: list[Weight], arrays: list[NDArray[Any]], rules: Rules
) -> Iterable[tuple[str, list[NDArray[Any]]]]:
    """GPT-2 keeps its matrices as Conv1D has them, GPT-OSS and Llama 4 their experts: input by output."""
    array, name = arrays[0], parts[0].name
    as_input_by_output = re.search(r"\.c_(attn|proj|fc)\.weight$|experts\.down_proj$", name) is not None
    fits = len(arrays) == 1 and array.ndim > 1 and array.shape[-2:] == tensor.shape[:2]
    if fits and (as_input_by_output or not rules.known):
        yield "transposed", [np.swapaxes(array, -1, -2)]
