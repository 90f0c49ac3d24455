"""Is there room for the run: estimated before any work, from the sizes of the sources and of what they become."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

from pipeline import units
from pipeline.errors import OutOfRoomError
from pipeline.measure import logits_bytes
from pipeline.recipe import bits_per_weight

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.job import Steps
    from pipeline.result import Recipe
    from pipeline.store import Store

BUILD_BYTES = 1_200_000_000
"""The source, the objects and the tools of a CPU build, measured."""
# Chunks of a text when the matrix does not limit them: what the embedded one gives a vocabulary of 49,152 or more.
USUAL_CHUNKS = 64
# Rows that no block divides make files larger than their type's name says; SmolLM2 is the worst we met.
MARGIN = 1.3


class Needs(NamedTuple):
    """Estimated bytes."""

    kept: int
    """What missing steps add to the store when all of it is kept."""
    lean: int
    """The most that they add when a quant and its tensors are dropped before the next one is made."""
    outside: int
    """What the quants take in a folder."""


def needed(store: Store, steps: Steps, recipes: Sequence[Recipe]) -> Needs:
    """Estimate what the missing steps of a model take."""
    parameters = steps.source.parameters
    shared = 0
    if steps.source.path is None and store.find(steps.snapshot) is None:
        shared += steps.source.weight_bytes
    if store.find(steps.reference) is None:
        shared += 2 * parameters
    if store.find(steps.logits) is None:
        shared += logits(steps)
    quants = quant_bytes(steps, recipes)
    each = [0]
    for recipe in recipes:
        size = quants[recipe.name]
        made = 0
        if store.find(steps.quant(recipe)) is None:
            # Its tensors are kept beside it, for the other quants; those may have them already.
            made += size if steps.engine == "llama-quantize" else 2 * size
        if size > steps.model.max_shard_size and store.find(steps.shards(recipe)) is None:
            made += size
        each.append(made)
    return Needs(shared + sum(each), shared + max(each), sum(quants.values()))


def peak(steps: Steps, shared: int, quants: Sequence[int]) -> int:
    """Return the bytes that a model takes in an empty store, when the sizes of what is made of it are known.

    `shared` is what the quants are made of: the reference, the imatrix and the quantized tensors.
    """
    source = steps.source.weight_bytes if steps.source.path is None else 0
    made = sum(size * (2 if size > steps.model.max_shard_size else 1) for size in quants)  # whole, and in shards
    return source + shared + logits(steps) + made


def chunks(steps: Steps) -> int:
    return steps.model.evaluation_chunks or USUAL_CHUNKS


def logits(steps: Steps) -> int:
    """Estimate how large the reference logits become."""
    return logits_bytes(steps.source.vocabulary, chunks(steps))


def quant_bytes(steps: Steps, recipes: Sequence[Recipe]) -> dict[str, int]:
    """Estimate how large each quant becomes."""
    return {r.name: int(steps.source.parameters * bits_per_weight(r) / 8 * MARGIN) for r in recipes}


def check(store: Store, works: Sequence[tuple[Steps, Sequence[Recipe]]], folder: Path | None) -> bool:
    """Say how much room the run takes, and return whether it fits only when each quant is dropped once it is released.

    `folder` is where releases go, None for elsewhere; only from there a dropped quant is still to be had. Raises
    `OutOfRoomError` where the run would not fit.
    """
    estimates = [needed(store, steps, recipes) for steps, recipes in works]
    built = BUILD_BYTES if any(store.find(steps.toolchain) is None for steps, _ in works) else 0
    inside = built + sum(e.kept for e in estimates)
    wanted = {store.root: inside}
    if folder is not None:
        place = next(p for p in [folder, *folder.absolute().parents] if p.exists())
        outside = sum(e.outside for e in estimates)
        same = place.stat().st_dev == store.root.stat().st_dev
        wanted = {store.root: inside + outside} if same else {store.root: inside, place: outside}
    short = {place: size for place, size in wanted.items() if shutil.disk_usage(place).free < size}
    free = shutil.disk_usage(store.root).free
    lean = built + sum(e.lean for e in estimates)
    if folder is None and short and lean <= free:
        store.display.say(
            f"All of the run would take {units.size(inside)} (estimated) on the disk of {store.root}, where"
            f" {units.size(free)} are free. So one quant is made at a time, and dropped when the Hub has it: at most"
            f" {units.size(lean)} (estimated)."
        )
        return True
    for place, size in short.items():
        raise OutOfRoomError(
            f"The run needs about {units.size(size)} (estimated) on the disk of {place}, and"
            f" {units.size(shutil.disk_usage(place).free)} are free. Free some space, run"
            " `python -m pipeline store gc --max-size …`, point --store at a larger disk, or take fewer quants with"
            " --only."
        )
    if inside:
        store.display.say(
            f"The run takes up to {units.size(wanted[store.root])} (estimated) of the {units.size(free)} that are free"
            f" on the disk of {store.root}."
        )
    return False
