"""Does the quant answer as the reference does. Never judged alone: a base model may babble, so may its reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.result import Verdict

if TYPE_CHECKING:
    from pipeline.result import Answer


BROKEN = "The file is broken, or its type is too small for this model. Leave the quant out or use a larger type."


def answer(quant: Answer | None, reference: Answer) -> Verdict:
    """Compare the two answers to the test prompt; `quant` is None where the file could not be run at all."""
    if quant is None:
        return Verdict(check="answer", outcome="fail", seen="llama-completion could not run the file", advice=BROKEN)
    if reference.text and not quant.text:
        return Verdict(check="answer", outcome="fail", seen="no answer, where the reference gives one", advice=BROKEN)
    words, same = reference.text.split(), 0
    for ours, theirs in zip(quant.text.split(), words, strict=False):
        if ours != theirs:
            break
        same += 1
    seen = "the same answer" if quant == reference else f"the first {same} of the reference's {len(words)} words"
    return Verdict(check="answer", outcome="pass", seen=f"{seen}, at temperature 0")
