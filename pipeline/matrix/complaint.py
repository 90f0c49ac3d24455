"""Sentences for what is wrong in matrix.yml: pydantic finds it, and this says it, with a position.

Nothing of pydantic's own wording reaches the user.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import ValidationError

from pipeline.matrix.forms import (
    Form,
    GatesForm,
    GitForm,
    HubTextForm,
    MatrixFile,
    ModelForm,
    PathForm,
    PathTextForm,
    RecipeForm,
    SdistForm,
    Settings,
)
from pipeline.matrix.located import shown
from pipeline.matrix.spelling import close_match, foreign, meant

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic_core import ErrorDetails

    from pipeline.matrix.located import Document, Loc, Problem

# Parts of pydantic's locations to the form that they lead to.
_FORMS: Final[dict[str | int, type[Form]]] = {
    "defaults": Settings,
    "models": ModelForm,
    "recipes": RecipeForm,
    "gates": GatesForm,
    "<sdist>": SdistForm,
    "<git>": GitForm,
    "<path>": PathForm,
    "<hub text>": HubTextForm,
    "<path text>": PathTextForm,
}
_TAGS: Final = {"[key]", "<embedded>", "<number>", "<by bits>"} | {tag for tag in _FORMS if str(tag).startswith("<")}
_LIMITS: Final = [gate for gate in GatesForm.model_fields if gate != "max_logits_nmse"]
_TEXT: Final = "`embedded`, a mapping with `hub`, `file`, `revision` and `sha256`, or a mapping with `path`"
_WANTED: Final[dict[str | int, str]] = {
    "llama_cpp": "a mapping with `sdist`, `git` or `path`",
    "defaults": "a mapping of settings",
    "recipes": "a mapping of names to recipes",
    "models": "a list of models",
    "quants": "a list of quant types",
    "tensors": "a mapping of regular expressions to types",
    **dict.fromkeys(_LIMITS, "a number, or a mapping of bits per weight to numbers"),
    "calibration": _TEXT,
    "evaluation": _TEXT,
}
_WANTED_TYPE: Final = {
    "string_type": "a string",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "`true` or `false`",
    "list_type": "a list",
}

F = TypeVar("F", bound=Form)


def check(document: Document, folder: Path) -> tuple[MatrixFile | None, list[Problem]]:
    """What single values have wrong, and the file where that is nothing. Paths are relative to `folder`."""
    try:
        return MatrixFile.model_validate(document.value, context=folder), []
    except ValidationError as error:
        return None, _problems(document, error.errors(include_url=False))


def salvage(form: type[F], value: Any, folder: Path) -> F | None:
    """What is right of a mapping, so that checks across the file see it; None where a required key is not."""
    try:
        return form.model_validate(value, context=folder)
    except ValidationError as error:
        wrong = {e["loc"][0] for e in error.errors() if e["loc"]}
    if not isinstance(value, dict) or wrong.isdisjoint(value):
        return None
    return salvage(form, {key: kept for key, kept in value.items() if key not in wrong}, folder)


def _problems(document: Document, errors: list[ErrorDetails]) -> list[Problem]:
    unknown = [error["loc"] for error in errors if error["type"] == "extra_forbidden"]
    # A required key that is misspelled is one mistake, not two.
    misspelled = {(*_plain(loc[:-1]), close_match(str(loc[-1]), _keys(loc))) for loc in unknown}
    problems = []
    for error in errors:
        loc = _plain(error["loc"])
        if error["type"] == "missing":
            if loc not in misspelled:
                problems.append(document.problem(loc[:-1], f"{_subject(loc[:-1])} needs `{loc[-1]}`"))
        elif error["type"] == "extra_forbidden":
            problems.append(document.problem(loc, _unknown_key(error["loc"]), key=True))
        else:
            text = f"{_subject(loc)} {_predicate(error, loc, document)}"
            problems.append(document.problem(loc, text, key="[key]" in error["loc"]))
    return problems


def _plain(loc: Loc) -> Loc:
    """A location in the file: pydantic's without the tags of unions and its mark of keys."""
    return tuple(part for part in loc if part not in _TAGS)


def _keys(loc: Loc) -> list[str]:
    """The keys that are known where the key at `loc` stands."""
    form = next((_FORMS[part] for part in reversed(loc[:-1]) if part in _FORMS), MatrixFile)
    return list(form.model_fields)


def _unknown_key(loc: Loc) -> str:
    key, known = str(loc[-1]), _keys(loc)
    return f"unknown key `{shown(key)}`{foreign(key)}{meant(key, known) or '; known here: ' + ', '.join(known)}"


def _subject(loc: Loc) -> str:
    match loc:
        case ():
            return "the file"
        case ("models", int()):
            return "this model"
        case ("recipes", str(name)):
            return f"the recipe `{shown(name)}`"
        case (*_, "tensors", str()):
            return "`tensors`"
        case (*_, "gates", str(gate), str(bits)):
            return f"`{shown(bits)}` in `{gate}`"
        case (*_, str(key), int()):
            return f"an entry of `{key}`"
    return f"`{loc[-1]}`"


def _predicate(error: ErrorDetails, loc: Loc, document: Document) -> str:
    kind, value, details = error["type"], error["input"], error.get("ctx", {})
    if kind == "value_error":
        return str(details["error"])
    if kind == "too_short":
        return "must not be empty"
    hint = ""
    if kind == "greater_than_equal":
        wanted = f"{details['ge']:g} or more"
    elif kind == "less_than_equal":
        wanted = f"{details['le']:g} or less"
    elif kind == "literal_error":
        choices = re.findall(r"'([^']*)'", details["expected"])
        wanted = _WANTED.get(loc[-1]) or " or ".join(f"`{choice}`" for choice in choices)
        hint = meant(str(value), choices)
    else:
        key = loc[-1] if loc else ""
        # A limit that is no mapping was meant to be a number.
        by_type = _WANTED_TYPE.get(kind)
        wanted = (by_type if key in _LIMITS else None) or _WANTED.get(key) or by_type or "a mapping"
    written = document.spot(loc).text
    if wanted == "a string" and isinstance(value, bool | int | float):
        read_as = "truth value" if isinstance(value, bool) else "number"
        hint = f', which YAML reads as a {read_as}; quote it: "{shown(written)}"'
    elif wanted == _WANTED_TYPE.get(kind) and isinstance(value, str):
        hint = ", which is a string"
    return f"must be {wanted}, {_given(value, written)}{hint}"


def _given(value: object, written: str | None) -> str:
    match value:
        case None:
            return "but is empty"
        case list():
            return "not a list"
        case dict():
            return "not a mapping"
    # What stands in the file: YAML has made 3.1 of 3.10, and infinity of 1e57098.
    return f"not `{shown(written)}`"
