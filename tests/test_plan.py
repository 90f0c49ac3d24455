"""The plan as a pure function: goldens for what it says, names that nothing answers to, what a pull request changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import factories
import pytest

from pipeline import matrix, plan, report
from pipeline.errors import BadInputError
from pipeline.result import Withdrawal

MATRIX = """\
version: 1
llama_cpp: {git: https://github.com/ggml-org/llama.cpp, commit: 0123456789abcdef0123456789abcdef01234567}
defaults: {organization: me, quants: [Q8_0, Q4_K_M]}
models:
  - source: google/gemma-2b
  - source: HuggingFaceTB/SmolLM2-135M-Instruct
    quants: [Q4_K_M, IQ4_XS]
"""
ALL_STEPS = ["reference", "imatrix", "logits", "quant", "answer", "quality", "speed"]


def load(text: str = MATRIX) -> matrix.Matrix:
    return matrix.parse(text.encode(), "matrix.yml", Path("/nowhere"))


def state(missing=(), release_id="aaaa", artifacts=None, last=None, valid=(), quants=("Q8_0", "Q4_K_M", "IQ4_XS")):
    missing = dict.fromkeys(quants, ()) | dict(missing)
    artifacts = artifacts or dict.fromkeys(quants, "new")
    return plan.State("f" * 40, release_id, artifacts, missing, last, {r.quant: r for r in valid})


def planned(selections, states):
    return {job.id: (job.action, job.reason) for model in plan.plan(selections, states).models for job in model.jobs}


def test_a_first_run_makes_everything(golden):
    selections = plan.select(load())
    everything = state(dict.fromkeys(("Q8_0", "Q4_K_M", "IQ4_XS"), ALL_STEPS))
    made = plan.plan(selections, {s.model.source: everything for s in selections})
    golden("plan.txt", report.plan_table(made) + "\n")
    golden("plan.json", json.dumps(made.to_json(), indent=1) + "\n")


def test_what_is_there_is_not_made_again():
    release = factories.release(quants=["Q8_0", "Q4_K_M"])
    selections = plan.select(load(), ["google/gemma-2b"])
    old = {r.quant: r.artifact for r in release.results}

    def one(**known):
        return planned(selections, {"google/gemma-2b": state(**known)})["google/gemma-2b:Q8_0"]

    gone = {"Q8_0": ALL_STEPS}
    assert one() == ("reuse", "the store has all of it")
    assert one(missing={"Q8_0": ["quality", "speed"]}) == ("run", "quantized; quality, speed still to do")
    assert one(missing=gone) == ("run", "not made yet")
    assert one(missing=gone, last=release, valid=release.results) == ("published", f"release {release.id} has it")
    assert one(missing=gone, last=release)[1] == "made from other inputs than the last release's"
    assert one(missing=gone, last=release, artifacts=old)[1] == "in the last release, but measured or named otherwise"
    lost = release.model_copy(update={"results": (), "missing": ("Q8_0",)})
    assert one(missing=gone, last=lost) == ("run", f"its job came to no result for release {release.id}")
    withheld = factories.release(quants=[], withheld=["Q8_0"])
    assert one(missing=gone, last=withheld, valid=withheld.results)[0] == "withheld"


def test_force_runs_what_is_published_and_nothing_that_was_withdrawn():
    release = factories.release(quants=["Q8_0"])
    gone = Withdrawal(quant="Q4_K_M", artifact="new", reason="Answers in loops", date="2026-11-25")
    known = state({"Q8_0": ALL_STEPS}, last=release.model_copy(update={"withdrawn": (gone,)}), valid=release.results)
    selections = plan.select(load(), ["google/gemma-2b"])
    made = plan.plan(selections, {"google/gemma-2b": known}, force=True)
    assert [(job.action, job.reason) for job in made.models[0].jobs] == [
        ("run", "forced"),
        ("withdrawn", "on 2026-11-25: Answers in loops"),
    ]


def test_a_release_is_due_for_a_changed_card_alone():
    release = factories.release(quants=["Q8_0", "Q4_K_M"])
    selections = plan.select(load(), ["google/gemma-2b"])

    def due(release_id):
        known = state(last=release, valid=release.results, release_id=release_id)
        return plan.plan(selections, {"google/gemma-2b": known}).models[0]

    assert not due(release.id).due
    assert due("bbbb").due
    assert due("bbbb").to_do == ()


def test_nothing_to_do_says_so():
    assert report.plan_table(plan.plan((), {})) == "Nothing to do."


@pytest.mark.parametrize(
    ("only", "jobs"),
    [
        (["google/gemma-2b:Q4_K_M"], ["google/gemma-2b:Q4_K_M"]),
        (["google/gemma-2b"], ["google/gemma-2b:Q8_0", "google/gemma-2b:Q4_K_M"]),
        (["*:q4_k_m"], ["google/gemma-2b:Q4_K_M", "HuggingFaceTB/SmolLM2-135M-Instruct:Q4_K_M"]),
        (["google/*:Q8_0", "*:IQ4_XS"], ["google/gemma-2b:Q8_0", "HuggingFaceTB/SmolLM2-135M-Instruct:IQ4_XS"]),
    ],
)
def test_only_names_models_and_jobs(only, jobs):
    assert [s.model.job(r.name) for s in plan.select(load(), only) for r in s.recipes] == jobs


def test_only_with_a_typo_says_what_was_meant():
    with pytest.raises(BadInputError, match=r"Did you mean google/gemma-2b:Q4_K_M\?"):
        plan.select(load(), ["google/gemma-2b:Q4_K_N"])
    with pytest.raises(BadInputError, match=r"Did you mean google/gemma-2b\?"):
        plan.select(load(), ["google/gema-2b"])


@pytest.mark.parametrize(
    ("before", "after", "reasons"),
    [
        ("", "", {}),
        (" [Q4_K_M, IQ4_XS]", " [Q4_K_M, IQ4_XS, Q2_K]", {"HuggingFaceTB/SmolLM2-135M-Instruct:Q2_K": "new quant"}),
        (
            "  - source: google/gemma-2b\n",
            "  - source: google/gemma-2b\n    prompt: Hello\n",
            {"google/gemma-2b:Q8_0": "prompt changed", "google/gemma-2b:Q4_K_M": "prompt changed"},
        ),
        (
            "models:\n",
            "models:\n  - source: a/b\n    quants: [Q2_K]\n",
            {"a/b:Q2_K": "new model"},
        ),
    ],
)
def test_base_leaves_what_a_change_touches(before, after, reasons):
    selections = plan.select(load(MATRIX.replace(before, after, 1)), base=load())
    assert {s.model.job(q): why for s in selections for q, why in s.reasons.items()} == reasons


def test_another_llama_cpp_touches_everything():
    new = replace(load(), llama_cpp=matrix.GitSource("https://github.com/ggml-org/llama.cpp", "f" * 40))
    selections = plan.select(new, base=load())
    assert {why for s in selections for why in s.reasons.values()} == {"llama.cpp changed"}
    assert sum(len(s.recipes) for s in selections) == 4
