"""`python -m pipeline`: commands, options and exit codes, nothing else."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from pipeline import __version__, endings, errors
from pipeline.options import (
    Bytes,
    Commands,
    cuda_option,
    matrix_option,
    only_option,
    publish_option,
    results_option,
    store_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.job import Steps
    from pipeline.matrix import Matrix
    from pipeline.matrix.model import Model
    from pipeline.plan import Selection
    from pipeline.result import Recipe, Result
    from pipeline.run import Workshop
    from pipeline.store import Store
    from pipeline.toolchain import Toolchain


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="llm-quantizer")
def cli() -> None:
    """Quantize Hugging Face models to GGUF, measure every file, publish what passes.

    Exit codes: 0 done, 1 a gate withheld something, 2 bad input, 3 the toolchain failed, 4 the Hub failed, 5 not
    enough disk or memory, 130 interrupted.
    """


@cli.command()
@matrix_option
def check(matrix_file: Path) -> None:
    """Check the matrix, and say everything that is wrong with it."""
    matrix = _matrix(matrix_file)
    jobs = sum(len(m.recipes) for m in matrix.models)
    models = "1 model" if len(matrix.models) == 1 else f"{len(matrix.models)} models"
    click.echo(f"{matrix_file}: {models}, {'1 job' if jobs == 1 else f'{jobs} jobs'}, nothing wrong.")


@cli.command("plan")
@matrix_option
@store_option
@publish_option
@only_option
@cuda_option
@click.option("--base", metavar="FILE|GITREF", help="Only what differs from this matrix: a file, or a commit's.")
@click.option("--preview", is_flag=True, help="Say what the models become, from headers alone: no weight is fetched.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def plan_command(
    matrix_file: Path,
    store_root: Path | None,
    publish_to: str,
    only: Sequence[str],
    base: str | None,
    preview: bool,
    form: str,
    cuda: bool | None,
) -> None:
    """Say what would run, and why."""
    from pipeline import plan, report, run

    matrix = _matrix(matrix_file)
    selections = plan.select(matrix, only, _base(base, matrix_file) if base else None)
    models, toolchain = [s.model for s in selections], run.toolchain_of(matrix, cuda=cuda)
    shop = _workshop(store_root, Path("results"), publish_to)
    if preview:
        _preview(shop, models, toolchain, matrix_file, form)
        return
    works = run.look(models, toolchain, matrix_file)
    made = plan.plan(selections, {s.source.id: run.state(shop, s) for s in works})
    click.echo(report.plan_table(made) if form == "table" else json.dumps(made.to_json(), indent=1))


@cli.command()
@matrix_option
@store_option
@cuda_option
def build(matrix_file: Path, store_root: Path | None, cuda: bool | None) -> None:
    """Build llama.cpp as the matrix pins it."""
    from pipeline import run, toolchain

    store = _store(store_root)
    with store.in_use():
        click.echo(toolchain.tools(store, run.toolchain_of(_matrix(matrix_file), cuda=cuda)).directory)


@cli.command()
@click.argument("model")
@matrix_option
@store_option
@cuda_option
def prepare(model: str, matrix_file: Path, store_root: Path | None, cuda: bool | None) -> None:
    """Run all that the quants of MODEL share: download, convert, imatrix, reference logits."""
    from pipeline import job, run

    store = _store(store_root)
    with store.in_use():
        for steps in _works(matrix_file, [_model(model)], cuda)[1]:
            run.refuse_early(store, [(steps, ())], matrix_file, None)
            job.prepare(store, steps)


@cli.command("job")
@click.argument("job_id", metavar="MODEL:QUANT")
@matrix_option
@store_option
@results_option
@cuda_option
def job_command(job_id: str, matrix_file: Path, store_root: Path | None, results: Path, cuda: bool | None) -> None:
    """Make, check and measure one quant, and leave its result as JSON."""
    from pipeline import job, run

    store = _store(store_root)
    with store.in_use():
        steps, recipe = _one_job(matrix_file, job_id, cuda)
        run.refuse_early(store, [(steps, [recipe])], matrix_file, None)
        result = run.save(results, job.run(store, steps, recipe, job.prepare(store, steps)))
    _finish([result], withheld=result.withheld)


@cli.command()
@click.argument("job_id", metavar="MODEL:QUANT")
@matrix_option
@store_option
@results_option
@publish_option
@cuda_option
def stage(
    job_id: str, matrix_file: Path, store_root: Path | None, results: Path, publish_to: str, cuda: bool | None
) -> None:
    """Upload the file of one finished job, for a release that may be made on another machine."""
    from pipeline import run

    shop = _workshop(store_root, results, publish_to)
    with shop.store.in_use():
        steps, recipe = _one_job(matrix_file, job_id, cuda)
        (result,) = run.results_of(results, steps, [recipe])
        shop.target.check([run.planned(steps, [recipe])])
        run.stage(shop, steps, result)
    if result.withheld:
        click.echo(f"{job_id} is withheld, so nothing of it is staged.", err=True)


@cli.command()
@click.argument("model")
@matrix_option
@store_option
@results_option
@publish_option
@click.option("--dry-run", is_flag=True, help="Print the change that this would make, and make none.")
@cuda_option
def release(
    model: str,
    matrix_file: Path,
    store_root: Path | None,
    results: Path,
    publish_to: str,
    dry_run: bool,
    cuda: bool | None,
) -> None:
    """Turn the results of MODEL into one release."""
    from pipeline import report, run

    shop = _workshop(store_root, results, publish_to)
    released: list[Result] = []
    with shop.store.in_use():
        for steps in _works(matrix_file, [_model(model)], cuda)[1]:
            found = run.results_of(results, steps, steps.model.recipes)
            released += found
            if dry_run:
                click.echo(report.change(run.change(shop, steps, found)))
                continue
            shop.target.check([run.planned(steps, steps.model.recipes)])
            run.publish(shop, steps, found)
    if not dry_run:
        _finish(released, withheld=any(result.withheld for result in released))


@cli.command("run")
@matrix_option
@store_option
@results_option
@publish_option
@only_option
@cuda_option
def run_command(
    matrix_file: Path,
    store_root: Path | None,
    results: Path,
    publish_to: str,
    only: Sequence[str],
    cuda: bool | None,
) -> None:
    """Do all of it, here: every job of the matrix, then a release of each model."""
    from pipeline import run

    shop = _workshop(store_root, results, publish_to)
    made: list[Result] = []
    with shop.store.in_use():
        selections, works = _works(matrix_file, only, cuda)
        todo = [(steps, selection.recipes) for selection, steps in zip(selections, works, strict=True)]
        run.refuse_early(shop.store, todo, matrix_file, _folder(publish_to))
        shop.target.check([run.planned(steps, recipes) for steps, recipes in todo])
        for steps, recipes in todo:
            made += run.run_model(shop, steps, recipes)
    asked = {steps.model.job(recipe.name) for steps, recipes in todo for recipe in recipes}
    _finish(made, withheld=any(result.withheld for result in made if result.job in asked))


@cli.command()
@results_option
def summary(results: Path) -> None:
    """Print the results as Markdown; in Actions, put them into the job's summary too."""
    from pipeline import actions, report, run

    found = run.load(sorted(results.glob("*.json")))
    if not found:
        raise errors.BadInputError(f"{results} holds no results. Name their directory with --results.")
    text = report.summary(found)
    click.echo(text)
    actions.append_summary(text)


@cli.command()
@matrix_option
@store_option
@results_option
@publish_option
@cuda_option
def demo(matrix_file: Path, store_root: Path | None, results: Path, publish_to: str, cuda: bool | None) -> None:
    """Run the main job for real on SmolLM2-135M, with a folder as its target."""
    from pipeline import demo as demonstration
    from pipeline import run

    toolchain = run.toolchain_of(_matrix(matrix_file), cuda=cuda)
    shop = _workshop(store_root, results, publish_to)
    with shop.store.in_use():
        model = demonstration.model(shop.store)
        (steps,) = run.look([model], toolchain, matrix_file)
        run.refuse_early(shop.store, [(steps, model.recipes)], matrix_file, _folder(publish_to))
        shop.target.check([run.planned(steps, model.recipes)])
        made = run.run_model(shop, steps, model.recipes)
    _finish(made, withheld=any(result.withheld for result in made))


@cli.group("store", cls=Commands)
def store_group() -> None:
    """Look after the store."""


@store_group.command("list")
@store_option
def store_list(store_root: Path | None) -> None:
    """List the artifacts, the least recently used first."""
    from pipeline.store import total_size

    opened = _store(store_root)
    artifacts = opened.artifacts()
    click.echo(f"{'digest':<12}  {'size':>13}  {'last used':>9}  what", err=True)
    for artifact in artifacts:
        age = _age(time.time() - artifact.last_used())
        click.echo(f"{artifact.digest[:12]}  {artifact.size / 1e6:>10.1f} MB  {age:>9}  {artifact.label}")
    click.echo(f"{len(artifacts)} artifacts, {total_size(artifacts) / 1e6:.1f} MB, in {opened.root}", err=True)


@store_group.command("gc")
@store_option
@click.option("--max-size", type=Bytes(), required=True, help="What may remain: 500M, 20G.")
def store_gc(store_root: Path | None, max_size: int) -> None:
    """Drop the least recently used artifacts until the store is small enough."""
    from pipeline.store import total_size

    dropped = _store(store_root).gc(max_size)
    for artifact in dropped:
        click.echo(f"{artifact.digest[:12]}  {artifact.size / 1e6:>10.1f} MB  {artifact.label}")
    click.echo(f"{len(dropped)} artifacts dropped, {total_size(dropped) / 1e6:.1f} MB", err=True)


def main() -> NoReturn:
    """Run the command line; every error that a user can cause ends in a sentence and its exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read when the Hub's client is imported
    sys.exit(endings.guarded(lambda: cli(standalone_mode=False)))


def _terminated(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _finish(results: Sequence[Result], *, withheld: bool) -> None:
    from pipeline import report

    if results:
        click.echo(report.results_table(results))
    if withheld:
        raise click.exceptions.Exit(errors.WITHHELD)


def _preview(shop: Workshop, models: Sequence[Model], toolchain: Toolchain, matrix_file: Path, form: str) -> None:
    """Print what the models become, in Actions into the job's summary too, whatever is printed."""
    from pipeline import actions
    from pipeline import preview as previews
    from pipeline.preview import page, record

    with shop.store.in_use():
        seen, failures = previews.look(shop, models, toolchain, matrix_file)
    text = page.page(seen.outlooks, seen.problems)
    click.echo(text if form == "table" else record.dump(seen).decode())
    actions.append_summary(text)
    if failures:
        offline = all(isinstance(error, errors.HubError) for error in failures)
        raise (errors.HubError if offline else errors.BadInputError)("\n".join(seen.problems))


def _matrix(path: Path) -> Matrix:
    from pipeline import matrix

    return matrix.load(path)


def _base(base: str, matrix_file: Path) -> Matrix:
    """Read the base matrix: a file, or the matrix as it stood at a git commit."""
    from pipeline import matrix, shell

    if Path(base).is_file():
        return matrix.load(Path(base))
    path = matrix_file.resolve()
    command = ["git", "show", f"{base}:./{path.name}"]
    try:
        shown = shell.run(command, cwd=path.parent, doing="reading --base", failure=errors.BadInputError)
    except errors.BadInputError as error:
        raise errors.BadInputError(
            f"--base {base} is no file, and git knows no commit of that name that holds {matrix_file.name}."
            " Name a matrix, or a commit or branch of its repository."
        ) from error
    return matrix.parse(shown.stdout.encode(), f"{base}:{path.name}", path.parent)


def _store(root: Path | None) -> Store:
    import platformdirs

    from pipeline.progress import Display
    from pipeline.store import Store

    return Store((root or Path(platformdirs.user_cache_dir("llm-quantizer"))).absolute(), Display())


def _workshop(store_root: Path | None, results: Path, publish_to: str) -> Workshop:
    from pipeline.run import Workshop

    store, folder = _store(store_root), _folder(publish_to)
    if folder is not None:
        from pipeline.publish.folder import Folder

        return Workshop(store, results, Folder(folder))
    from pipeline.publish.hub import Hub

    return Workshop(store, results, Hub(store.display))


def _folder(publish_to: str) -> Path | None:
    return None if publish_to == "hub" else Path(publish_to)


def _works(matrix_file: Path, only: Sequence[str], cuda: bool | None) -> tuple[tuple[Selection, ...], list[Steps]]:
    from pipeline import plan, run

    matrix = _matrix(matrix_file)
    selections = plan.select(matrix, only)
    return selections, run.look([s.model for s in selections], run.toolchain_of(matrix, cuda=cuda), matrix_file)


def _one_job(matrix_file: Path, job_id: str, cuda: bool | None) -> tuple[Steps, Recipe]:
    selections, works = _works(matrix_file, [job_id], cuda)
    if sum(len(s.recipes) for s in selections) != 1:
        raise errors.BadInputError(f"{job_id} names more than one job. Write it as MODEL:QUANT.")
    return works[0], selections[0].recipes[0]


def _model(name: str) -> str:
    if ":" in name:
        raise errors.BadInputError(f"{name} is a job; this command takes a model: {name.partition(':')[0]}.")
    return name


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
