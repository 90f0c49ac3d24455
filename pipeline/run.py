"""The commands as functions: look first, refuse early, then run what is missing and publish what passed."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from pipeline import disk, job, jobs, release, source
from pipeline.artifact import digest_of, file_sha256
from pipeline.card.ladder import twins
from pipeline.check import release as check
from pipeline.errors import BadInputError, HubError, PipelineError
from pipeline.matrix.located import shown
from pipeline.plan import State
from pipeline.publish import Planned
from pipeline.records import load, result_path, save_released
from pipeline.result import Released
from pipeline.toolchain import LlamaSource, Toolchain, architectures, has_cuda

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pipeline.job import Steps
    from pipeline.matrix import Matrix
    from pipeline.matrix.model import Model
    from pipeline.publish import Target
    from pipeline.publish.change import Change
    from pipeline.quantize import Engine
    from pipeline.result import Recipe, Release, Result, Verdict, Withdrawal
    from pipeline.store import Store


LONGEST = 1_000
ASKERS = 8
One = TypeVar("One")
Other = TypeVar("Other")


@dataclass(frozen=True)
class Workshop:
    """Where work is done: the store, the results' directory, the target."""

    store: Store
    results: Path
    target: Target
    lanes: int | None = None
    """How many quants are worked on at once; None for as many as the machine has room for."""
    lean: bool = False
    """Whether a quant has to leave the store, once the target has it, before the next one is made."""


def toolchain_of(matrix: Matrix, *, cuda: bool | None = None) -> Toolchain:
    """Return the matrix's toolchain for this machine. `cuda`: forced on or off, else as the machine is."""
    return Toolchain(LlamaSource(matrix.llama_cpp), has_cuda() if cuda is None else cuda)


def look(
    models: Sequence[Model],
    toolchain: Toolchain,
    matrix_file: Path,
    *,
    engine: Engine = "by-tensor",
    from_outside: bool = False,
    sha256: Callable[[Path], str] = file_sha256,
) -> list[Steps]:
    """Look at every model, without any work; `from_outside` and `sha256` as in `source.look`.

    Raises one error for all models that cannot be made, a line each, at their place in the matrix: `BadInputError`,
    or `HubError` where nothing worse is wrong than that the Hub was not to be reached.
    """
    works, failures = [], []
    ask = partial(_look, from_outside=from_outside, sha256=sha256)
    for model, seen in zip(models, _at_once(ask, models), strict=True):
        if isinstance(seen, source.Source):
            works.append(job.Steps(model, seen, toolchain, engine))
        else:
            # What a model's files hold may stand in it: as one line it cannot pass for another message.
            failures.append((f"{model.place(matrix_file)}{shown(seen, LONGEST)}", type(seen)))
    if failures:
        worst: type[PipelineError] = BadInputError if any(t is BadInputError for _, t in failures) else HubError
        raise worst("\n".join(message for message, _ in failures))
    return works


def _look(model: Model, *, from_outside: bool, sha256: Callable[[Path], str]) -> source.Source | PipelineError:
    try:
        return source.look(model, from_outside=from_outside, sha256=sha256)
    except (BadInputError, HubError) as error:
        return error


def _at_once(ask: Callable[[One], Other], many: Sequence[One]) -> list[Other]:
    """Ask for several at once, since most of the time is spent waiting for the Hub; the answers in their order."""
    answers: list[Future[Other]] = [Future() for _ in many]
    waiting = iter(list(zip(many, answers, strict=True)))

    def work() -> None:
        for one, answer in waiting:  # a list's iterator: no two threads get the same
            try:
                answer.set_result(ask(one))
            except BaseException as error:  # noqa: BLE001 - raised where the answer is wanted
                answer.set_exception(error)

    for _ in range(min(ASKERS, len(many))):
        # Daemons, which a pool's threads are not: whoever interrupts does not wait until the Hub is there again.
        threading.Thread(target=work, daemon=True).start()
    return [answer.result() for answer in answers]


def refuse_early(
    store: Store, works: Sequence[tuple[Steps, Sequence[Recipe]]], matrix_file: Path, folder: Path | None
) -> bool:
    """Refuse what cannot end well, before the first long step: unknown architectures, too little disk.

    `works` are the models with those of their quants that are to be made, `folder` is where releases go, if so. Returns
    whether the disk is so small that the run has to be a `lean` one.
    """
    problems = []
    for steps, _ in works:
        if store.find(steps.reference) is None:
            try:
                source.check_architecture(steps.source, architectures(store.get(steps.toolchain.source)))
            except BadInputError as error:
                problems.append(f"{steps.model.place(matrix_file)}{error}")
    if problems:
        raise BadInputError("\n".join(problems))
    return disk.check(store, works, folder)


def planned(steps: Steps, recipes: Sequence[Recipe]) -> Planned:
    """Say how large the quants of a model are going to be, before they are made."""
    sizes = disk.quant_bytes(steps, recipes)
    files = {steps.model.file_name(quant): size for quant, size in sizes.items()}
    gated = steps.source.gated if steps.model.gating == "inherit" else None
    return Planned(steps.model.repo, release.release_id(steps), steps.model.private, files, gated)


def states(shop: Workshop, works: Sequence[Steps]) -> dict[str, State]:
    """Gather what a plan wants to know of the models, by source."""
    return dict(zip([s.source.id for s in works], _at_once(partial(state, shop), works), strict=True))


def state(shop: Workshop, steps: Steps) -> State:
    """Gather what a plan wants to know of a model."""
    shared = job.missing(shop.store, steps.preparation)
    recipes = steps.model.recipes
    return State(
        revision=steps.source.revision,
        release_id=release.release_id(steps),
        artifacts={r.name: digest_of(steps.quant(r)) for r in recipes},
        missing={r.name: shared + job.missing(shop.store, steps.job(r)) for r in recipes},
        last=(last := shop.target.last(steps.model.repo)),
        valid=release.still_valid(steps, last),
    )


def run_model(shop: Workshop, steps: Steps, wanted: Sequence[Recipe]) -> list[Result]:
    """Run the wanted jobs of one model and release what it has; return the results in the matrix's order.

    Quants of the matrix that are not wanted now but whole in the store, or unchanged in the last release, go into the
    release as well, so that a run of one quant never takes the others from a release. What was withdrawn stays so.

    Raises `BadInputError` where the last release has a quant that is neither wanted nor to be had.
    """
    model, store = steps.model, shop.store
    last = shop.target.last(model.repo)
    withdrawn = withdrawals(steps, last)
    for gone in withdrawn.values():
        store.display.say(
            f"{model.job(gone.quant)} was withdrawn on {gone.date} ({gone.reason}), so it is not made;"
            f" `python -m pipeline withdraw {model.job(gone.quant)} --lift` ends that."
        )
    valid = release.still_valid(steps, last)
    ready = [r for r in model.recipes if not job.missing(store, steps.preparation + steps.job(r))]
    # What the store has lost and the target has need not be made again; only of that the target is asked.
    gone_here = [r.name for r in wanted if r not in ready and r.name in valid]
    released = [q for q in gone_here if valid[q].withheld or shop.target.holds(model.repo, valid[q].files)]
    wanted = [r for r in wanted if r.name not in withdrawn and r.name not in released]
    ready = [r for r in ready if r not in wanted and r.name not in withdrawn]
    if last is not None:
        held = {r.name for r in [*wanted, *ready]} | set(valid)
        if lost := [
            r.name for r in model.recipes if r.name not in held and r.name in {q.quant for q in last.published}
        ]:
            raise BadInputError(
                f"{model.repo} has {', '.join(lost)}, made from other inputs or no longer in the store, and this run"
                " would drop them. Run it without --only, or take them out of matrix.yml."
            )
    results: list[Result] = []
    todo = [recipe for recipe in model.recipes if recipe in wanted or recipe in ready]
    if todo:
        provenance = job.prepare(store, steps)
        results = jobs.run_all(shop, steps, todo, provenance, set(last.files) if last else set())
    made = {result.quant: result for result in results}
    publish(shop, steps, _in_order(steps, last, valid | made))
    return results


def withdrawals(steps: Steps, last: Release | None) -> dict[str, Withdrawal]:
    """Return, by quant, what was taken back and is not to be published again as it was."""
    found = {r.name: last.withdrawal(r.name, digest_of(steps.quant(r))) for r in steps.model.recipes} if last else {}
    return {quant: gone for quant, gone in found.items() if gone}


def _in_order(steps: Steps, last: Release | None, results: Mapping[str, Result]) -> list[Result]:
    """Put results of now and of the last release into the matrix's order, under one provenance: that of now."""
    found = [results[recipe.name] for recipe in steps.model.recipes if recipe.name in results]
    shared = [r.provenance for r in found if last is None or r.provenance != last.provenance]
    if last is not None and not shared:
        shared = [release.provenance_of(steps, last)]
    return [result.model_copy(update={"provenance": shared[0]}) for result in found]


def gather(shop: Workshop, steps: Steps, *, partial: bool) -> tuple[list[Result], list[str]]:
    """Return what a release is made of, in the matrix's order, and the quants that came to no result.

    A quant without a result in the results' directory is taken from the last release where it still holds; what was
    withdrawn is left out. `partial`: the release does without quants that have no result, or whose file is nowhere.

    Raises `BadInputError` for those otherwise, and as `results_of` does.
    """
    model, last = steps.model, shop.target.last(steps.model.repo)
    valid, withdrawn = release.still_valid(steps, last), withdrawals(steps, last)
    wanted = [recipe for recipe in model.recipes if recipe.name not in withdrawn]
    here = [r for r in wanted if result_path(shop.results, model.job(r.name)).exists()]
    missing = [r for r in wanted if r not in here and r.name not in valid]
    fresh = results_of(shop.results, steps, here if partial else [*here, *missing])
    if partial:  # where what passed could not be staged
        lost = {result.quant for result in fresh if not _is_to_be_had(shop, steps, result)}
        fresh = [result for result in fresh if result.quant not in lost]
        missing = [r for r in wanted if r in missing or r.name in lost]
    results = _in_order(steps, last, valid | {result.quant: result for result in fresh})
    if not results and wanted:
        raise BadInputError(
            f"No job of {model.source} came to a result, so there is nothing to release. Run them again."
        )
    return results, [recipe.name for recipe in missing]


def _is_to_be_had(shop: Workshop, steps: Steps, result: Result) -> bool:
    """Whether the files of a quant that passed are in the store, staged, or released."""
    return (
        result.withheld
        or bool(release.kept(shop.store, steps, result))
        or shop.target.holds(steps.model.repo, result.files, release.release_id(steps))
    )


def change(shop: Workshop, steps: Steps, results: Sequence[Result], missing: Sequence[str] = ()) -> Change:
    """Say what `publish` would do."""
    return shop.target.change(release.assemble(shop.store, steps, results, shop.target.last(steps.model.repo), missing))


def publish(shop: Workshop, steps: Steps, results: Sequence[Result], missing: Sequence[str] = ()) -> None:
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
    last = shop.target.last(steps.model.repo)
    bundle = release.assemble(shop.store, steps, results, last, missing)
    verdicts = [*bundle.release.verdicts, *_gating(shop.target, steps)]
    release.hold(display, steps.model.repo, verdicts)
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
            verdicts=(*verdicts, *done.verdicts),
        ),
    )


def _gating(target: Target, steps: Steps) -> list[Verdict]:
    if steps.source.gated in (None, "no"):
        return []
    is_open = target.is_open(steps.model.repo)
    return check.gating(steps.source.id, steps.source.gated, steps.model.gating, is_open=is_open)


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
