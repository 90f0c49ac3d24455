"""How single values of matrix.yml are spelled: a commit, a name on the Hub, a file name, a type.

Each check returns the value, normalised, or raises ValueError with the rest of a sentence that begins with the
key. The types at the end carry the check and what an editor needs to know of it.
"""

from __future__ import annotations

import difflib
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from pipeline import recipe
from pipeline.matrix.located import HIDDEN, numbered, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pipeline.matrix.model import Limit

MAX_FILE: Final = 50 * 10**9
"""Bytes; what huggingface_hub uploads without Xet, and the Hub's own advice."""

_SHA256: Final = r"[0-9a-f]{64}"
_COMMIT: Final = r"[0-9a-f]{40}"
_SHORT_COMMIT: Final = r"[0-9a-f]{7,40}"
_SDIST: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.+!-]*"
_GIT_URL: Final = r"(?:https://|ssh://|file:///|git@)[!-~]+"
_HUB_NAME: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_HUB_ID: Final = rf"(?!.*(?:--|\.\.)){_HUB_NAME}/{_HUB_NAME}"
_SHARD_SIZE: Final = r"[1-9][0-9]{0,5}[MG]"
_BITS: Final = r"[0-9]{1,2}(?:\.[0-9]{1,4})?"
_RECIPE_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
# What std::regex takes for itself: an escaped character, a class in brackets, a number of times. libstdc++ writes out
# what is repeated, and takes 100,000 states.
_NO_BRACE: Final = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\{\d{1,3}(?:,(?:\d{1,3})?)?\}")
_LONGEST_REGEX: Final = 200


def close_match(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, whatever its case."""
    by_folded = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(word.casefold(), by_folded, n=1)
    return by_folded[close[0]] if close else None


def meant(word: str, known: Iterable[str]) -> str:
    """The end of a message: `; did you mean …?`, or nothing where no known word is close."""
    close = close_match(word, known)
    return f"; did you mean `{close}`?" if close else ""


def foreign(text: str) -> str:
    """The end of a message: the first character that is not ASCII, named, since it may look like one that is."""
    odd = next((c for c in text if not c.isascii()), None)
    if odd is None:
        return ""
    return (
        f"; the `{odd}` in it is not ASCII but {numbered(odd)}" if odd.isprintable() else f"; it holds {numbered(odd)}"
    )


def _written(pattern: str, what: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if re.fullmatch(pattern, text):
            return text
        lower = text.strip().lower()
        hint = f"; did you mean `{shown(lower)}`?" if re.fullmatch(pattern, lower) else ""
        raise ValueError(f"must be {what}, not `{shown(text)}`{foreign(text)}{hint}")

    return check


def _commit(text: str) -> str:
    if re.fullmatch(_COMMIT, text):
        return text
    rule = "must be a commit of 40 lower-case hex digits"
    if re.fullmatch(_COMMIT, text.lower()):
        raise ValueError(f"{rule}; did you mean `{text.lower()}`?")
    if re.fullmatch(r"[0-9a-fA-F]{7,}", text):
        raise ValueError(f"{rule}; `{shown(text)}` has {len(text)}")
    if not text.isascii():
        raise ValueError(f"{rule}, not `{shown(text)}`{foreign(text)}")
    raise ValueError(f"{rule}; `{shown(text)}` looks like a branch or a tag, and those move")


def _shard_size(text: str) -> str:
    """As llama-gguf-split takes it: millions or thousands of millions of bytes."""
    if not re.fullmatch(_SHARD_SIZE, text):
        raise ValueError(f"must be a whole number of `M` or `G`, as in 500M or 45G, not `{shown(text)}`{foreign(text)}")
    if size_in_bytes(text) > MAX_FILE:
        raise ValueError("must be 50G at most: the Hub's client refuses larger files")
    return text


def size_in_bytes(text: str) -> int:
    return int(text[:-1]) * {"M": 10**6, "G": 10**9}[text[-1]]


def _hub_id(text: str) -> str:
    if re.fullmatch(_HUB_ID, text):
        return text
    rule = "must be `owner/name` as on the Hub"
    # The expression takes time that grows with the square of the text.
    bare = re.sub(r"^(https?://)?(www\.)?(huggingface\.co|hf\.co)/(datasets/)?|/(tree/.*)?$", "", text[:1000])
    if re.fullmatch(_HUB_ID, bare):
        raise ValueError(f"{rule}, without more; did you mean `{bare}`?")
    raise ValueError(f"{rule} (letters, digits, single `-`, `_`, `.`), not `{shown(text)}`{foreign(text)}")


def _file_name(pattern: str) -> str:
    placeholders = re.findall(r"\{([^{}]*)\}", pattern)
    for name in placeholders:
        if name not in {"model", "quant"}:
            hint = meant(name, ["model", "quant"])
            raise ValueError(f"has the unknown placeholder `{{{shown(name)}}}`; known: {{model}}, {{quant}}{hint}")
    if "/" in pattern or "\\" in pattern:
        raise ValueError("must be a file name, without a path")
    if "quant" not in placeholders:
        raise ValueError("must have {quant} in it; without it all quants have one name")
    if not pattern.endswith(".gguf"):
        raise ValueError("must end in `.gguf`")
    if not re.fullmatch(r"[A-Za-z0-9_{][A-Za-z0-9_.+-]*", re.sub(r"\{[^{}]*\}", "_", pattern)):
        rule = "must be of letters, digits, `_`, `.`, `+`, `-`, {model} and {quant}, and begin with no sign"
        raise ValueError(f"{rule}{foreign(pattern)}")
    # With the longest names that a model and a quant may have, and room for the number of a shard.
    if len(pattern.replace("{model}", "x" * 96).replace("{quant}", "x" * 64)) > 240:
        raise ValueError("is too long: a long model's files would have names that no disk takes")
    return pattern


def _hub_file(text: str) -> str:
    parts = text.split("/")
    if not text.isprintable() or any(part in {"", ".", ".."} for part in parts):
        raise ValueError(f"must be the path of a file inside the dataset, not `{shown(text)}`")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    if hidden := HIDDEN.search(text):  # by an escape: what stands in the file itself is found there
        raise ValueError(f"has the invisible character {numbered(hidden[0])} in it; take it out")
    return text


def _bits(text: str) -> str:
    if not re.fullmatch(_BITS, text) or float(text) > 32:
        raise ValueError(f"must be a number of bits per weight, from 0 to 32{foreign(text)}")
    return text


def spelled(limit: Limit | None) -> dict[str, float] | None:
    """A limit by bits per weight as the file has it."""
    return {f"{bits:g}": value for bits, value in limit.steps} if limit else None


def _there(kind: Literal["file", "directory"]) -> Callable[[str, ValidationInfo], str]:
    """Relative paths start at the matrix's folder, which comes as the context of a validation."""

    def check(text: str, info: ValidationInfo) -> str:
        path = Path(info.context or ".") / text
        try:
            there = path.is_dir() if kind == "directory" else path.is_file()
        except (OSError, ValueError):  # a name too long, or a zero byte
            there = False
        if not there:
            raise ValueError(f"must be a {kind}; there is none at `{shown(path)}`")
        return text

    return check


def _quant_type(name: str) -> str:
    known = recipe.quant_type(name)
    if known is None:
        hint = meant(name, [*recipe.QUANT_TYPES, *recipe.ALIASES])
        raise ValueError(f"must be a quant type, not `{shown(name)}`{foreign(name)}{hint}")
    return known


def _tensor_type(among: Iterable[str]) -> Callable[[str], str]:
    def check(name: str) -> str:
        known = recipe.tensor_type(name)
        if known is None:
            raise ValueError(f"has the unknown tensor type `{shown(name)}`{foreign(name)}{meant(name, among)}")
        if known not in among:
            raise ValueError(f"cannot be {known}: it needs an imatrix, and there is none for this tensor")
        return known

    return check


def _tensor_regex(text: str) -> str:
    """Checked against what std::regex (ECMAScript) and llama-quantize's own parsing make of it."""
    if len(text) > _LONGEST_REGEX or not text.isprintable():
        raise ValueError(f"must have regular expressions of one line, {_LONGEST_REGEX} characters at most")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            re.compile(_not_blank(text))
        except (re.error, Warning, RecursionError, OverflowError) as error:
            raise ValueError(f"has the bad regular expression `{shown(text)}`: {shown(error)}") from error
    if "=" in text:
        raise ValueError(f"has a `=` in `{shown(text)}`, where llama-quantize would cut it")
    if text != text.lower():
        raise ValueError(f"has capitals in `{shown(text)}`, which llama-quantize would make small")
    if "{" in _NO_BRACE.sub("", text):
        raise ValueError(
            f"has a `{{` in `{shown(text)}` that C++ refuses: no template is filled in here, and braces hold a number"
            " of times, 999 at most; write `\\{` for the brace itself"
        )
    if re.search(r"\(\?[^:=!]", text):
        raise ValueError(f"has a group in `{shown(text)}` that C++ does not know; use `(?:`, `(?=` or `(?!`")
    return text


def _recipe_name(name: str) -> str:
    known = recipe.quant_type(name)
    if known is not None or name.upper() == "COPY":
        raise ValueError("has the name of a quant type; give it another one")
    if not re.fullmatch(_RECIPE_NAME, name):
        rule = "must have a name of letters, digits, `-` and `_`, 64 at most, that begins with no sign"
        raise ValueError(f"{rule}{foreign(name)}")
    return name


def _like(pattern: str) -> Any:
    """The pattern for editors alone: the check says better what is wrong."""
    return Field(json_schema_extra={"pattern": f"^(?:{pattern})$"})


def _one_of(names: Iterable[str]) -> Any:
    return Field(json_schema_extra={"enum": list(names)})


NotBlank = Annotated[str, AfterValidator(_not_blank)]
Count = Annotated[int, Field(ge=1)]
ShardSize = Annotated[str, AfterValidator(_shard_size), _like(_SHARD_SIZE)]
Commit = Annotated[str, AfterValidator(_commit), _like(_COMMIT)]
ShortCommit = Annotated[
    str, AfterValidator(_written(_SHORT_COMMIT, "7 to 40 lower-case hex digits")), _like(_SHORT_COMMIT)
]
Sha256 = Annotated[str, AfterValidator(_written(_SHA256, "64 lower-case hex digits")), _like(_SHA256)]
SdistPin = Annotated[str, AfterValidator(_written(_SDIST, "`name==version`")), _like(_SDIST)]
GitUrl = Annotated[str, AfterValidator(_written(_GIT_URL, "the address of a git repository")), _like(_GIT_URL)]
HubId = Annotated[str, AfterValidator(_hub_id), _like(_HUB_ID)]
HubName = Annotated[str, AfterValidator(_written(_HUB_NAME, "a user or an organization of the Hub")), _like(_HUB_NAME)]
Bits = Annotated[str, AfterValidator(_bits), _like(_BITS)]
HubFile = Annotated[str, AfterValidator(_hub_file)]
FileName = Annotated[str, AfterValidator(_file_name), _like(r"[^/\\]*\{quant\}[^/\\]*\.gguf")]
FilePath = Annotated[str, AfterValidator(_there("file"))]
FolderPath = Annotated[str, AfterValidator(_there("directory"))]
QuantType = Annotated[str, AfterValidator(_quant_type), _one_of([*recipe.QUANT_TYPES, *recipe.ALIASES])]
# Which recipes there are is known to the file alone, so this one is checked there.
QuantName = Annotated[
    str,
    Field(
        json_schema_extra={
            "anyOf": [{"enum": [*recipe.QUANT_TYPES, *recipe.ALIASES]}, {"pattern": f"^{_RECIPE_NAME}$"}]
        }
    ),
]
RecipeName = Annotated[str, AfterValidator(_recipe_name), _like(_RECIPE_NAME)]
TensorRegex = Annotated[str, AfterValidator(_tensor_regex)]
TensorType = Annotated[str, AfterValidator(_tensor_type(recipe.TENSOR_TYPES)), _one_of(recipe.TENSOR_TYPES)]
EmbeddingType = Annotated[str, AfterValidator(_tensor_type(recipe.EMBEDDING_TYPES)), _one_of(recipe.EMBEDDING_TYPES)]
