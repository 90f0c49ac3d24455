"""What the commands have in common: their options, sizes as people write them, and a group that knows typos."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

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


class Names(click.ParamType[tuple[str, ...]]):
    """Several names in one value, with commas or blanks between them: what the field of a button holds."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:  # noqa: ARG002
        return tuple(re.split(r"[\s,]+", str(value).strip(" \t\r\n,"))) if str(value).strip(" \t\r\n,") else ()


def joined(_context: click.Context, _option: click.Parameter, values: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(name for names in values for name in names)


matrix_option = click.option(
    "--matrix", "matrix_file", type=click.Path(path_type=Path), default="matrix.yml", show_default=True,
    help="The models and how they are made.",
)  # fmt: skip
store_option = click.option(
    "--store", "store_root", type=click.Path(path_type=Path), envvar="LLM_QUANTIZER_STORE", show_envvar=True,
    help="Where artifacts are kept  [default: the platform's cache folder]",
)  # fmt: skip
remote_store_option = click.option(
    "--remote-store", "remote_store", metavar="URL|DIR", envvar="LLM_QUANTIZER_REMOTE_STORE", show_envvar=True,
    help="A second tier of the store, shared with other machines: a folder, or s3://…, hf://…, any URL of fsspec.",
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
    "--only", type=Names(), multiple=True, metavar="MODEL[:QUANT]", callback=joined,
    help="Only these; * stands for anything. May be repeated, or hold several.",
)  # fmt: skip
dry_run_option = click.option("--dry-run", is_flag=True, help="Print the change that this would make, and make none.")
cuda_option = click.option(
    "--cuda/--no-cuda", default=None, help="Build llama.cpp with or without CUDA  [default: with, where it is there]"
)
lanes_option = click.option(
    "--at-once", "lanes", type=click.IntRange(min=1), metavar="N",
    help="Work on so many quants of a model at the same time  [default: what cores and memory allow]",
)  # fmt: skip
engine_option = click.option(
    "--engine", type=click.Choice(["by-tensor", "llama-quantize"]), default="by-tensor", show_default=True,
    envvar="LLM_QUANTIZER_ENGINE", show_envvar=True,
    help="Who quantizes: each tensor once for all quants, or llama-quantize each file. The bytes are the same.",
)  # fmt: skip
