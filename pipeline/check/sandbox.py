"""Renders a chat template that nobody trusts: in a process of its own, without rights, memory, time or a way out."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Literal, get_args

import jinja2
import markupsafe

from pipeline.errors import ToolchainError

if TYPE_CHECKING:
    from collections.abc import Sequence

WORKER = Path(__file__).with_name("template_worker.py")
SECONDS = 4
"""Processor time for all conversations together; a large template takes a fifth of a second."""
PATIENCE = 60.0
"""Seconds by the clock, on whatever else the machine does."""

Kind = Literal["raised", "syntax", "error", "range", "escape", "time", "memory", "output"]
# What ends a rendering and the ones after it.
FINAL = ("escape", "time", "memory", "output")


@dataclass(frozen=True)
class Failure:
    """Why a template gave no text.

    "raised": the template's own `raise_exception`, with its message. "syntax": it does not compile. "range": it wanted
    more numbers than Jinja's sandbox counts. "escape": it reached for what the sandbox forbids. "time", "memory",
    "output": it needed more than there is. "error": anything else, such as a value that is not there.
    """

    kind: Kind
    message: str = ""


@dataclass(frozen=True)
class Rendering:
    outcomes: tuple[str | Failure, ...]
    """One a context, in their order."""
    attempts: tuple[str, ...]
    """Names by which the template tries to leave its sandbox, whether or not it comes to them: `__globals__`."""


def render(template: str, contexts: Sequence[dict[str, Any]], seconds: int = SECONDS) -> Rendering:
    """Render `template` with each of `contexts`, plain JSON values, as `transformers` would, at a fixed time of day.

    Once it used up its `seconds`, its memory or its room for output, or got out of Jinja's sandbox, what is left of the
    contexts has the same failure. Raises `ToolchainError` where the program for it does not start.
    """
    # Files in place of pipes: neither side can wait for the other, and the kernel bounds what is written.
    with TemporaryFile() as asked, TemporaryFile() as said:
        asked.write(json.dumps({"template": template, "contexts": list(contexts)}).encode())
        asked.seek(0)
        ending = _run(asked.fileno(), said.fileno(), seconds)
        said.seek(0)
        lines = _lines(said.read())
    if not lines:
        raise ToolchainError(f"The sandbox for chat templates did not start: {sys.executable} ended with {ending}.")
    attempts = lines[-1]["attempts"]
    outcomes = [_outcome(line) for line in lines if "text" in line or "error" in line]
    if len(outcomes) < len(contexts):
        if not outcomes or not isinstance(outcomes[-1], Failure) or outcomes[-1].kind not in FINAL:
            outcomes.append(_killed(ending))
        outcomes += [outcomes[-1]] * (len(contexts) - len(outcomes))
    return Rendering(tuple(outcomes[: len(contexts)]), tuple(map(str, attempts)))


def _run(stdin: int, stdout: int, seconds: int) -> int | None:
    """Return the program's exit status as `subprocess` has it, None where it had to be stopped by the clock."""
    folders = [Path(module.__file__).parent.parent for module in (jinja2, markupsafe) if module.__file__]
    # Not through shell.py: that gives a program our environment and all the time it wants.
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", WORKER, *folders, str(seconds)],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        cwd="/",
        # Some Pythons find their own library by this.
        env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
        process_group=0,
    )
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _lines(said: bytes) -> list[dict[str, Any]]:
    """Read what the program printed; the last line may be half there."""
    lines = []
    for line in said.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            break
        if not isinstance(value, dict) or not isinstance(value.get("attempts"), list):
            break
        lines.append(value)
    return lines


def _outcome(line: dict[str, Any]) -> str | Failure:
    if "text" in line:
        return str(line["text"])
    return Failure(line["error"] if line["error"] in get_args(Kind) else "error", str(line.get("message", "")))


def _killed(ending: int | None) -> Failure:
    """Say why the program is gone: it does not end by itself before its last line."""
    if ending is None or ending == -signal.SIGXCPU:
        return Failure("time")
    if ending == -signal.SIGKILL:
        return Failure("memory")
    return Failure("error", f"the renderer ended with {ending}")
