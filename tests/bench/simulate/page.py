"""docs/scale.md: the prose of page.md around the figures as they are now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from . import catalogue, fleet, limits, rates, work, workflows
from .fleet import HOUR
from .limits import DAY, Trials

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .catalogue import Planned
    from .fleet import Run, Totals
    from .limits import Limit
    from .rates import Machine

    Costs = dict[Machine, Totals]
    Found = Sequence[tuple[Limit, int | None]]

TEMPLATE = Path(__file__).with_name("page.md")
MODELS = 1_000
RUNNERS = (4, 16, 64, 256)
# For MAX_MODELS: fewer runners than its default keeps busy, and more.
SETTINGS = ((4, (1, 8)), (256, (8, 32)))
# The largest of the quants.
LARGEST = "Q8_0"


def page() -> str:
    planned = catalogue.planned(MODELS)
    trials, costs = Trials(planned), {machine: fleet.totals(planned, machine) for machine in rates.MACHINES}
    by_models = [(limit, limit.least()) for limit in limits.of_models(planned, rates.MACHINES[0])]
    by_runners = {
        (machine, runners): [(limit, limit.least()) for limit in limits.of_time(trials, machine, runners)]
        for machine in rates.MACHINES
        for runners in RUNNERS
    }
    by_size = {machine: limits.of_size(machine, LARGEST) for machine in rates.MACHINES}
    template = jinja2.Template(TEMPLATE.read_text(), undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return template.render(
        models=f"{MODELS:,}",
        quants=len(catalogue.QUANTS),
        seed=catalogue.SEED,
        max_models=workflows.MAX_MODELS,
        max_parallel=workflows.MAX_PARALLEL,
        hosted=fleet.HOSTED,
        memory=f"{rates.MACHINES[-1].memory / 1e9:.0f} GB of memory, the GPU {rates.MACHINES[-1].gpu_memory / 1e9:.0f}",
        breaks=[_in_order(by_models), *_too_few(by_runners), *_too_large(by_size)],
        hub_hours=_hours_of_the_hub(costs[rates.MACHINES[0]]),
        keeps_up=[
            (machine.name, int(rates.STORE.value * cost.seconds / cost.moved)) for machine, cost in costs.items()
        ],
        ladder=f"{sum(work.quantizing(8e9, quant) for quant in catalogue.LADDER) / HOUR:.1f}",
        fleets=_fleets(trials, costs),
        run=_run(costs[rates.MACHINES[0]]),
        longest=_longest(costs),
        parts=_parts(costs),
        settings=_settings(trials, costs),
        by_models=_by_models(by_models),
        by_runners=_by_runners(by_runners),
        by_size=_by_size(by_size),
        rates=_rates(),
        shapes=_shapes(planned),
    )


def _in_order(found: Found) -> str:
    return f"Models in one run: {'; then '.join(f'{what}, at {least:,}' for least, what in _by_least(found))}."


def _by_least(found: Found) -> list[tuple[int, str]]:
    return sorted((least, limit.what) for limit, least in found if least)


def _too_few(found: dict[tuple[Machine, int], Found]) -> list[str]:
    sentences = []
    for (machine, runners), limits_ in found.items():
        if broken := [f"{what} from {least:,} models on" for least, what in _by_least(limits_)]:
            sentences.append(f"{runners} runners of {machine.name}: {' and '.join(broken)}.")
    return sentences


def _too_large(found: dict[Machine, dict[str, float | None]]) -> list[str]:
    sentences = []
    for machine, leasts in found.items():
        least, what = min((least, what) for what, least in leasts.items() if least and "`timeout-minutes`" in what)
        sentences.append(f"A dense model on {machine.name}: {what}, from {least / 1e9:,.0f}B weights on.")
    return sentences


def _fleets(trials: Trials, costs: Costs) -> str:
    rows = []
    for machine, cost in costs.items():
        for runners in RUNNERS:
            run = trials.run(machine, runners, MODELS, workflows.MAX_MODELS)
            moved = f"{cost.moved / run.makespan / 1e9:.1f} GB/s"
            ends = _ends(run, cost, runners)
            rows.append((runners, machine.name, *ends, moved, f"{run.asked:,}", f"{run.registered:,}"))
    head = "runners|of|makespan|lower bound|ratio|busy|longest wait|store, mean|Hub's API, 5 min|registered, 1 h"
    return table(head, rows)


def _ends(run: Run, cost: Totals, runners: int) -> list[str]:
    bound = cost.bound(runners)
    busy = 100 * cost.seconds / runners / run.makespan
    ends = [f"{run.makespan / DAY:.1f} d", f"{bound / DAY:.1f} d", f"{run.makespan / bound:.3f}", f"{busy:.0f} %"]
    return [*ends, f"{run.waited / HOUR:.1f} h"]


def _settings(trials: Trials, costs: Costs) -> str:
    rows = []
    for runners, settings in SETTINGS:
        for machine, cost in costs.items():
            for most in settings:
                run = trials.run(machine, runners, MODELS, most)
                rows.append((runners, machine.name, most, *_ends(run, cost, runners), f"{run.stored / 1e12:.0f} TB"))
    return table("runners|of|`MAX_MODELS`|makespan|lower bound|ratio|busy|longest wait|store at most", rows)


def _run(cost: Totals) -> str:
    api, files = cost.requests.api, cost.requests.files
    return table(
        "of the whole run|",
        [
            ("jobs of GitHub Actions", f"{cost.jobs:,}"),
            ("artifacts of GitHub Actions", f"{cost.artifacts:,}"),
            ("downloaded from the Hub", f"{cost.down / 1e12:,.0f} TB"),
            ("uploaded to the Hub", f"{cost.up / 1e12:,.0f} TB"),
            ("moved between the runners and their store", f"{cost.moved / 1e12:,.0f} TB"),
            ("in the store at the end, where nothing is dropped", f"{cost.stored / 1e12:,.0f} TB"),
            ("requests to the Hub's API", f"{api:,}: {_hours_of_the_hub(cost)} h at its rate"),
            ("requests to the Hub for files", f"{files:,}: {files / work.FILE_LIMIT * work.WINDOW / HOUR:.0f} h"),
        ],
    )


def _hours_of_the_hub(cost: Totals) -> str:
    return f"{cost.requests.api / work.API_LIMIT * work.WINDOW / HOUR:.0f}"


def _longest(costs: Costs) -> str:
    rows = [
        (kind, *(_duration(cost.longest[kind]) for cost in costs.values()), _duration(limit))
        for kind, limit in workflows.TIMEOUTS.items()
    ]
    return table(f"longest job|{_names(costs)}|its `timeout-minutes`", rows)


def _parts(costs: Costs) -> str:
    names = dict.fromkeys(name for cost in costs.values() for name in cost.parts)
    rows = [(name, *(f"{100 * cost.parts[name] / cost.seconds:.1f} %" for cost in costs.values())) for name in names]
    hours = ("hours of runners", *(f"{cost.seconds / HOUR:,.0f}" for cost in costs.values()))
    return table(f"spent on|{_names(costs)}", [*rows, hours])


def _by_models(found: Found) -> str:
    rows = [(limit.what, limit.source, _least(limit, least)) for limit, least in found]
    return table("limit|from|models that break it", rows)


def _by_runners(found: dict[tuple[Machine, int], Found]) -> str:
    rows = [
        (runners, machine.name, *(_least(limit, least) for limit, least in limits_))
        for (machine, runners), limits_ in found.items()
    ]
    return table("runners|of|models that break the 24 h in the queue|models that break the 35 days of a run", rows)


def _least(limit: Limit, least: int | None) -> str:
    return f"{least:,}" if least else f"not with {limit.most:,}"


def _by_size(found: dict[Machine, dict[str, float | None]]) -> str:
    whats = next(iter(found.values()))
    rows = [(what, *(_weights(leasts[what]) for leasts in found.values())) for what in whats]
    return table(f"limit|{_names(found)}", rows)


def _weights(least: float | None) -> str:
    return f"{least / 1e9:,.0f}B" if least else f"not with {limits.LARGEST / 1e9:,.0f}B"


def _rates() -> str:
    rows = [
        (
            rate.what,
            f"{_short(rate.value)}{rate.unit}",
            rate.source,
            f"estimate: {rate.estimate}" if rate.estimate else "",
        )
        for rate in rates.RATES
    ]
    return table("rate|is|from|measured, or", rows)


def _short(value: float) -> str:
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.3g} {name} "
    return f"{value:g} "


def _shapes(planned: Planned) -> str:
    shapes = list(planned.shapes.values())
    rows = [
        (
            shape.name,
            shapes.count(shape),
            f"{shape.reference / 1e9:,.0f} GB",
            f"{planned.stored[shape] / 1e9:,.0f} GB",
            *(_duration(work.prepare(shape, machine).seconds) for machine in rates.MACHINES),
            *(_duration(work.job(shape, LARGEST, machine).seconds) for machine in rates.MACHINES),
        )
        for shape in catalogue.SHAPES
    ]
    jobs = "|".join(
        f"{job}, {'GPU' if m.gpu_memory else 'CPU'}" for job in ("Prepare", LARGEST) for m in rates.MACHINES
    )
    return table(f"size|models|reference|in the store|{jobs}", rows)


def _names(machines: Sequence[Machine] | dict) -> str:
    return "|".join(machine.name for machine in machines)


def _duration(seconds: float) -> str:
    return f"{seconds / HOUR:.1f} h" if seconds >= HOUR else f"{seconds / 60:.0f} min"


def table(head: str, rows: Sequence[Sequence[object]]) -> str:
    columns = head.split("|")
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in (columns, ["---"] * len(columns), *rows))
