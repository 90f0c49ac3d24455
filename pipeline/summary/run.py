"""The page of a run: the verdict, a table a model, then what was withheld, what failed, and what to do about it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from pipeline import units
from pipeline.actions import SUMMARY_BYTES
from pipeline.card import ladder
from pipeline.card.markdown import code, inline, table
from pipeline.card.sections import sentences
from pipeline.summary import trouble
from pipeline.summary.chart import chart
from pipeline.summary.standing import HELD, standing, total

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.actions import Links
    from pipeline.plan import Plan
    from pipeline.result import Failure, Released, Result
    from pipeline.summary.standing import ModelStanding, Standing, State

MOST_OPEN = 4
"""Models whose tables stand open; of more each is folded, without its chart, which Mermaid cannot lay out unseen."""
MOST_WITHHELD = 100
MOST_FAILURES = 25
MOST_WARNINGS = 5
MOST_NAMES = 200
LONGEST_NAME = 150
# Together with four lists of names, of four bytes a character, these stay under GitHub's limit, whatever they tell of.
WITHHELD_BYTES = 200_000
FAILURES_BYTES = 250_000
# What is kept free for the note on what was left out, and for what else a step may append.
MARGIN = 16 << 10
ELSEWHERE = "the `release.json` of each repo and the artifacts of this run have all of it"

_MARKS: dict[State, str] = {
    "published": "✅\N{NO-BREAK SPACE}",
    "passed": "☑️\N{NO-BREAK SPACE}",
    "withheld": "⛔\N{NO-BREAK SPACE}",
    "withdrawn": "⛔\N{NO-BREAK SPACE}",
    "failed": "❌\N{NO-BREAK SPACE}",
    "lost": "❌\N{NO-BREAK SPACE}",
}
_ADDRESS = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(?:/[A-Za-z0-9._-]+)*")
_COLUMNS = ("Job", "Verdict", "Size", "Bits/weight", "Mean KLD", "Same top", "Tokens/s", "Time")


def run_page(
    plan: Plan | None,
    results: Iterable[Result],
    failures: Iterable[Failure],
    released: Iterable[Released],
    links: Links,
) -> str:
    """Show a run, best thing first, on a page that GitHub takes, however many jobs there are.

    Where there are too many, models lose their tables, the last ones first; what was withheld, failed or is lost is
    always told, as far as its own limits go.
    """
    models = standing(plan, results, failures, released)
    touched = [model for model in models if not model.untouched]
    if not touched:
        return _nothing(models)
    dry = not any(model.released or _failed(model, "release") for model in touched)
    head = [f"## {_verdict(touched, total(models, 'kept'), dry=dry)}"]
    end = [*_withheld(touched), *_failures(touched, links), *_lost(touched, links, dry=dry), *_untouched(models)]
    left = SUMMARY_BYTES - MARGIN - sum(len(part.encode()) + 2 for part in (*head, *end))
    whole = _fitting((_section(model, folded=len(touched) > MOST_OPEN, dry=dry) for model in touched), left)
    if out := [model.source for model in touched[len(whole) :]]:
        whole.append(f"*Left out, since GitHub shows 1 MiB a step: the tables of {_models(len(out))}; {ELSEWHERE}.*")
    return "\n\n".join([*head, *whole, *end]) + "\n"


def _fitting(sections: Iterable[str], left: int) -> list[str]:
    """Return the first sections that fit into so many bytes together."""
    fitting = []
    for section in sections:
        left -= len(section.encode()) + 2
        if left < 0:
            break
        fitting.append(section)
    return fitting


def _nothing(models: Sequence[ModelStanding]) -> str:
    made = " or made and in the store" if total(models, "not run") else ""
    lines = [
        f"- {code(model.source[:LONGEST_NAME])}: {_quants(len(model.jobs))} in {code(model.repo[:LONGEST_NAME])}"
        for model in models[:MOST_NAMES]
    ]
    more = [f"- and {_models(len(models) - MOST_NAMES)} more"] if len(models) > MOST_NAMES else []
    held = ", but for what was withheld or withdrawn before" if total(models, *HELD) else ""
    head = f"## ✅ Nothing to do: everything that matrix.yml names is published{made}{held}."
    return "\n\n".join([head, *(["\n".join([*lines, *more])] if lines else []), *_withheld(models)]) + "\n"


def _verdict(touched: Sequence[ModelStanding], kept: int, *, dry: bool) -> str:
    good: State = "passed" if dry else "published"
    jobs = sum(len(model.jobs) for model in touched) - total(touched, "kept")
    parts = [f"{total(touched, good):,} of {jobs:,} {good}"]
    parts += [f"{total(touched, state):,} {state}" for state in ("withheld", "failed")]
    others: tuple[State, ...] = ("lost", "not run", "withdrawn")
    parts += [f"{total(touched, state):,} {state}" for state in others if total(touched, state)]
    passed = 0 if dry else total(touched, "passed")
    prepare, release = (sum(_failed(m, command) for m in touched) for command in ("prepare", "release"))
    if passed:
        parts.append(f"{passed:,} passed but not published")
    if prepare:
        parts.append(f"{_models(prepare)} not prepared")
    if release:
        parts.append(f"{_models(release)} not released")
    if kept:
        parts.append(f"{kept:,} kept from the last release")
    bad = passed or prepare or release or total(touched, "failed", "lost")
    mark = "❌" if bad else "⚠️" if total(touched, "withheld") else "☑️" if dry else "✅"
    return f"{mark} {', '.join(parts)}{'; nothing is published: dry run' if dry and total(touched, 'passed') else ''}"


def _section(model: ModelStanding, *, folded: bool, dry: bool) -> str:
    """Lay out one model. Where it is folded, what became of its jobs is said outside of the fold."""
    body = _table(model, dry=dry)
    if folded:
        states = dict.fromkeys(job.state for job in model.jobs)
        counts = ", ".join(f"{_MARKS.get(state, '')}{model.count(state):,} {state}" for state in states)
        parts = [f"<details><summary>{_html(model.source)}: {counts or 'no job'}</summary>", *body, "</details>"]
    else:
        picture = chart([job.result for job in model.jobs if job.result])
        parts = [f"### {inline(model.source)}", *body, *([picture] if picture else [])]
    return "\n\n".join(parts)


def _html(text: str) -> str:
    """Text for inside of an HTML block, where Markdown's own escapes do not count."""
    return re.sub(r"[^A-Za-z0-9_./:-]", lambda found: f"&#{ord(found[0])};", " ".join(text.split())[:300])


def _table(model: ModelStanding, *, dry: bool) -> list[str]:
    """Lay out what became of each job, with where it went above and how it was measured below."""
    rows = [_row(model, job, dry=dry) for job in model.jobs]
    used = [column for column in range(len(_COLUMNS)) if column < 2 or any(row[column] for row in rows)]
    grid = table([_COLUMNS[c] for c in used], [[row[c] for c in used] for row in rows], left=2) if rows else ""
    return [part for part in (_place(model), grid, _note(model)) if part]


def _place(model: ModelStanding) -> str:
    released = model.released
    if released is None:
        return ""
    place = _address(released)
    name = f"[{inline(released.repo)}]({place})" if place else f"{code(released.repo)}, at {code(released.place)}"
    sent = f"this step uploaded {units.size(released.uploaded)}" if released.uploaded else "this step uploaded nothing"
    done = f"; {sent}." if released.changed else ": all of it was there already."
    return f"Released as {name}{done}{_checked(released)}"


def _checked(released: Released) -> str:
    """Say what the release itself passed, and each warning."""
    warned = [verdict for verdict in released.verdicts if verdict.outcome == "warn"]
    told = {verdict.check for verdict in warned}
    passed = dict.fromkeys(v.check for v in released.verdicts if v.outcome == "pass" and v.check not in told)
    said = f" Checked: {', '.join(inline(check, 60) for check in passed)}." if passed else ""
    lines = [f"- ⚠️ {inline(verdict.check, 60)}: {sentences(verdict)}" for verdict in warned[:MOST_WARNINGS]]
    more = [f"- and {len(warned) - MOST_WARNINGS} more; {ELSEWHERE}"] if len(warned) > MOST_WARNINGS else []
    return said + "".join(f"\n{line}" for line in ["", *lines, *more] if lines)


def _row(model: ModelStanding, job: Standing, *, dry: bool) -> tuple[str, ...]:
    result = job.result
    name = code(job.quant[:100])
    link = _file_link(model, job)
    first = (f"[{name}]({link})" if link else name, f"{_MARKS.get(job.state, '')}{_words(model, job, dry=dry)}")
    if result is None:
        return (*first, *("",) * (len(_COLUMNS) - 2))
    quality, speed = result.quality, result.speed
    floor = ladder.noise_floor(result.provenance)
    near = "≈\N{NO-BREAK SPACE}" if quality and quality.mean_kld.value <= floor else ""
    return (
        *first,
        units.size(result.file.size),
        f"{result.file.bits_per_weight:.2f}",
        near + units.plus_minus(quality.mean_kld) if quality else "",
        units.percent(quality.same_top.value) if quality else "",
        units.rate(speed.generation_rate.value) if speed else "",
        units.duration(result.seconds) if result.seconds else "",
    )


def _words(model: ModelStanding, job: Standing, *, dry: bool) -> str:
    if job.state == "kept":
        return "kept from the last release"
    if job.state == "passed":
        if dry:
            return "passed, not published: dry run"
        return f"passed, not published: its release {'failed' if _failed(model, 'release') else 'is lost'}"
    if job.state == "not run" and _failed(model, "prepare"):
        return "not run: its model could not be prepared"
    return job.state


def _note(model: ModelStanding) -> str:
    """Say how it was measured, what the reference reads against itself, and on which machine."""
    result = next((job.result for job in model.jobs if job.result and job.result.quality), None)
    if result is None:
        return ""
    text = result.provenance.evaluation
    floor = units.significant(ladder.noise_floor(result.provenance), 2)
    kld = (
        "Mean KLD: KL divergence from the unquantized model in nats per token, with its 95 % interval, over"
        f" {text.chunks:,} chunks of {text.context:,} tokens of {inline(text.name, 100)}; noise floor {floor}"
        " (the reference against itself), ≈ within it."
    )
    lines = [kld]
    if machines := list(dict.fromkeys(j.result.speed.machine for j in model.jobs if j.result and j.result.speed)):
        more = f" and {len(machines) - 1} more" if len(machines) > 1 else ""
        lines.append(f"Tokens/s: generation, on {inline(machines[0], 100)}{more}.")
    return f"<sub>{' '.join(lines)}</sub>"


def _withheld(models: Sequence[ModelStanding]) -> list[str]:
    held = [job for m in models for job in m.jobs if job.state in HELD and (job.reason or job.state == "withheld")]
    if not held:
        return []
    told = _fitting(map(_reason, held[:MOST_WITHHELD]), WITHHELD_BYTES)
    lines = [*told, *_more([job.job for job in held[len(told) :]])]
    return ["## Withheld", "Made and checked, and not published:", "\n".join(lines)]


def _reason(job: Standing) -> str:
    name, result = f"- ⛔ **{code(job.job[:LONGEST_NAME])}**", job.result
    if result is None:
        return f"{name}, {job.state} {inline(job.reason)}"
    why = "; ".join(f"{inline(v.check, 60)}: {sentences(v)}" for v in result.failures[:5])
    return f"{name} ({units.size(result.file.size)}), {why}"


def _failures(models: Sequence[ModelStanding], links: Links) -> list[str]:
    failed = [failure for model in models for failure in model.failures]
    if not failed:
        return []
    told = _fitting((_cause(failure, links) for failure in failed[:MOST_FAILURES]), FAILURES_BYTES)
    return ["## Failed", *told, *_more([f"{failure.command} {failure.subject}" for failure in failed[len(told) :]])]


def _cause(failure: Failure, links: Links) -> str:
    title = f"### ❌ {code(failure.subject[:LONGEST_NAME])}: {failure.command}, exit code {failure.exit_code}"
    return f"{title}\n\n{trouble.failure(failure, links)}"


def _lost(models: Sequence[ModelStanding], links: Links, *, dry: bool) -> list[str]:
    """Name what was to be, and left no word. Without a release anywhere, none was to be made."""
    lost = [job.job for model in models for job in model.jobs if job.state == "lost"]
    if not dry:
        lost += [
            f"release {model.source}" for model in models if model.count("passed") and not _failed(model, "release")
        ]
    if not lost:
        return []
    lines = [f"- ❌ **{code(job[:LONGEST_NAME])}**" for job in lost[:MOST_NAMES]]
    see = f"; see [its log]({links.run})" if links.run else ""
    return [
        "## Lost",
        f"No result and no message: the runner probably went away{see}.",
        "\n".join([*lines, *_more(lost[MOST_NAMES:])]),
        "**Next:** Re-run the failed jobs: they go on from what the store has.",
    ]


def _untouched(models: Sequence[ModelStanding]) -> list[str]:
    count = sum(model.untouched for model in models)
    return [f"{_models(count)} had nothing to be done: everything of theirs is published."] if count else []


def _more(names: Sequence[str]) -> list[str]:
    """Name what a list has no room to tell of, as far as that goes."""
    if not names:
        return []
    named = ", ".join(code(name[:LONGEST_NAME]) for name in names[:MOST_NAMES])
    rest = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return [f"- and {len(names):,} more: {named}{rest}; {ELSEWHERE}"]


def _failed(model: ModelStanding, command: str) -> bool:
    return any(failure.command == command for failure in model.failures)


def _address(released: Released) -> str:
    """Return where a repo is, if that is an address of nothing but what addresses are made of."""
    return released.place if _ADDRESS.fullmatch(released.place) else ""


def _file_link(model: ModelStanding, job: Standing) -> str:
    place = _address(model.released) if model.released else ""
    there = job.state in ("published", "kept") and job.file
    return f"{place}/blob/main/{quote(job.file)}" if place and there else ""


def _models(count: int) -> str:
    return "1 model" if count == 1 else f"{count:,} models"


def _quants(count: int) -> str:
    return "1 quant" if count == 1 else f"{count:,} quants"
