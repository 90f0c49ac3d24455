"""What is kept: `store list`, `store gc`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from pipeline.cli import shared
from pipeline.cli.options import Bytes, Commands, store_option

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.artifact import Artifact


@click.group("store", cls=Commands)
def store_group() -> None:
    """Look after the store."""


@store_group.command("list")
@store_option
def store_list(store_root: Path | None) -> None:
    """List the artifacts, the least recently used first, then how many there are of each kind."""
    from pipeline.store import total_size

    opened = shared.open_store(store_root)
    artifacts = opened.artifacts()
    click.echo(f"{'digest':<12}  {'size':>13}  {'last used':>9}  what", err=True)
    for artifact in artifacts:
        age = _age(time.time() - artifact.last_used())
        click.echo(f"{artifact.digest[:12]}  {artifact.size / 1e6:>10.1f} MB  {age:>9}  {artifact.label}")
    kinds: dict[str, list[Artifact]] = {}
    for artifact in artifacts:
        kinds.setdefault(artifact.kind, []).append(artifact)
    click.echo(f"{'kind':<12}  {'size':>13}  {'artifacts':>9}", err=True)
    for kind, of_kind in sorted(kinds.items(), key=lambda item: -total_size(item[1])):
        click.echo(f"{kind:<12}  {total_size(of_kind) / 1e6:>10.1f} MB  {len(of_kind):>9}", err=True)
    click.echo(f"{len(artifacts)} artifacts, {total_size(artifacts) / 1e6:.1f} MB, in {opened.root}", err=True)


@store_group.command("gc")
@store_option
@click.option("--max-size", type=Bytes(), required=True, help="What may remain: 500M, 20G.")
def store_gc(store_root: Path | None, max_size: int) -> None:
    """Drop the least recently used artifacts until the store is small enough."""
    from pipeline.store import total_size

    dropped = shared.open_store(store_root).gc(max_size)
    for artifact in dropped:
        click.echo(f"{artifact.digest[:12]}  {artifact.size / 1e6:>10.1f} MB  {artifact.label}")
    click.echo(f"{len(dropped)} artifacts dropped, {total_size(dropped) / 1e6:.1f} MB", err=True)


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
