"""What GitHub Actions wants of a job: its summary with links to the run, its outputs, and its annotations."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

# GitHub drops a step's summary whole where it is larger.
SUMMARY_BYTES = 1 << 20
# Of all outputs of a job, counted as UTF-16.
OUTPUT_BYTES = 1 << 20
LOCATED = re.compile(r"(?P<file>[^\s:]+):(?P<line>\d+):(?P<column>\d+): (?P<text>.*)")
CUT = "\n\n*The summary is cut here: GitHub shows 1 MiB a step.*\n"


@dataclass(frozen=True)
class Links:
    """Where the run is that this process is part of; outside of Actions, nowhere."""

    run: str = ""
    """Address of the run, with its log and its jobs."""

    @classmethod
    def here(cls) -> Links:
        names = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")
        server, repository, run = (os.environ.get(name, "") for name in names)
        return cls(f"{server}/{repository}/actions/runs/{run}" if server and repository and run else "")


def capped(text: str) -> str:
    """Return `text`, cut at a line and saying so where GitHub would drop it for its size."""
    data = text.encode()
    if len(data) <= SUMMARY_BYTES:
        return text
    kept = data[: SUMMARY_BYTES - len(CUT.encode())]
    return kept[: kept.rfind(b"\n")].decode("utf-8", "ignore") + CUT


def outputs(values: Mapping[str, str]) -> None:
    """Set outputs of the step, each of one line; outside of Actions, print them.

    Raises `BadInputError` where GitHub would drop them for their size.
    """
    lines = "".join(f"{name}={value}\n" for name, value in values.items())
    if len(lines.encode("utf-16-le")) > OUTPUT_BYTES:
        raise BadInputError("The plan is too large for one run of GitHub Actions. Name fewer models with --only.")
    if path := os.environ.get("GITHUB_OUTPUT"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(lines)
    else:
        print(lines, end="")


def harmless(message: str) -> str:
    """Return `message` so that the runner takes no line of it for a command, whatever stands in it; see `annotate`.

    The runner obeys `::name::` where a line begins with it, blanks before it or not, and `##[name]` anywhere.
    """
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return message
    lines = message.splitlines(keepends=True)
    tame = (
        line.replace("::", ":\N{ZERO WIDTH SPACE}:", 1) if line.lstrip().startswith("::") else line for line in lines
    )
    return "".join(tame).replace("##[", "## [")


def annotate(message: str) -> None:
    """In Actions, mark the lines that an error names on the page of the pull request; elsewhere, do nothing."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return
    for line in message.splitlines():
        if found := LOCATED.fullmatch(line):
            place = f"file={_property(found['file'])},line={found['line']},col={found['column']}"
            print(f"::error {place}::{_data(found['text'])}", file=sys.stderr, flush=True)


def _data(text: str) -> str:
    """As actions/toolkit escapes what stands in a command of a workflow."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def append_summary(text: str) -> None:
    """Add Markdown to the job's summary; outside of Actions, do nothing."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(capped(text))
