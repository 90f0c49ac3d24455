"""The limits that a run has to keep, and from where on it breaks them: found by raising the models, or their size."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING
from unittest import mock

from pipeline import actions, legs
from pipeline.errors import BadInputError
from pipeline.plan import Plan

from . import work, workflows
from .catalogue import Planned, Shape
from .fleet import HOUR, simulate, totals

if TYPE_CHECKING:
    from collections.abc import Callable

    from .fleet import Run
    from .rates import Machine

DAY = 24 * HOUR
FACTS = "GitHub's documentation"
QUEUE, RUN = DAY, 35 * DAY
CHECK_RUNS, ARTIFACTS = 50_000, 1_000
# A disk for the store that nobody would be astonished at.
DISK = 20e12
MOST_MODELS = 10_000
STEP, LARGEST = 1e9, 2e12
"""Weights: in what steps the size of a model is raised, and how far."""


@dataclass(frozen=True)
class Limit:
    what: str
    source: str
    broken: Callable[[int], bool]
    """Whether so many models break it; with more of them it is taken to stay so."""
    most: int
    """Models up to which it is looked."""
    step: int = 1
    """How exactly: what takes a simulation a look is looked for in steps of several models."""

    def least(self) -> int | None:
        """Return the least number of models that breaks it, None where `most` do not."""
        steps = bisect(lambda count: self.broken(count * self.step), self.most // self.step)
        return steps and steps * self.step


class Trials:
    """Runs of the first models of a plan, each simulated once."""

    def __init__(self, planned: Planned) -> None:
        self.planned = planned
        self.run = cache(self._run)

    def _run(self, machine: Machine, runners: int, count: int, max_models: int | None) -> Run:
        return simulate(first(self.planned, count), machine, runners, max_models)


def bisect(broken: Callable[[int], bool], most: int) -> int | None:
    """Return the least number from 1 to `most` at which `broken` holds, None where it does not."""
    if not broken(most):
        return None
    below, least = 0, most
    while least - below > 1:
        middle = (below + least) // 2
        below, least = (below, middle) if broken(middle) else (middle, least)
    return least


def of_models(planned: Planned, machine: Machine) -> list[Limit]:
    """Return what breaks by the number of models, however many runners there are."""
    one = totals(first(planned, 1), machine)
    jobs, artifacts = one.jobs - 2, one.artifacts - 1
    sizes = [planned.stored[planned.shapes[model.source]] for model in planned.made.models]
    return [
        Limit(
            f"the {ARTIFACTS:,} artifacts of a run that `download-artifact` lists, if it does so for a job's own run",
            "actions/toolkit, pull request 2165, for what it asks of GitHub's API; for the rest nothing is documented",
            lambda count: 1 + artifacts * count > ARTIFACTS,
            MOST_MODELS,
        ),
        Limit(
            f"a store of {DISK / 1e12:.0f} TB from which nothing is dropped",
            "assumed",
            lambda count: sum(sizes[:count]) > DISK,
            len(sizes),
        ),
        Limit(
            f"GitHub's {CHECK_RUNS:,} check runs of a check suite, one a job",
            "docs.github.com/en/actions/reference/limits",
            lambda count: 2 + jobs * count > CHECK_RUNS,
            MOST_MODELS,
        ),
        Limit(
            f"the {workflows.TIMEOUTS['plan'] / 60:.0f} minutes of the job Plan, which asks at the Hub's rate",
            "quantize.yml; the Hub's documentation",
            lambda count: work.plan(count).seconds > workflows.TIMEOUTS["plan"],
            MOST_MODELS,
        ),
        Limit("1 MB of a job's outputs, for the batches", FACTS, lambda count: not _fits(planned, count), MOST_MODELS),
        Limit(
            "256 jobs of a matrix, for the batches",
            FACTS,
            lambda count: len(legs.batches(first(planned, count).made)) > legs.MOST,
            MOST_MODELS,
        ),
    ]


def of_time(trials: Trials, machine: Machine, runners: int) -> list[Limit]:
    """Return what breaks where so many runners are too few."""
    most = len(trials.planned.made.models)

    def run(count: int) -> Run:
        return trials.run(machine, runners, count, workflows.MAX_MODELS)

    return [
        Limit("24 h in the queue", FACTS, lambda count: run(count).waited > QUEUE, most, 20),
        Limit("35 days of a run", FACTS, lambda count: run(count).makespan > RUN, most, 20),
    ]


def of_size(machine: Machine, quant: str) -> dict[str, float | None]:
    """Return, by what a model breaks by its size, the weights of the smallest dense one that does; None for none."""
    costs = {
        "prepare": lambda shape: work.prepare(shape, machine),
        "job": lambda shape: work.job(shape, quant, machine),
        "stage": lambda shape: work.stage(shape, quant),
    }
    broken = {
        f"{kind.capitalize()}: {workflows.TIMEOUTS[kind] / HOUR:.0f} h, its `timeout-minutes`": (
            lambda n, kind=kind, cost=cost: cost(dense(n)).seconds > workflows.TIMEOUTS[kind]
        )
        for kind, cost in costs.items()
    }
    broken["Stage: the hour of a trusted publisher's token"] = lambda n: work.stage(dense(n), quant).seconds > HOUR
    broken["the reference in the memory of runner and GPU"] = lambda n: work.excess(dense(n).reference, machine) > 0
    leasts = {what: bisect(test, int(LARGEST / STEP)) for what, test in broken.items()}
    return {what: least and least * STEP for what, least in leasts.items()}


def dense(steps: int) -> Shape:
    return Shape(f"{steps}B", steps * STEP, steps * STEP, 128_256)


def first(planned: Planned, count: int) -> Planned:
    """Return the plan of the first models, and of those once more under other names where there are less."""
    models = list(planned.made.models[:count])
    while len(models) < count:
        known = planned.made.models[len(models) % len(planned.made.models)]
        models.append(replace(known, source=f"{known.source}-{len(models)}", repo=f"{known.repo}-{len(models)}"))
    return replace(planned, made=Plan(tuple(models)))


def _fits(planned: Planned, count: int) -> bool:
    """Whether the outputs of the job Plan are taken: asked of what writes them."""
    found = legs.batches(first(planned, count).made)
    with mock.patch.dict(os.environ, {"GITHUB_OUTPUT": os.devnull}):
        try:
            actions.outputs({"due": str(len(found)), "batches": json.dumps(found), "digest": "0" * 64})
        except BadInputError:
            return False
    return True
