"""Plans and results for people: aligned text for a terminal."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from pipeline import units
from pipeline.card.markdown import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.plan import Plan
    from pipeline.publish.change import Change
    from pipeline.result import Result, Verdict

NUMERIC = "0123456789-"
NO_BREAK = "\N{NO-BREAK SPACE}"


def plan_table(plan: Plan) -> str:
    lines = []
    for model in plan.models:
        at = f" @ {model.revision[:12]}" if model.revision else ""
        lines.append(f"{model.source}{at} → {model.repo}, release {model.release}")
        lines += aligned([(f"  {job.id}", job.action, job.reason) for job in model.jobs])
    jobs = [job for model in plan.models for job in model.jobs]
    run = sum(job.action == "run" for job in jobs)
    due = sum(model.due for model in plan.models)
    releases = f", {'1 release' if due == 1 else f'{due} releases'} to make" if due else ""
    lines.append(f"{len(jobs)} jobs, {run} to run{releases}" if jobs else "Nothing to do.")
    return "\n".join(lines)


def results_table(results: Sequence[Result]) -> str:
    """Lay out a line a result: measured figures only, a dash where nothing was measured."""
    head = ("quant", "size", "bits", "mean KLD", "99.9 % KLD", "same top", "PPL ratio", "tokens/s", "")
    return "\n".join(aligned([head, *(_row(r) for r in results)]))


def change(change: Change) -> str:
    """Lay out what a release would change: files, bytes, and the card line by line."""
    rows = [("add", f.name, units.size(f.size)) for f in change.adds]
    rows += [("copy", f.name, f"{units.size(f.size)}, staged") for f in change.copies]
    rows += [("delete", name, "of the last release") for name in change.deletes]
    rows += [("edited", name, "by hand since the last release; put right") for name in change.edited]
    head = f"{change.place}{f' @ {change.head[:12]}' if change.head else ''}"
    if not rows:
        return f"{head}\nNothing changes: all {len(change.kept)} files are there."
    before, after = ([visible(line) for line in text.splitlines()] for text in change.card)
    # Without lines around it: each begins with a sign, so that none is taken for a command by who reads the log.
    card = difflib.unified_diff(before, after, "README.md, now", "README.md, then", n=0, lineterm="")
    files = len(change.kept) + len(change.adds) + len(change.copies)
    total = f"{units.size(change.upload)} to upload, {len(change.kept)} of {files} files as they are"
    lines = [head, *(line.replace(NO_BREAK, " ") for line in aligned(rows)), total.replace(NO_BREAK, " ")]
    return "\n".join([*lines, *(line.rstrip() for line in card)])


def _row(result: Result) -> tuple[str, ...]:
    quality, speed = result.quality, result.speed
    figures = ("–",) * 4
    if quality is not None:
        figures = (
            f"{quality.mean_kld.value:.4f} ± {quality.mean_kld.interval:.4f}",
            f"{quality.p999_kld:.3f}",
            f"{quality.same_top.value:.1f} %",
            f"{quality.ppl_ratio.value:.4f}",
        )
    rate = f"{speed.generation_rate.value:.1f}" if speed else "–"
    state = f"withheld: {'; '.join(v.seen for v in result.failures)}" if result.withheld else "passed"
    return (
        result.quant,
        units.size(result.file.size).replace(NO_BREAK, " "),
        f"{result.file.bits_per_weight:.2f}",
        *figures,
        rate,
        state,
    )


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Pad columns to their widest cell: numbers to the right, words to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = [all(row[i][:1] in (*NUMERIC, "–") for row in rows[1:]) and len(rows) > 1 for i in range(len(widths))]
    return [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in rows
    ]


def inspection(described: Sequence[tuple[str, str]], verdicts: Sequence[Verdict]) -> str:
    """Lay out what a file is, each fault with what is to be done under it, then a line a check without one."""
    column, width = (max(map(len, words)) for words in ([n for n, _ in described], [v.check for v in verdicts]))
    lines: dict[str, list[str]] = {outcome: [] for outcome in ("fail", "warn", "pass", "skip")}
    for verdict in verdicts:
        mark = "FAIL" if verdict.outcome == "fail" else verdict.outcome
        lines[verdict.outcome].append(f"{mark}  {verdict.check:{width}}  {visible(verdict.seen)}")
        if verdict.advice:
            lines[verdict.outcome][-1] += f"\n{'':{width + 8}}{visible(verdict.advice)}"
    said = {"fail": "failed", "warn": "warned", "pass": "passed", "skip": "not run"}
    parts = [
        "\n".join(f"{name + ':':{column + 1}}  {value}" for name, value in described),
        *lines["fail"],
        *lines["warn"],
        "\n".join([*lines["pass"], *lines["skip"]]),
        ", ".join(f"{len(lines[outcome])} {word}" for outcome, word in said.items() if lines[outcome]),
    ]
    return "\n\n".join(filter(None, parts)).replace(NO_BREAK, " ")
