"""`python -m pipeline`: commands, options and exit codes, nothing else."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from pipeline import __version__, endings, errors
from pipeline.options import (
    Bytes,
    Commands,
    Names,
    cuda_option,
    dry_run_option,
    matrix_option,
    only_option,
    publish_option,
    results_option,
    store_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.job import Steps
    from pipeline.matrix import Matrix, Model
    from pipeline.plan import Selection
    from pipeline.release import Bundle
    from pipeline.result import Recipe, Result
    from pipeline.run import Workshop
    from pipeline.store import Store
    from pipeline.toolchain import Toolchain


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="llm-quantizer")
def cli() -> None:
    """Quantize Hugging Face models to GGUF, measure every file, publish what passes.

    Exit codes: 0 done, 1 a gate withheld something, 2 bad input, 3 the toolchain failed, 4 the Hub or GitHub failed,
    5 not enough disk or memory, 130 interrupted.
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
@click.option("--quants", type=Names(), default="", metavar="QUANT…", help="Only these quants of the models.")
@click.option("--unlisted", is_flag=True, help="Take models that --only names and the matrix does not from the Hub.")
@click.option("--llama-cpp", default="", metavar="COMMIT", help="Another llama.cpp than the matrix pins.")
@click.option("--preview", is_flag=True, help="Say what the models become, from headers alone: no weight is fetched.")
@click.option("--force", is_flag=True, help="Run what is published, too.")
@click.option("--format", "form", type=click.Choice(["table", "json", "github"]), default="table", show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Leave plan.json here, and the matrix with all revisions as found."
)
def plan_command(
    matrix_file: Path,
    store_root: Path | None,
    publish_to: str,
    only: tuple[str, ...],
    base: str | None,
    quants: tuple[str, ...],
    unlisted: bool,
    llama_cpp: str,
    force: bool,
    preview: bool,
    form: str,
    out: Path | None,
    cuda: bool | None,
) -> None:
    """Say what would run, and why."""
    from pipeline import actions, legs, plan, report, run
    from pipeline.matrix import lock
    from pipeline.request import Request, locked

    request = Request(only, quants, unlisted, llama_cpp)
    matrix = request.matrix(matrix_file)
    selections = plan.select(matrix, request.patterns, _base(base, matrix_file) if base else None)
    models, toolchain = [s.model for s in selections], run.toolchain_of(matrix, cuda=cuda)
    shop = _workshop(store_root, Path("results"), publish_to)
    if preview:
        _preview(shop, models, toolchain, matrix_file, form)
        return
    works = run.look(models, toolchain, matrix_file, from_outside=True)
    made = plan.plan(selections, run.states(shop, works), force=force)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "plan.json").write_text(json.dumps(made.to_json(), indent=1) + "\n", encoding="utf-8")
        (out / "matrix.json").write_text(lock.dump(locked(matrix, works)), encoding="utf-8")
    if form == "json":
        click.echo(json.dumps(made.to_json(), indent=1))
        return
    click.echo(report.plan_table(made), err=form == "github")
    if form == "github":
        found = legs.batches(made)
        actions.outputs({"due": str(len(found)), "batches": json.dumps(found)})


@cli.command("legs")
@click.argument("model")
@click.option("--plan", "plan_file", type=click.Path(path_type=Path), required=True, help="plan.json")
def legs_command(model: str, plan_file: Path) -> None:
    """Set the output `quants` of a step: the jobs of MODEL to run, as a matrix for GitHub Actions."""
    from pipeline import actions, legs, plan

    planned = plan.load(plan_file)
    found = [m for m in planned.models if m.source == model]
    actions.outputs({"quants": json.dumps([leg for m in found for leg in legs.quants(m)])})


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
@results_option
@cuda_option
def prepare(model: str, matrix_file: Path, store_root: Path | None, results: Path, cuda: bool | None) -> None:
    """Run all that the quants of MODEL share: download, convert, imatrix, reference logits."""
    from pipeline import job, records, run

    store = _store(store_root)
    with records.failing(results, "prepare", model), store.in_use():
        for steps in _works(matrix_file, [_model(model)], cuda)[1]:
            run.refuse_early(store, [(steps, ())], matrix_file, None)
            job.prepare(store, steps)


@cli.command("job")
@click.argument("job_ids", metavar="MODEL:QUANT…", nargs=-1, required=True)
@matrix_option
@store_option
@results_option
@cuda_option
def job_command(
    job_ids: Sequence[str], matrix_file: Path, store_root: Path | None, results: Path, cuda: bool | None
) -> None:
    """Make, check and measure a quant, and leave its result as JSON; several one after the other."""
    from pipeline import actions, job, records, run

    store = _store(store_root)
    made: list[Result] = []
    failed: list[errors.PipelineError] = []
    with store.in_use():
        for job_id in job_ids:
            try:
                with records.failing(results, "job", job_id):
                    steps, recipe = _one_job(matrix_file, job_id, cuda)
                    run.refuse_early(store, [(steps, [recipe])], matrix_file, None)
                    made.append(records.save(results, job.run(store, steps, recipe, job.prepare(store, steps))))
            except errors.PipelineError as error:
                failed.append(error)
    if os.environ.get("GITHUB_OUTPUT"):
        actions.outputs({"passed": " ".join(result.job for result in made if not result.withheld)})
    _finish(made, withheld=not failed and any(result.withheld for result in made))
    if failed:
        raise type(failed[0])("\n".join(map(str, failed)))


@cli.command()
@click.argument("job_ids", metavar="MODEL:QUANT…", nargs=-1, required=True)
@matrix_option
@store_option
@results_option
@publish_option
@cuda_option
def stage(
    job_ids: Sequence[str],
    matrix_file: Path,
    store_root: Path | None,
    results: Path,
    publish_to: str,
    cuda: bool | None,
) -> None:
    """Upload the file of a finished job, for a release that may be made on another machine; or of several."""
    from pipeline import records, run

    shop = _workshop(store_root, results, publish_to)
    with shop.store.in_use():
        for job_id in job_ids:
            with records.failing(results, "stage", job_id):
                steps, recipe = _one_job(matrix_file, job_id, cuda)
                (result,) = run.results_of(results, steps, [recipe])
                if result.withheld:
                    click.echo(f"{job_id} is withheld, so nothing of it is staged.", err=True)
                    continue
                shop.target.check([run.planned(steps, [recipe])])
                run.stage(shop, steps, result)


@cli.command()
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

    shop = _workshop(store_root, results, publish_to)
    released: list[Result] = []
    with records.failing(results, "release", model), shop.store.in_use():
        for steps in _works(matrix_file, [_model(model)], cuda)[1]:
            found, missing = run.gather(shop, steps, partial=partial)
            released += found
            if dry_run:
                click.echo(report.change(run.change(shop, steps, found, missing)))
                continue
            shop.target.check([run.planned(steps, steps.model.recipes)])
            run.publish(shop, steps, found, missing)
    if not dry_run:
        _finish(released, withheld=not partial and any(result.withheld for result in released))


@cli.command("card")
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

    shop = _workshop(store_root, Path("results"), publish_to)
    with shop.store.in_use():
        for model in _models(matrix_file, models):
            _republish(shop, republish.rendered(shop, model), dry_run=dry_run)


@cli.command()
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
    shop = _workshop(store_root, Path("results"), publish_to)
    today = datetime.now(UTC).date().isoformat()
    with shop.store.in_use():
        for name in names:
            source, _, quant = name.partition(":")
            (model,) = _models(matrix_file, [source])
            quants = [quant] if quant else []
            taken = partial(republish.without, reason=reason.strip(), date=today)
            _republish(shop, (republish.lifted if lift else taken)(shop, model, quants), dry_run=dry_run)


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
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What was to be done, from `plan --format json`.",
)
@results_option
@click.option("--job", "job_id", metavar="MODEL:QUANT", help="The page of one job, not that of the run.")
def summary(plan_file: Path | None, results: Path, job_id: str | None) -> None:
    """Print what became of a run as a page of Markdown; in Actions, put it into the job's summary too.

    Below --results, downloaded artifacts may lie as they are.
    """
    from pipeline import actions, plan, records, summary

    found, links = records.gather(results), actions.Links.here()
    if job_id is not None:
        pages = [summary.job_page(record, links) for record in found.of(job_id)]
    elif plan_file or found.any:
        made = plan.Plan.from_json(plan_file.read_bytes()) if plan_file else None
        pages = [summary.run_page(made, found.results, found.failures, found.released, links)]
    else:
        pages = []
    if not pages:
        raise errors.BadInputError(
            f"{results} holds no results{f' of {job_id}' if job_id else ''}. Name their directory with --results."
        )
    click.echo("\n".join(pages))
    actions.append_summary("\n".join(pages))


@cli.command()
@matrix_option
@only_option
@click.option("--dry-run", is_flag=True, help="Say what is new, and open no pull request.")
def watch(matrix_file: Path, only: Sequence[str], dry_run: bool) -> None:
    """Look for newer revisions of the models and a newer llama.cpp, and open a pull request for each.

    With --only, the named models alone, and those too of which nothing changed that a release is made of.
    """
    from pipeline import actions, plan, report, watch
    from pipeline.github import GitHub

    repository = None if dry_run else GitHub.of_environment()
    path = _in_repository(matrix_file)
    matrix = _matrix(matrix_file)
    listed = [selection.model for selection in plan.select(matrix, only)]
    sightings = list(watch.models(listed, repository, path, asked=bool(only)))
    if not only:
        sightings.append(watch.llama_cpp(matrix.llama_cpp, repository, path))
    click.echo("\n".join(report.aligned([watch.HEAD, *(sighting.row for sighting in sightings)])))
    actions.append_summary(watch.markdown(sightings))
    failures = [sighting for sighting in sightings if sighting.failure]
    for failed in failures:
        click.echo(f"error: {failed.name}: {failed.failure}", err=True)
    if failures:
        raise click.exceptions.Exit(errors.GitHubError.exit_code)


@cli.command()
@click.argument("directory", type=click.Path(path_type=Path))
def comment(directory: Path) -> None:
    """Show what a pull request's check left in DIRECTORY on that pull request, as one comment kept up to date.

    For a job of `workflow_run`: the pull request is found from the event, and nothing in DIRECTORY is trusted.
    """
    from pipeline import comment
    from pipeline.github import GitHub

    for line in comment.comment(GitHub.of_environment(), comment.Run.of_environment(), directory):
        click.echo(line)


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


def _base(base: str, matrix_file: Path) -> Matrix | None:
    """Read the base matrix: a file, or the matrix as it stood at a git commit."""
    from pipeline import matrix, shell

    if Path(base).is_file():
        return matrix.load(Path(base))
    if set(base) == {"0"}:  # GitHub's word for what was before a branch began
        return None
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


def _in_repository(matrix_file: Path) -> str:
    """Return the matrix's path in the repository in whose root we are, as in a job of Actions."""
    path = matrix_file.resolve()
    if not path.is_relative_to(Path.cwd()):
        raise errors.BadInputError(f"{matrix_file} is not below this directory. Run this in the repository's root.")
    return path.relative_to(Path.cwd()).as_posix()


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


def _models(matrix_file: Path, names: Sequence[str]) -> list[Model]:
    from pipeline import plan

    return [s.model for s in plan.select(_matrix(matrix_file), [_model(name) for name in names])]


def _republish(shop: Workshop, bundle: Bundle, *, dry_run: bool) -> None:
    from pipeline import report
    from pipeline.publish import Planned

    if dry_run:
        click.echo(report.change(shop.target.change(bundle)))
        return
    shop.target.check([Planned(bundle.release.repo, bundle.release.id, private=False, files={})])
    click.echo(report.change(shop.target.publish(bundle)))


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
