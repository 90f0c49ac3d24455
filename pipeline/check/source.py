"""What converting must have kept: a GGUF against the Hugging Face directory that it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.check import blocks, conversion, hyperparameters, logits, special_tokens, structure, template, tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.gguf_file import GGUFFile
    from pipeline.result import Verdict

# Kinds of vocabulary to which llama.cpp adds the first token where the file does not say.
ADDS_BOS = {"llama", "bert"}
QUANTIZED_BITS = 16


def speech(file: GGUFFile, source: Path | None, tools: Path | None, tree: Path | None) -> list[Verdict]:
    """Check how the file reads and writes text; against the source where there is one.

    `tools` is the directory of the built tools, `tree` llama.cpp's source: without them less can be said.
    """
    return [
        *tokenizer.compare(file, source, tools, tree),
        *special_tokens.compare(file, source),
        *template.compare(file, source),
    ]


def reference(file: GGUFFile, source: Path, tools: Path | None, tree: Path | None) -> list[Verdict]:
    """Hold a file that is not quantized against its source, without running it."""
    layout = structure.layout(file)
    if layout.outcome == "fail":
        return [layout]
    return [
        layout,
        *blocks.scan(file),
        *conversion.tensors(file, source),
        *hyperparameters.compare(file, source),
        *speech(file, source, tools, tree),
    ]


def parity(file: GGUFFile, kept: Path, source: Path) -> logits.Parity | str:
    """Compare predictions of the file, which `kept` holds, with those of transformers; or say why it cannot be."""
    adds = file.metadata.get("tokenizer.ggml.add_bos_token", file.metadata.get("tokenizer.ggml.model") in ADDS_BOS)
    first = file.metadata.get("tokenizer.ggml.bos_token_id") if adds else None
    return logits.parity(kept, source, add_bos=first, available_bytes=None)


def is_quantized(file: GGUFFile) -> bool:
    return file.bits_per_weight < QUANTIZED_BITS
