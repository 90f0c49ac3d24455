"""What GitHub is shown: `summary`, `watch`, `comment`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline import errors
from pipeline.cli import shared
from pipeline.cli.options import matrix_option, only_option, results_option

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command()
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


@click.command()
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
    matrix = shared.read_matrix(matrix_file)
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


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
def comment(directory: Path) -> None:
    """Show what a pull request's check left in DIRECTORY on that pull request, as one comment kept up to date.

    For a job of `workflow_run`: the pull request is found from the event, and nothing in DIRECTORY is trusted.
    """
    from pipeline import comment
    from pipeline.github import GitHub

    for line in comment.comment(GitHub.of_environment(), comment.Run.of_environment(), directory):
        click.echo(line)


def _in_repository(matrix_file: Path) -> str:
    """Return the matrix's path in the repository in whose root we are, as in a job of Actions."""
    path = matrix_file.resolve()
    if not path.is_relative_to(Path.cwd()):
        raise errors.BadInputError(f"{matrix_file} is not below this directory. Run this in the repository's root.")
    return path.relative_to(Path.cwd()).as_posix()
