"""Every way in which a run may end early: one class an exit code, one sentence with the fix in it."""

from __future__ import annotations

import errno
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WITHHELD = 1
INTERRUPTED = 130
NOT_INSTALLED = (
    "The package {} is missing. Run `make setup` once, then `source .venv/bin/activate`, or use .venv/bin/python."
)


class PipelineError(Exception):
    """A sentence for the user, with the fix in it. Subclasses say how the process exits."""

    exit_code: int


class GateError(PipelineError):
    """A gate withheld something."""

    exit_code = WITHHELD


class BadInputError(PipelineError):
    """Something that was given is wrong: matrix.yml, an option, a model, a text."""

    exit_code = 2


class ToolchainError(PipelineError):
    """llama.cpp could not be fetched or built, or one of its tools failed."""

    exit_code = 3


class KilledError(PipelineError):
    """A program was ended from outside, which says nothing of what it was at: never to be taken for a finding."""

    exit_code = 3


class CrashedError(ToolchainError):
    """A program ended itself by a signal, as by memory that is not its own."""


class HubError(PipelineError):
    """The Hub could not be reached, or refused."""

    exit_code = 4


class GatedError(HubError):
    """A model that may be read only by who accepted its terms."""


class GitHubError(PipelineError):
    """GitHub could not be reached, or refused."""

    exit_code = 4


class OutOfRoomError(PipelineError):
    """Not enough disk or memory."""

    exit_code = 5


@contextmanager
def disk_errors(where: Path, doing: str) -> Iterator[None]:
    """Turn a full disk into `OutOfRoomError` that names the place; any other OSError passes through."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(where).free
        raise OutOfRoomError(
            f"The disk is full ({free / 1e6:.0f} MB free at {where}) while {doing}. Free some space,"
            " run `python -m pipeline store gc --max-size …`, or point --store at a larger disk."
        ) from error
