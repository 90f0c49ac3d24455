"""`test.log`: the test prompt, and what the reference and every quant answered."""

from __future__ import annotations

from textwrap import indent
from typing import TYPE_CHECKING

from pipeline.card.markdown import plain

if TYPE_CHECKING:
    from pipeline.result import Answer, Provenance, Release, Result


def render(release: Release) -> str:
    """Plain text. Foreign text is indented by four blanks, so that it cannot pass for a heading."""
    provenance = release.provenance
    use = "through the model's chat template" if provenance.chat_template else "as it stands"
    revision = provenance.revision or f"sha256:{provenance.source_digest}"
    source = f"{provenance.source} @ {revision}"
    parts = [
        f"{release.repo}, release {release.id}\nmade from {source} by llm-quantizer {release.pipeline}",
        f"=== prompt: {use}, greedy, at most {provenance.max_tokens} tokens\n{_quoted(provenance.prompt)}",
        f"=== reference\n{_answer(provenance.reference_answer, provenance)}",
        *(_result(result, provenance) for result in release.results),
    ]
    return "\n\n".join(parts) + "\n"


def _result(result: Result, provenance: Provenance) -> str:
    lines = [f"=== {result.quant}: {'withheld' if result.withheld else 'published'}"]
    for verdict in result.verdicts:
        said = "; ".join(" ".join(plain(part).split()) for part in (verdict.seen, verdict.advice) if part)
        lines.append(f"{verdict.outcome}  {verdict.check}: {said}")
    if not result.answered:
        lines.append("no answer: the file is broken")
    elif result.answer == provenance.reference_answer:
        lines.append("the reference's answer, word for word")
    else:
        lines.append(_answer(result.answer, provenance))
    return "\n".join(lines)


def _answer(answer: Answer, provenance: Provenance) -> str:
    end = "" if answer.stopped else f"\n(cut off at {provenance.max_tokens} tokens)"
    return _quoted(answer.text) + end


def _quoted(text: str) -> str:
    return indent(plain(text).strip("\n"), "    ")
