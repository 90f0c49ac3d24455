"""`python -m pipeline.unpack_gguf GGUF DIRECTORY`: a GGUF as a Hugging Face model directory in bfloat16."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TOKENIZER = "tokenizer.json"
PRE_TOKENIZER = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}


def unpack(gguf: Path, directory: Path) -> None:
    where, name = str(gguf.parent), gguf.name
    held = AutoModelForCausalLM.from_pretrained(where, gguf_file=name, dtype=torch.bfloat16)
    config = held.config
    # A fresh model has no memory of the file that it came from: neither its path nor its quantization.
    del config.quantization_config
    config.name_or_path = ""
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    fresh.load_state_dict(held.state_dict())
    fresh.save_pretrained(directory)
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(directory)
    # transformers takes every GGUF's words apart as GPT-2 does; SmolLM2 takes digits apart first.
    tokenizer = json.loads((directory / TOKENIZER).read_text(encoding="utf-8"))
    tokenizer["pre_tokenizer"] = PRE_TOKENIZER
    (directory / TOKENIZER).write_text(json.dumps(tokenizer, ensure_ascii=False, indent=2), encoding="utf-8")


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
