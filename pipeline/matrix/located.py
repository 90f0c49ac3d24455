"""YAML with positions: plain values, and where in the file each of them stands.

A deliberate subset of YAML 1.2 (core schema): one document, no anchors, no tags, string keys (numbers, too, in gates).
Built on the parser's events rather than its objects, since those have lost where a scalar stood and how it was written.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.reader import ReaderError

if TYPE_CHECKING:
    from collections.abc import Iterator

Loc = tuple[str | int, ...]
"""Where a value stands: the keys and the list indices that lead to it."""

MAX_BYTES: Final = 1 << 18  # thousands of models; the parser takes seconds for it
MAX_DEPTH: Final = 32
NUMBERED: Final = ("gates",)
"""Below these keys are mappings whose own keys may be numbers; as everywhere, they are kept as they are written."""
MOST_PROBLEMS: Final = 100
"""More are not said: who reads of so many mends these first, and no log is flooded."""

# YAML 1.2.2, section 10.3.2, without the octal and hexadecimal forms and without .inf and .nan: nothing here
# is sensibly written so, and as a string each gets an error that shows it as it was written.
_CONSTANTS: Final = {"": None, "~": None} | {
    spelling: value
    for word, value in {"null": None, "true": True, "false": False}.items()
    for spelling in (word, word.capitalize(), word.upper())
}
# What no reviewer sees: what turns the direction of the text around it (unicode.org/reports/tr9), and what has no width
# or no ink. Joiners and the two selectors of an emoji's style belong to the words of some scripts, one at a time.
HIDDEN: Final = re.compile(
    r"[\x85\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u2800"
    r"\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    r"|(?<![^\x00-\x7f\u200c\u200d])[\u200c\u200d]|(?<=[\u200c\u200d\ufe0e\ufe0f])[\ufe0e\ufe0f]|\r(?!\n)"
)
_INT: Final = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")

# (what ruamel.yaml says, what we say, whether to point at where the construct began)
_SYNTAX: Final = (
    (r"'\t'", "a tab stands here; YAML is indented with spaces only", False),
    ("cannot start any token", "plain text cannot start with this character; quote the value", False),
    ("mapping values are not allowed", "a `:` too many, or wrong indentation; quote text with `: `", False),
    ("unexpected end of stream", "the quote that opens here is never closed", True),
    ("expected ',' or ']'", "the list that opens here is not closed, or misses a comma", True),
    ("expected ',' or '}'", "the mapping that opens here is not closed, or misses a comma", True),
    ("could not find expected ':'", "a key without its `: value`", True),
    ("expected the node content", "a value is missing here, or what opened above is not closed", False),
    ("expected '<document start>'", "this belongs to nothing above; check the indentation", False),
    ("expected <block end>", "the indentation does not fit the lines above", False),
)


@dataclass(frozen=True, order=True)
class Problem:
    """What is wrong where; line and column count from 1."""

    line: int
    column: int
    text: str

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.text}"


@dataclass(frozen=True)
class Spot:
    line: int
    column: int
    text: str | None = None
    """A scalar as it was written."""
    start: int = 0
    """Of the file's text, in characters, where the value begins; a quote is part of it."""
    end: int = 0
    """Where a scalar ends; that of a list or a mapping is not known."""


@dataclass
class Document:
    """A file's values with their positions. `problems`: what is wrong with the YAML; `value` may be None then."""

    value: Any = None
    problems: list[Problem] = field(default_factory=list)
    values: dict[Loc, Spot] = field(default_factory=dict)
    keys: dict[Loc, Spot] = field(default_factory=dict)

    def spot(self, loc: Loc, *, key: bool = False) -> Spot:
        """Where the value at `loc` stands (or its key); where there is none, what should have held it."""
        if key and loc in self.keys:
            return self.keys[loc]
        while loc and loc not in self.values:
            loc = loc[:-1]
        return self.values.get(loc, Spot(1, 1))

    def value_at(self, loc: Loc) -> Any:
        value = self.value
        for step in loc:
            value = value[step]
        return value

    def problem(self, loc: Loc, text: str, *, key: bool = False) -> Problem:
        spot = self.spot(loc, key=key)
        return Problem(spot.line, spot.column, text)


def parse(data: bytes) -> Document:
    """Read YAML. What is wrong with it is in the document's `problems`; nothing is raised."""
    if len(data) > MAX_BYTES:
        return Document(problems=[Problem(1, 1, f"the file is larger than {MAX_BYTES} bytes")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", "replace")
        return Document(problems=[_stopped(before, "this byte is not UTF-8; save the file as UTF-8").problem])
    if hidden := [_hidden(text[: found.start()], found[0]) for found in islice(HIDDEN.finditer(text), MOST_PROBLEMS)]:
        return Document(problems=hidden)  # the file may not say what it seems to say
    document = Document()
    try:
        document.value = _Reader(document, text).document()
    except _StoppedError as stopped:
        document.problems.append(stopped.problem)
    except ReaderError as error:
        what = f"the character U+{error.character:04X} may not stand in YAML"
        document.problems.append(_stopped(text[: error.position], what).problem)
    except MarkedYAMLError as error:
        document.problems.append(_syntax(error))
    except Exception as error:  # noqa: BLE001 - some broken input trips the parser's own assertions
        document.problems.append(Problem(1, 1, f"this is no YAML ({type(error).__name__} in the parser)"))
    return document


class _StoppedError(Exception):
    """The rest of the file cannot be read for this one problem."""

    def __init__(self, line: int, column: int, text: str) -> None:
        super().__init__(text)
        self.problem = Problem(line, column, text)


class _Reader:
    def __init__(self, document: Document, text: str) -> None:
        self.into = document
        self.events: Iterator[Event] = YAML(typ="safe", pure=True).parse(text)

    def document(self) -> Any:
        next(self.events)  # the start of the stream
        if isinstance(next(self.events), StreamEndEvent):
            raise _StoppedError(1, 1, "the file is empty")
        value = self._value(next(self.events), ())
        next(self.events)  # the end of the document
        if isinstance(after := next(self.events), DocumentStartEvent):
            raise _stop(after, "a second YAML document starts here; the file may hold one only")
        if value is None:
            raise _StoppedError(1, 1, "the file is empty")
        return value

    def _value(self, event: Event, loc: Loc) -> Any:
        if isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and event.anchor):
            # An alias may stand for a value that aliases others: a few lines that expand without end.
            raise _stop(event, "anchors and aliases (`&`, `*`) are not supported; write the value out")
        if getattr(event, "tag", None):
            raise _stop(event, "tags (`!`) are not supported; remove it")
        if len(loc) > MAX_DEPTH:
            raise _stop(event, "this is nested too deeply")
        self.into.values[loc] = _spot(event)
        match event:
            case ScalarEvent():
                return _scalar(event)
            case SequenceStartEvent():
                return self._sequence(loc)
            case MappingStartEvent():
                return self._mapping(loc)
        raise _stop(event, "this cannot be read")

    def _sequence(self, loc: Loc) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), SequenceEndEvent):
            items.append(self._value(event, (*loc, len(items))))
        return items

    def _mapping(self, loc: Loc) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            key = self._key(event, loc)
            spot = _spot(event)
            at = (*loc, key)
            if key in items:
                first = self.into.keys[at].line
                text = f"`{shown(key)}` is given twice, first in line {first}"
                self.into.problems.append(Problem(spot.line, spot.column, text))
                # Read on, to somewhere that no position is asked for: the first value is the one that counts.
                self._value(next(self.events), (*at, "", key))
                continue
            self.into.keys[at] = spot
            items[key] = self._value(next(self.events), at)
            if items[key] is None:
                # The parser puts a value that is not there where the next thing stands.
                self.into.values[at] = spot
        return items

    def _key(self, event: Event, loc: Loc) -> str:
        if not isinstance(event, ScalarEvent) or event.anchor or event.tag:
            raise _stop(event, "a key must be plain text")
        value = _scalar(event)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not isinstance(value, str) and not (number and loc[-2:-1] == NUMBERED):
            raise _stop(event, f'a key must be a string; quote it: "{shown(event.value)}"')
        return str(event.value)


def _scalar(event: ScalarEvent) -> str | float | bool | None:
    text = str(event.value)
    if any("\ud800" <= c <= "\udfff" for c in text):  # by an escape; no such text can be written anywhere
        raise _stop(event, "half a character (a surrogate) stands here; write the character itself")
    if event.style is not None:  # quoted, or a block
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        return int(text)
    # A longer integer becomes a float too: no setting is that large, and the text is kept for messages.
    return float(text) if _FLOAT.fullmatch(text) else text


def _spot(event: Event) -> Spot:
    mark = event.start_mark
    text = str(event.value) if isinstance(event, ScalarEvent) else None
    return Spot(mark.line + 1, mark.column + 1, text, mark.index, event.end_mark.index)


def _stop(event: Event, text: str) -> _StoppedError:
    spot = _spot(event)
    return _StoppedError(spot.line, spot.column, text)


def _stopped(before: str, text: str) -> _StoppedError:
    """A problem right after the text `before`."""
    lines = before.split("\n")
    return _StoppedError(len(lines), len(lines[-1]) + 1, text)


def _hidden(before: str, character: str) -> Problem:
    what = f"the invisible character {numbered(character)} stands here; take it out, since nobody sees what it does"
    return _stopped(before, what).problem


def _syntax(error: MarkedYAMLError) -> Problem:
    said = str(error.problem or error.context)
    mark = error.problem_mark or error.context_mark
    text = f"this is no YAML: {shown(said, 200)}"
    for needle, ours, at_start in _SYNTAX:
        if needle in said:
            text = ours
            mark = (error.context_mark or mark) if at_start else mark
            break
    return Problem(mark.line + 1, mark.column + 1, text) if mark else Problem(1, 1, text)


def shown(value: object, length: int = 80) -> str:
    """A value as it can stand in a message of one line."""
    text = "".join(c if c.isprintable() else "�" for c in " ".join(str(value).split()))
    return text if len(text) <= length else f"{text[: length - 1]}…"


def numbered(character: str) -> str:
    """A character by its number and name, for one that shows itself badly."""
    return f"U+{ord(character):04X} ({unicodedata.name(character, 'a control character')})"
