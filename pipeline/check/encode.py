"""Tokens of many texts at once, from llama.cpp and from a model's source.

llama-tokenize takes one text a process, and loading a large vocabulary takes a second. So the texts are joined by a
special token of the vocabulary. llama.cpp cuts a text at its special tokens before anything else and tokenizes each
piece by itself (`tokenizer_st_partition` in src/llama-vocab.cpp); a piece after a special token gets the space in front
that the first piece gets. Joined or alone, a text has the same tokens, and they are read off between the separators.
Calling libllama through ctypes would need its structs, which change from version to version and which are passed by
value: a wrong field there is no error but another setting.
"""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline import shell
from pipeline.check import source_tokens
from pipeline.check.vocabulary import CONTROL, UNKNOWN, USER_DEFINED, quoted
from pipeline.errors import ToolchainError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pipeline.check.vocabulary import Vocabulary
    from pipeline.gguf_file import GGUFFile

PROGRAM = "llama-tokenize"
PRE = "tokenizer.ggml.pre"
ALIGNMENT = 32
# Processor time after which a tokenizer does not end any more; the slowest seen took 20 s.
SECONDS = 300
# The soft limit alone: past the hard one it would be killed as from outside.
LIMITED = ("/bin/sh", "-c", 'ulimit -S -t "$0"; exec "$@"', str(SECONDS))


class NoSeparatorError(ValueError):
    """No special token of the vocabulary cuts the texts apart."""


class SourceTokens(NamedTuple):
    ids: list[list[int]]
    second: list[list[int]] | None
    """SentencePiece's, where the source has that too."""
    parses_special: bool


def separators(vocabulary: Vocabulary) -> Iterator[int]:
    """Yield special tokens that may stand between texts, the best first.

    <unk> first: to llama.cpp a Phi-3's other special tokens swallow the spaces behind them. Then from the longest on,
    since llama.cpp looks for those first. One that stands within another special token is left out.
    """
    tokens = vocabulary.tokens
    special = [n for n, kind in enumerate(vocabulary.types[: len(tokens)]) if kind in (UNKNOWN, CONTROL, USER_DEFINED)]
    special = [n for n in special if tokens[n].isprintable() and 2 < len(tokens[n].strip()) == len(tokens[n]) <= 64]
    special.sort(key=lambda n: (tokens[n] != "<unk>", -len(tokens[n]), n))
    for n in special[:8]:
        if not any(tokens[n] in tokens[other] for other in special if other != n):
            yield n


def by_llama(tools: Path, model: Path, texts: Sequence[str], separator: tuple[int, str], room: Path) -> list[list[int]]:
    """Tokenize each text, special tokens in it too, with nothing added around it.

    `separator` is the id and the text of a special token that stands in none of the texts; `room` is a scratch
    directory. Raises `NoSeparatorError` where it does not cut them apart, and `ToolchainError` where llama-tokenize
    does not end well.
    """
    number, between = separator
    file = room / f"{len(texts)}-texts.txt"
    file.write_bytes(between.join(texts).encode())
    # Escapes are off: the texts hold backslashes. Special tokens are parsed, as in a chat or a server's prompt.
    options = ["--file", file.name, "--ids", "--no-bos", "--no-escape", "--log-disable"]
    doing = f"tokenizing {len(texts)} texts with {model.name}"
    printed = shell.run([*LIMITED, tools / PROGRAM, "-m", model.resolve(), *options], cwd=room, doing=doing).stdout
    listed = re.findall(r"^\[([\d, ]*)\]\s*$", printed, re.MULTILINE)
    if not listed:
        raise ToolchainError(f"{PROGRAM} printed no list of tokens while {doing}.")
    groups: list[list[int]] = [[]]
    for one in map(int, filter(None, listed[-1].split(", "))):
        if one == number:
            groups.append([])
        else:
            groups[-1].append(one)
    if len(groups) != len(texts):
        raise NoSeparatorError(f"{len(groups)} pieces where {len(texts)} texts were joined")
    return groups


def loading_error(tools: Path, model: Path, room: Path) -> str | None:
    """Return what llama.cpp says of a vocabulary that it does not load; None where it tokenizes a text."""
    try:
        shell.run([*LIMITED, tools / PROGRAM, "-m", model.resolve(), "-p", "a", "--ids"], cwd=room, doing="loading it")
    except ToolchainError as error:
        return last_line(error, "error loading model: ")
    return None


def last_line(error: ToolchainError, after: str = "") -> str:
    """Return what a program said last, or last behind the words `after`; bounded, and a literal."""
    said = [line.removeprefix("  | ") for line in str(error).splitlines() if line.startswith("  | ")]
    told = [line.partition(after)[2] for line in said if after and after in line]
    return quoted((told or said or str(error).splitlines() or [""])[-1 if said else 0], 120)


def by_source(source: Path, texts: Sequence[str], room: Path) -> SourceTokens:
    """Tokenize each text as the source does. Raises `ToolchainError` with a sentence where it cannot be done."""
    given, made = room / "texts.json", room / "tokens.json"
    given.write_text(json.dumps(list(texts)), encoding="utf-8")
    program = [sys.executable, "-I", source_tokens.__file__, source.resolve(), given.name, made.name]
    shell.run(
        [*LIMITED, *program],
        cwd=room,
        env={"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"},
        doing="tokenizing with the source's tokenizer",
    )
    answer: dict[str, Any] = json.loads(made.read_bytes())
    return SourceTokens(answer["ids"], answer["second"], answer["parses_special"])


def with_pre(gguf: GGUFFile, pre: str, path: Path) -> None:
    """Write the file's keys alone, without tensors, with another pre-tokenizer: enough for llama-tokenize."""
    with gguf.path.open("rb") as file:
        magic_and_version = file.read(8)
        parts = []
        for key, value in gguf.values.items():
            if key != PRE:
                begin = value.begin - 4 - len(key.encode()) - 8  # the word of the type, the key, its length
                file.seek(begin)
                parts.append(file.read(value.end - begin))
    parts.append(b"".join((_string(PRE), (8).to_bytes(4, "little"), _string(pre))))
    header = magic_and_version + (0).to_bytes(8, "little") + len(parts).to_bytes(8, "little")
    content = header + b"".join(parts)
    path.write_bytes(content + bytes(-len(content) % ALIGNMENT))


def _string(text: str) -> bytes:
    return len(text.encode()).to_bytes(8, "little") + text.encode()
