"""Does the file put conversations into the words that its source does: the GGUF's chat templates against upstream's.

A template that differs is tried on every conversation, and what counts is what it renders, byte for byte. Of 185
published GGUF repositories that could be compared, 26 rendered another prompt than upstream (ggufdoctor's survey).
A template is a program from a stranger: one that reaches for more than its conversation fails, whoever wrote it
(CVE-2024-34359, in which opening a GGUF ran whatever its template said).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from pipeline.check import template_files as files
from pipeline.check.conversations import CONVERSATIONS, Conversation
from pipeline.check.sandbox import Failure, Rendering, render
from pipeline.check.template_files import DEFAULT, quoted
from pipeline.check.verdict import failed, passed, skipped, warned

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.gguf_file import GGUFFile
    from pipeline.result import Verdict

CHECK = "chat template"
# The two that llama.cpp uses by itself.
NEEDED = (DEFAULT, "tool_use")
AGAIN = (
    "Convert the source again, or put its template into the file with llama.cpp's"
    " `gguf_new_metadata.py --chat-template-file`."
)
HOSTILE = "Do not run this file with a program that renders its template, and tell who published it."
SETTLE = "Ask the model's author which template holds; until then, give it to llama.cpp by `--chat-template-file`."
LIMITS = {
    "time": "does not end",
    "memory": "uses up its memory",
    "output": "writes without end",
    "range": "counts further than a template may",
}


@dataclass(frozen=True)
class Difference:
    """A conversation of which two templates make different prompts."""

    conversation: Conversation
    theirs: str | Failure
    ours: str | Failure

    @property
    def lost(self) -> list[str]:
        """Names of what the source's prompt holds and the file's does not."""
        theirs, ours = self.theirs, self.ours
        if isinstance(theirs, Failure) or isinstance(ours, Failure):
            return []
        return [name for name, text in self.conversation.holds.items() if text in theirs and text not in ours]


def compare(file: GGUFFile, source: Path | None) -> list[Verdict]:
    """Hold the templates in `file` against those in the Hugging Face directory `source`, by name.

    Without a source, hold each against what every template must do. One verdict a template, and one more where
    the file's special tokens would make another prompt. Raises `ToolchainError` where the sandbox does not start.
    """
    try:
        ours = files.of_gguf(file)
    except ValueError as error:
        return [failed(CHECK, str(error), AGAIN)]
    if source is None:
        return _alone(file, ours)
    try:
        theirs, tokens = files.of_source(source), files.special_tokens_of_source(source)
        overridden = files.of_config(source)
    except ValueError as error:
        return [warned(CHECK, f"of the source, {error}", "Repair the source's file."), *_alone(file, ours)]
    if not ours and not theirs:
        return [passed(CHECK, "none, as in the source")]
    verdicts = []
    for name in sorted({**theirs, **ours}, key=lambda name: (name != DEFAULT, name)):
        if name not in ours:
            verdicts.append(_missing(name, ours))
            continue
        rendering = _render(ours[name], tokens)
        if fault := _hostile(name, rendering):
            verdicts.append(fault)
        elif name not in theirs:
            advice = "Take it out, unless the model was trained on it: a base model knows no chat."
            verdicts.append(warned(CHECK, f"the file has {_subject(name)} and the source has none", advice))
        elif ours[name] == theirs[name]:
            verdicts.append(_own(name, rendering))
        else:
            stale = overridden.get(name) == ours[name]
            verdicts.append(_against(name, rendering, _render(theirs[name], tokens), stale=stale))
    return [*verdicts, *_drifted_tokens(file, ours, tokens)]


def _alone(file: GGUFFile, templates: dict[str, str]) -> list[Verdict]:
    if not templates:
        return [skipped(CHECK, "the file has none, and no source was given that might have one")]
    tokens = files.special_tokens_of_gguf(file)
    verdicts = []
    for name, template in templates.items():
        rendering = _render(template, tokens)
        verdicts.append(_hostile(name, rendering) or _by_itself(name, rendering))
    if lost := files.unlisted(file):
        seen = f"`{files.LISTED}` names {quoted(lost[0])} and the file has no such template"
        verdicts.append(warned(CHECK, seen, AGAIN))
    return verdicts


def _by_itself(name: str, rendering: Rendering) -> Verdict:
    broken = rendering.outcomes[0]
    if isinstance(broken, Failure) and broken.kind == "syntax":
        return failed(CHECK, f"{_subject(name)} {_ending(broken)}", AGAIN)
    rendered = _rendered(rendering)
    if not rendered:
        return warned(CHECK, f"{_subject(name)} renders no conversation: it {_ending(broken)}", AGAIN)
    spoken = [(conversation.holds["the user's text"], text) for conversation, text in rendered if _speaks(conversation)]
    if name == DEFAULT and spoken and not any(said in text for said, text in spoken):
        seen = f"{_subject(name)} leaves out the user's text on {_places([c for c, _ in rendered if _speaks(c)])}"
        return failed(CHECK, seen, AGAIN)
    return passed(CHECK, f"{_subject(name)} {_counted(len(rendered))}")


def _missing(name: str, ours: dict[str, str]) -> Verdict:
    if name == DEFAULT and not ours:
        return failed(CHECK, "the source has a chat template and the file has none", AGAIN)
    seen = f"the source has {_subject(name)} and the file has not"
    return failed(CHECK, seen, AGAIN) if name in NEEDED else warned(CHECK, seen, AGAIN)


def _hostile(name: str, rendering: Rendering) -> Verdict | None:
    """Say whether a template reaches for its sandbox's walls, or needs more than any template may."""
    kinds = [outcome.kind if isinstance(outcome, Failure) else None for outcome in rendering.outcomes]
    if rendering.attempts or "escape" in kinds:
        reached = ", ".join(f"`{quoted(attempt)[1:-1]}`" for attempt in rendering.attempts[:3])
        seen = f"{_subject(name)} tries to reach {reached or 'the system'}: it tries to escape its sandbox"
        return failed(CHECK, seen, HOSTILE)
    for kind, what in LIMITS.items():
        if kind in kinds:
            seen = f"{_subject(name)} {what}, on {_places([CONVERSATIONS[kinds.index(kind)]])}"
            return failed(CHECK, seen, HOSTILE)
    return None


def _own(name: str, rendering: Rendering) -> Verdict:
    rendered = len(_rendered(rendering))
    if not rendered and isinstance(rendering.outcomes[0], Failure):
        seen = f"{_subject(name)} is the source's own and renders no conversation: it {_ending(rendering.outcomes[0])}"
        return warned(CHECK, seen, "Tell the model's author.")
    return passed(CHECK, f"{_subject(name)} is the source's, and {_counted(rendered)}")


def _counted(rendered: int) -> str:
    refused = len(CONVERSATIONS) - rendered
    # Many know no system message, no tools, or want the speakers to take turns.
    more = f" and refuses {refused}, as a template may" if refused else ""
    return f"renders {rendered} of {len(CONVERSATIONS)} conversations{more}"


def _against(name: str, ours: Rendering, theirs: Rendering, *, stale: bool) -> Verdict:
    """Judge a template that is not the source's; `stale` where it is one that the source's own file overrides."""
    differences = [
        Difference(conversation, upstream, here)
        for conversation, upstream, here in zip(CONVERSATIONS, theirs.outcomes, ours.outcomes, strict=True)
        # That both refuse is agreement, in whatever words.
        if upstream != here and not (isinstance(upstream, Failure) and isinstance(here, Failure))
    ]
    if not differences:
        alike = f"renders {len(CONVERSATIONS)} conversations as it does"
        return passed(CHECK, f"{_subject(name)} is worded otherwise than the source's, and {alike}")
    broken = [difference for difference in differences if isinstance(difference.theirs, str)]
    if not broken:
        names = _places([difference.conversation for difference in differences])
        seen = f"{_subject(name)} renders what the source's does not, on {names}: that {_ending(differences[0].theirs)}"
        return warned(CHECK, seen, AGAIN)
    seen = _described(name, broken)
    if stale:
        seen = f"{seen}; the file has the one of {files.CONFIG}, which {files.JINJA} overrides"
        return warned(CHECK, seen, SETTLE)
    return failed(CHECK, seen, AGAIN)


def _described(name: str, differences: Sequence[Difference]) -> str:
    """Name what is lost, in which conversations, and the first place in which the prompts differ."""
    lossy = [difference for difference in differences if difference.lost]
    first = (lossy or differences)[0]
    others = [difference.conversation for difference in differences if difference is not first]
    places = _places([first.conversation, *others])
    if isinstance(first.ours, Failure):
        return f"{_subject(name)} {_ending(first.ours)}, on {places}, where the source's renders a prompt"
    assert isinstance(first.theirs, str)
    same = _common(first.theirs, first.ours)
    what = f"leaves out {' and '.join(first.lost)}" if first.lost else "renders another prompt than the source's"
    after = f"after {quoted(first.ours[max(0, same - 24) : same])} " if same else ""
    sides = f"the source's renders {quoted(first.theirs[same:])} and the file's {quoted(first.ours[same:])}"
    return f"{_subject(name)} {what}, on {places}: {after}{sides}"


def _common(one: str, other: str) -> int:
    """Return for how many characters two texts are the same, and not to the middle of what looks like a token."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    begun = one.rfind("<", max(0, same - 24), same)
    return same if begun < 0 or ">" in one[begun:same] else begun


def _drifted_tokens(file: GGUFFile, templates: dict[str, str], tokens: dict[str, str]) -> list[Verdict]:
    """Look for a special token that a template prints and that the file, for llama.cpp to fill in, has otherwise."""
    printed = [name for name in tokens if any(name in template for template in templates.values())]
    if not printed:
        return []
    own = files.special_tokens_of_gguf(file)
    return [
        warned(
            CHECK,
            f"it prints {name}, which is {quoted(tokens[name])} in the source and {quoted(own[name])} in the file",
            "Convert the source again, or set the token with llama.cpp's `gguf_new_metadata.py --special-token`.",
        )
        for name in printed
        if name in own and own[name] != tokens[name]
    ]


def _render(template: str, tokens: dict[str, str]) -> Rendering:
    return render(template, [conversation.context(tokens) for conversation in CONVERSATIONS])


def _rendered(rendering: Rendering) -> list[tuple[Conversation, str]]:
    pairs = zip(CONVERSATIONS, rendering.outcomes, strict=True)
    return [(conversation, outcome) for conversation, outcome in pairs if isinstance(outcome, str)]


def _speaks(conversation: Conversation) -> bool:
    return "the user's text" in conversation.holds


def _subject(name: str) -> str:
    return "the chat template" if name == DEFAULT else f"the chat template {quoted(name, 40)}"


def _ending(failure: str | Failure) -> str:
    assert isinstance(failure, Failure)
    match failure.kind:
        case "raised":
            return f"refuses with {quoted(failure.message)}"
        case "syntax":
            return f"does not compile, {quoted(failure.message)[1:-1]}"
        case kind if kind in LIMITS:
            return LIMITS[kind]
        case _:
            return f"ends with {quoted(failure.message, 80)}"


def _places(conversations: Sequence[Conversation]) -> str:
    others = len(conversations) - 1
    more = f" and {others} more of {len(CONVERSATIONS)} conversations" if others else ""
    return f'"{conversations[0].name}"{more}'
