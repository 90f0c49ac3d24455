"""Are the measurements within the gates that matrix.yml sets, and is each file worth its size.

What a file may lose depends on the bits of its weights. Its name does not say how many those are, since tensors whose
rows no block divides get a larger type, and the average does not either: a model of which a fifth is in two bits is as
good as those two bits let it be. So the class of a file is the smallest type that a twentieth of its weights has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.card import ladder
from pipeline.check.verdict import failed, passed, warned
from pipeline.gguf_file import SIZES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.matrix.model import Gates, Limit
    from pipeline.result import Quality, QuantFile, Result, Verdict

CHECKS: Final = ("mean KLD", "99.9 % KLD", "same top", "perplexity ratio")
DOMINATED: Final = "dominated"
ADVICE: Final = "Use a larger type, or change the gate in matrix.yml."
SHARE: Final = 0.05
"""Of a file's weights: what fewer weights have does not decide its class."""


def finite(quality: Quality | None) -> Verdict:
    """Without finite probabilities there is nothing to measure: `quality` is None."""
    if quality is None:
        advice = "The file is broken. Quantize again; if it stays so, leave this type out."
        return failed("finite", "the predictions are not finite numbers", advice)
    return passed("finite", f"finite predictions over {quality.chunks} chunks")


def bits_of(file: QuantFile) -> tuple[str, float]:
    """Return the smallest type that a twentieth of the weights has, with all types below it, and its bits per weight.

    For a result of before the weights were counted, by the number of tensors, which is near enough.
    """
    counts = file.weights or {name: n for name, n in file.types.items() if name != "F32"} or file.types
    sizes = {name: 8 * size / weights for name, (weights, size) in SIZES.items()}
    below, total = 0, sum(counts.values())
    for name in sorted((n for n in counts if n in sizes), key=lambda n: sizes[n]):
        below += counts[name]
        if below >= SHARE * total:
            return name, sizes[name]
    return "no known type", 32.0


def gates(quality: Quality, file: QuantFile, limits: Gates) -> list[Verdict]:
    """Hold a file's quality against each gate that is set for files of its bits per weight."""
    kind, bits = bits_of(file)
    where = f"for files with weights in {kind} ({bits:.4g} bits)"

    def judge(check: str, value: float, limit: Limit | None, said: str, unit: str = "") -> Verdict | None:
        bound = limit.at(bits) if limit else None
        if bound is None:
            return None
        least = check == "same top"
        within = value >= bound if least else value <= bound
        rule = f"at least {bound:g}{unit} wanted" if least else f"at most {bound:g} allowed"
        seen = f"{said} {value:.4g}{unit}, {rule} {where}"
        return passed(check, seen) if within else failed(check, seen, ADVICE)

    found = (
        judge(CHECKS[0], quality.mean_kld.value, limits.max_mean_kld, "mean KL divergence"),
        judge(CHECKS[1], quality.p999_kld, limits.max_p999_kld, "99.9 % KL divergence"),
        judge(CHECKS[2], quality.same_top.value, limits.min_same_top, "same top token", " %"),
        judge(CHECKS[3], quality.ppl_ratio.value, limits.max_ppl_ratio, "perplexity ratio"),
    )
    return [verdict for verdict in found if verdict]


def dominated(results: Sequence[Result]) -> Mapping[str, Verdict]:
    """Return a warning, by quant, for each file that a smaller one of the same release beats.

    Worse by more than chance and noise can explain: see `ladder.told_apart`.
    """
    ladder_ = sorted(ladder.measured(results), key=lambda pair: pair[0].file.size)
    found: dict[str, Verdict] = {}
    for place, (result, quality) in enumerate(ladder_):
        smaller = [pair for pair in ladder_[:place] if pair[0].file.size < result.file.size]
        if not smaller:
            continue
        best, other = min(smaller, key=lambda pair: pair[1].mean_kld.value)
        ours, theirs = quality.mean_kld, other.mean_kld
        floor = ladder.noise_floor(result.provenance)
        if ours.value > theirs.value and ladder.told_apart(quality, other, floor):
            seen = (
                f"mean KL divergence {ours.value:.4g} ± {ours.interval:.2g} in {result.file.size:,} bytes, where the"
                f" smaller {best.quant} reads {theirs.value:.4g} ± {theirs.interval:.2g} in {best.file.size:,}"
            )
            found[result.quant] = warned(DOMINATED, seen, f"Take {best.quant}: it is smaller and nearer to the model.")
    return found
