"""Where chat templates stand: in a model's source, as `transformers` reads them, and in a GGUF, as llama.cpp does."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.gguf_file import GGUFFile

DEFAULT = "default"
KEY = "tokenizer.chat_template"
LISTED = "tokenizer.chat_templates"
CONFIG = "tokenizer_config.json"
JINJA = "chat_template.jinja"
LARGEST = 1 << 20
"""Bytes. Of the templates in use, the largest has some sixty thousand."""
LARGEST_JSON = 32 << 20
LARGEST_VOCABULARY = 64 << 20
LONGEST_TOKEN = 256
MOST = 16
SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
"""What templates call a special token, to what GGUF calls it."""


def of_source(directory: Path) -> dict[str, str]:
    """Return the templates of a Hugging Face directory by name, with "default" for the one that has none.

    A file of its own goes before tokenizer_config.json, as in `transformers` (`PreTrainedTokenizerBase`), and
    chat_template.json, which only processors read, comes last. Names are spelled as GGUF spells them. Raises
    `ValueError` with a sentence's rest for a file that cannot be read.
    """
    extra = {
        _spelled(path.stem): _read(path, LARGEST)
        for path in sorted((directory / "additional_chat_templates").glob("*.jinja"))[:MOST]
    }
    if (directory / JINJA).is_file():
        found = {DEFAULT: _read(directory / JINJA, LARGEST)}
    else:
        found = of_config(directory) or _named(_json(directory / "chat_template.json"), "chat_template.json")
    return {name: template for name, template in {**found, **extra}.items() if template}


def of_config(directory: Path) -> dict[str, str]:
    """Return those of tokenizer_config.json alone, which llama.cpp's converter takes before any other."""
    return _named(_json(directory / CONFIG), CONFIG)


def of_gguf(file: GGUFFile) -> dict[str, str]:
    """Return the templates of a GGUF by name.

    llama.cpp reads a string up to its first NUL, and so do we. Raises `ValueError` for a value that is no string.
    """
    found = {}
    for key in file.values:
        name = DEFAULT if key == KEY else key.removeprefix(f"{KEY}.")
        if name in (key, "") or (name == DEFAULT and key != KEY):
            continue
        template = file.metadata.get(key)
        if not isinstance(template, str):
            raise ValueError(f"{quoted(key)} is no text")  # noqa: TRY004 - the file is wrong, not the call
        if len(template) > LARGEST:
            raise ValueError(f"{quoted(key)} has {len(template)} characters, and no chat template has {LARGEST}")
        found[name] = template.split("\0", 1)[0]
        if len(found) > MOST:
            raise ValueError(f"the file has more than {MOST} chat templates")
    return {name: template for name, template in found.items() if template}


def unlisted(file: GGUFFile) -> list[str]:
    """Return the names that `tokenizer.chat_templates` lists and for which the file has no template."""
    value = file.values.get(LISTED)
    if value is None or value.end - value.begin > LARGEST:
        return []
    try:
        names = file.array(LISTED)
    except ValueError:
        return []
    return [str(name) for name in names if name != DEFAULT and f"{KEY}.{name}" not in file.values]


def special_tokens_of_source(directory: Path) -> dict[str, str]:
    """Return the text of each special token that a template can ask for, `{"bos_token": "<s>"}`.

    Raises `ValueError` as `of_source` does.
    """
    found = {}
    settings = {**_json(directory / "special_tokens_map.json"), **_json(directory / CONFIG)}
    for name in SPECIAL:
        token = settings.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str) and len(text) <= LONGEST_TOKEN:
            found[name] = text
    return found


def special_tokens_of_gguf(file: GGUFFile) -> dict[str, str]:
    """Return the same of a GGUF; nothing where its vocabulary is not to be read."""
    numbers = {name: file.metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in SPECIAL.items()}
    value = file.values.get("tokenizer.ggml.tokens")
    if value is None or value.end - value.begin > LARGEST_VOCABULARY:
        return {}
    try:
        tokens = file.array("tokenizer.ggml.tokens")
    except ValueError:
        return {}
    return {
        name: str(tokens[number])
        for name, number in numbers.items()
        if isinstance(number, int) and 0 <= number < len(tokens) and len(str(tokens[number])) <= LONGEST_TOKEN
    }


def quoted(text: str, limit: int = 60) -> str:
    """Return the beginning of a text that a stranger wrote, in quotes and with what does not print escaped."""
    shown = text[:limit]
    while len(repr(shown)) > limit + 2:
        shown = shown[: len(shown) * 3 // 4]
    return repr(shown) + ("…" if len(text) > len(shown) else "")


def _spelled(name: str) -> str:
    """Spell a template's name as llama.cpp's converter writes it into a key."""
    return re.sub(r"[^A-Za-z0-9]", "_", name)


def _named(settings: dict[str, Any], where: str) -> dict[str, str]:
    """Return `chat_template`, a template or a list of `{"name": …, "template": …}`, by name."""
    value = settings.get("chat_template")
    if isinstance(value, str):
        found = {DEFAULT: value}
    elif isinstance(value, list):
        found = {
            _spelled(str(entry.get("name", ""))): entry["template"]
            for entry in value[:MOST]
            if isinstance(entry, dict) and isinstance(entry.get("template"), str)
        }
    else:
        found = {}
    for template in found.values():
        _bounded(len(template), LARGEST, where)
    return found


def _json(path: Path) -> dict[str, Any]:
    """Return the object in a file; an empty one where there is no file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read(path, LARGEST_JSON))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no JSON: {str(error)[:80]}") from error
    return value if isinstance(value, dict) else {}


def _read(path: Path, limit: int) -> str:
    _bounded(path.stat().st_size, limit, path.name)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{quoted(path.name)} is no UTF-8") from error


def _bounded(size: int, limit: int, where: str) -> None:
    if size > limit:
        raise ValueError(f"{quoted(where)} is too large to read: {size} of at most {limit}")
