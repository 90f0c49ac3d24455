"""A tiny Llama twice, as safetensors and as the GGUF that the converter makes of it: random numbers and no torch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants

from pipeline import gguf_file
from pipeline.weights import from_f32

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "tie_word_embeddings": False,
    "vocab_size": 320,
}
SHAPES = {
    "input_layernorm": (256,),
    "post_attention_layernorm": (256,),
    "self_attn.q_proj": (256, 256),
    "self_attn.k_proj": (128, 256),
    "self_attn.v_proj": (128, 256),
    "self_attn.o_proj": (256, 256),
    "mlp.gate_proj": (512, 256),
    "mlp.up_proj": (512, 256),
    "mlp.down_proj": (256, 512),
}
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """The source's weights in 32 bits, each of them a value of bf16."""
    shapes = {"model.embed_tokens": (320, 256), "model.norm": (256,), "lm_head": (320, 256)}
    for layer in range(2):
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in SHAPES.items()}
    random = np.random.default_rng(seed)
    made = {f"{name}.weight": random.normal(size=shape).astype(np.float32) / 16 for name, shape in shapes.items()}
    return {name: (from_f32(value, "BF16").astype(np.uint32) << 16).view(np.float32) for name, value in made.items()}


def write_source(directory: Path, values: dict[str, np.ndarray], **config) -> Path:
    """Write a model directory in bf16."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIG | config))
    data = {name: from_f32(value, "BF16") for name, value in values.items()}
    header, end = {}, 0
    for name, array in data.items():
        header[name] = {"dtype": "BF16", "shape": array.shape, "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    head = json.dumps(header).encode()
    content = len(head).to_bytes(8, "little") + head + b"".join(array.tobytes() for array in data.values())
    (directory / "model.safetensors").write_bytes(content)
    return directory


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    return rows.reshape(heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def converted(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of the GGUF, by its names."""
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    names |= {"lm_head.weight": "output.weight"}
    for layer in range(2):
        names |= {f"model.layers.{layer}.{old}.weight": f"blk.{layer}.{new}.weight" for old, new in NAMES.items()}
    tensors = {names[name]: value for name, value in values.items() if name in names}
    for name, value in tensors.items():
        if "attn_q." in name or "attn_k." in name:
            tensors[name] = interleave(value, 4 if "attn_q" in name else 2)
    return tensors


def write_gguf(path: Path, tensors: dict[str, np.ndarray], kind: str = "BF16", **metadata) -> gguf_file.GGUFFile:
    """Write tensors in a type, norms in 32 bits; `metadata` overrides a key behind `llama.`, None leaves it out."""
    writer = GGUFWriter(path, "llama")
    given = {
        "block_count": 2,
        "context_length": 2048,
        "embedding_length": 256,
        "feed_forward_length": 512,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 64,
        "rope.dimension_count": 64,
        "rope.freq_base": 100000.0,
        "attention.layer_norm_rms_epsilon": 1e-5,
        **metadata,
    }
    for key, value in given.items():
        if isinstance(value, str):
            writer.add_string(f"llama.{key}", value)
        elif value is not None:
            (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(f"llama.{key}", value)
    writer.add_token_list([str(n).encode() for n in range(320)])
    for name, value in tensors.items():
        as_it_is = value.ndim == 1 or value.dtype == np.uint8
        type_ = GGMLQuantizationType["F32" if as_it_is else kind]
        data = value if value.ndim == 1 else quants.quantize(value, type_)
        writer.add_tensor(name, data, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf_file.read(path)
