"""How a command ends: the one table from what was raised to a sentence and an exit code."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from pipeline import actions, errors

if TYPE_CHECKING:
    from collections.abc import Callable

LOCATED = re.compile(r"[^\s:]+:\d+:\d+: ")


class Ending(NamedTuple):
    exit_code: int
    message: str


def ending(error: BaseException) -> Ending | None:
    """Say how a command ends that raised `error`; None for what is no failure of its own, and for a bug."""
    match error:
        case errors.PipelineError():
            return Ending(error.exit_code, str(error))
        case click.Abort() | KeyboardInterrupt():
            return Ending(errors.INTERRUPTED, "Interrupted. What was finished is kept; run again to go on.")
        case ModuleNotFoundError(name=str(name)) if not name.startswith("pipeline"):
            return Ending(errors.ToolchainError.exit_code, errors.NOT_INSTALLED.format(name))
    return None


def guarded(command: Callable[[], Any]) -> int:
    """Run `command` and return the exit code of how it ended."""
    try:
        with errors.disk_errors(Path.cwd(), "writing"):
            code = command()
    except (errors.PipelineError, click.Abort, KeyboardInterrupt, ModuleNotFoundError) as error:
        end = ending(error)
        if end is None:
            raise
        # A message with a place stands alone, so that editors and Actions find the place.
        alone = LOCATED.match(end.message) or end.exit_code == errors.INTERRUPTED
        said = actions.harmless(end.message)
        click.echo(said if alone else f"error: {said}", err=True)
        actions.annotate(said)
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return errors.BadInputError.exit_code
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except BrokenPipeError:
        # Whoever read our output has seen enough (`… | head`); nothing is left to be said on it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0
