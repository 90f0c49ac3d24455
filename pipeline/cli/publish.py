"""What changes a published repo: `stage`, `release`, `card`, `withdraw`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline import errors
from pipeline.cli import shared
from pipeline.cli.options import (
    cuda_option,
    dry_run_option,
    matrix_option,
    publish_option,
    remote_store_option,
    results_option,
    store_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.matrix import Model
    from pipeline.release import Bundle
    from pipeline.result import Result
    from pipeline.run import Workshop


@click.command()
@click.argument("job_ids", metavar="MODEL:QUANT…", nargs=-1, required=True)
@matrix_option
@store_option
@remote_store_option
@results_option
@publish_option
@cuda_option
def stage(
    job_ids: Sequence[str],
    matrix_file: Path,
    store_root: Path | None,
    remote_store: str | None,
    results: Path,
    publish_to: str,
    cuda: bool | None,
) -> None:
    """Upload the file of a finished job, for a release that may be made on another machine; or of several."""
    from pipeline import jobs, records, run

    shop = shared.workshop(store_root, results, publish_to, remote_store)
    failed: list[errors.PipelineError] = []
    with shop.store.in_use():
        for job_id in job_ids:
            try:
                with records.failing(results, "stage", shared.known_job(matrix_file, job_id)):
                    steps, recipe = shared.one_job(shop.store, matrix_file, job_id, cuda)
                    (result,) = run.results_of(results, steps, [recipe])
                    if result.withheld:
                        click.echo(f"{job_id} is withheld, so nothing of it is staged.", err=True)
                        continue
                    shop.target.check([run.planned(steps, [recipe])])
                    jobs.stage(shop, steps, result)
            except errors.PipelineError as error:
                failed.append(error)
    shared.raise_all(failed)


@click.command()
@click.argument("model")
@matrix_option
@store_option
@results_option
@publish_option
@dry_run_option
@click.option("--partial", is_flag=True, help="Go without what failed or was withheld: its own job said so.")
@cuda_option
def release(
    model: str,
    matrix_file: Path,
    store_root: Path | None,
    results: Path,
    publish_to: str,
    dry_run: bool,
    partial: bool,
    cuda: bool | None,
) -> None:
    """Turn the results of MODEL into one release; what has none and is unchanged comes from the last one."""
    from pipeline import records, report, run

    shop = shared.workshop(store_root, results, publish_to)
    name = shared.known(matrix_file, shared.model_name(model))
    released: list[Result] = []
    with records.failing(results, "release", name), shop.store.in_use():
        for steps in shared.look(shop.store, matrix_file, [name], cuda)[1]:
            found, missing = run.gather(shop, steps, partial=partial)
            released += found
            if dry_run:
                click.echo(report.change(run.change(shop, steps, found, missing)))
                continue
            shop.target.check([run.planned(steps, steps.model.recipes)])
            run.publish(shop, steps, found, missing)
    if not dry_run:
        shared.finish(released, withheld=not partial and any(result.withheld for result in released))


@click.command("card")
@click.argument("models", metavar="MODEL…", nargs=-1, required=True)
@matrix_option
@store_option
@publish_option
@dry_run_option
def card_command(
    models: Sequence[str], matrix_file: Path, store_root: Path | None, publish_to: str, dry_run: bool
) -> None:
    """Render the cards of the last releases anew and publish them; no other file is touched."""
    from pipeline import republish

    shop = shared.workshop(store_root, Path("results"), publish_to)
    with shop.store.in_use():
        for model in _models(matrix_file, models):
            _republish(shop, republish.rendered(shop, model), dry_run=dry_run)


@click.command()
@click.argument("names", metavar="MODEL[:QUANT]…", nargs=-1, required=True)
@click.option("--reason", default="", help="Why; it stays on the card.")
@click.option("--lift", is_flag=True, help="End the withdrawal: what it held back may be made again.")
@matrix_option
@store_option
@publish_option
@dry_run_option
def withdraw(
    names: Sequence[str],
    reason: str,
    lift: bool,
    matrix_file: Path,
    store_root: Path | None,
    publish_to: str,
    dry_run: bool,
) -> None:
    """Take back published quants, or all of a model, with a reason that stays on the card."""
    from datetime import UTC, datetime

    from pipeline import republish

    if lift == bool(reason.strip()):
        raise errors.BadInputError("Say why with --reason, which stays on the card; or end a withdrawal with --lift.")
    shop = shared.workshop(store_root, Path("results"), publish_to)
    today = datetime.now(UTC).date().isoformat()
    with shop.store.in_use():
        for name in names:
            source, _, quant = name.partition(":")
            (model,) = _models(matrix_file, [source])
            quants = [quant] if quant else []
            taken = partial(republish.without, reason=reason.strip(), date=today)
            _republish(shop, (republish.lifted if lift else taken)(shop, model, quants), dry_run=dry_run)


def _models(matrix_file: Path, names: Sequence[str]) -> list[Model]:
    """Return the models of these names or patterns; the button Quantize may have made some that are not listed."""
    from pipeline import plan
    from pipeline.request import Request

    request = Request(only=tuple(shared.model_name(name) for name in names), unlisted=True)
    return [s.model for s in plan.select(request.matrix(matrix_file), request.patterns)]


def _republish(shop: Workshop, bundle: Bundle, *, dry_run: bool) -> None:
    from pipeline import report
    from pipeline.publish import Planned

    if dry_run:
        click.echo(report.change(shop.target.change(bundle)))
        return
    shop.target.check([Planned(bundle.release.repo, bundle.release.id, private=False, files={})])
    click.echo(report.change(shop.target.publish(bundle)))
