"""Numbers as people read them, held together by no-break spaces."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.result import Estimate

_GAP = "\N{NO-BREAK SPACE}"


def size(count: int) -> str:
    """Bytes in GB or MB, decimal as the Hub shows them."""
    if count < 1e6:
        return f"{count / 1e3:.1f}{_GAP}kB" if count >= 1e3 else f"{count}{_GAP}B"
    return f"{count / 1e9:.2f}{_GAP}GB" if count >= 1e9 else f"{count / 1e6:.0f}{_GAP}MB"


def memory(gigabytes: float) -> str:
    return f"{gigabytes:g}{_GAP}GB" if gigabytes >= 1 else f"{gigabytes * 1000:.0f}{_GAP}MB"


def count(number: int) -> str:
    """A number of parameters: 2.51 B, 135 M."""
    return f"{number / 1e9:.2f}{_GAP}B" if number >= 1e9 else f"{number / 1e6:.3g}{_GAP}M"


def significant(value: float, digits: int = 3) -> str:
    """A number with so many digits that count, never in powers of ten, six decimals at most."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    return f"{value:,.{min(6, max(0, digits - 1 - math.floor(math.log10(abs(value)))))}f}"


def plus_minus(estimate: Estimate, unit: str = "") -> str:
    """A mean and half its 95 % interval, down to the decimal in which the interval begins."""
    if not math.isfinite(estimate.interval) or estimate.interval <= 0:
        return mean(estimate) + unit
    return f"{mean(estimate)}{_GAP}±{_GAP}{estimate.interval:.{_decimals(estimate)}f}{unit}"


def mean(estimate: Estimate) -> str:
    """The mean, down to the decimal in which its interval begins."""
    if not math.isfinite(estimate.value):
        return "not finite"
    if not math.isfinite(estimate.interval) or estimate.interval <= 0:
        return significant(estimate.value)
    return f"{estimate.value:.{_decimals(estimate)}f}"


def _decimals(estimate: Estimate) -> int:
    return min(6, max(0, -math.floor(math.log10(estimate.interval / 2))))


def percent(value: float) -> str:
    return f"{value:.1f}{_GAP}%"


def rate(value: float) -> str:
    """Tokens a second: three digits, or all before the point."""
    return significant(value) if value < 100 else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds, or the two largest units: 42 s, 3 min 20 s, 1 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{_GAP}s"
    if whole < 3600:
        return f"{whole // 60}{_GAP}min{_GAP}{whole % 60:02}{_GAP}s"
    return f"{whole // 3600:,}{_GAP}h{_GAP}{whole % 3600 // 60:02}{_GAP}min"
