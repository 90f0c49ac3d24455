"""A thousand models in twenty-five quants each: planned in seconds, every job once, within every limit of GitHub."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

from pipeline import actions, job, legs, matrix, plan, run, summary
from pipeline.actions import Links
from pipeline.matrix import lock
from pipeline.progress import Display
from pipeline.recipe import QUANT_TYPES
from pipeline.request import locked
from pipeline.result import Failure
from pipeline.source import Source
from pipeline.store import Store

MODELS = 1_000
QUANTS = [name for name in QUANT_TYPES if name not in {"F32", "F16", "BF16"}][:25]
MATRIX = f"""\
version: 1
llama_cpp: {{git: https://github.com/ggml-org/llama.cpp, commit: {"a" * 40}}}
defaults: {{organization: me, quants: [{", ".join(QUANTS)}]}}
models:
"""
SHARDS = {f"model-{number:05}-of-00030.safetensors": "c" * 64 for number in range(1, 31)}


def looked(model):
    """What the Hub would say of a model, without asking it."""
    return Source(model.source, "a" * 40, None, (), (), {}, "# A card", SHARDS, "no")


def test_it_is_planned_in_seconds_and_within_every_limit(tmp_path, monkeypatch, conclude):
    text = MATRIX + "".join(f"  - source: some-organization/a-model-of-theirs-{n}\n" for n in range(MODELS))
    shop = run.Workshop(
        Store(tmp_path / "store", Display(io.StringIO())), tmp_path, SimpleNamespace(last=lambda _repo: None)
    )
    began = time.monotonic()
    asked = matrix.parse(text.encode(), "matrix.yml", Path("/nowhere"))
    selections = plan.select(asked)
    toolchain = run.toolchain_of(asked, cuda=False)
    works = [job.Steps(s.model, looked(s.model), toolchain) for s in selections]
    made = plan.plan(selections, run.states(shop, works))
    batches = legs.batches(made)
    by_model = {model.source: legs.quants(model) for model in made.models}
    seconds = time.monotonic() - began
    conclude(f"{MODELS} models in {len(QUANTS)} quants are planned in {seconds:.1f} s, the Hub's answers given")

    entries = [entry for batch in batches for entry in json.loads(batch["models"])]
    assert all(len(json.loads(batch["models"])) <= legs.MOST for batch in batches)
    assert all(len(found) <= legs.MOST for found in by_model.values())
    jobs = Counter(f"{e['source']}:{quant}" for e in entries for leg in by_model[e["source"]] for quant in leg.split())
    assert len(jobs) == MODELS * len(QUANTS)
    assert set(jobs.values()) == {1}
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    actions.outputs({"due": str(len(batches)), "batches": json.dumps(batches)})  # else it raises
    # What every machine of the run reads again.
    assert len(matrix.parse(lock.dump(locked(asked, works)).encode(), "matrix.json", tmp_path).models) == MODELS
    # And the page of such a run, where the worst has come about.
    failures = [
        Failure(command="job", subject=name, exit_code=3, message="llama-quantize failed. " * 50) for name in jobs
    ]
    page = summary.run_page(made, [], failures, [], Links("https://github.com/me/quants/actions/runs/1"))
    assert len(page.encode()) < actions.SUMMARY_BYTES
