"""What several commands start from, and how they end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline import errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.job import Steps
    from pipeline.matrix import Matrix
    from pipeline.plan import Selection
    from pipeline.quantize import Engine
    from pipeline.result import Recipe, Result
    from pipeline.run import Workshop
    from pipeline.store import Store


def read_matrix(path: Path) -> Matrix:
    from pipeline import matrix

    return matrix.load(path)


def open_store(root: Path | None, remote: str | None = None) -> Store:
    import platformdirs

    from pipeline.progress import Display
    from pipeline.store import Store

    store = Store((root or Path(platformdirs.user_cache_dir("llm-quantizer"))).absolute(), Display())
    if remote:
        from pipeline.remote_store import RemoteStore

        store.remote = RemoteStore(remote, store.root, store.display)
    return store


def workshop(
    store_root: Path | None, results: Path, publish_to: str, remote: str | None = None, lanes: int | None = None
) -> Workshop:
    from pipeline.run import Workshop

    store, folder = open_store(store_root, remote), folder_of(publish_to)
    if folder is not None:
        from pipeline.publish.folder import Folder

        return Workshop(store, results, Folder(folder, store.remembered.sha256), lanes)
    from pipeline.publish.hub import Hub

    return Workshop(store, results, Hub(store.display), lanes)


def folder_of(publish_to: str) -> Path | None:
    return None if publish_to == "hub" else Path(publish_to)


def look(
    store: Store, matrix_file: Path, only: Sequence[str], cuda: bool | None, engine: Engine = "by-tensor"
) -> tuple[tuple[Selection, ...], list[Steps]]:
    from pipeline import plan, run

    matrix = read_matrix(matrix_file)
    selections = plan.select(matrix, only)
    toolchain = run.toolchain_of(matrix, cuda=cuda)
    return selections, run.look(
        [s.model for s in selections], toolchain, matrix_file, engine=engine, sha256=store.remembered.sha256
    )


def known(matrix_file: Path, name: str) -> str:
    """Return the name of a model or job that the matrix has; a typo is no failure of a run, and leaves no record."""
    from pipeline import plan

    plan.select(read_matrix(matrix_file), [name])
    return name


def known_job(matrix_file: Path, job_id: str) -> str:
    """Return the name of one job, likewise."""
    from pipeline import plan

    if sum(len(selection.recipes) for selection in plan.select(read_matrix(matrix_file), [job_id])) != 1:
        raise errors.BadInputError(f"{job_id} names more than one job. Write it as MODEL:QUANT.")
    return job_id


def one_job(
    store: Store, matrix_file: Path, job_id: str, cuda: bool | None, engine: Engine = "by-tensor"
) -> tuple[Steps, Recipe]:
    """Look at the one job of this name, which is a `known_job`."""
    selections, works = look(store, matrix_file, [job_id], cuda, engine)
    return works[0], selections[0].recipes[0]


def model_name(name: str) -> str:
    if ":" in name:
        raise errors.BadInputError(f"{name} is a job; this command takes a model: {name.partition(':')[0]}.")
    return name


def raise_all(failed: Sequence[errors.PipelineError]) -> None:
    """Raise what went wrong with several, as one error of the first one's kind."""
    if failed:
        raise type(failed[0])("\n".join(map(str, failed)))


def finish(results: Sequence[Result], *, withheld: bool) -> None:
    from pipeline import report

    if results:
        click.echo(report.results_table(results))
    if withheld:
        raise click.exceptions.Exit(errors.WITHHELD)
