"""What the workflow files themselves say: how many at a time, and how long a job may take."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

FOLDER = Path(__file__).parents[3] / ".github" / "workflows"


def _jobs(name: str) -> dict:
    return yaml.safe_load((FOLDER / f"{name}.yml").read_text())["jobs"]


def _at_a_time(job: dict) -> int | None:
    """Return `max-parallel` as it is where nobody has set the variable; None where there is none."""
    said = job["strategy"].get("max-parallel")
    return None if said is None else int(re.search(r"\|\| '(\d+)'", str(said))[1])


_QUANTIZE, _MODELS, _MODEL, _QUANT = map(_jobs, ("quantize", "models", "model", "quant"))
BATCHES = _at_a_time(_QUANTIZE["models"])
MAX_MODELS = _at_a_time(_MODELS["model"])
MAX_PARALLEL = _at_a_time(_MODEL["quant"])
# Seconds that each kind of job may take.
TIMEOUTS = {
    kind: 60.0 * jobs[kind]["timeout-minutes"]
    for jobs, kinds in (
        (_QUANTIZE, ("plan", "report")),
        (_MODEL, ("legs", "prepare", "release")),
        (_QUANT, ("job", "stage")),
    )
    for kind in kinds
}
