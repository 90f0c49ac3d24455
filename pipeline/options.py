"""What the commands have in common: their options, sizes as people write them, and a group that knows typos."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import click

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT])B?|0", re.IGNORECASE)


class Commands(click.Group):
    """A group that says what was probably meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        if args[0] not in names and (close := difflib.get_close_matches(args[0], names, 1)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {close[0]!r}?")
        return super().resolve_command(ctx, args)


class Bytes(click.ParamType[int]):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is no size; write it as 500M, 20G or 1T.", param, ctx)
        return int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper())) if match[1] else 0


matrix_option = click.option(
    "--matrix", "matrix_file", type=click.Path(path_type=Path), default="matrix.yml", show_default=True,
    help="The models and how they are made.",
)  # fmt: skip
store_option = click.option(
    "--store", "store_root", type=click.Path(path_type=Path), envvar="LLM_QUANTIZER_STORE", show_envvar=True,
    help="Where artifacts are kept  [default: the platform's cache folder]",
)  # fmt: skip
results_option = click.option(
    "--results", "results", type=click.Path(path_type=Path), default="results", show_default=True,
    help="Where each command leaves what became of it, as JSON.",
)  # fmt: skip
publish_option = click.option(
    "--publish-to", "publish_to", metavar="DIR|hub", default="out", show_default=True,
    help="The folder that releases go to, each as <model>-GGUF; or `hub`.",
)  # fmt: skip
only_option = click.option(
    "--only", multiple=True, metavar="MODEL[:QUANT]", help="Only these; * stands for anything. May be repeated."
)
cuda_option = click.option(
    "--cuda/--no-cuda", default=None, help="Build llama.cpp with or without CUDA  [default: with, where it is there]"
)
