"""The page that a pull request's author reads: what becomes of each model, as Markdown for a summary and a comment.

A comment is made from a record that anybody may have forged, so every text of one stands in a code span or a code
block, where nothing is a link, a picture, HTML or a mention of somebody; all else is numbers and our own sentences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from pipeline import units
from pipeline.card.markdown import code, fence, table, visible
from pipeline.template import fill

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.preview.record import Outlook, QuantOutlook

LIMIT = 60_000
"""Characters; GitHub takes no comment of more than 65,536."""
_PROBLEMS_LIMIT = 12_000  # a third of what it may take to show: backticks want longer ones around them
_MOST_NAMES = 20
_DASH = "–"
_GAP = "\N{NO-BREAK SPACE}"

_GATING = {
    None: "not known: the source is a directory, not a repo on the Hub.",
    "no": "none: anybody may download the source.",
    "auto": "the source is gated, and open to who accepts its terms: the account of `HF_READ_TOKEN` must have done so,"
    " or no job can download it.",
    "manual": "the source is gated, and its authors let in whom they choose: they must have let in the account of"
    " `HF_READ_TOKEN`, or no job can download it.",
}
_NO_LICENCE = (
    "⚠️ **Licence:** the source's card names none, and without one nobody may pass a copy on: see what its authors say"
    " before this is merged."
)
_UNGATED = " The release is not gated by that: if the terms ask for it, gate its repo in the settings on the Hub."


class Section(NamedTuple):
    """One model, as Markdown."""

    title: str
    about: str
    files: str
    lines: list[str]
    sizes: str | None
    card: str | None


def page(outlooks: Sequence[Outlook], problems: Sequence[str] = ()) -> str:
    """Return the page, shortened until a comment can hold it, with a note that says so."""
    problem = fence(_cut(visible("\n".join(problems)), _PROBLEMS_LIMIT)) if problems else None
    for form in ("full", "brief"):
        text = _page(outlooks, problem, len(problems), form)
        if len(text) <= LIMIT:
            return text
    count = len(outlooks)
    while len(text := _page(outlooks, problem, len(problems), "lines", count)) > LIMIT:
        count = count * 3 // 4
    return text


def _page(
    outlooks: Sequence[Outlook],
    problem: str | None,
    problems: int,
    form: Literal["full", "brief", "lines"],
    shown: int = 0,
) -> str:
    return fill(
        "preview.md.j2",
        verdict=_verdict(outlooks, problems),
        problem=problem,
        form=form,
        sections=[] if form == "lines" else [_section(o, whole=form == "full") for o in outlooks],
        models=_models(outlooks[:shown]),
        left=len(outlooks) - shown,
        cores=max((outlook.cores for outlook in outlooks), default=0),
    )


def _verdict(outlooks: Sequence[Outlook], problems: int) -> str:
    wrong = "1 problem" if problems == 1 else f"{problems:,} problems" if problems else ""
    if not outlooks:
        return f"{wrong}." if wrong else "This changes no model."
    quants = [quant for outlook in outlooks for quant in outlook.quants]
    made = [quant for quant in quants if quant.change != "unchanged"]
    upload = sum(outlook.upload for outlook in outlooks)
    parts = [
        _models_of(len(outlooks)),
        "1 file" if len(quants) == 1 else f"{len(quants):,} files",
        f"{units.size(upload)} to upload" if upload else "nothing to upload",
        *([f"{_minutes(made)} a job"] if made else []),
    ]
    return f"{', '.join(parts)}{f'; {wrong}' if wrong else ''}."


def _models_of(count: int) -> str:
    return "1 model" if count == 1 else f"{count:,} models"


def _minutes(quants: Sequence[QuantOutlook]) -> str:
    """How long the shortest and the longest job take."""
    low, high = (_time(choose(quant.minutes for quant in quants)) for choose in (min, max))
    if low == high:
        return f"about {high}"
    number, _, unit = low.partition(_GAP)
    return f"about {number if unit == high.partition(_GAP)[2] else low} to {high}"


def _time(minutes: float) -> str:
    if minutes >= 90:
        return f"{minutes / 60:,.0f}{_GAP}h"
    return f"{max(1, round(minutes))}{_GAP}min"


def _section(outlook: Outlook, *, whole: bool) -> Section:
    revision = f", revision {_code(outlook.revision[:12])}" if outlook.revision else ""
    return Section(
        title=f"{_code(outlook.source)} → {_code(outlook.repo)}",
        about=f"{units.count(outlook.parameters)} parameters, {_code(outlook.architecture)}, context of"
        f" {outlook.context:,} tokens{revision}.",
        files=_files(outlook.quants),
        lines=[_target(outlook), *_licence(outlook), _gating(outlook), _disk(outlook), *_deletes(outlook)],
        sizes=_sizes(outlook) if whole else None,
        card=fence(visible(outlook.card), "markdown") if whole else None,
    )


def _sizes(outlook: Outlook) -> str:
    return table(("File", "Bytes"), [(_code(quant.file), f"{quant.size:,}") for quant in outlook.quants])


def _files(quants: Sequence[QuantOutlook]) -> str:
    """The table that matters; a column that is empty for every file is left out."""
    contexts = sorted({memory.context for quant in quants for memory in quant.memory})[:4]
    head = [
        *("Quant", "Size", "Bits/weight", "Fallbacks"),
        *(f"Memory, {context:,} tokens" for context in contexts),
        *("Time", "Change"),
    ]
    rows = []
    for quant in quants:
        held = {memory.context: units.size(memory.size) for memory in quant.memory}
        rows.append(
            (
                _code(quant.quant),
                units.size(quant.size) + (f", {quant.shards:,} shards" if quant.shards > 1 else ""),
                f"{quant.bits_per_weight:.2f}",
                f"{quant.fallbacks:,} of {quant.tensors:,}" if quant.fallbacks else "",
                *(held.get(context, _DASH) for context in contexts),
                _time(quant.minutes),
                quant.change,
            )
        )
    used = [column for column in range(len(head)) if any(row[column] for row in rows)]
    return table([head[c] for c in used], [[row[c] for c in used] for row in rows])


def _target(outlook: Outlook) -> str:
    repo = _code(outlook.repo)
    if not outlook.exists:
        kind = "private" if outlook.private else "public"
        return f"**Target:** {repo} is not there yet, or not to be seen without a token; it is created {kind}."
    changes = [quant.change for quant in outlook.quants]
    counts = [f"{changes.count(kind):,} {kind}" for kind in ("new", "replaced", "unchanged") if kind in changes]
    return f"**Target:** {repo} is there: {', '.join(counts) or 'no file'}."


def _licence(outlook: Outlook) -> list[str]:
    if not outlook.licence:
        files = f" It has {_names(outlook.licence_files)}, copied as found." if outlook.licence_files else ""
        return [_NO_LICENCE + files]
    said = f"**Licence:** {_code(outlook.licence)}, and so says the card."
    if outlook.notice:
        said += " The line that it wants beside every copy is in the card."
    if outlook.licence_files:
        said += f" Copied from the source: {_names(outlook.licence_files)}."
    else:
        said += " The source has no licence file that could be copied."
    return [said]


def _gating(outlook: Outlook) -> str:
    gated = outlook.gated in ("auto", "manual")
    return f"{'⚠️ ' if gated else ''}**Gating:** {_GATING[outlook.gated]}{_UNGATED if gated else ''}"


def _disk(outlook: Outlook) -> str:
    return (
        f"**Disk:** {units.size(outlook.disk)} at most, where all of it is made: source, reference, logits, every"
        f" tensor and every file (estimated). {units.size(outlook.upload)} to upload."
    )


def _deletes(outlook: Outlook) -> list[str]:
    if not outlook.deletes:
        return []
    return [f"⚠️ **Deleted:** {_names(outlook.deletes)}, of the last release and no longer of this one."]


def _models(outlooks: Iterable[Outlook]) -> str:
    """A line a model, for pages that hold too many of them."""
    rows = [
        (
            _code(outlook.source),
            _code(outlook.repo),
            f"{len(outlook.quants):,}",
            units.size(outlook.upload),
            _minutes(outlook.quants).removeprefix("about ") if outlook.quants else _DASH,
        )
        for outlook in outlooks
    ]
    return table(("Model", "Release", "Files", "To upload", "A job"), rows, left=2)


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(_code(name) for name in names[:_MOST_NAMES]) + more


def _code(text: str) -> str:
    return code(visible(text))


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
