"""Does a release say what it is: the card with its licence and its files, the model it is made of, who may have it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline.check.verdict import failed, passed, skipped, warned
from pipeline.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from typing import Literal

    from pipeline.result import Release, Verdict
    from pipeline.source import Gating, Source

CARD = "card"
BASE = "base model"
OURS = "This is a fault of llm-quantizer's: report it. Nothing was published."
UNGATED = (
    "Gate the repo on its settings page on the Hub or make it private; if the licence allows open copies, write"
    " `gating: open` in matrix.yml."
)
_INHERITED = ("license", "license_name", "license_link", "language")
_LONGEST_SHOWN = 80
_LONGEST_TEXT = 500
"""Characters; longer ones in these places are no names, and a card may go without."""


def card(
    text: str, release: Release, style: Literal["full", "footer"], original: str | None, licences: Collection[str]
) -> list[Verdict]:
    """Read the rendered card back: is it the source's in licence, languages and gating, and does it name each file.

    `original`: the source's card, None where it has none. `licences`: the source's licence files. One verdict a fault,
    or a pass. The footer style is the source's own card and names no file.
    """
    found = [*_inherited(text, release, style, original, licences)]
    if style == "full":
        found += _stated(text, release)
    if found:
        return found
    named = len(release.published), len(release.withheld)
    stated = f"it names {named[0]} published quants with their SHA-256, and {named[1]} withheld"
    if style == "footer":
        stated = "it names no file, being the source's own with a footer; release.json does"
    return [passed(CARD, f"licence, languages and gating are as the source's card has them; {stated}")]


def _inherited(
    text: str, release: Release, style: Literal["full", "footer"], original: str | None, licences: Collection[str]
) -> Iterator[Verdict]:
    from pipeline.card.original import SourceCard, fields

    ours, theirs = fields(text), fields(original or "")
    if original and (problem := SourceCard.parse(original).problem):
        seen = f"the front matter of the source's card {problem}, so that no licence and no gating is taken over"
        yield warned(CARD, seen, "Look up the source's licence and terms, and see that the release keeps to them.")
        theirs = {}
    for key, value in theirs.items():
        if (key in _INHERITED or str(key).startswith("extra_gated_")) and not _same(key, value, ours.get(key)):
            yield _differs(str(key), value, ours.get(key))
    base = ours.get("base_model"), ours.get("base_model_relation")
    if base != (release.base_model, "quantized"):
        seen = f"the front matter gives base_model {_shown(base[0])}, base_model_relation {_shown(base[1])}"
        if style == "footer":
            seen += f": the Hub will not list this repo under {release.base_model}"
            advice = (
                "Use `card: full` in matrix.yml to have it listed; the footer style keeps the source's front matter."
            )
            yield warned(CARD, seen, advice)
        else:
            yield failed(CARD, f"{seen}, not {release.base_model} and quantized", OURS)
    there = {file.name for file in release.files}
    if missing := [name for name in licences if name not in there]:
        yield failed(
            CARD, f"the source's licence file {', '.join(map(_shown, missing[:3]))} is not in the release", OURS
        )


def _same(key: str, value: Any, ours: Any) -> bool:
    """Whether a value is carried; that of a key which is there and empty need not be."""
    if value is None or value in ("", ours):
        return True
    if key == "language":
        words = [word for word in (value if isinstance(value, list) else [value]) if isinstance(word, str)]
        return isinstance(ours, list) and set(words) <= set(ours)
    if key == "license_link" and isinstance(value, str) and isinstance(ours, str):  # a file of the source's repo
        return "://" in ours and ours.endswith(f"/{quote(value)}")
    return False


def _differs(key: str, value: Any, ours: Any) -> Verdict:
    seen = f"{key} is {_shown(value)} in the source's card, and {_shown(ours)} in the release's"
    # What is no short text, be it hostile, is left out on purpose: see `SourceCard`.
    simple = isinstance(value, str | bool | int) and len(str(value)) <= _LONGEST_TEXT
    if simple or ours is not None:
        return failed(CARD, seen, OURS)
    return warned(CARD, seen, "Its form is none that is taken over; see that the release keeps to the source's terms.")


def _stated(text: str, release: Release) -> Iterator[Verdict]:
    """Hold what the card names against what the release holds."""
    from pipeline.card.markdown import code, sections

    found = sections(text)
    sums = dict(_checksums(found.get("Files", "")))
    there = {file.name: file.sha256 for file in release.files}
    weights = [file for result in release.published for file in result.files]
    for file in [*weights, *([release.provenance.imatrix] if weights else [])]:
        if sums.get(file.name) != file.sha256:
            seen = f"the card gives {_shown(sums.get(file.name))} as the SHA-256 of {file.name}, which is {file.sha256}"
            yield failed(CARD, seen, OURS)
    if strange := [name for name in sums if name not in there]:
        yield failed(CARD, f"the card gives the SHA-256 of {_shown(strange[0])}, which is not in the release", OURS)
    for result in release.published:
        if f"[{code(result.quant)}]({quote(result.files[0].name)})" not in found.get("Files", ""):
            yield failed(CARD, f"the card has no link to {result.files[0].name} in its table of files", OURS)
    held: Mapping[str, list[str]] = {
        "Withheld": [result.quant for result in release.withheld],
        "Missing": list(release.missing),
        "Withdrawn": [gone.quant for gone in release.withdrawn],
    }
    for heading, quants in held.items():
        if lost := [quant for quant in quants if code(quant) not in found.get(heading, "")]:
            yield failed(CARD, f"the card does not say that {', '.join(lost[:3])} is {heading.lower()}", OURS)


def _checksums(text: str) -> Iterator[tuple[str, str]]:
    """Read the rows of the table of checksums: a name, a SHA-256 as code, a size."""
    from pipeline.card.markdown import unescaped

    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 3 and len(sha := cells[1].strip("`")) == 64:
            yield unescaped(cells[0]), sha


def base_model(source: Source, recorded: str | None) -> Verdict:
    """Is the source on the Hub at the revision that the release records.

    Only where that is not the revision that this run has looked at is the Hub asked; for a directory, never.
    Raises `HubError` where it cannot be asked.
    """
    if source.path is not None:
        return skipped(BASE, f"{source.id} was given as a directory, and the Hub was not asked for it")
    if recorded == source.revision or _is_there(source.id, recorded):
        return passed(BASE, f"the Hub has {source.id} at {(recorded or 'main')[:12]}")
    seen = f"the Hub has {source.id} no longer at {recorded}, which this release was made from"
    return warned(BASE, seen, "Run its jobs again: what they record then is the revision that is there now.")


def _is_there(repo: str, revision: str | None) -> bool:
    from pipeline.hub import ask, reader

    try:
        ask(repo, partial(reader().model_info, repo, revision=revision), revision)
    except BadInputError:
        return False
    return True


def gating(
    source: str, gated: Gating | None, rule: Literal["inherit", "open"], *, is_open: bool | None
) -> list[Verdict]:
    """Judge who may have what is made of a gated source; nothing to judge for others.

    `is_open`: whether everybody may download from the target, None for a folder. `rule`: the matrix's `gating`.
    """
    if gated in (None, "no"):
        return []
    if is_open is None:
        return [
            skipped(CARD, f"{source} is gated ({gated}), and a folder gates nothing: gate the repo that it goes to")
        ]
    if not is_open:
        return [passed(CARD, f"{source} is gated ({gated}), and so is the release, or it is private")]
    seen = f"{source} is gated ({gated}), and its release is open to everyone"
    if rule == "open":
        return [warned(CARD, seen, "matrix.yml says `gating: open`; see that the licence allows it.")]
    return [failed(CARD, seen, UNGATED)]


def _shown(value: Any) -> str:
    """Text of a card, short and without what a terminal obeys."""
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[: _LONGEST_SHOWN - 1]}…"
