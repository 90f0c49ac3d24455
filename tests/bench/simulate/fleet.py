"""A run of the workflows: what all of it costs, and on so many runners when it ends."""

from __future__ import annotations

import heapq
import itertools
import json
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from pipeline import legs

from . import rates, work, workflows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.plan import ModelPlan

    from .catalogue import Planned, Shape
    from .rates import Machine
    from .work import Work

    Done = Callable[[], None]

# Standard runners of GitHub at a time, on its free plan: docs.github.com/en/actions/reference/limits.
HOSTED = 20
HOUR = 3_600.0


@dataclass
class Totals:
    """What a plan costs on runners of one kind, however many there are."""

    jobs: int = 2
    """Of GitHub Actions; the plan and the report are two."""
    artifacts: int = 1
    """Uploaded in the run; the plan is one."""
    seconds: float = 0.0
    """Of runners of our own."""
    parts: Counter[str] = field(default_factory=Counter)
    """Those seconds, by what they are spent on."""
    chain: float = 0.0
    """Seconds of the longest chain: the plan, then one model, with all runners to itself."""
    longest: dict[str, float] = field(default_factory=dict)
    """Seconds of the longest job by kind."""
    requests: rates.Requests = field(default_factory=lambda: rates.Requests(0))
    down: float = 0.0
    up: float = 0.0
    moved: float = 0.0
    stored: float = 0.0

    def bound(self, runners: int) -> float:
        """No order of the jobs ends sooner."""
        return max(self.seconds / runners, self.chain)


@dataclass
class Run:
    """What became of it on so many runners. Times in seconds from its beginning."""

    makespan: float = 0.0
    waited: float = 0.0
    """The longest that a job waited for a runner of our own."""
    stored: float = 0.0
    """Bytes in the store at most, if a model's went with its release."""
    asked: int = 0
    """Requests to the Hub's API at most in five minutes, without those of the plan, which keeps to its limit."""
    registered: int = 0
    """Jobs at most for which a runner registered within an hour."""
    legs: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    """The sources and quants of all legs, in the order in which they were queued."""


class Most:
    """The largest sum of what happens within any `window` seconds, told in the order in which it happens."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._recent: deque[tuple[float, int]] = deque()
        self._sum = 0
        self.most = 0

    def add(self, when: float, count: int = 1) -> None:
        self._recent.append((when, count))
        self._sum += count
        while self._recent[0][0] <= when - self._window:
            self._sum -= self._recent.popleft()[1]
        self.most = max(self.most, self._sum)


def totals(planned: Planned, machine: Machine) -> Totals:
    found, begun = Totals(), work.plan(len(planned.made.models))
    for model in planned.made.models:
        shape, each = planned.shapes[model.source], _legs(model)
        prepare = work.prepare(shape, machine)
        chains = []
        costs = [("prepare", prepare)]
        for leg in each:
            make, stage, _ = _costs(shape, leg, machine)
            chains.append(make + stage)
            costs += [("job", work.job(shape, quant, machine)) for quant in leg]
            costs += [("stage", work.stage(shape, quant)) for quant in leg]
        for kind, cost in costs:
            found.longest[kind] = max(found.longest.get(kind, 0.0), cost.seconds)
            found.seconds += cost.seconds
            found.parts.update(dict(cost.parts))
            found.requests += cost.requests
            found.down += cost.down
            found.up += cost.up
            found.moved += cost.moved
        release = work.release(sum(map(len, each)))
        found.longest["release"] = max(found.longest.get("release", 0.0), release.seconds)
        found.requests += release.requests
        found.stored += planned.stored[shape]
        found.jobs += 3 + 2 * len(each)
        found.artifacts += 1 + len(each)
        alone = begun.seconds + work.LEGS.seconds + prepare.seconds + max(chains) + release.seconds
        found.chain = max(found.chain, alone)
    found.requests += begun.requests
    found.longest |= {"plan": begun.seconds, "legs": work.LEGS.seconds, "report": work.REPORT.seconds}
    return found


def _legs(model: ModelPlan) -> list[tuple[str, ...]]:
    return [tuple(leg.split()) for leg in legs.quants(model)]


@cache
def _costs(shape: Shape, leg: tuple[str, ...], machine: Machine) -> tuple[float, float, int]:
    """Return the seconds of a leg's job and of its staging, and how often both ask the Hub's API."""
    made, staged = [work.job(shape, quant, machine) for quant in leg], [work.stage(shape, quant) for quant in leg]
    requests = sum(cost.requests.api for cost in made + staged)
    return sum(cost.seconds for cost in made), sum(cost.seconds for cost in staged), requests


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Done]] = []
        self._order = itertools.count()

    def after(self, seconds: float, then: Done) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), then))

    def run(self) -> None:
        while self._events:
            self.now, _, then = heapq.heappop(self._events)
            then()


class Pool:
    """Runners that take jobs in the order in which they were queued."""

    def __init__(self, clock: Clock, size: int) -> None:
        self._clock = clock
        self._free = size
        self._queue: deque[tuple[float, float, Done]] = deque()
        self.waited = 0.0
        self.registered = Most(HOUR)

    def submit(self, seconds: float, done: Done) -> None:
        if self._free:
            self._begin(seconds, done)
        else:
            self._queue.append((self._clock.now, seconds, done))

    def _begin(self, seconds: float, done: Done) -> None:
        self._free -= 1
        self.registered.add(self._clock.now)
        self._clock.after(seconds, partial(self._end, done))

    def _end(self, done: Done) -> None:
        self._free += 1
        if self._queue:  # what has been waiting comes before what `done` asks for
            queued, seconds, next_done = self._queue.popleft()
            self.waited = max(self.waited, self._clock.now - queued)
            self._begin(seconds, next_done)
        done()


def matrix(items: Sequence, limit: int | None, begin: Callable[[Any, Done], None], done: Done) -> None:
    """Begin `limit` items, None for all, then one whenever one has ended, as a matrix of GitHub Actions does."""
    waiting, left = deque(items), len(items)

    def ended() -> None:
        nonlocal left
        left -= 1
        if waiting:
            begin(waiting.popleft(), ended)
        elif not left:
            done()

    if not items:
        done()
    for _ in range(min(len(items), limit or len(items))):
        begin(waiting.popleft(), ended)


def simulate(planned: Planned, machine: Machine, runners: int, max_models: int | None = workflows.MAX_MODELS) -> Run:
    """Run a plan in the batches and legs that the workflows would have of it."""
    return _Dispatch(planned, machine, runners, max_models).run()


class _Dispatch:
    """quantize.yml, models.yml, model.yml and quant.yml: what is queued once what ends."""

    def __init__(self, planned: Planned, machine: Machine, runners: int, max_models: int | None) -> None:
        self._planned, self._machine, self._max_models = planned, machine, max_models
        self._plans = {model.source: model for model in planned.made.models}
        self._clock, self._run, self._asked, self._stored = Clock(), Run(), Most(work.WINDOW), 0
        self._own, self._hosted = Pool(self._clock, runners), Pool(self._clock, HOSTED)

    def run(self) -> Run:
        made = self._planned.made
        report = partial(self._submit, self._hosted, work.REPORT, lambda: None)
        batches = partial(matrix, legs.batches(made), workflows.BATCHES, self._batch, report)
        self._hosted.submit(work.plan(len(made.models)).seconds, batches)
        self._clock.run()
        run = self._run
        run.makespan, run.waited = self._clock.now, self._own.waited
        run.asked, run.registered = self._asked.most, self._own.registered.most
        return run

    def _batch(self, entry: dict[str, str], done: Done) -> None:
        matrix(json.loads(entry["models"]), self._max_models, self._model, done)

    def _model(self, entry: dict[str, str], done: Done) -> None:
        source = entry["source"]
        shape, each = self._planned.shapes[source], _legs(self._plans[source])
        size = self._planned.stored[shape]
        gone = partial(self._hold, -size, done)
        release = partial(self._submit, self._hosted, work.release(sum(map(len, each))), gone)
        quants = partial(matrix, each, workflows.MAX_PARALLEL, partial(self._quant, source, shape), release)
        prepare = partial(self._submit, self._own, work.prepare(shape, self._machine), quants)
        self._submit(self._hosted, work.LEGS, partial(self._hold, size, prepare))

    def _quant(self, source: str, shape: Shape, leg: tuple[str, ...], done: Done) -> None:
        make, stage, requests = _costs(shape, leg, self._machine)
        self._run.legs.append((source, leg))
        self._own.submit(make, partial(self._own.submit, stage, partial(self._ask, requests, done)))

    def _submit(self, pool: Pool, cost: Work, done: Done) -> None:
        pool.submit(cost.seconds, partial(self._ask, cost.requests.api, done))

    def _ask(self, requests: int, done: Done) -> None:
        self._asked.add(self._clock.now, requests)
        done()

    def _hold(self, size: int, done: Done) -> None:
        self._stored += size
        self._run.stored = max(self._run.stored, self._stored)
        done()
