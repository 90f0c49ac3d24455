"""What of the last release still holds: a release is made of the results of now and of those, and nothing is redone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import factories
import pytest
from test_source import model

from pipeline import job, recipe, release, run
from pipeline.artifact import digest_of
from pipeline.errors import BadInputError
from pipeline.matrix import Gates, Limit
from pipeline.matrix.model import GitSource
from pipeline.records import save
from pipeline.result import Withdrawal
from pipeline.source import Source
from pipeline.toolchain import LlamaSource, Toolchain

QUANTS = ("Q8_0", "Q4_K_M", "Q2_K")
TOOLCHAIN = Toolchain(LlamaSource(GitSource("https://example.com/llama.cpp", "b" * 40)), cuda=False)


def steps(revision="a" * 40, **changes):
    wanted = replace(model(), recipes=tuple(recipe.builtin(q) for q in QUANTS), max_shard_size=45 * 10**9)
    source = Source(wanted.source, revision, None, (), (), {}, "", {"model.safetensors": "c" * 64}, "no")
    return job.Steps(replace(wanted, **changes), source, TOOLCHAIN)


def result(of, quant, **overrides):
    made = next(r for r in of.model.recipes if r.name == quant)
    provenance = factories.provenance(logits=digest_of(of.logits))
    return factories.result(quant, artifact=digest_of(of.quant(made)), provenance=provenance, **overrides)


def last(of, quants=QUANTS, **overrides):
    results = [result(of, quant) for quant in quants]
    return factories.release(quants=results, provenance=results[0].provenance, **overrides)


def valid(of, released):
    return list(release.still_valid(of, released))


def test_what_was_made_of_the_same_inputs_holds():
    of = steps()
    assert valid(of, last(of)) == list(QUANTS)
    assert valid(of, None) == []
    assert valid(steps(revision="d" * 40), last(of)) == list(QUANTS)


@pytest.mark.parametrize(
    "change", [{"prompt": "Another?"}, {"evaluation_chunks": 3}, {"filename": "other-{quant}.gguf"}]
)
def test_measured_or_named_otherwise_it_does_not(change):
    assert valid(steps(**change), last(steps())) == []


def test_a_new_imatrix_spares_only_what_has_none():
    plain = replace_recipe("Q8_0", imatrix=False)
    of = steps(recipes=plain)
    assert valid(replace(of, model=replace(of.model, calibration_chunks=7)), last(of)) == ["Q8_0"]


def replace_recipe(name, **changes):
    return tuple(r.model_copy(update=changes) if r.name == name else r for r in map(recipe.builtin, QUANTS))


def test_another_limit_of_shards_counts_for_files_that_it_splits():
    of = steps()
    small = result(of, "Q2_K").file.size
    assert valid(replace(of, model=replace(of.model, max_shard_size=small)), last(of)) == ["Q2_K"]


def test_gates_judge_anew():
    of = steps(gates=Gates(max_mean_kld=Limit.of(0.1)))
    judged = release.still_valid(of, last(steps()))
    assert {quant: found.withheld for quant, found in judged.items()} == {"Q8_0": False, "Q4_K_M": False, "Q2_K": True}
    # And loosened again: nothing of the old verdict stays.
    again = release.still_valid(
        steps(), factories.release(quants=list(judged.values()), provenance=last(of).provenance)
    )
    assert not any(found.withheld for found in again.values())


@pytest.fixture
def shop(tmp_path):
    """A workshop whose target says what was released last, and whose store is empty."""

    def make(released):
        target = SimpleNamespace(last=lambda _repo: released, holds=lambda *_: True)
        return run.Workshop(SimpleNamespace(find=lambda _step: None), tmp_path / "results", target)

    return make


def test_a_release_takes_what_is_new_from_now_and_the_rest_from_the_last(shop):
    of = steps()
    work = shop(last(of, ["Q8_0", "Q2_K"]))
    save(work.results, result(of, "Q4_K_M"))
    found, missing = run.gather(work, of, partial=False)
    assert ([r.quant for r in found], missing) == (list(QUANTS), [])
    assert len({r.provenance.model_dump_json() for r in found}) == 1


def test_what_has_no_result_is_an_error_or_missing(shop):
    of = steps()
    work = shop(last(of, ["Q8_0"]))
    save(work.results, result(of, "Q4_K_M"))
    with pytest.raises(BadInputError, match="holds no result of google/gemma-2b:Q2_K"):
        run.gather(work, of, partial=False)
    found, missing = run.gather(work, of, partial=True)
    assert ([r.quant for r in found], missing) == (["Q8_0", "Q4_K_M"], ["Q2_K"])


def test_what_passed_and_could_not_be_staged_is_missing(shop):
    of = steps()
    work = shop(None)
    for quant in QUANTS:
        save(work.results, result(of, quant))
    work.target.holds = lambda _repo, files, _id=None: "Q2_K" not in files[0].name
    found, missing = run.gather(work, of, partial=True)
    assert ([r.quant for r in found], missing) == (["Q8_0", "Q4_K_M"], ["Q2_K"])


def test_nothing_at_all_is_no_release(shop):
    with pytest.raises(BadInputError, match="No job of google/gemma-2b came to a result"):
        run.gather(shop(None), steps(), partial=True)


def test_what_was_withdrawn_is_left_out_until_it_is_another_file(shop):
    of = steps()
    gone = Withdrawal(quant="Q2_K", artifact=result(of, "Q2_K").artifact, reason="Loops", date="2026-11-25")
    released = last(of, ["Q8_0", "Q4_K_M"], withdrawn=(gone,))
    work = shop(released)
    save(work.results, result(of, "Q2_K"))  # made before it was withdrawn
    found, missing = run.gather(work, of, partial=False)
    assert ([r.quant for r in found], missing) == (["Q8_0", "Q4_K_M"], [])
    assert run.withdrawals(steps(), released) == {"Q2_K": gone}
    other = steps(recipes=replace_recipe("Q2_K", output="Q8_0"))
    assert run.withdrawals(other, released) == {}
