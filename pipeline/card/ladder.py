"""The published files as a ladder: which are told apart, which tag leads to which, which fits where."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

from pipeline import file_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.result import Provenance, Quality, Release, Result

SHARE = 0.8
"""The part of the memory that is given to the weights; the context and all else live in the rest."""

_MEMORIES = (
    *(0.1, 0.15, 0.2, 0.25, 0.5, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96),
    *(128, 160, 192, 256, 384, 512, 768, 1024, 1536, 2048),
)


class Pick(NamedTuple):
    """The best file for a memory of so many GB (10⁹ bytes)."""

    memory: float
    result: Result


def noise_floor(provenance: Provenance) -> float:
    """The mean KLD (nats per token) up to which a file is not told apart from the reference.

    The upper end of the 95 % interval of what the reference reads against its own logits.
    """
    own = provenance.reference_quality.mean_kld
    return max(0.0, own.value + own.interval)


def twins(results: Sequence[Result]) -> list[list[str]]:
    """The quants whose files are the same, byte for byte, in groups."""
    same: dict[str, list[str]] = {}
    for result in results:
        same.setdefault(result.file.sha256, []).append(result.quant)
    return [quants for quants in same.values() if len(quants) > 1]


def measured(results: Sequence[Result]) -> list[tuple[Result, Quality]]:
    """The results with a mean KLD that is a number."""
    return [(r, r.quality) for r in results if r.quality and math.isfinite(r.quality.mean_kld.value)]


def told_apart(one: Quality, other: Quality, floor: float) -> bool:
    """Whether two means of the KLD differ by more than the 95 % interval of their difference, and the noise floor.

    Files are measured over the same text, so their errors go together and the true interval is narrower: this errs
    towards no difference.
    """
    means = one.mean_kld, other.mean_kld
    return abs(means[0].value - means[1].value) > max(math.hypot(*(mean.interval for mean in means)), floor)


def alike(results: Sequence[Result], floor: float) -> list[tuple[str, str]]:
    """The neighbours by mean KLD, the nearest to the reference first, that are not told apart."""
    order = sorted(measured(results), key=lambda pair: pair[1].mean_kld.value)
    return [
        (one.quant, other.quant)
        for (one, quality), (other, next_quality) in itertools.pairwise(order)
        if one.file.sha256 != other.file.sha256 and not told_apart(quality, next_quality, floor)
    ]


def tag(result: Result, names: Sequence[str]) -> str | None:
    """The tag that leads `llama-cli -hf repo:tag` to this file of all `names`, or None."""
    first = file_names.taken([result.quant], names).get(result.quant)
    return result.quant if first == result.files[0].name else None


def picks(release: Release) -> list[Pick]:
    """The file nearest to the reference for each memory at which that becomes another one, smallest first.

    Of files that the noise floor does not tell apart from the reference, the smallest.
    """
    floor = noise_floor(release.provenance)
    ladder = measured(release.published)
    found: list[Pick] = []
    for memory in _MEMORIES:
        fits = [(r, q) for r, q in ladder if r.file.size <= memory * 1e9 * SHARE]
        if fits:
            best, _ = min(fits, key=lambda f: (max(f[1].mean_kld.value, floor), f[0].file.size))
            if not found or found[-1].result is not best:
                found.append(Pick(memory, best))
    return found
