"""What has to run and why: a pure function of the matrix, the base matrix and what is there already."""

from __future__ import annotations

import difflib
import fnmatch
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.matrix import Matrix
    from pipeline.matrix.model import Model
    from pipeline.result import Recipe, Release, Result

Action = Literal["run", "reuse", "published", "withheld", "withdrawn"]
TO_DO = ("run", "reuse")
"""What is done for a job; nothing for the others."""


@dataclass(frozen=True)
class State:
    """What is known of one model when the plan is made. Quants by name, steps by kind."""

    revision: str | None
    release_id: str
    artifacts: Mapping[str, str]
    """Digest of each quant's file in the store, there or not."""
    missing: Mapping[str, Sequence[str]]
    """Steps of each quant that the store lacks, those that it shares with the others included."""
    last: Release | None
    """The last release on the target."""
    valid: Mapping[str, Result]
    """Results of the last release that hold now, too; by quant."""


@dataclass(frozen=True)
class Job:
    id: str
    """owner/name:QUANT"""
    file: str
    action: Action
    reason: str


@dataclass(frozen=True)
class ModelPlan:
    source: str
    revision: str | None
    repo: str
    release: str
    """Id of the release that the jobs lead to."""
    jobs: tuple[Job, ...]
    due: bool
    """Whether a release is to be made, be it of the card alone."""

    @property
    def to_do(self) -> tuple[Job, ...]:
        return tuple(job for job in self.jobs if job.action in TO_DO)


@dataclass(frozen=True)
class Plan:
    models: tuple[ModelPlan, ...]
    version: Literal[1] = 1

    def to_json(self) -> dict[str, Any]:
        return {"version": self.version, "models": [asdict(model) for model in self.models]}

    @classmethod
    def from_json(cls, data: bytes) -> Plan:
        """Read what `to_json` gave.

        Raises `BadInputError` where it is something else.
        """
        try:
            return TypeAdapter(cls).validate_json(data)
        except ValidationError as error:
            raise BadInputError("This is no plan of this version of the pipeline. Plan again.") from error


@dataclass(frozen=True)
class Selection:
    """A model of the matrix, those of its quants that are asked for, and why each is."""

    model: Model
    recipes: tuple[Recipe, ...]
    reasons: Mapping[str, str]
    """By quant; empty where nothing but being in the matrix speaks for it."""


def select(matrix: Matrix, only: Sequence[str] = (), base: Matrix | None = None) -> tuple[Selection, ...]:
    """Return what `only` names (MODEL or MODEL:QUANT, wildcards allowed) and what differs from `base`.

    Raises `BadInputError` for a name in `only` that nothing in the matrix answers to.
    """
    jobs = {m.job(r.name): (m, r) for m in matrix.models for r in m.recipes}
    wanted = set(jobs) if not only else {job for pattern in only for job in _matching(pattern, jobs)}
    before = {m.source: m for m in base.models} if base else {}
    toolchain_changed = base is not None and base.llama_cpp != matrix.llama_cpp
    selections = []
    for model in matrix.models:
        reasons = {}
        for recipe in model.recipes:
            if model.job(recipe.name) not in wanted:
                continue
            if base is None:
                reasons[recipe.name] = ""
            elif reason := _difference(model, recipe, before.get(model.source)):
                reasons[recipe.name] = reason
            elif toolchain_changed:
                reasons[recipe.name] = "llama.cpp changed"
        if reasons:
            selections.append(Selection(model, tuple(r for r in model.recipes if r.name in reasons), reasons))
    return tuple(selections)


def load(path: Path) -> Plan:
    """Read a plan that `plan --out` left.

    Raises `BadInputError` where there is none.
    """
    try:
        return Plan.from_json(path.read_bytes())
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}. Name the plan.json of the run.") from error


def plan(selections: Sequence[Selection], states: Mapping[str, State], *, force: bool = False) -> Plan:
    """Decide for each job whether it runs. `states` by the model's source; `force`: what is published, too."""
    models = []
    for selection in selections:
        model, state = selection.model, states[selection.model.source]
        jobs = []
        for recipe in selection.recipes:
            action, reason = _decide(recipe.name, state, force=force)
            why = "; ".join(part for part in (selection.reasons[recipe.name], reason) if part)
            jobs.append(Job(model.job(recipe.name), model.file_name(recipe.name), action, why))
        due = state.last is None or state.last.id != state.release_id or any(j.action in TO_DO for j in jobs)
        models.append(ModelPlan(model.source, state.revision, model.repo, state.release_id, tuple(jobs), due))
    return Plan(tuple(models))


def _decide(quant: str, state: State, *, force: bool) -> tuple[Action, str]:
    last, missing = state.last, state.missing[quant]
    if last and (gone := last.withdrawal(quant, state.artifacts[quant])):
        return "withdrawn", f"on {gone.date}: {gone.reason}"
    if last and not force and (valid := state.valid.get(quant)):
        if valid.withheld:
            return "withheld", f"in release {last.id}: {'; '.join(v.seen for v in valid.failures)}"
        return "published", f"release {last.id} has it"
    if quant in state.valid:
        return "run", "forced"
    if not missing:
        return "reuse", "the store has all of it"
    if "quant" not in missing:
        return "run", f"quantized; {', '.join(missing)} still to do"
    released = {r.recipe.name: r.artifact for r in last.results} if last else {}
    if last and quant in last.missing:
        return "run", f"its job came to no result for release {last.id}"
    if quant not in released:
        return "run", "not made yet"
    if released[quant] != state.artifacts[quant]:
        return "run", "made from other inputs than the last release's"
    return "run", "in the last release, but measured or named otherwise"


def _matching(pattern: str, jobs: Mapping[str, Any]) -> list[str]:
    name, _, quant = pattern.partition(":")
    wanted = f"{name}:{quant or '*'}".lower()
    if found := [job for job in jobs if fnmatch.fnmatchcase(job.lower(), wanted)]:
        return found
    names = [*jobs, *dict.fromkeys(job.partition(":")[0] for job in jobs)]
    close = difflib.get_close_matches(pattern, names, 1, 0.4)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise BadInputError(f"Nothing in the matrix is called {pattern}.{hint} `python -m pipeline plan` lists the jobs.")


def _difference(model: Model, recipe: Recipe, before: Model | None) -> str:
    """Say what makes a job another than in the base matrix; empty where nothing does."""
    if before is None:
        return "new model"
    old = {r.name: r for r in before.recipes}
    if recipe.name not in old:
        return "new quant"
    if old[recipe.name] != recipe:
        return "recipe changed"
    ignored = {"recipes", "line", "column"}
    changed = [
        f.name for f in fields(model) if f.name not in ignored and getattr(model, f.name) != getattr(before, f.name)
    ]
    return f"{', '.join(changed)} changed" if changed else ""
