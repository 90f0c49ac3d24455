"""The source's own card: what of it may be kept, and its text made safe to stand beside ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import StringIO
from itertools import accumulate
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.events import AliasEvent

LONGEST_TEXT = 200_000
"""Characters of a card's text that are shown; the rest is a link away."""
LONGEST_FRONT_MATTER = 500_000

_FRONT_MATTER = re.compile(r"\A\s*^---\r?\n(.*?)^---(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_TEXT_KEYS = ("license", "license_name", "license_link", "pipeline_tag")
_LIST_KEYS = ("language", "datasets", "tags")
# True of the source's files and not of ours, or written by the Hub itself.
_FOREIGN_TAGS = frozenset(
    (
        *("safetensors", "pytorch", "jax", "tf", "tensorflow", "onnx", "openvino", "coreml", "mlx"),
        *("transformers", "text-generation-inference", "custom_code", "exl2", "awq", "gptq"),
        *("autotrain_compatible", "endpoints_compatible"),
    ),
)
_LONGEST_VALUE = 20_000
_MOST_ITEMS = 500
_LONGEST_WORD = 500
_DEEPEST = 50


class _UnreadableError(Exception):
    """Why the front matter could not be read, as the end of a sentence."""


@dataclass(frozen=True)
class SourceCard:
    """A card as found upstream. It is hostile until proven otherwise: data, never a template."""

    front_matter: str
    """The block as it stands, its two `---` lines included; empty where there is none."""
    text: str
    """What comes after it, at most `LONGEST_TEXT` characters."""
    metadata: dict[str, Any]
    """What of the front matter holds for a quantized copy too, in plain and bounded shapes."""
    problem: str | None
    """Why nothing of the front matter could be used."""
    cut: bool
    """Whether the text is longer than what is shown."""

    @classmethod
    def parse(cls, card: str) -> SourceCard:
        card = re.sub(r"[\x00\x0b\x0c]", "", card.removeprefix("\ufeff"))
        card = card.encode("utf-8", "replace").decode("utf-8")
        found = _FRONT_MATTER.match(card)
        front_matter, text = (card[: found.end()], card[found.end() :]) if found else ("", card)
        metadata: dict[str, Any] = {}
        problem = None
        if found:
            try:
                metadata = _kept(_load(found[1]))
            except _UnreadableError as error:
                problem = str(error)
        elif text.lstrip().startswith("---"):
            problem = "has no end: a line that holds `---` alone"
        cut = len(text) > LONGEST_TEXT
        if cut:
            end = text.rfind("\n", 0, LONGEST_TEXT)
            text = text[: end if end > 0 else LONGEST_TEXT]
        return cls(front_matter, text, metadata, problem, cut)


def fields(card: str) -> dict[Any, Any]:
    """All that the front matter of a card holds, nothing of it left out; empty where it cannot be read."""
    found = _FRONT_MATTER.match(card.removeprefix("\ufeff"))
    try:
        return _load(found[1]) if found else {}
    except _UnreadableError:
        return {}


def dump(metadata: dict[str, Any]) -> str:
    """Front matter between its two lines, the same to readers of YAML 1.1 and 1.2."""
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)  # so that what 1.1 takes for a truth value is quoted: Norwegian is `no`
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # ruamel types it as None
    yaml.width = 2**20
    text = StringIO()
    yaml.dump(metadata, text)
    return "---\n" + text.getvalue().removeprefix("%YAML 1.1\n---\n") + "---\n"


def _load(text: str) -> dict[Any, Any]:
    if len(text) > LONGEST_FRONT_MATTER:
        raise _UnreadableError(f"is longer than {LONGEST_FRONT_MATTER:,} characters")
    depths = accumulate(1 if bracket in "[{" else -1 for bracket in re.findall(r"[\[\]{}]", text))
    if max(depths, default=0) > _DEEPEST:
        raise _UnreadableError("is nested too deep")  # ruamel's time grows with the cube of it
    try:
        aliased = "&" in text and any(isinstance(event, AliasEvent) for event in _yaml().parse(text))
        loaded = None if aliased else _yaml().load(text)
    except Exception as error:  # a parser that chokes on hostile text may raise anything
        raise _UnreadableError("is not valid YAML") from error
    if aliased:
        raise _UnreadableError("uses aliases, which can unfold without end")
    if loaded is not None and not isinstance(loaded, dict):
        raise _UnreadableError("does not hold keys and values")
    return loaded or {}


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)


def _kept(metadata: dict[Any, Any]) -> dict[str, Any]:
    """Licence, language, gating and the like; not the library, the widget or the scores of other weights."""
    kept: dict[str, Any] = {}
    for key in _TEXT_KEYS:
        if isinstance(value := metadata.get(key), str) and 0 < len(value) <= _LONGEST_WORD:
            kept[key] = value
    for key in _LIST_KEYS:
        value = metadata.get(key)
        words = [w for w in (value if isinstance(value, list) else [value]) if isinstance(w, str)]
        words = [w for w in dict.fromkeys(words) if 0 < len(w) <= _LONGEST_WORD and not _foreign(w)]
        if words:
            kept[key] = words[:_MOST_ITEMS]
    gates = {key: value for key, value in metadata.items() if str(key).startswith("extra_gated_")}
    return kept | {key: value for key, value in gates.items() if _bounded(value, [_MOST_ITEMS])}


def _foreign(tag: str) -> bool:
    return tag in _FOREIGN_TAGS or tag.startswith(("base_model:", "license:", "region:", "arxiv:"))


def _bounded(value: Any, left: list[int], depth: int = 4) -> bool:
    """Whether a value is made of a bounded number of texts, truth values, numbers, lists and mappings."""
    left[0] -= 1
    if left[0] < 0 or depth == 0:
        return False
    if isinstance(value, dict):
        return all(isinstance(k, str) and _bounded(v, left, depth - 1) for k, v in value.items())
    if isinstance(value, list):
        return all(_bounded(item, left, depth - 1) for item in value)
    return isinstance(value, str | bool | int) and len(str(value)) <= _LONGEST_VALUE
