"""What was found in a file's blocks, added up tensor by tensor, and said in sentences."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.check.verdict import failed, warned
from pipeline.gguf_file import SIZES, shown
from pipeline.units import significant

if TYPE_CHECKING:
    from pipeline.check.block_formats import Array, Scale
    from pipeline.gguf_file import Tensor
    from pipeline.result import Verdict

BROKEN = "Quantize again, or download again; if it stays so, leave this type out for this model."
# Of what is not quantized, and so is the source's, or damage.
COPIED = "Download again, or convert again; if it stays so, the source is broken: take another revision of it."
OTHER = "Quantize again from this reference; if the reference is older than the file, convert the model again."
COMPARE = "Compare with the model that it was made of: pruned models have such tensors, and damaged files too."
# Zeros in a row that are worth a word where there is no reference, in bytes.
LONG = 1 << 16
# How much larger a scale may be than the usual one of its tensor, where there is no reference. In the models that we
# looked at, the largest is up to some hundred times it.
SPREAD = 1 << 14


@dataclass
class _Place:
    """How often something was found in a tensor, and the first block of it."""

    tensor: Tensor
    first: int
    count: int = 0
    more: Any = None

    def add(self, first: int, count: int) -> None:
        self.first = min(self.first, first)
        self.count += count


@dataclass
class _Columns:
    """Zeroed blocks by where in a row they stand, for each expert (a column of blocks each)."""

    tensor: Tensor
    zero: Array
    wrong: Array
    first: Array


@dataclass
class Faults:
    """Takes what the threads find, one at a time, and gives the verdicts at the end."""

    _infinite: dict[tuple[str, str, str], _Place] = field(default_factory=dict)
    _absurd: dict[str, _Place] = field(default_factory=dict)
    _differs: dict[str, _Place] = field(default_factory=dict)
    _silent: dict[str, _Place] = field(default_factory=dict)
    _zeroed: dict[str, _Columns] = field(default_factory=dict)
    _spread: dict[tuple[str, str], tuple[_Place, list[float]]] = field(default_factory=dict)

    def infinite(self, tensor: Tensor, what: str, first: int, nans: int, infinities: int) -> None:
        for kind, count in (("NaN", nans), ("Inf", infinities)):
            if count:
                self._infinite.setdefault((tensor.name, kind, what), _Place(tensor, first)).add(first, count)

    def absurd(self, tensor: Tensor, what: str, block: int, bound: float, largest: float) -> None:
        """`bound`: the largest weight that the block can hold; `largest`: the one that it was made of."""
        place = self._absurd.setdefault(tensor.name, _Place(tensor, block))
        place.add(block, 1)
        if place.first == block:
            place.more = (what, bound, largest)

    def differs(self, tensor: Tensor, block: int) -> None:
        """The tensor is of the reference's type, and not its copy."""
        self._differs.setdefault(tensor.name, _Place(tensor, block)).add(block, 1)

    def silent(self, tensor: Tensor, first: int, count: int, run: int) -> None:
        """`count` blocks are zero, `run` of them in a row, and nothing says whether rightly so."""
        place = self._silent.setdefault(tensor.name, _Place(tensor, first, more=0))
        place.add(first, count)
        place.more = max(place.more, run)

    def zeroed(self, tensor: Tensor, blocks: Array, wrong: Array) -> None:
        """`blocks` are zero; those that are `wrong` were made of weights that are not."""
        columns = tensor.shape[0] // SIZES[tensor.type][0]
        matrices = math.prod(tensor.shape[2:])
        if tensor.name not in self._zeroed:
            counts = np.zeros((2, columns * matrices), np.int64)
            self._zeroed[tensor.name] = _Columns(tensor, counts[0], counts[1], np.full(counts.shape[1], -1))
        found = self._zeroed[tensor.name]
        rows = tensor.shape[1] if len(tensor.shape) > 1 else 1
        place = blocks // (columns * rows) * columns + blocks % columns
        found.zero += np.bincount(place, minlength=found.zero.size)
        found.wrong += np.bincount(place[wrong], minlength=found.zero.size)
        for at, block in zip(*(v.tolist() for v in _firsts(place[wrong], blocks[wrong])), strict=True):
            found.first[at] = block if found.first[at] < 0 else min(found.first[at], block)

    def spread(self, tensor: Tensor, scale: Scale, block: int, bound: float, usual: float) -> None:
        """Note the largest weight that a block of a piece can hold, and what is usual in the piece."""
        key = tensor.name, scale.name
        place, usuals = self._spread.setdefault(key, (_Place(tensor, block, more=0.0), []))
        usuals.append(usual)
        if bound > place.more:
            place.first, place.more = block, bound

    def verdicts(self) -> list[Verdict]:
        return [
            *(failed("blocks", seen, advice) for seen, advice in self._say_infinite()),
            *(failed("blocks", seen, BROKEN) for seen in self._say_absurd()),
            *(failed("blocks", seen, OTHER) for seen in (*self._say_zeroed(), *self._say_differs())),
            *(warned("blocks", seen, COMPARE) for seen in (*self._say_silent(), *self._say_spread())),
        ]

    def _say_infinite(self) -> list[tuple[str, str]]:
        said = []
        for kind in ("NaN", "Inf"):
            places = {key: place for key, place in self._infinite.items() if key[1] == kind}
            if places:
                (_, _, what), first = next(iter(places.items()))
                total = sum(place.count for place in places.values())
                tensors = len({key[0] for key in places})
                many, advice = ("weights", COPIED) if what == "weight" else ("blocks", BROKEN)
                more = f"; {total} such {many} in {_tensors(tensors)}" if total > 1 else ""
                said.append((f"{kind} as {what} in {_where(first)}{more}", advice))
        return said

    def _say_absurd(self) -> list[str]:
        if not self._absurd:
            return []
        first = next(iter(self._absurd.values()))
        what, bound, largest = first.more
        seen = (
            f"absurd {what} in {_where(first)}: it makes weights up to {_number(bound)}, and the largest in the"
            f" reference there is {_number(largest)}"
        )
        return [f"{seen}; in {_tensors(len(self._absurd))}" if len(self._absurd) > 1 else seen]

    def _say_zeroed(self) -> list[str]:
        places = []
        for found in self._zeroed.values():
            wrong = found.wrong.copy()
            rows = found.tensor.shape[1] if len(found.tensor.shape) > 1 else 1
            matrices = math.prod(found.tensor.shape[2:])
            # Inputs that never are anything but zero, by the imatrix, leave zeroed blocks in every row.
            dead = (found.zero >= rows).reshape(matrices, -1)
            dead &= ~dead.all(axis=1, keepdims=True)
            wrong[dead.reshape(-1)] = 0
            if wrong.any():
                first = int(found.first[wrong > 0].min())
                places.append(_Place(found.tensor, first, int(wrong.sum())))
        if not places:
            return []
        total = sum(place.count for place in places)
        where = _where(places[0])
        return [
            f"zeroed blocks: {total} in {_tensors(len(places))} are zero, and the reference is not there: first {where}"
        ]

    def _say_differs(self) -> list[str]:
        if not self._differs:
            return []
        first = next(iter(self._differs.values()))
        many = f"{_tensors(len(self._differs))} of the type that the reference has differ from it"
        return [f"{many}, and llama-quantize copies such: first {_where(first)}"]

    def _say_silent(self) -> list[str]:
        whole, long = [], []
        for place in self._silent.values():
            weights, size = SIZES[place.tensor.type]
            if len(place.tensor.shape) > 1 and place.count * weights >= place.tensor.parameters:
                whole.append(place)
            elif place.more * size >= LONG and "embd" not in place.tensor.name and place.tensor.name != "output.weight":
                long.append(place)
        said = []
        if whole:
            names = ", ".join(shown(place.tensor.name) for place in whole[:3])
            said.append(f"{_tensors(len(whole))} all zero: {names}{' …' if len(whole) > 3 else ''}")
        if long:
            worst = max(long, key=lambda place: int(place.more))
            said.append(f"{worst.more} blocks in a row are zero in {_where(worst)}; in {_tensors(len(long))}")
        return said

    def _say_spread(self) -> list[str]:
        odd = [
            (place, scale, usual)
            for (_, scale), (place, usuals) in self._spread.items()
            if (usual := median(usuals)) > 0 and place.more > SPREAD * usual
        ]
        if not odd:
            return []
        place, scale, usual = odd[0]
        seen = f"suspicious {scale} in {_where(place)}: it makes weights up to {_number(place.more)}"
        return [f"{seen}, where {_number(usual)} is usual; in {_tensors(len(odd))}"]


def _firsts(places: Array, blocks: Array) -> tuple[Array, Array]:
    """Return each place once, with the first of its blocks."""
    unique, index = np.unique(places, return_index=True)
    return unique, blocks[index]


def _where(place: _Place) -> str:
    """Name tensor, block, row and expert."""
    tensor, block = place.tensor, place.first
    weights, _ = SIZES[tensor.type]
    row = block * weights // max(1, tensor.shape[0] if tensor.shape else 1)
    at = f"{'block' if weights > 1 else 'weight'} {block}"
    if len(tensor.shape) > 2:
        at += f" (expert {row // tensor.shape[1]}, row {row % tensor.shape[1]})"
    elif len(tensor.shape) > 1:
        at += f" (row {row})"
    return f"{shown(tensor.name)}, {at} of {tensor.type}"


def _tensors(count: int) -> str:
    return f"{count} tensors" if count != 1 else "1 tensor"


def _number(value: float) -> str:
    return f"{value:.3g}" if value >= 1e6 else significant(value)
