"""What GitHub Actions wants of a job: its summary, with links to the run that it belongs to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

# GitHub drops a step's summary whole where it is larger.
SUMMARY_BYTES = 1 << 20
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


def append_summary(text: str) -> None:
    """Add Markdown to the job's summary; outside of Actions, do nothing."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(capped(text))
