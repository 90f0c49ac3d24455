"""Is there room for the run: estimated before any work, from the sizes of the sources and of what they become."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

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


def needed(store: Store, steps: Steps, recipes: Sequence[Recipe]) -> tuple[int, int]:
    """Estimate the bytes that missing steps add to the store, and those that the quants take in a folder."""
    parameters = steps.source.parameters
    inside = 0
    if steps.source.path is None and store.find(steps.snapshot) is None:
        inside += steps.source.weight_bytes
    if store.find(steps.reference) is None:
        inside += 2 * parameters
    if store.find(steps.logits) is None:
        inside += logits(steps)
    quants = quant_bytes(steps, recipes)
    for recipe in recipes:
        size = quants[recipe.name]
        if store.find(steps.quant(recipe)) is None:
            # Its tensors are kept beside it, for the other quants; those may have them already.
            inside += size if steps.engine == "llama-quantize" else 2 * size
        if size > steps.model.max_shard_size and store.find(steps.shards(recipe)) is None:
            inside += size
    return inside, sum(quants.values())


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


def check(store: Store, works: Sequence[tuple[Steps, Sequence[Recipe]]], folder: Path | None) -> None:
    """Raise `OutOfRoomError` where the run would not fit. `folder` is where releases go, None for nowhere here."""
    estimates = [needed(store, steps, recipes) for steps, recipes in works]
    inside = sum(e[0] for e in estimates)
    if any(store.find(steps.toolchain) is None for steps, _ in works):
        inside += BUILD_BYTES
    wanted = {store.root: inside}
    if folder is not None:
        place = next(p for p in [folder, *folder.absolute().parents] if p.exists())
        outside = sum(e[1] for e in estimates)
        same = place.stat().st_dev == store.root.stat().st_dev
        wanted = {store.root: inside + outside} if same else {store.root: inside, place: outside}
    for place, size in wanted.items():
        free = shutil.disk_usage(place).free
        if free < size:
            raise OutOfRoomError(
                f"The run needs about {size / 1e9:.1f} GB (estimated) on the disk of {place}, and {free / 1e9:.1f} GB"
                " are free. Free some space, run `python -m pipeline store gc --max-size …`, point --store at a larger"
                " disk, or take fewer quants with --only."
            )
