"""How a command ends: the one table from what was raised to a sentence and an exit code."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import actions, errors

if TYPE_CHECKING:
    from collections.abc import Callable

LOCATED = re.compile(r"[^\s:]+:\d+:\d+: ")


def guarded(command: Callable[[], Any]) -> int:
    """Run `command` and return the exit code of how it ended."""
    try:
        with errors.disk_errors(Path.cwd(), "writing"):
            code = command()
    except errors.PipelineError as error:
        # A message with a place stands alone, so that editors and Actions find the place.
        click.echo(str(error) if LOCATED.match(str(error)) else f"error: {error}", err=True)
        actions.annotate(str(error))
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return errors.BadInputError.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted. What was finished is kept; run again to go on.", err=True)
        return errors.INTERRUPTED
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("pipeline"):
            raise
        click.echo(f"error: {errors.NOT_INSTALLED.format(error.name)}", err=True)
        return errors.ToolchainError.exit_code
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except BrokenPipeError:
        # Whoever read our output has seen enough (`… | head`); nothing is left to be said on it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0
