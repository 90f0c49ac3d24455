"""The commands as functions: look first, refuse early, then run what is missing and publish what passed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline import disk, job, release, source
from pipeline.card.ladder import twins
from pipeline.errors import BadInputError, HubError, PipelineError
from pipeline.plan import State
from pipeline.publish import Planned
from pipeline.records import load, result_path, save, save_released
from pipeline.result import Released
from pipeline.store import digest_of
from pipeline.toolchain import LlamaSource, Toolchain, architectures, has_cuda

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.job import Steps
    from pipeline.matrix import Matrix
    from pipeline.matrix.model import Model
    from pipeline.publish import Target
    from pipeline.publish.change import Change
    from pipeline.result import Recipe, Result
    from pipeline.store import Store


@dataclass(frozen=True)
class Workshop:
    """Where work is done: the store, the results' directory, the target."""

    store: Store
    results: Path
    target: Target


def toolchain_of(matrix: Matrix, *, cuda: bool | None = None) -> Toolchain:
    """Return the matrix's toolchain for this machine. `cuda`: forced on or off, else as the machine is."""
    return Toolchain(LlamaSource(matrix.llama_cpp), has_cuda() if cuda is None else cuda)


def look(models: Sequence[Model], toolchain: Toolchain, matrix_file: Path) -> list[Steps]:
    """Look at every model, without any work.

    Raises one error for all models that cannot be made, a line each, at their place in the matrix: `BadInputError`,
    or `HubError` where nothing worse is wrong than that the Hub was not to be reached.
    """
    works, failures = [], []
    for model in models:
        try:
            works.append(job.Steps(model, source.look(model), toolchain))
        except (BadInputError, HubError) as error:
            failures.append((f"{matrix_file}:{model.line}:{model.column}: {error}", type(error)))
    if failures:
        worst: type[PipelineError] = BadInputError if any(t is BadInputError for _, t in failures) else HubError
        raise worst("\n".join(message for message, _ in failures))
    return works


def refuse_early(
    store: Store, works: Sequence[tuple[Steps, Sequence[Recipe]]], matrix_file: Path, folder: Path | None
) -> None:
    """Refuse what cannot end well, before the first long step: unknown architectures, too little disk.

    `works` are the models with those of their quants that are to be made, `folder` is where releases go, if so.
    """
    problems = []
    for steps, _ in works:
        if store.find(steps.reference) is None:
            try:
                source.check_architecture(steps.source, architectures(store.get(steps.toolchain.source)))
            except BadInputError as error:
                problems.append(f"{matrix_file}:{steps.model.line}:{steps.model.column}: {error}")
    if problems:
        raise BadInputError("\n".join(problems))
    disk.check(store, works, folder)


def planned(steps: Steps, recipes: Sequence[Recipe]) -> Planned:
    """Say how large the quants of a model are going to be, before they are made."""
    sizes = disk.quant_bytes(steps, recipes)
    files = {steps.model.file_name(quant): size for quant, size in sizes.items()}
    return Planned(steps.model.repo, release.release_id(steps), steps.model.private, files)


def state(shop: Workshop, steps: Steps) -> State:
    """Gather what a plan wants to know of a model."""
    shared = job.missing(shop.store, steps.preparation)
    recipes = steps.model.recipes
    return State(
        revision=steps.source.revision,
        release_id=release.release_id(steps),
        artifacts={r.name: digest_of(steps.quant(r)) for r in recipes},
        missing={r.name: shared + job.missing(shop.store, steps.job(r)) for r in recipes},
        last=shop.target.last(steps.model.repo),
    )


def run_model(shop: Workshop, steps: Steps, wanted: Sequence[Recipe]) -> list[Result]:
    """Run the wanted jobs of one model and release what it has; return the results in the matrix's order.

    Quants of the matrix that are not wanted now but whole in the store go into the release as well, so that a run
    of one quant never takes the others from a release.

    Raises `BadInputError` where the last release has a quant that is neither wanted nor in the store.
    """
    model, store = steps.model, shop.store
    ready = [r for r in model.recipes if r not in wanted and not job.missing(store, steps.job(r))]
    last = shop.target.last(model.repo)
    if last is not None:
        held = {r.name for r in [*wanted, *ready]}
        if lost := [
            r.name for r in model.recipes if r.name not in held and r.name in {q.quant for q in last.published}
        ]:
            raise BadInputError(
                f"{model.repo} has {', '.join(lost)}, made from other inputs or no longer in the store, and this run"
                " would drop them. Run it without --only, or take them out of matrix.yml."
            )
    provenance = job.prepare(store, steps)
    results = []
    for recipe in model.recipes:
        if recipe in wanted or recipe in ready:
            results.append(save(shop.results, job.run(store, steps, recipe, provenance)))
            if last is None or not set(results[-1].files) <= set(last.files):
                stage(shop, steps, results[-1])
    publish(shop, steps, results)
    return results


def stage(shop: Workshop, steps: Steps, result: Result) -> None:
    """Bring the files of a quant that passed to the target, and the imatrix that it was made with.

    Raises `BadInputError` where the store no longer has them.
    """
    if result.withheld:
        return
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


def change(shop: Workshop, steps: Steps, results: Sequence[Result]) -> Change:
    """Say what `publish` would do."""
    return shop.target.change(release.assemble(shop.store, steps, results))


def publish(shop: Workshop, steps: Steps, results: Sequence[Result]) -> None:
    """Release what passed; with nothing that passed, leave the target as it is."""
    display = shop.store.display
    for result in results:
        for verdict in result.failures:
            display.say(f"{result.job} is withheld: {verdict.seen}. {verdict.advice}")
    for quants in twins([result for result in results if not result.withheld]):
        display.say(f"warning: {', '.join(quants)} of {steps.source.id} are the same file; leave all but one out.")
    if all(result.withheld for result in results):
        display.say(f"{steps.model.repo}: nothing passed, so nothing is released.")
        return
    bundle = release.assemble(shop.store, steps, results)
    done = shop.target.publish(bundle)
    for name in done.edited:
        display.say(f"warning: {name} in {done.place} was changed by hand since the last release; it is put right.")
    display.say(f"{steps.model.repo}: {done.place}{', as it was' if done.empty else ''}")
    save_released(
        shop.results,
        Released(
            source=steps.source.id,
            repo=steps.model.repo,
            release=bundle.release.id,
            place=done.place,
            published=tuple(result.quant for result in bundle.release.published),
            changed=not done.empty,
            uploaded=done.upload,
        ),
    )


def results_of(directory: Path, steps: Steps, recipes: Sequence[Recipe]) -> list[Result]:
    """Read the results of jobs of a model.

    Raises `BadInputError` where one is missing or was made from other inputs than the matrix names now.
    """
    model = steps.model
    paths = {r.name: result_path(directory, model.job(r.name)) for r in recipes}
    if absent := [model.job(name) for name, path in paths.items() if not path.exists()]:
        raise BadInputError(
            f"{directory} holds no result of {', '.join(absent)}. Run `python -m pipeline job {absent[0]}` first."
        )
    results = load(paths.values())
    stale = [r.job for r, recipe in zip(results, recipes, strict=True) if r.artifact != digest_of(steps.quant(recipe))]
    if stale:
        raise BadInputError(
            f"The results of {', '.join(stale)} were made from other inputs than the matrix names now."
            f" Run `python -m pipeline job {stale[0]}` again."
        )
    if len({r.provenance.model_dump_json() for r in results}) > 1:
        raise BadInputError(
            f"The results of {model.source} were measured in different ways, so that one card cannot hold them."
            " Run its jobs again."
        )
    return results
