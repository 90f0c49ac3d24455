"""What would run, and why: `check`, `plan`, `legs`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline import errors
from pipeline.cli import shared
from pipeline.cli.options import Names, cuda_option, matrix_option, only_option, publish_option, store_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.matrix import Matrix, Model
    from pipeline.run import Workshop
    from pipeline.toolchain import Toolchain


@click.command()
@matrix_option
def check(matrix_file: Path) -> None:
    """Check the matrix, and say everything that is wrong with it."""
    matrix = shared.read_matrix(matrix_file)
    jobs = sum(len(m.recipes) for m in matrix.models)
    models = "1 model" if len(matrix.models) == 1 else f"{len(matrix.models)} models"
    click.echo(f"{matrix_file}: {models}, {'1 job' if jobs == 1 else f'{jobs} jobs'}, nothing wrong.")


@click.command("plan")
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
    shop = shared.workshop(store_root, Path("results"), publish_to)
    if preview:
        _preview(shop, models, toolchain, matrix_file, form)
        return
    works = run.look(models, toolchain, matrix_file, from_outside=True, sha256=shop.store.remembered.sha256)
    made = plan.plan(selections, run.states(shop, works), force=force)
    digest: dict[str, str] = {}
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "plan.json").write_text(json.dumps(made.to_json(), indent=1) + "\n", encoding="utf-8")
        (out / "matrix.json").write_text(pinned := lock.dump(locked(matrix, works)), encoding="utf-8")
        digest = {"digest": hashlib.sha256(pinned.encode()).hexdigest()}
    if form == "json":
        click.echo(json.dumps(made.to_json(), indent=1))
        return
    click.echo(report.plan_table(made), err=form == "github")
    if form == "github":
        found = legs.batches(made)
        actions.outputs({"due": str(len(found)), "batches": json.dumps(found), **digest})


@click.command("legs")
@click.argument("model")
@click.option("--plan", "plan_file", type=click.Path(path_type=Path), required=True, help="plan.json")
def legs_command(model: str, plan_file: Path) -> None:
    """Set the output `quants` of a step: the jobs of MODEL to run, as a matrix for GitHub Actions."""
    from pipeline import actions, legs, plan

    planned = plan.load(plan_file)
    found = [m for m in planned.models if m.source == model]
    actions.outputs({"quants": json.dumps([leg for m in found for leg in legs.quants(m)])})


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


def _base(base: str, matrix_file: Path) -> Matrix | None:
    """Read the base matrix: a file, or the matrix as it stood at a git commit."""
    from pipeline import matrix, shell

    if Path(base).is_file():
        return matrix.load(Path(base))
    if set(base) == {"0"}:  # GitHub's word for what was before a branch began
        return None
    path = matrix_file.resolve()
    command = ["git", "show", "--end-of-options", f"{base}:./{path.name}"]
    try:
        shown = shell.run(command, cwd=path.parent, doing="reading --base", failure=errors.BadInputError)
    except errors.BadInputError as error:
        raise errors.BadInputError(
            f"--base {base} is no file, and git knows no commit of that name that holds {matrix_file.name}."
            " Name a matrix, or a commit or branch of its repository."
        ) from error
    return matrix.parse(shown.stdout.encode(), f"{base}:{path.name}", path.parent)
