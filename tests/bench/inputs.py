"""What is quantized to see how fast or how right it is: a reference and an imatrix, in a directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline import demo, gguf_file, source
from pipeline.convert import REFERENCE
from pipeline.job import Steps
from pipeline.weights import from_f32
from tests import ggufs
from tests.machine import opened, pinned

if TYPE_CHECKING:
    from pathlib import Path

IMATRIX = "imatrix.gguf"
# What each expert saw: one of them nothing, as it happens.
SEEN = (512.0, 0.0, 3.0, 77.0)


class Shape(NamedTuple):
    """A llama's."""

    layers: int = 12
    hidden: int = 768
    wide: int = 2048
    vocabulary: int = 32000
    experts: int = 0


def smollm2(root: Path) -> int:
    """Bring the demo's reference and imatrix here; return the number of parameters."""
    with opened(pinned()) as store:
        model = demo.model(store)
        steps = Steps(model, source.look(model), pinned())
        for step, name in ((steps.reference, REFERENCE), (steps.imatrix, IMATRIX)):
            (root / name).symlink_to(store.get(step).file(name))
    return gguf_file.read(root / REFERENCE).parameters


def random(root: Path, shape: Shape) -> int:
    """Write a reference of random numbers, and an imatrix that is made up; return the number of parameters."""
    numbers = np.random.default_rng(0)
    tensors = _tensors(shape)
    made = {name: _weights(numbers, name, size) for name, size in tensors.items()}
    (root / REFERENCE).write_bytes(ggufs.content(_metadata(shape), made))
    entries = {}
    for name, (row, *others) in tensors.items():
        if name.startswith("blk.") and others:
            counts = np.array(SEEN[: shape.experts] if len(others) > 1 else SEEN[:1], np.float32)
            sums = np.exp(numbers.normal(size=(len(counts), row)) * 2).astype(np.float32) * counts[:, None] / 512
            entries[f"{name}.in_sum2"] = ggufs.Tensor((row, len(counts)), "F32", sums.tobytes())
            entries[f"{name}.counts"] = ggufs.Tensor((1, len(counts)), "F32", counts.tobytes())
    keys = {
        "general.type": "imatrix",
        "imatrix.datasets": ["made up"],
        "imatrix.chunk_count": 1,
        "imatrix.chunk_size": 512,
    }
    (root / IMATRIX).write_bytes(ggufs.content(keys, entries))
    return sum(int(np.prod(size)) for size in tensors.values())


def _tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    hidden, wide, keys = shape.hidden, shape.wide, shape.hidden // 3
    many, kind = ((shape.experts,), "_exps") if shape.experts else ((), "")
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (hidden, shape.vocabulary),
        "output.weight": (hidden, shape.vocabulary),
    }
    for layer in range(shape.layers):
        roles: dict[str, tuple[int, ...]] = {"attn_q": (hidden, hidden), "attn_k": (hidden, keys)}
        roles |= {"attn_v": (hidden, keys), "attn_output": (hidden, hidden)}
        roles |= {f"ffn_gate{kind}": (hidden, wide, *many), f"ffn_up{kind}": (hidden, wide, *many)}
        roles |= {f"ffn_down{kind}": (wide, hidden, *many), "attn_norm": (hidden,), "ffn_norm": (hidden,)}
        roles |= {"ffn_gate_inp": (hidden, *many)} if many else {}
        tensors |= {f"blk.{layer}.{role}.weight": size for role, size in roles.items()}
    return tensors | {"output_norm.weight": (hidden,)}


def _metadata(shape: Shape) -> dict[str, object]:
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": shape.layers,
        "llama.context_length": 2048,
        "llama.embedding_length": shape.hidden,
        "llama.feed_forward_length": shape.wide,
        "llama.attention.head_count": 12,
        "llama.attention.head_count_kv": 4,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.tokens": [f"token{number}" for number in range(shape.vocabulary)],
    }
    if shape.experts:
        metadata |= {"llama.expert_count": shape.experts, "llama.expert_used_count": 2}
    return metadata


def _weights(numbers: np.random.Generator, name: str, size: tuple[int, ...]) -> ggufs.Tensor:
    kind = "F32" if len(size) == 1 or "gate_inp" in name else "BF16"
    values = numbers.standard_normal(size[::-1], np.float32) / 32
    return ggufs.Tensor(size, kind, from_f32(values, kind).tobytes())
