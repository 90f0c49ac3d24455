"""`python -m pipeline`: commands, options and exit codes, nothing else."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

import click

from pipeline import __version__, endings
from pipeline.cli import github, inspect, plan, publish, store, work
from pipeline.cli.options import Commands


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="llm-quantizer")
def cli() -> None:
    """Quantize Hugging Face models to GGUF, measure every file, publish what passes.

    Exit codes: 0 done, 1 a gate withheld something, 2 bad input, 3 the toolchain failed, 4 the Hub or GitHub failed,
    5 not enough disk or memory, 130 interrupted.
    """


for command in (
    plan.check,
    plan.plan_command,
    plan.legs_command,
    work.build,
    work.prepare,
    work.job_command,
    work.run_command,
    work.demo,
    inspect.inspect,
    publish.stage,
    publish.release,
    publish.card_command,
    publish.withdraw,
    github.summary,
    github.watch,
    github.comment,
    store.store_group,
):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line; every error that a user can cause ends in a sentence and its exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read when the Hub's client is imported
    code = endings.guarded(lambda: cli(standalone_mode=False))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is left that could make a sentence of another one
    sys.exit(code)


def _terminated(*_: object) -> NoReturn:
    raise KeyboardInterrupt
