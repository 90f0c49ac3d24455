"""The tables of a card, and what their columns and marks mean."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from pipeline import units
from pipeline.card import ladder
from pipeline.card.markdown import code, inline, table

if TYPE_CHECKING:
    from pipeline.result import Offload, Release, Result

_LEGEND = (
    (
        "Mean KLD: how far the file's next-token probabilities are from the reference's: KL divergence in nats per"
        " token, with its 95 % interval. Lower is better, 0 is no difference. 99.9 % KLD: one token in a thousand is"
        " further off than this."
    ),
    (
        "Same top: how often the file and the reference hold the same token for the likeliest. PPL ratio: the file's"
        " perplexity over the reference's."
    ),
)
_COLUMNS = (
    *("File", "Size", "Mean KLD", "99.9 % KLD", "Same top", "PPL ratio"),
    *("Bits/weight", "Fallbacks", "Tokens/s"),
)


def picks(release: Release) -> str | None:
    chosen = ladder.picks(release)
    rows = [
        (
            f"{units.memory(pick.memory)}{' or more' if pick is chosen[-1] else ''}",
            f"[{code(pick.result.quant)}]({quote(pick.result.files[0].name)})",
            units.size(pick.result.file.size),
            units.size(int(pick.memory * 1e9) - pick.result.file.size),
        )
        for pick in chosen
    ]
    return table(("If you have", "take", "its size", "left over"), rows, left=2) if rows else None


def files(release: Release) -> str:
    """The table that matters; a column that is empty for every file is left out."""
    floor = ladder.noise_floor(release.provenance)
    known = tags(release)
    ran_on = machines(release)
    rows = []
    for result in release.published:
        quality, speed = result.quality, result.speed
        near = quality is not None and quality.mean_kld.value <= floor
        rate = ""
        if speed:
            rate = f"{units.rate(speed.prompt_rate.value)} / {units.rate(speed.generation_rate.value)}"
            if len(ran_on) > 1:
                rate += f" ({ran_on.index((speed.machine, speed.offload)) + 1})"
        rows.append(
            (
                f"[{code(result.quant)}]({quote(result.files[0].name)}){_marks(result, known)}",
                units.size(result.file.size),
                ("≈\N{NO-BREAK SPACE}" if near else "") + units.plus_minus(quality.mean_kld) if quality else "",
                units.significant(quality.p999_kld) if quality else "",
                units.percent(quality.same_top.value) if quality else "",
                units.mean(quality.ppl_ratio) if quality else "",
                f"{result.file.bits_per_weight:.2f}",
                str(len(result.file.fallbacks) or ""),
                rate.replace(" ", "\N{NO-BREAK SPACE}"),
            ),
        )
    used = [column for column in range(len(_COLUMNS)) if any(row[column] for row in rows)]
    return table([_COLUMNS[c] for c in used], [[row[c] for c in used] for row in rows])


def legend(release: Release) -> list[str]:
    """What the columns and marks of the table mean, those it has."""
    published = release.published
    floor = ladder.noise_floor(release.provenance)
    known = tags(release)
    lines = [
        f"The name of a file here is also its tag: `-hf {release.repo}:{quant}`." for quant, tag in known.items() if tag
    ][:1]
    lines += _LEGEND
    if any(q.mean_kld.value <= floor for _, q in ladder.measured(published)):
        lines.append(f"≈: within the noise floor of {units.significant(floor, 2)}, not told apart from the reference.")
    if any(r.speed for r in published):
        lines.append("Tokens/s: prompt / generation; [the machine is named below](#how-it-was-measured).")
    if any(r.file.fallbacks for r in published):
        lines.append(
            "Fallbacks: tensors of another type than wanted, see [below](#bits-per-weight-and-fallback-tensors)."
        )
    else:
        lines.append("No file holds a fallback tensor.")
    if None in known.values():
        lines.append("†: this name is no tag, llama.cpp would take another file for it; use `--hf-file`.")
    if any(r.shards for r in published):
        lines.append("‡: in shards, which llama.cpp fetches and opens by the first of them; Ollama reads none.")
    return lines


def _marks(result: Result, known: dict[str, str | None]) -> str:
    marks = ("" if known[result.quant] else "†") + ("‡" if result.shards else "")
    return f" {marks}" if marks else ""


def details(release: Release) -> str:
    reference = release.provenance.reference_quality
    rows = [(code(r.quant), quality) for r, quality in ladder.measured(release.published)]
    return table(
        ("File", "Median KLD", "Max KLD", "Perplexity", "PPL ratio", "Same top"),
        [
            (
                name,
                units.significant(quality.median_kld),
                units.significant(quality.max_kld),
                units.plus_minus(quality.ppl),
                units.plus_minus(quality.ppl_ratio),
                units.plus_minus(quality.same_top, "\N{NO-BREAK SPACE}%"),
            )
            for name, quality in [*rows, ("the reference itself", reference)]
        ],
    )


def checksums(release: Release) -> str:
    files = [file for r in release.published for file in r.files]
    files += [release.provenance.imatrix] if files else []
    return table(
        ("File", "SHA-256", "Bytes"),
        [(inline(file.name), code(file.sha256), f"{file.size:,}") for file in files],
        left=2,
    )


def tags(release: Release) -> dict[str, str | None]:
    names = [file.name for result in release.published for file in result.files]
    return {result.quant: ladder.tag(result, names) for result in release.published}


def machines(release: Release) -> list[tuple[str, Offload]]:
    return list(dict.fromkeys((r.speed.machine, r.speed.offload) for r in release.published if r.speed))
