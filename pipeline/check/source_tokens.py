"""Tokenizes texts as a model's source does: a program of its own, so that no tokenizer can hang or end a run.

    python -I source_tokens.py DIRECTORY TEXTS.json TOKENS.json

TOKENS.json is `{"ids": [[…], …], "second": [[…], …] or null, "parses_special": bool}`: the ids of each text, without
what is added around it; what SentencePiece says where the source has both kinds of tokenizer; and whether a special
token in a text becomes its id, as it does everywhere but in SentencePiece alone. Nothing of the package is imported,
no code of the source runs, and nothing is fetched.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def encode(source: Path, texts: list[str]) -> dict[str, Any]:
    """Raises `SystemExit` with a sentence for a source without a tokenizer that can be read without its code."""
    pieces = source / "tokenizer.model"
    if (source / "tokenizer.json").is_file():
        # Straight from the file: transformers 5 builds the tokenizers of some model classes anew, its own way.
        from tokenizers import Tokenizer

        fast = Tokenizer.from_file(str(source / "tokenizer.json"))
        fast.no_truncation()
        fast.no_padding()
        ids = [one.ids for one in fast.encode_batch_fast(texts, add_special_tokens=False)]
        return {
            "ids": ids,
            "second": _sentencepiece(pieces, texts) if pieces.is_file() else None,
            "parses_special": True,
        }
    if pieces.is_file():
        return {"ids": _sentencepiece(pieces, texts), "second": None, "parses_special": False}
    if (source / "vocab.json").is_file() and (source / "merges.txt").is_file():
        from transformers import AutoTokenizer

        slow = AutoTokenizer.from_pretrained(source, trust_remote_code=False, local_files_only=True)
        return {"ids": slow(texts, add_special_tokens=False)["input_ids"], "second": None, "parses_special": True}
    raise SystemExit("the source has no tokenizer.json, no tokenizer.model and no vocab.json with merges.txt")


def _sentencepiece(path: Path, texts: list[str]) -> list[list[int]]:
    from sentencepiece import SentencePieceProcessor

    ids: list[list[int]] = SentencePieceProcessor(model_file=str(path)).encode(texts)
    return ids


if __name__ == "__main__":
    source, given, made = map(Path, sys.argv[1:])
    made.write_text(json.dumps(encode(source, json.loads(given.read_text(encoding="utf-8")))), encoding="utf-8")
