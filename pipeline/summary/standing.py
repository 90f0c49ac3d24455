"""What became of every job of a run: the plan, set beside the records that the run left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.plan import Job, ModelPlan, Plan
    from pipeline.result import Failure, Released, Result

State = Literal["published", "passed", "withheld", "withdrawn", "failed", "lost", "not run", "kept"]
"""`passed`: published nowhere. `lost`: in the plan, and neither a result nor a failure. `kept`: of the last release."""


HELD: tuple[State, ...] = ("withheld", "withdrawn")


@dataclass(frozen=True)
class Standing:
    """What became of one job."""

    job: str
    state: State
    result: Result | None
    file: str
    """What is, or would be, published, by its name or that of its first shard; empty where that is not known."""
    reason: str = ""
    """Why the plan left it alone, where it was withheld or withdrawn before."""

    @property
    def quant(self) -> str:
        return self.job.partition(":")[2]


@dataclass(frozen=True)
class ModelStanding:
    """What became of one model: its jobs in the order of the plan, and the failures that later records leave valid."""

    source: str
    repo: str
    """Empty where neither the plan nor a release names it."""
    jobs: tuple[Standing, ...]
    failures: tuple[Failure, ...]
    released: Released | None

    def count(self, *states: State) -> int:
        return sum(job.state in states for job in self.jobs)

    @property
    def untouched(self) -> bool:
        """Whether this run did nothing here, and nothing was to be done."""
        idle = sum(job.result is None and job.state not in ("failed", "lost") for job in self.jobs)
        return not self.failures and self.released is None and idle == len(self.jobs)


@dataclass
class _Model:
    """All that is known of one model."""

    plan: ModelPlan | None
    results: dict[str, Result]
    failures: list[Failure]
    released: Released | None


def standing(
    plan: Plan | None, results: Iterable[Result], failures: Iterable[Failure], released: Iterable[Released]
) -> list[ModelStanding]:
    """Set the records beside the plan, a model each: first those of the plan, in its order.

    Without a plan, what left a record is all there is, and nothing is `lost`.
    """
    known: dict[str, _Model] = {}

    def model(source: str) -> _Model:
        return known.setdefault(source, _Model(None, {}, [], None))

    for planned in plan.models if plan else ():
        model(planned.source).plan = planned
    for result in results:
        model(result.job.partition(":")[0]).results[result.job] = result
    for failure in failures:
        model(failure.subject.partition(":")[0]).failures.append(failure)
    for release in released:
        model(release.source).released = release
    return [_model(source, found) for source, found in known.items()]


def _model(source: str, known: _Model) -> ModelStanding:
    planned = {job.id: job for job in known.plan.jobs} if known.plan else {}
    released = known.released
    there = {f"{source}:{quant}": None for quant in released.published} if released else {}
    failures = [failure for failure in known.failures if not _overtaken(failure, known.results, there, released)]
    failed = [failure.subject for failure in failures if failure.command in ("job", "stage")]
    prepared = not any(failure.command == "prepare" for failure in failures)
    jobs = []
    for job in dict.fromkeys([*planned, *known.results, *failed, *there]):
        result = known.results.get(job)
        state = _state(planned.get(job), result, job in failed, job in there, released, prepared=prepared)
        file = result.files[0].name if result else planned[job].file if job in planned else ""
        reason = planned[job].reason if job in planned and state in HELD and not result else ""
        jobs.append(Standing(job, state, result, file, reason))
    repo = released.repo if released else known.plan.repo if known.plan else ""
    return ModelStanding(source, repo, tuple(jobs), tuple(failures), released)


def _overtaken(failure: Failure, results: dict[str, Result], there: dict[str, None], released: Released | None) -> bool:
    """Whether a later try went well: artifacts of a run that was re-run hold the failures of its first try too."""
    match failure.command:
        case "prepare":
            return bool(results)
        case "job":
            return failure.subject in results
        case "stage":
            return failure.subject in there
        case "release":
            return released is not None


def _state(
    planned: Job | None, result: Result | None, failed: bool, there: bool, released: Released | None, *, prepared: bool
) -> State:
    if result and result.withheld:
        return "withheld"
    if failed:
        return "failed"
    if result:
        if there:
            return "published"
        return "withdrawn" if released else "passed"
    if there or (planned and planned.action == "published"):
        return "kept"
    if planned and planned.action in ("withheld", "withdrawn"):
        return planned.action
    return "lost" if prepared and planned and planned.action == "run" else "not run"


def total(models: Sequence[ModelStanding], *states: State) -> int:
    return sum(model.count(*states) for model in models)
