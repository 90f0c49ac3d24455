"""`tokenizer.ggml.pre`: which rules split a text before its bytes are merged, and which of them fit a source."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from pipeline.check.encode import PRE, NoSeparatorError, by_llama, with_pre
from pipeline.check.verdict import failed, passed
from pipeline.check.vocabulary import CHECK, quoted
from pipeline.errors import ToolchainError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.gguf_file import GGUFFile
    from pipeline.result import Verdict

# Only byte-level BPE has pre-tokenizers; other vocabularies say "default", and that is right.
BPE = "gpt2"
CONVERT = "Convert again with an up-to-date convert_hf_to_gguf.py; do not set the pre-tokenizer by hand."
# A branch of llama_vocab::impl::load: names that are compared, and what they make of `pre_type`.
BRANCH = re.compile(r'tokenizer_pre == "([^"\n]{1,64})"|pre_type\s*=\s*LLAMA_VOCAB_PRE_TYPE_(\w+)')


class Better(NamedTuple):
    pre: str
    differing: int
    """Of the samples tried, how many still have other tokens than the source's."""


def names(llama_tree: Path | None) -> list[list[str]]:
    """Return the names that this llama.cpp knows, those that it treats alike together; empty without its source."""
    try:
        code = (llama_tree / "src" / "llama-vocab.cpp").read_text(encoding="utf-8") if llama_tree else ""
    except (OSError, ValueError):
        return []
    groups: list[list[str]] = []
    together: list[str] = []
    for name, kind in BRANCH.findall(code):
        if name:
            together.append(name)
        elif kind and together:
            if together not in groups:
                groups.append(together)
            together = []
    return groups


def check(gguf: GGUFFile, llama_tree: Path | None) -> Verdict | None:
    """Judge the name alone; None where the vocabulary is of a kind that has none."""
    if gguf.metadata.get("tokenizer.ggml.model") != BPE:
        return None
    pre = gguf.metadata.get(PRE)
    if not pre or not isinstance(pre, str):
        return failed(CHECK, f"{PRE} is missing, so llama.cpp splits texts by its default rules", CONVERT)
    if pre == "default":
        return failed(CHECK, f"{PRE} is 'default', which is no model's own pre-tokenizer", CONVERT)
    known = names(llama_tree)
    if known and not any(pre in group for group in known):
        seen = f"{PRE} is {quoted(pre)}, which this llama.cpp does not know, so it refuses the file"
        return failed(CHECK, seen, "Correct the name, or use the llama.cpp that the file was made with.")
    return passed(CHECK, f"{PRE} is {quoted(pre)}")


def better(
    gguf: GGUFFile,
    llama: tuple[Path, Path | None],
    texts: Sequence[str],
    expected: Sequence[Sequence[int]],
    separator: tuple[int, str],
    room: Path,
) -> Better | None:
    """Try every other pre-tokenizer that this llama.cpp has, and return the one with the fewest differences.

    `llama` is the directory of its tools and its source. One process a pre-tokenizer, half a second to two each: for
    files that differ, not for every file. None where none can be tried.
    """
    tools, tree = llama
    current, best = gguf.metadata.get(PRE), None
    # What many models share comes first: it is the likelier, and the name that people know.
    for group in sorted(names(tree), key=len, reverse=True):
        if current in group or group == ["default"]:
            continue
        model = room / "other.gguf"
        with_pre(gguf, group[0], model)
        try:
            ids = by_llama(tools, model, texts, separator, room)
        except (NoSeparatorError, ToolchainError):
            continue  # it does not go with this vocabulary
        differing = sum(ours != list(theirs) for ours, theirs in zip(ids, expected, strict=True))
        if best is None or differing < best.differing:
            best = Better(group[0], differing)
        if not differing:
            break
    return best
