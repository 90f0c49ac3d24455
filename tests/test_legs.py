"""Plans as matrices of GitHub Actions: every job once, 256 legs at most, outputs within what GitHub takes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import actions, legs
from pipeline.errors import BadInputError
from pipeline.plan import Job, ModelPlan, Plan


def model(number, *quants, action="run", due=True):
    source = f"owner/model-{number}"
    jobs = tuple(Job(f"{source}:{quant}", f"{quant}.gguf", action, "") for quant in quants)
    return ModelPlan(source, "f" * 40, f"me/model-{number}-GGUF", "0" * 16, jobs, due)


def models_of(batches):
    return [entry for batch in batches for entry in json.loads(batch["models"])]


@given(st.integers(0, 1_100))
def test_every_model_is_in_one_batch(count):
    batches = legs.batches(Plan(tuple(model(n, "Q8_0") for n in range(count))))
    assert [entry["source"] for entry in models_of(batches)] == [f"owner/model-{n}" for n in range(count)]
    assert all(0 < len(json.loads(batch["models"])) <= 256 for batch in batches)
    assert len(batches) == -(-count // 256)


@given(st.integers(0, 1_000))
def test_every_quant_is_in_one_leg(count):
    names = [f"Q{n}" for n in range(count)]
    found = legs.quants(model(1, *names))
    assert sorted(name for leg in found for name in leg.split()) == sorted(names)
    assert len(found) == min(count, 256)
    assert all(len(leg.split()) == 1 for leg in found) == (count <= 256)


def test_a_release_of_the_card_alone_has_no_jobs_and_one_that_is_not_due_no_leg():
    batches = legs.batches(
        Plan((model(1, "Q8_0", action="published"), model(2, "Q8_0", action="published", due=False)))
    )
    (entry,) = models_of(batches)
    assert entry == {"source": "owner/model-1", "repo": "me/model-1-GGUF", "slug": "owner--model-1"}


def test_nothing_to_do_is_an_empty_list_and_never_a_dummy():
    assert legs.batches(Plan(())) == []
    assert legs.quants(model(1, "Q8_0", action="published")) == []


def test_outputs_are_one_line_each_and_not_more_than_github_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    batches = legs.batches(Plan(tuple(model(n, *["Q8_0"] * 25) for n in range(1_000))))
    actions.outputs({"due": "4", "batches": json.dumps(batches)})
    written = (tmp_path / "output").read_text()
    assert written.count("\n") == 2
    assert len(written.encode("utf-16-le")) < 1 << 20
    with pytest.raises(BadInputError, match="too large for one run"):
        actions.outputs({"batches": "x" * (1 << 20)})
