"""Single values of matrix.yml, changed in place: comments, quotes and layout stay as their authors made them."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import BadInputError
from pipeline.matrix import located
from pipeline.matrix.model import GitSource, Sdist

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.matrix.located import Document, Loc, Spot

Change = tuple[int, int, str]
"""From where to where of the text, and what stands there instead."""

BOM: Final = b"\xef\xbb\xbf"
_NULL: Final = re.compile(r"([ \t]*:)(?:[ \t]+(?:~|null|Null|NULL)(?![^\s,}]))?")
# What is written here: commits, digests, `name==version`. No quote and no backslash, so any style can hold it.
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!=-]*")


def set_revision(data: bytes, source: str, revision: str) -> bytes:
    """Return the matrix with the model `source` pinned at `revision`; a model without one gets it below `source`.

    Raises `BadInputError` where the matrix lists no such model, or is written so that it takes a person.
    """
    document, text = _read(data)
    models = document.value.get("models") if isinstance(document.value, dict) else None
    listed = models if isinstance(models, list) else []
    found = [i for i, model in enumerate(listed) if isinstance(model, dict) and model.get("source") == source]
    if not found:
        raise BadInputError(f"matrix.yml lists no model {source}, so no revision of it can be set.")
    model: Loc = ("models", found[0])
    loc: Loc = (*model, "revision")
    if loc in document.values:
        change = _replacement(document, text, loc, revision)
    else:
        change = _insertion(document, text, model, revision)
    return _changed(data, {loc: revision}, [change])


def set_toolchain(data: bytes, pin: Sdist | GitSource) -> bytes:
    """Return the matrix with `llama_cpp` pinned at another version or commit, in the form that it has.

    Raises `BadInputError` where it has another form, or is written so that it takes a person.
    """
    match pin:
        case Sdist():
            wanted = {"sdist": f"{pin.name}=={pin.version}", "sha256": pin.sha256, "commit": pin.commit}
        case GitSource():
            wanted = {"commit": pin.commit}
    document, text = _read(data)
    values: dict[Loc, str] = {("llama_cpp", key): value for key, value in wanted.items()}
    has = document.value.get("llama_cpp") if isinstance(document.value, dict) else None
    form = "sdist" if isinstance(pin, Sdist) else "git"
    if not isinstance(has, dict) or form not in has or not wanted.keys() <= has.keys():
        raise BadInputError(f"`llama_cpp` in matrix.yml has no {', '.join(wanted)} to change, or is of another form.")
    return _changed(data, values, [_replacement(document, text, loc, value) for loc, value in values.items()])


def _read(data: bytes) -> tuple[Document, str]:
    document = located.parse(data)
    if document.problems:
        raise BadInputError("\n".join(f"matrix.yml:{problem}" for problem in sorted(document.problems)))
    return document, data.decode("utf-8-sig")


def _replacement(document: Document, text: str, loc: Loc, value: str) -> Change:
    spot, key = document.values[loc], document.keys[loc]
    if document.value_at(loc) is None:
        # Of a null there is no position: it need not stand anywhere.
        if not (null := _NULL.match(text, key.end)):
            raise _too_hard(key)
        return null.end(1), null.end(), f" {_written(value)}"
    opening = text[spot.start]
    if opening in "|>":
        raise _too_hard(key)
    return spot.start, spot.end, _written(value, opening)


def _insertion(document: Document, text: str, loc: Loc, revision: str) -> Change:
    key, value = document.keys[*loc, "source"], document.values[*loc, "source"]
    if text[document.values[loc].start] == "{":
        return value.end, value.end, f", revision: {_written(revision)}"
    line_end = re.compile(r"\r?\n|\Z").search(text, value.end)
    assert line_end
    # The line's own kind of end; in a file of one line that has none, the usual one.
    newline = line_end[0] or ("\r\n" if "\r\n" in text else "\n")
    line = f"{newline}{' ' * (key.column - 1)}revision: {_written(revision)}"
    return line_end.start(), line_end.start(), line


def _written(value: str, quote: str = "") -> str:
    """`value` in the quotes that were there; without any, in some only where YAML would read it as a number."""
    if not _PLAIN.fullmatch(value):
        raise ValueError(f"{value!r} is nothing that is pinned")
    if quote in {"'", '"'}:
        return f"{quote}{value}{quote}"
    return value if located.parse(value.encode()).value == value else f'"{value}"'


def _changed(data: bytes, values: Mapping[Loc, str], changes: list[Change]) -> bytes:
    """Make the changes, and see that they changed what they should, and nothing else."""
    before, text = _read(data)
    for start, end, new in sorted(changes, reverse=True):
        text = text[:start] + new + text[end:]
    made = (BOM if data.startswith(BOM) else b"") + text.encode()
    wanted: Any = copy.deepcopy(before.value)
    for loc, value in values.items():
        held = wanted
        for step in loc[:-1]:
            held = held[step]
        held[loc[-1]] = value
    after = located.parse(made)
    if after.problems or after.value != wanted:
        raise _too_hard(before.spot(next(iter(values)), key=True))
    return made


def _too_hard(spot: Spot) -> BadInputError:
    return BadInputError(
        f"matrix.yml:{spot.line}:{spot.column}: this is written in a way that only a person should change. Write it as"
        " `key: value` on one line."
    )
