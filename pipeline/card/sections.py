"""The sections of a card: each a function from a release to Markdown, with all that is foreign escaped."""

from __future__ import annotations

import shlex
from collections import Counter
from textwrap import fill
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from pipeline import units
from pipeline.card import ladder, tables
from pipeline.card.markdown import code, fence, inline, plain
from pipeline.card.notice import licence as licence_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.card.original import SourceCard
    from pipeline.result import Answer, Offload, Provenance, QuantFile, Recipe, Release, TextUse, Verdict

HUB = "https://huggingface.co"

_LONGEST_ANSWER = 8_000
_WIDTH = 88


def base(name: str) -> str:
    return f"[{inline(name)}]({HUB}/{quote(name)})"


def source_url(source: str, revision: str | None, path: str) -> str:
    """Return where a file of the source is shown."""
    return f"{HUB}/{quote(source)}/blob/{revision or 'main'}/{quote(path)}"


def _link(name: str) -> str:
    return f"[{inline(name)}]({quote(name)})"


def verdict(release: Release) -> str:
    gone = release.gone
    total = len(release.results) + len(release.missing) + len(gone)
    said = [f"{len(release.published)} of {total} quants published"]
    why = [f"{r.quant} ({inline(r.failures[0].check)})" for r in release.withheld]
    for quants, what in ((release.withheld, "withheld"), (release.missing, "missing"), (gone, "withdrawn")):
        said += [f"{len(quants)} {what}"] if quants else []
    why += [f"{quant} (its job came to no result)" for quant in release.missing]
    why += [f"{w.quant} (withdrawn: {inline(w.reason)})" for w in gone]
    return f"**{', '.join(said)}:** {'; '.join(why)}." if why else f"**{said[0]}.**"


def licence(source: SourceCard, files: Sequence[str]) -> str:
    name = licence_name(source.metadata)
    if name:
        named = f"Licence of the source: {code(name)}."
    else:
        named = "The source names no licence that could be read." if source.problem else "The source names no licence."
    return f"{named} Copied from the source: {', '.join(map(_link, files))}." if files else named


class Example(NamedTuple):
    """How to name one file of the release, each quoted for a shell."""

    quant: str
    tag: str
    """repo:quant, for llama.cpp and Ollama."""
    lms: str
    """The repo's address and @quant, for LM Studio, which takes a bare name for one of its own catalogue's."""
    file: str
    """Or files, where it is in shards."""


def example(release: Release) -> Example | None:
    """A file that its tag leads to; Q4_K_M where there is one, which is what -hf takes by default."""
    tags = tables.tags(release)
    ranked = sorted((r for r in release.published if tags[r.quant]), key=lambda r: r.quant != "Q4_K_M")
    if not ranked:
        return None
    quant, repo = ranked[0].quant, release.repo
    names = (f"{repo}:{quant}", f"https://huggingface.co/{repo}@{quant.lower()}")
    files = " ".join(shlex.quote(file.name) for file in ranked[0].files)
    return Example(quant, shlex.quote(names[0]), shlex.quote(names[1]), files)


def protocol(release: Release) -> list[str]:
    provenance = release.provenance
    own = provenance.reference_quality
    qualities = [quality for _, quality in ladder.measured(release.published)] or [own]
    places = list(dict.fromkeys(_place(quality.offload) for quality in qualities))
    speeds = list(
        dict.fromkeys(
            (s.prompt_tokens, s.generated_tokens, s.repetitions, s.threads) for r in release.published if (s := r.speed)
        ),
    )
    floor = ladder.noise_floor(provenance)
    told = (
        f"A difference of less than {units.significant(floor, 2)}, from the reference or between two files, is none"
        if floor
        else "So runs repeat themselves here, to the six decimals that are printed, and only the intervals blur a"
        " comparison; what its other figures read comes from probabilities that are kept in 16 bits"
    )
    mean, top = units.plus_minus(own.mean_kld), units.percent(own.same_top.value)
    reference = f"{_main_type(provenance)} ({units.size(provenance.reference.size)}, not published)"
    lines = [
        f"**Reference:** the source converted to GGUF as {reference}, by the same llama.cpp.",
        (
            f"**Divergence and perplexity:** `llama-perplexity --kl-divergence`, {' or '.join(places)}. Every file over"
            f" the same text: {_text(provenance.evaluation)}."
        ),
        (
            f"**Noise floor:** the reference against its own logits reads a mean KLD of {mean},"
            f" and the same top token {top} of the time. {told}."
        ),
    ]
    if pairs := ladder.alike(release.published, floor):
        named = "; ".join(f"`{one}` and `{other}`" for one, other in pairs)
        lines.append(
            f"**Not told apart** by their mean KLD: {named}. Over four times the text, intervals are half as wide."
        )
    for prompt, generated, repetitions, threads in speeds:
        lines.append(
            f"**Speed:** `llama-bench`, a prompt of {prompt} tokens / {generated} generated tokens, mean of"
            f" {repetitions} runs, {threads} threads; between the runs of one file a standard deviation of up to"
            f" {_spread(release):.0%}.".replace("%", "\N{NO-BREAK SPACE}%"),
        )
    machines = tables.machines(release)
    for number, (machine, offload) in enumerate(machines, start=1):
        mark = f" ({number})" if len(machines) > 1 else ""
        lines.append(f"**Machine{mark}:** {inline(machine)}; {_place(offload)}.")
    return lines


def _spread(release: Release) -> float:
    """The largest standard deviation of a rate, as a part of it."""
    rates = [rate for r in release.published if r.speed for rate in (r.speed.prompt_rate, r.speed.generation_rate)]
    return max((rate.error / rate.value for rate in rates if rate.value), default=0.0)


def vetted(release: Release) -> list[str]:
    """What was found out about the reference and the imatrix, a line a check."""
    marks = {"warn": " (a warning)", "skip": " (not run)"}
    return [f"{inline(v.check)}{marks.get(v.outcome, '')}: {sentences(v)}" for v in release.provenance.verdicts]


def passed(release: Release) -> list[str]:
    """The checks that every published file passed, in the order they ran."""
    verdicts = [verdict for result in release.published for verdict in result.verdicts]
    warned = {verdict.check for verdict in verdicts if verdict.outcome == "warn"}
    return [inline(check) for check in dict.fromkeys(v.check for v in verdicts) if check not in warned]


def warnings(release: Release) -> list[str]:
    """What files passed with, a line for all that share a warning, and names that hold the same bytes."""
    shared: dict[str, list[str]] = {}
    for result in release.published:
        for verdict in result.verdicts:
            if verdict.outcome == "warn":
                shared.setdefault(f"{inline(verdict.check)}: {sentences(verdict)}", []).append(code(result.quant))
    lines = [f"{', '.join(quants)}, {warning}" for warning, quants in shared.items()]
    twins = [", ".join(map(code, quants)) for quants in ladder.twins(release.published)]
    return lines + [f"{names} are the same file, byte for byte: a recipe changes nothing here." for names in twins]


def withheld(release: Release) -> list[str]:
    return [
        f"{code(result.quant)} ({units.size(result.file.size)}), {inline(verdict.check)}: {sentences(verdict)}"
        for result in release.withheld
        for verdict in result.failures
    ]


def withdrawn(release: Release) -> list[str]:
    """What was taken back, and why; a file of the same name that is there again is another one."""
    there = {result.quant for result in release.published}
    return [
        f"{code(w.quant)}, on {inline(w.date)}: {inline(w.reason).rstrip('.')}."
        + (" The file of that name that is here now is another one, made since." if w.quant in there else "")
        for w in release.withdrawn
    ]


def fallbacks(release: Release) -> list[str]:
    return [
        f"{code(result.quant)}: {swapped}, {result.file.bits_per_weight:.2f} bits per weight"
        for result in release.published
        if (swapped := swaps(result.file))
    ]


def swaps(file: QuantFile) -> str:
    """How many tensors have another type than wanted, and which types those are; empty where none has."""
    pairs = Counter((f.wanted, f.used) for f in file.fallbacks)
    if not pairs:
        return ""
    parts = (f"{n} of {wanted} as {used}" for (wanted, used), n in pairs.most_common())
    return f"{pairs.total()} of {sum(file.types.values())} tensors ({inline(', '.join(parts))})"


def answers(release: Release) -> list[tuple[str, str]]:
    """Title and text of every answer, the reference's first."""
    provenance = release.provenance
    reference = provenance.reference_answer
    blocks = [(f"The reference ({_main_type(provenance)})", answer(reference, provenance))]
    for result in release.published:
        same = result.answer.text == reference.text
        text = "Word for word the reference's answer." if same else answer(result.answer, provenance)
        blocks.append((code(result.quant), text))
    return blocks


def origin(release: Release) -> list[str]:
    p = release.provenance
    at = f"{base(release.base_model)} at "
    if p.revision:
        at += f"[{code(p.revision)}]({HUB}/{quote(p.source)}/tree/{p.revision})"
    else:
        at += "no commit: it was given as a directory"
    matrix = _link(p.imatrix.name) if release.published else code(p.imatrix.name)
    flags = f", built with {' '.join(map(code, p.flags))}" if p.flags else ""
    return [
        f"Source: {at}; digest of its files {code(p.source_digest)}",
        f"llama.cpp: {code(p.llama_cpp)} from {inline(p.llama_cpp_origin)}{flags}",
        f"Calibration: {_text(p.calibration)}",
        f"imatrix: {matrix}, {p.imatrix_entries} tensors, SHA-256 {code(p.imatrix.sha256)}",
        f"Release: {code(release.id)}, made by llm-quantizer {inline(release.pipeline)}",
    ]


def recipes(release: Release) -> list[str]:
    return [f"{code(result.quant)}: {_recipe(result.recipe)}" for result in release.published]


def _recipe(recipe: Recipe) -> str:
    parts = [f"type {code(recipe.base)}"]
    if recipe.token_embedding:
        parts.append(f"token embedding {code(recipe.token_embedding)}")
    if recipe.output:
        parts.append(f"output {code(recipe.output)}")
    parts += [f"{code(pattern)} as {code(used)}" for pattern, used in recipe.tensors.items()]
    if recipe.pure:
        parts.append("pure: every tensor of that type")
    parts.append("with the imatrix" if recipe.imatrix else "without the imatrix")
    return ", ".join(parts)


def _place(offload: Offload) -> str:
    if offload.layers == 0:
        return "all layers on the CPU"
    return f"{offload.layers} of {offload.of} layers on the GPU"


def _text(use: TextUse) -> str:
    return f"{use.chunks} chunks of {use.context} tokens of {inline(use.name)} (SHA-256 {code(use.sha256)})"


def _main_type(provenance: Provenance) -> str:
    """The type of most of the reference's weights: its norms are F32 in any case."""
    types = {name: n for name, n in provenance.reference.types.items() if name != "F32"}
    return max(types, key=lambda name: types[name], default="F32")


def answer(answer: Answer, provenance: Provenance) -> str:
    lines = plain(answer.text[:_LONGEST_ANSWER]).split("\n")
    text = "\n".join(fill(line, _WIDTH, break_long_words=False, break_on_hyphens=False) for line in lines)
    end = "" if answer.stopped else f"\n\nCut off at {provenance.max_tokens} tokens."
    return fence(text) + end


def sentences(verdict: Verdict) -> str:
    return " ".join(f"{inline(part).rstrip('.')}." for part in (verdict.seen, verdict.advice) if part.strip())
