"""What a client is told to download a file: which chunks of which xorbs, and at which bytes of what URL they lie.

The shapes are those of `QueryReconstructionResponse` and `QueryReconstructionResponseV2` in `cas_types/mod.rs` of
github.com/huggingface/xet-core. Ranges of chunks end before `end`, ranges of bytes with it, as in HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .shard import Term

if TYPE_CHECKING:
    from collections.abc import Callable

    from .xorb import Chunk


@dataclass(frozen=True)
class Fetch:
    """A run of chunks that one request gets."""

    chunks: dict[str, int]
    bytes: dict[str, int]


@dataclass(frozen=True)
class Reconstruction:
    offset: int  # of the first byte that was asked for, in what the first term yields
    terms: list[Term]
    fetches: dict[str, list[Fetch]]  # by xorb

    @classmethod
    def of(cls, terms: list[Term], chunks_of: Callable[[str], list[Chunk]], start: int, end: int) -> Reconstruction:
        """Keep the chunks that hold any of the file's bytes from `start` to before `end`."""
        offset, kept = _cut(terms, chunks_of, start, end)
        fetches = {}
        for name in dict.fromkeys(term.xorb for term in kept):
            chunks, runs = chunks_of(name), _merged([(term.start, term.end) for term in kept if term.xorb == name])
            fetches[name] = [
                Fetch(_range(first, last), _range(chunks[first].start, chunks[last - 1].end - 1))
                for first, last in runs
            ]
        return cls(offset, kept, fetches)

    def v1(self, base: str) -> dict[str, Any]:
        info = {
            name: [{"url": base + name, "range": fetch.chunks, "url_range": fetch.bytes} for fetch in fetches]
            for name, fetches in self.fetches.items()
        }
        return self._common() | {"fetch_info": info}

    def v2(self, base: str) -> dict[str, Any]:
        xorbs = {
            name: [
                {"url": base + name, "ranges": [{"chunks": fetch.chunks, "bytes": fetch.bytes} for fetch in fetches]}
            ]
            for name, fetches in self.fetches.items()
        }
        return self._common() | {"xorbs": xorbs}

    def _common(self) -> dict[str, Any]:
        terms = [
            {"hash": term.xorb, "unpacked_length": term.size, "range": _range(term.start, term.end)}
            for term in self.terms
        ]
        return {"offset_into_first_range": self.offset, "terms": terms}


def _cut(terms: list[Term], chunks_of: Callable[[str], list[Chunk]], start: int, end: int) -> tuple[int, list[Term]]:
    offset, at = 0, 0
    kept: list[Term] = []
    for term in terms:
        inside = []
        for index in range(term.start, term.end):
            size = chunks_of(term.xorb)[index].size
            if at < end and at + size > start:
                inside.append((index, size))
                if not kept and len(inside) == 1:
                    offset = start - at
            at += size
        if inside:
            kept.append(Term(term.xorb, inside[0][0], inside[-1][0] + 1, sum(size for _, size in inside)))
    return offset, kept


def _range(start: int, end: int) -> dict[str, int]:
    return {"start": start, "end": end}


def _merged(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join runs that overlap or touch, so that no byte is fetched twice."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(runs):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
