"""Tensors of many layers in few words: `blk.0.attn_k.weight` to `blk.29.attn_k.weight` as `blk.*.attn_k.weight: 0-29`.

A release lists thousands of fallback tensors; written one by one they would be most of its `release.json`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

LAYER = re.compile(r"(?<=^blk\.)\d+(?=\.)")


def group(names: Iterable[str]) -> dict[str, str]:
    """Return name with `*` for the layer → layers, as in `0-4,7`; a tensor of no layer has an empty text."""
    layers: dict[str, list[int]] = {}
    for name in names:
        found = LAYER.search(name)
        layers.setdefault(LAYER.sub("*", name), []).extend([int(found[0])] if found else [])
    return {pattern: ",".join(_ranges(sorted(numbers))) for pattern, numbers in layers.items()}


def expand(groups: Mapping[str, str]) -> list[str]:
    """Return the names that `group` was given, those of one pattern together."""
    names = []
    for pattern, text in groups.items():
        spans = [part.partition("-") for part in text.split(",") if part]
        numbers = [n for first, _, last in spans for n in range(int(first), int(last or first) + 1)]
        names += [pattern.replace("*", str(number), 1) for number in numbers] if text else [pattern]
    return names


def _ranges(numbers: list[int]) -> Iterator[str]:
    start = 0
    for end in range(1, len(numbers) + 1):
        if end == len(numbers) or numbers[end] != numbers[end - 1] + 1:
            first, last = numbers[start], numbers[end - 1]
            yield str(first) if first == last else f"{first}-{last}"
            start = end
