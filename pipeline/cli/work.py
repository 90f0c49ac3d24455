"""What makes files: `build`, `prepare`, `job`, `run`, `demo`."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import click

from pipeline import errors
from pipeline.cli import shared
from pipeline.cli.options import (
    cuda_option,
    engine_option,
    lanes_option,
    matrix_option,
    only_option,
    publish_option,
    remote_store_option,
    results_option,
    store_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.quantize import Engine
    from pipeline.result import Result


@click.command()
@matrix_option
@store_option
@cuda_option
def build(matrix_file: Path, store_root: Path | None, cuda: bool | None) -> None:
    """Build llama.cpp as the matrix pins it."""
    from pipeline import run, toolchain

    store = shared.open_store(store_root)
    with store.in_use():
        click.echo(toolchain.tools(store, run.toolchain_of(shared.read_matrix(matrix_file), cuda=cuda)).directory)


@click.command()
@click.argument("model")
@matrix_option
@store_option
@remote_store_option
@results_option
@cuda_option
def prepare(
    model: str,
    matrix_file: Path,
    store_root: Path | None,
    remote_store: str | None,
    results: Path,
    cuda: bool | None,
) -> None:
    """Run all that the quants of MODEL share: download, convert, imatrix, reference logits."""
    from pipeline import job, records, run

    store = shared.open_store(store_root, remote_store)
    name = shared.known(matrix_file, shared.model_name(model))
    with records.failing(results, "prepare", name), store.in_use():
        for steps in shared.look(store, matrix_file, [name], cuda)[1]:
            run.refuse_early(store, [(steps, ())], matrix_file, None)
            job.prepare(store, steps)


@click.command("job")
@click.argument("job_ids", metavar="MODEL:QUANT…", nargs=-1, required=True)
@matrix_option
@store_option
@remote_store_option
@results_option
@cuda_option
@engine_option
def job_command(
    job_ids: Sequence[str],
    matrix_file: Path,
    store_root: Path | None,
    remote_store: str | None,
    results: Path,
    cuda: bool | None,
    engine: Engine,
) -> None:
    """Make, check and measure a quant, and leave its result as JSON; several one after the other."""
    from pipeline import actions, job, records, run

    store = shared.open_store(store_root, remote_store)
    made: list[Result] = []
    failed: list[errors.PipelineError] = []
    with store.in_use():
        for job_id in job_ids:
            try:
                with records.failing(results, "job", shared.known_job(matrix_file, job_id)):
                    steps, recipe = shared.one_job(store, matrix_file, job_id, cuda, engine)
                    run.refuse_early(store, [(steps, [recipe])], matrix_file, None)
                    result = job.run(store, steps, recipe, job.prepare(store, steps))
                    made.append(records.save(results, job.timed(store, steps, result)))
            except errors.PipelineError as error:
                failed.append(error)
    if os.environ.get("GITHUB_OUTPUT"):
        actions.outputs({"passed": "true" if any(not result.withheld for result in made) else "false"})
    shared.finish(made, withheld=not failed and any(result.withheld for result in made))
    shared.raise_all(failed)


@click.command("run")
@matrix_option
@store_option
@remote_store_option
@results_option
@publish_option
@only_option
@cuda_option
@engine_option
@lanes_option
def run_command(
    matrix_file: Path,
    store_root: Path | None,
    remote_store: str | None,
    results: Path,
    publish_to: str,
    only: Sequence[str],
    cuda: bool | None,
    engine: Engine,
    lanes: int | None,
) -> None:
    """Do all of it, here: every job of the matrix, then a release of each model."""
    from pipeline import run

    shop = shared.workshop(store_root, results, publish_to, remote_store, lanes)
    made: list[Result] = []
    with shop.store.in_use():
        selections, works = shared.look(shop.store, matrix_file, only, cuda, engine)
        todo = [(steps, selection.recipes) for selection, steps in zip(selections, works, strict=True)]
        lean = run.refuse_early(shop.store, todo, matrix_file, shared.folder_of(publish_to))
        shop = dataclasses.replace(shop, lean=lean)
        shop.target.check([run.planned(steps, recipes) for steps, recipes in todo])
        for steps, recipes in todo:
            made += run.run_model(shop, steps, recipes)
    asked = {steps.model.job(recipe.name) for steps, recipes in todo for recipe in recipes}
    shared.finish(made, withheld=any(result.withheld for result in made if result.job in asked))


@click.command()
@matrix_option
@store_option
@remote_store_option
@results_option
@publish_option
@cuda_option
@engine_option
@lanes_option
def demo(
    matrix_file: Path,
    store_root: Path | None,
    remote_store: str | None,
    results: Path,
    publish_to: str,
    cuda: bool | None,
    engine: Engine,
    lanes: int | None,
) -> None:
    """Run the main job for real on SmolLM2-135M, with a folder as its target."""
    from pipeline import demo as demonstration
    from pipeline import run

    toolchain = run.toolchain_of(shared.read_matrix(matrix_file), cuda=cuda)
    shop = shared.workshop(store_root, results, publish_to, remote_store, lanes)
    with shop.store.in_use():
        model = demonstration.model(shop.store)
        (steps,) = run.look([model], toolchain, matrix_file, engine=engine, sha256=shop.store.remembered.sha256)
        lean = run.refuse_early(shop.store, [(steps, model.recipes)], matrix_file, shared.folder_of(publish_to))
        shop = dataclasses.replace(shop, lean=lean)
        shop.target.check([run.planned(steps, model.recipes)])
        made = run.run_model(shop, steps, model.recipes)
    shared.finish(made, withheld=any(result.withheld for result in made))
