"""Are the measurements within the gates that matrix.yml sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.result import Verdict

if TYPE_CHECKING:
    from pipeline.matrix.model import Gates
    from pipeline.result import Quality

CHECKS = ("mean KLD", "same top")
ADVICE = "Use a larger type, or change the gate in matrix.yml."


def finite(quality: Quality | None) -> Verdict:
    """Without finite probabilities there is nothing to measure: `quality` is None."""
    if quality is None:
        advice = "The file is broken. Quantize again; if it stays so, leave this type out."
        return Verdict(check="finite", outcome="fail", seen="the predictions are not finite numbers", advice=advice)
    return Verdict(check="finite", outcome="pass", seen=f"finite predictions over {quality.chunks} chunks")


def gates(quality: Quality, limits: Gates) -> list[Verdict]:
    """Hold a file's quality against each gate that is set."""
    verdicts = []
    if limits.max_mean_kld is not None:
        within = quality.mean_kld.value <= limits.max_mean_kld
        seen = f"mean KL divergence {quality.mean_kld.value:.4f}, at most {limits.max_mean_kld} allowed"
        verdicts.append(_verdict(CHECKS[0], seen, within=within))
    if limits.min_same_top is not None:
        within = quality.same_top.value >= limits.min_same_top
        seen = f"same top token {quality.same_top.value:.1f} %, at least {limits.min_same_top} % wanted"
        verdicts.append(_verdict(CHECKS[1], seen, within=within))
    return verdicts


def _verdict(check: str, seen: str, *, within: bool) -> Verdict:
    return Verdict(check=check, outcome="pass" if within else "fail", seen=seen, advice="" if within else ADVICE)
