"""The vocabulary of a GGUF, and whether it is its source's: every token under its id, every merge in its place."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.check.verdict import failed, passed

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.gguf_file import GGUFFile
    from pipeline.result import Verdict

CHECK = "tokenizer"
TOKENS, TYPES, SCORES, MERGES = (f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "scores", "merges"))
# Token types (gguf.TokenType).
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
TYPE_NAMES = {1: "normal", 2: "unknown", 3: "control", 4: "user-defined", 5: "unused", 6: "byte"}
# Vocabularies that hold a source's pieces as they are; those of WordPiece and RWKV are written otherwise.
VERBATIM = ("gpt2", "llama", "gemma4")
LARGEST_JSON = 256 << 20
AGAIN = "Convert again from the source with an up-to-date converter."


class UnreadableError(ValueError):
    """A vocabulary that is not there, or not of the form that it should have."""


@dataclass(frozen=True)
class Vocabulary:
    model: str
    """`tokenizer.ggml.model`: gpt2 for byte-level BPE, llama for SentencePiece, bert, t5, rwkv, …"""
    tokens: list[str]
    types: list[int]
    """One of the six for each token; all normal where the file has none, as llama.cpp takes it."""

    def show(self, token: int) -> str:
        """Return a token for people, bounded, with what is not printable escaped."""
        return quoted(self.tokens[token]) if 0 <= token < len(self.tokens) else "no token"


@dataclass(frozen=True)
class Added:
    """A token that the source adds to its model's own."""

    id: int
    content: str
    special: bool


@dataclass(frozen=True)
class SourceVocabulary:
    pieces: dict[int, str]
    """Every token of the source by id, those added included."""
    added: list[Added] = field(default_factory=list)
    merges: list[str] | None = None
    """As a GGUF has them; None where tokenizer.json has none."""


def quoted(text: str, most: int = 60) -> str:
    """Return a text that came out of a file as a literal of at most `most` characters."""
    return repr(text[:most]) + ("…" if len(text) > most else "")


def read(gguf: GGUFFile) -> Vocabulary:
    """Raises `UnreadableError` with what is wrong, for a file that has no vocabulary too."""
    model = gguf.metadata.get("tokenizer.ggml.model")
    if not isinstance(model, str):
        raise UnreadableError("tokenizer.ggml.model is missing")
    tokens = numbers_or_strings(gguf, TOKENS, str)
    types = numbers_or_strings(gguf, TYPES, int) if TYPES in gguf.values else [NORMAL] * len(tokens)
    if len(types) < len(tokens):
        raise UnreadableError(f"{TYPES} has {len(types)} entries for {len(tokens)} tokens")
    return Vocabulary(model, tokens, types)


def numbers_or_strings(gguf: GGUFFile, key: str, kind: type) -> list[Any]:
    """Return a whole array whose entries are of `kind`, or raise `UnreadableError`."""
    if key not in gguf.values:
        raise UnreadableError(f"{key} is missing")
    try:
        values = gguf.array(key)
    except (ValueError, KeyError, struct.error) as error:
        raise UnreadableError(f"{key} is not an array of {kind.__name__}") from error
    if values and not isinstance(values[0], kind):
        raise UnreadableError(f"{key} is not an array of {kind.__name__}")
    return values


def of_source(source: Path) -> SourceVocabulary | None:
    """Read tokenizer.json; None where there is none. Raises `UnreadableError` for one that is none.

    Format: the `tokenizers` library, whose `model.vocab` maps pieces to ids (BPE) or lists them (Unigram).
    """
    tokenizer = read_json(source / "tokenizer.json")
    if tokenizer is None:
        return None
    try:
        model = tokenizer["model"]
        vocabulary = model["vocab"]
        by_piece = vocabulary if isinstance(vocabulary, dict) else {p[0]: n for n, p in enumerate(vocabulary)}
        pieces = {int(number): str(piece) for piece, number in by_piece.items()}
        added = [
            Added(int(one["id"]), str(one["content"]), bool(one.get("special")))
            for one in tokenizer.get("added_tokens") or ()
        ]
        merges = [_merge(one) for one in model["merges"]] if model.get("merges") else None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise UnreadableError("tokenizer.json has not the form of one") from error
    return SourceVocabulary(pieces | {one.id: one.content for one in added}, added, merges)


def _merge(pair: str | list[str]) -> str:
    # In a GGUF the space between the two is the only one.
    return pair if isinstance(pair, str) else " ".join(part.replace(" ", "Ġ") for part in pair)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return a JSON object of the source; None where there is no such file, `UnreadableError` where it is none."""
    if not path.is_file():
        return None
    if path.stat().st_size > LARGEST_JSON:
        raise UnreadableError(f"{path.name} is larger than {LARGEST_JSON >> 20} MiB")
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{path.name} cannot be read as JSON") from error
    if not isinstance(content, dict):
        raise UnreadableError(f"{path.name} holds no JSON object")
    return content


def compare(gguf: GGUFFile, ours: Vocabulary, source: SourceVocabulary, size: int | None) -> list[Verdict]:
    """Hold tokens and merges against the source's; `size` is the `vocab_size` of config.json, where it says one.

    The converter leaves out what the model has no embedding for, pads with names such as [PAD7], and writes a token
    that is added with plain spaces.
    """
    if ours.model not in VERBATIM:
        return []
    verdicts = _tokens(ours, source, size)
    if ours.model != "llama" and source.merges is not None:
        verdicts += _merges(gguf, source.merges)
    return verdicts or [passed(CHECK, f"{len(ours.tokens)} tokens under the ids of the source's")]


def _tokens(ours: Vocabulary, source: SourceVocabulary, size: int | None) -> list[Verdict]:
    tokens, pieces = ours.tokens, source.pieces
    if len(set(tokens)) < len(tokens):
        seen: dict[str, int] = {}
        first = next(n for n, token in enumerate(tokens) if seen.setdefault(token, n) != n)
        where = f"id {first} is {ours.show(first)}, and so is id {seen[tokens[first]]}"
        return [failed(CHECK, f"a token stands twice in the vocabulary, which llama.cpp refuses: {where}", AGAIN)]
    lost = [n for n in pieces if len(tokens) <= n < (size or n + 1)]
    if lost:
        first = min(lost)
        what = f"{quoted(pieces[first])}, id {first}, is not there"
        return [failed(CHECK, f"{len(tokens)} tokens, {len(lost)} fewer than the source has: {what}", AGAIN)]
    added = {one.id for one in source.added}
    wrong = [n for n in range(len(tokens)) if n in pieces and not _same(tokens[n], pieces[n], added=n in added)]
    if not wrong:
        return []
    first = wrong[0]
    for by in (1, -1):
        if len(wrong) > 8 and sum(tokens[n] == pieces.get(n - by) for n in wrong) > 0.9 * len(wrong):
            seen_ = f"the vocabulary is shifted by {by:+d} from id {first}: {ours.show(first)} has that id"
            return [failed(CHECK, f"{seen_}, and the source's is {quoted(pieces[first])}", AGAIN)]
    what = f"id {first} is {ours.show(first)}, and {quoted(pieces[first])} in the source"
    return [failed(CHECK, f"{len(wrong)} of {len(tokens)} tokens are not the source's: {what}", AGAIN)]


def _same(token: str, piece: str, *, added: bool) -> bool:
    if token == piece:
        return True
    # An added token is written as it decodes: spaces plain, and in some models stripped, or in bytes' letters.
    return added and _plain(token) == _plain(piece)


def _plain(text: str) -> str:
    return text.replace("▁", " ").replace("Ġ", " ").strip()


def _merges(gguf: GGUFFile, expected: list[str]) -> list[Verdict]:
    try:
        merges = numbers_or_strings(gguf, MERGES, str)
    except UnreadableError as error:
        return [failed(CHECK, str(error), AGAIN)]
    if merges == expected:
        return []
    first = next(
        (n for n, (a, b) in enumerate(zip(merges, expected, strict=False)) if a != b), min(len(merges), len(expected))
    )
    here, there = ((quoted(m[first]) if first < len(m) else "none") for m in (merges, expected))
    seen = f"{len(merges)} merges, {len(expected)} in the source: merge {first} is {here}, and {there} in the source"
    return [failed(CHECK, seen, AGAIN)]
