"""The simulated fleet: driven by the real planner, never faster than can be, and docs/scale.md is what it prints."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import bundles
import pytest
from bench.simulate import catalogue, fleet, limits, page, rates, work, workflows
from bundles import REPO
from test_source import CONFIG, SHA, model

from pipeline import legs, safetensors, source
from pipeline.progress import Display
from pipeline.publish.hub import Hub

QUANTS = len(catalogue.QUANTS)


@pytest.fixture(scope="module")
def planned():
    return catalogue.planned(40)


def test_it_runs_every_job_of_the_plan_once(planned):
    run = fleet.simulate(planned, rates.MACHINES[0], 4)
    ran = Counter(f"{source}:{quant}" for source, leg in run.legs for quant in leg)
    assert set(ran.values()) == {1}
    assert set(ran) == {job.id for model in planned.made.models for job in model.to_do}
    assert len(ran) == 40 * QUANTS


def test_batches_and_legs_are_the_planners(planned, monkeypatch):
    machine = rates.MACHINES[0]
    alone = fleet.simulate(planned, machine, 1_000)
    assert {len(leg) for _, leg in alone.legs} == {1}
    assert fleet.totals(planned, machine).jobs == 2 + 40 * (3 + 2 * QUANTS)
    monkeypatch.setattr(legs, "MOST", 10)
    run = fleet.simulate(planned, machine, 1_000)
    assert {len(leg) for _, leg in run.legs} == {2, 3}
    assert fleet.totals(planned, machine).jobs == 2 + 40 * (3 + 2 * 10)
    assert run.stored > alone.stored  # four batches of ten beside each other, in place of one


@pytest.mark.parametrize("machine", rates.MACHINES, ids=lambda machine: machine.name)
def test_no_run_ends_before_its_lower_bound(planned, machine):
    cost = fleet.totals(planned, machine)
    spans = [fleet.simulate(planned, machine, runners).makespan for runners in (1, 4, 16, 1_000)]
    assert all(span >= cost.bound(runners) for span, runners in zip(spans, (1, 4, 16, 1_000), strict=True))
    assert spans == sorted(spans, reverse=True)
    assert cost.chain < spans[-1] < cost.seconds < spans[0]
    assert sum(cost.parts.values()) == pytest.approx(cost.seconds)


def test_a_model_with_all_runners_to_itself_takes_its_longest_chain(planned):
    first = limits.first(planned, 1)
    # Its 25 legs go eight at a time, so that it takes more than the slowest of them.
    chain = fleet.totals(first, rates.MACHINES[0]).chain
    assert chain <= fleet.simulate(first, rates.MACHINES[0], 1_000).makespan <= 4 * chain


def test_how_many_at_a_time_and_for_how_long_is_read_from_the_workflows(planned, monkeypatch):
    assert (workflows.BATCHES, workflows.MAX_MODELS, workflows.MAX_PARALLEL) == (None, 8, 8)
    assert workflows.TIMEOUTS["prepare"] == 24 * 3_600
    before = fleet.simulate(planned, rates.MACHINES[0], 1_000).makespan
    monkeypatch.setattr(workflows, "MAX_PARALLEL", 1)
    assert fleet.simulate(planned, rates.MACHINES[0], 1_000).makespan > 2 * before


def test_the_least_that_breaks_a_limit():
    assert [limits.bisect(lambda n, least=least: n >= least, 100) for least in (1, 2, 57, 100, 101)] == [
        1, 2, 57, 100, None,
    ]  # fmt: skip


def test_what_happens_at_most_within_a_window():
    most = fleet.Most(10.0)
    for when, count in ((0.0, 1), (5.0, 2), (9.0, 4), (10.0, 1), (30.0, 6)):
        most.add(when, count)
    assert most.most == 7


def test_every_rate_says_where_it_is_from():
    assert all(rate.source and rate.value > 0 for rate in rates.RATES)
    assert all(rate.estimate for rate in rates.RATES if rate.source == "assumed")


class TestRequests:
    """What the commands ask of the Hub is what the simulation counts for them."""

    @pytest.fixture
    def count(self, loopback_hub, monkeypatch):
        loopback_hub.add_token("hf_publisher", "me", "write", orgs={"nold": "write"})
        monkeypatch.setenv("HF_TOKEN", "hf_publisher")

        def count(call, *arguments):
            before = len(loopback_hub.requests)
            call(*arguments)
            paths = [request.path for request in loopback_hub.requests[before:]]
            api, files = (sum(part in path for path in paths) for part in ("/api/", "/resolve/"))
            return rates.Requests(api, files)

        return count

    def test_to_look_at_a_source(self, count, loopback_hub, tmp_path):
        shard = "model-00001-of-00001.safetensors"
        for name, content in {
            "config.json": json.dumps(CONFIG),
            "tokenizer.json": "{}",
            "README.md": "# A card",
            shard: "weights",
            safetensors.INDEX: json.dumps({"weight_map": {"a": shard}}),
        }.items():
            (tmp_path / name).write_text(content)
        loopback_hub.add("google/gemma-2b", tmp_path, SHA)
        assert count(source.look, model()) == rates.LOOK

    def test_to_stage_and_to_release(self, count, tmp_path):
        target = Hub(Display(io.StringIO()))
        weights = {f"gemma-2b-{quant}.gguf": bundles.gguf(quant) for quant in catalogue.QUANTS}
        files = {**weights, "imatrix.gguf": bundles.gguf("imatrix"), "README.md": bundles.card("It is one.")}
        bundle = bundles.bundle(tmp_path / "room", files)
        first, *others, imatrix = bundles.weights(tmp_path / "room", files)
        release = bundle.release
        assert count(target.last, REPO) == rates.FIRST_LAST
        target.check([bundles.planned(bundle)])
        target.stage(REPO, release.id, [first, imatrix])
        assert count(target.check, [bundles.planned(bundle)]) == rates.TARGET
        assert count(target.stage, REPO, release.id, [others[0], imatrix]) == rates.STAGE
        target.stage(REPO, release.id, others)
        assert count(target.holds, REPO, [first[0]], release.id) == rates.HOLDS
        assert count(target.is_open, REPO) == rates.IS_OPEN
        read_back = rates.Requests(0, QUANTS + 1)
        assert count(target.publish, bundle) == rates.PUBLISH + read_back


def test_the_page_is_what_the_simulation_prints():
    written = (Path(__file__).parent.parent / "docs" / "scale.md").read_text()
    assert written == page.page(), "if this is wanted: make simulate > docs/scale.md"


def test_a_plan_keeps_to_the_rate_of_the_hub():
    assert work.plan(1).seconds < work.plan(400).seconds
    assert work.plan(3_000).seconds >= 5 * work.WINDOW
