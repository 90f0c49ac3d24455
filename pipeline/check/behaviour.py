"""Does the quant answer as the reference does. Never judged alone: a base model may babble, so may its reference.

Greedy answers of a good quant differ from the reference's, and a small model loops on one prompt or another in any
type. So nothing is decided by one answer but that there is one at all: a fault counts where the reference's answer to
the same prompt is free of it, and decides where it shows on most of such prompts.
"""

from __future__ import annotations

import re
import statistics
import unicodedata
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from pipeline.check.verdict import failed, passed, warned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.result import Answer, Verdict

CHECK: Final = "answers"
BROKEN: Final = "The file is broken, or its type is too small for this model. Leave the quant out or use a larger type."
LOOK: Final = "Read its answers before you publish it; a larger type may do better."
LOOP: Final = 0.5
"""Share of a text that one passage said over and over takes, from which on the text counts as a loop."""
GARBAGE: Final = 0.1
"""Share of characters that are no text, from which on a text counts as garbage."""
FOREIGN: Final = 0.5
"""Share of letters in scripts that no answer of the reference uses, from which on a text counts as foreign."""
MOST: Final = 0.6
"""Share of the prompts to which the reference answers well that makes a fault one of the file."""
IN_COMMON: Final = 0.2
"""Share of words in common with the reference; good files of SmolLM2-135M have 0.3 or more down to IQ1_S."""
_LONGEST: Final = 4_000
"""Characters of an answer that are looked at for loops: it takes time that grows with their square."""


class _Fault(NamedTuple):
    said: str
    fewest: int
    """On how many prompts it must show to fail, whatever their share; it warns from one less on."""


EMPTY: Final = _Fault("nothing is answered", 3)
LOOPS: Final = _Fault("the answer repeats itself", 4)
NO_TEXT: Final = _Fault("the answer holds characters that are no text", 3)
SCRIPT: Final = _Fault("the answer is in a script that the reference never uses", 3)


def verdicts(quant: Sequence[Answer] | None, reference: Sequence[Answer]) -> list[Verdict]:
    """Compare the answers to the prompts, in the same order; `quant` is None where the file could not be run at all."""
    if quant is None:
        return [failed(CHECK, "llama-completion could not run the file", BROKEN)]
    pairs = list(zip(quant, reference, strict=False))
    spoken = [(ours, theirs) for ours, theirs in pairs if theirs.text]
    scripts = {script for answer in reference for script in _scripts(answer.text)}
    found = [
        _spread(EMPTY, [not ours.text for ours, _ in spoken]),
        _spread(LOOPS, [loop(ours.text) >= LOOP for ours, theirs in spoken if loop(theirs.text) < LOOP], spoken),
        _spread(NO_TEXT, [garbage(a.text) >= GARBAGE for a, b in spoken if garbage(b.text) < GARBAGE / 2], spoken),
        _spread(SCRIPT, [foreign(ours.text, scripts) >= FOREIGN for ours, _ in spoken]),
    ]
    # What loops, or is no text, does not end, either: that is one fault, not two.
    return [verdict for verdict in found if verdict] or [_endless(spoken) or passed(CHECK, _agreement(pairs))]


def loop(text: str) -> float:
    """Return the share of a text, 0 to 1, that its longest loop takes: the same passage three times or more on end.

    All numbers count as the same, so that a list that counts on and says nothing else is a loop, too.
    """
    folded = re.sub(r"\d+", "0", " ".join(text.split()))[:_LONGEST]
    codes = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    longest = 0
    for period in range(1, len(codes) // 3 + 1):
        breaks = np.flatnonzero(codes[period:] != codes[:-period])
        run = int(np.diff(breaks, prepend=-1, append=len(codes) - period).max()) - 1
        if run >= 2 * period:
            longest = max(longest, run + period)
    return longest / len(codes) if len(codes) else 0.0


def garbage(text: str) -> float:
    """Return the share of characters that are no text: replaced bytes, control and unassigned characters.

    At the end a character may be cut in two by the token limit.
    """
    text = text.rstrip("\N{REPLACEMENT CHARACTER}")
    odd = sum(c == "\N{REPLACEMENT CHARACTER}" or unicodedata.category(c) in {"Cc", "Cn", "Co", "Cs"} for c in text)
    return (odd - sum(c in "\n\t\r" for c in text)) / len(text) if text else 0.0


def foreign(text: str, scripts: set[str]) -> float:
    """Return the share of letters that are neither of these scripts nor Latin."""
    found = _scripts(text)
    return sum(n for script, n in found.items() if script not in scripts | {"LATIN"}) / max(1, sum(found.values()))


def in_common(ours: Answer, theirs: Answer) -> float:
    """Return the share of different words that two answers have in common, of those of the shorter one."""
    left, right = set(_words(ours.text)), set(_words(theirs.text))
    return len(left & right) / min(len(left), len(right)) if left and right else float(left == right)


def _spread(
    fault: _Fault, shows: Sequence[bool], spoken: Sequence[tuple[Answer, Answer]] | None = None
) -> Verdict | None:
    """Judge a fault by the prompts that it shows on, of those on which the reference is free of it.

    `spoken`: all prompts, for a fault that does not count against a quant whose reference has it more than once.
    """
    count, of = sum(shows), len(shows)
    every = fault is EMPTY and count == of
    most = count >= max(fault.fewest, MOST * of)
    shared = spoken is not None and len(spoken) - of > 1
    seen = f"{fault.said} on {count} of {of} prompts to which the reference answers well"
    if count and (every or most) and not shared:
        return failed(CHECK, seen, BROKEN)
    return warned(CHECK, seen, LOOK) if count and count >= fault.fewest - 1 else None


def _endless(spoken: Sequence[tuple[Answer, Answer]]) -> Verdict | None:
    """Judge a quant that ends none of the answers that the reference ends.

    Alone that warns: a good Q4_0 of SmolLM2-135M ends one of four. It fails where the two hardly share a word, either.
    """
    ended = [ours.stopped for ours, theirs in spoken if theirs.stopped]
    if len(ended) < 3 or any(ended):
        return None
    well = [in_common(ours, theirs) for ours, theirs in spoken if loop(theirs.text) < LOOP]
    seen = f"no answer ends, where the reference ends {len(ended)} of {len(spoken)}"
    if len(well) >= 3 and (common := statistics.median(well)) < IN_COMMON:
        said = f"{seen}, and they have {common:.0%} of their words in common (median)"
        return failed(CHECK, f"the answers are incoherent: {said}", BROKEN)
    return warned(CHECK, seen, LOOK) if len(ended) > 3 else None


def _agreement(pairs: Sequence[tuple[Answer, Answer]]) -> str:
    if all(ours == theirs for ours, theirs in pairs):
        return f"the same answers to all {len(pairs)} prompts, at temperature 0"
    exact = sum(ours == theirs for ours, theirs in pairs)
    first, total = _prefix(*pairs[0])
    common = statistics.median([in_common(*pair) for pair in pairs if pair[0].text or pair[1].text] or [1.0])
    return (
        f"{exact} of {len(pairs)} answers are the reference's, the first {first} of its {total} words to the test"
        f" prompt, and {common:.0%} of the words to all (median), at temperature 0"
    )


def _prefix(ours: Answer, theirs: Answer) -> tuple[int, int]:
    words, same = theirs.text.split(), 0
    for left, right in zip(ours.text.split(), words, strict=False):
        if left != right:
            break
        same += 1
    return same, len(words)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _scripts(text: str) -> dict[str, int]:
    """Count letters by the first word of their names, which is their script: LATIN, CJK, CYRILLIC."""
    counts: dict[str, int] = {}
    for letter in filter(str.isalpha, text):
        script = unicodedata.name(letter, "?").split()[0]
        counts[script] = counts.get(script, 0) + 1
    return counts
