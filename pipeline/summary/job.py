"""The page of a job: the verdict and its reasons, the figures, every check, the answers, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline import units
from pipeline.card import ladder
from pipeline.card.markdown import code, fence, inline, table
from pipeline.card.sections import answer, sentences, swaps
from pipeline.result import Failure
from pipeline.summary import trouble

if TYPE_CHECKING:
    from pipeline.actions import Links
    from pipeline.result import Result

LONGEST_PROMPT = 2_000
_OUTCOMES = {
    "pass": "✅\N{NO-BREAK SPACE}passed",
    "warn": "⚠️\N{NO-BREAK SPACE}warning",
    "fail": "⛔\N{NO-BREAK SPACE}failed",
    "skip": "–\N{NO-BREAK SPACE}not run",
}


def job_page(record: Result | Failure, links: Links) -> str:
    """Show what one job made, or why it did not."""
    if isinstance(record, Failure):
        title = f"## ❌ {code(record.subject[:200])}: {record.command} failed, exit code {record.exit_code}"
        return f"{title}\n\n{trouble.failure(record, links)}\n"
    verdict = "⛔ {}: withheld" if record.withheld else "✅ {}: passed"
    title = f"## {verdict.format(code(record.job[:200]))}"
    figures = [_figures(record), _measured(record)]
    return "\n\n".join([title, *_reasons(record), *figures, "### Checks", _checks(record), *_answers(record)]) + "\n"


def _reasons(result: Result) -> list[str]:
    if not result.withheld:
        return []
    lines = [f"- {inline(verdict.check, 60)}: {sentences(verdict)}" for verdict in result.failures]
    return ["It is not published. Why, and what to do:", "\n".join(lines)]


def _figures(result: Result) -> str:
    quality, speed = result.quality, result.speed
    rows = [
        ("Size", units.size(result.file.size)),
        ("Bits per weight", f"{result.file.bits_per_weight:.2f}"),
        ("Fallback tensors", swaps(result.file) or "none"),
    ]
    if quality:
        floor = units.significant(ladder.noise_floor(result.provenance), 2)
        rows += [
            ("Mean KLD", f"{units.plus_minus(quality.mean_kld)} (noise floor {floor})"),
            ("99.9 % KLD", units.significant(quality.p999_kld)),
            ("Same top token", units.plus_minus(quality.same_top, "\N{NO-BREAK SPACE}%")),
            ("Perplexity ratio", units.plus_minus(quality.ppl_ratio)),
        ]
    if speed:
        rows += [
            ("Tokens/s, prompt", units.rate(speed.prompt_rate.value)),
            ("Tokens/s, generation", units.rate(speed.generation_rate.value)),
        ]
    if result.seconds:
        rows.append(("Time", units.duration(result.seconds)))
    return table(
        ("Figure", "Value"), [(name.replace(" ", "\N{NO-BREAK SPACE}"), value) for name, value in rows], left=2
    )


def _measured(result: Result) -> str:
    """Say of which file these are the figures, over which text and on which machine."""
    first, *others = result.files
    shards = f" and {len(others):,} more shards" if others else ""
    lines = [f"File: {code(first.name[:300])}{shards}, SHA-256 {code(first.sha256[:64])}."]
    if result.quality:
        text = result.provenance.evaluation
        lines.append(f"Measured over {text.chunks:,} chunks of {text.context:,} tokens of {inline(text.name, 100)}.")
    if result.speed:
        lines.append(f"Timed on {inline(result.speed.machine, 100)}.")
    return f"<sub>{' '.join(lines)}</sub>"


def _checks(result: Result) -> str:
    rows = [
        (inline(verdict.check, 60), _OUTCOMES[verdict.outcome], sentences(verdict))
        for verdict in [*result.provenance.verdicts, *result.verdicts]
    ]
    return table(("Check", "Outcome", "Seen"), rows, left=3)


def _answers(result: Result) -> list[str]:
    provenance = result.provenance
    reference = provenance.reference_answer
    if result.answer.text == reference.text:
        shown = ["Word for word the reference's answer:", answer(result.answer, provenance)]
    else:
        shown = [
            "**This file's answer**",
            answer(result.answer, provenance) if result.answered else "None: the file is broken.",
            *("**The reference's**", answer(reference, provenance)),
        ]
    return ["### Test prompt", fence(provenance.prompt[:LONGEST_PROMPT]), *shown]
