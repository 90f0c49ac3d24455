"""`inspect`: every check that its inputs allow, on anybody's file."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline import errors
from pipeline.cli import shared
from pipeline.cli.options import cuda_option, matrix_option, store_option

PLACE = click.Path(path_type=Path)


@click.command()
@click.argument("file", type=PLACE)
@click.option("--source", type=PLACE, help="The Hugging Face directory that the model comes from.")
@click.option("--reference", type=PLACE, help="The unquantized GGUF; the file is then run and measured, too.")
@matrix_option
@store_option
@cuda_option
def inspect(
    file: Path,
    source: Path | None,
    reference: Path | None,
    matrix_file: Path,
    store_root: Path | None,
    cuda: bool | None,
) -> None:
    """Check a GGUF file, anybody's: alone, against the model that it comes from, against its reference.

    With --source or --reference it is run by the llama.cpp that matrix.yml pins, which is built where it is not there.
    Exits with 1 where a check fails.
    """
    from pipeline import inspection, report, run, toolchain

    inputs = inspection.Inputs(file=file, source=source, reference=reference)
    found = inspection.at_once(inputs)  # before a build that may be for nothing
    if not found and (source or reference):
        store = shared.open_store(store_root)
        with store.in_use():
            llama = toolchain.tools(store, run.toolchain_of(shared.read_matrix(matrix_file), cuda=cuda))
            found = inspection.examine(inputs, llama, store.display.say)
    elif not found:
        found = inspection.examine(inputs, None)
    click.echo(report.inspection(inspection.described(file), found))
    if any(verdict.outcome == "fail" for verdict in found):
        raise click.exceptions.Exit(errors.WITHHELD)
