"""The jobs of a model on this machine: several side by side, what passes staged meanwhile; or one at a time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pipeline import disk, job, lanes, release
from pipeline.artifact import digest_of
from pipeline.courier import Courier
from pipeline.errors import BadInputError
from pipeline.records import load, result_path, save
from pipeline.toolchain import threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.job import Steps
    from pipeline.result import FileEntry, Provenance, Recipe, Result
    from pipeline.run import Workshop


def run_all(
    shop: Workshop, steps: Steps, recipes: Sequence[Recipe], provenance: Provenance, released: set[FileEntry]
) -> list[Result]:
    """Run jobs side by side, the largest first, and stage what passes meanwhile; then time one after the other.

    `released` are files that the target has and that need not be staged.
    """
    if shop.lean:
        return [_run_lean(shop, steps, recipe, provenance) for recipe in recipes]
    sizes = disk.quant_bytes(steps, recipes)
    made: dict[str, Result] = {}
    with Courier() as courier:

        def run(recipe: Recipe) -> None:
            result = made[recipe.name] = save(shop.results, job.run(shop.store, steps, recipe, provenance))
            if not set(result.files) <= released:
                courier.take(partial(stage, shop, steps, result))

        count = lanes.count(max(sizes.values()), threads(), shop.lanes)
        lanes.side_by_side(count, run, sorted(recipes, key=lambda recipe: -sizes[recipe.name]))
    return [save(shop.results, job.timed(shop.store, steps, made[recipe.name])) for recipe in recipes]


def _run_lean(shop: Workshop, steps: Steps, recipe: Recipe, provenance: Provenance) -> Result:
    """Run one job, stage its files, and drop them when the target has them; what an earlier run staged is not made."""
    store, quant = shop.store, steps.quant(recipe)
    held = partial(shop.target.holds, steps.model.repo, staged_for=release.release_id(steps))
    path = result_path(shop.results, steps.model.job(recipe.name))
    (result,) = load([path]) if path.exists() else [None]
    same = result and not result.withheld and (result.artifact, result.provenance) == (digest_of(quant), provenance)
    if result is None or not same or not held(result.files):
        result = save(shop.results, job.timed(store, steps, job.run(store, steps, recipe, provenance)))
        stage(shop, steps, result)
    if store.find(quant) and (result.withheld or held(result.files)):
        for dropped in [*quant.tensors(store), quant, steps.shards(recipe)]:
            store.drop(dropped)
    return result


def stage(shop: Workshop, steps: Steps, result: Result) -> None:
    """Bring the files of a quant that passed to the target, and the imatrix that it was made with.

    Raises `BadInputError` where the store no longer has them.
    """
    if result.withheld:
        return
    # A second tier may have them from the machine that made them; shards it never has.
    for made in [steps.imatrix] if result.shards else [steps.imatrix, steps.quant(result.recipe)]:
        shop.store.bring(made)
    places = release.kept(shop.store, steps, result)
    if matrix := shop.store.find(steps.imatrix):
        places[result.provenance.imatrix.name] = matrix.file(result.provenance.imatrix.name)
    files = (*result.files, result.provenance.imatrix)
    if lost := [file.name for file in files if file.name not in places]:
        raise BadInputError(
            f"{', '.join(lost)} is not in this store. Run `python -m pipeline job {result.job}` again, and stage it"
            " from the same store."
        )
    shop.target.stage(steps.model.repo, release.release_id(steps), [(file, places[file.name]) for file in files])
