"""What GitHub Actions wants of a job: its summary."""

from __future__ import annotations

import os
from pathlib import Path

# GitHub drops a step's summary whole where it is larger.
SUMMARY_BYTES = 1 << 20
CUT = "\n\n*The summary is cut here: GitHub shows 1 MiB a step.*\n"


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
