"""From a model to a release with the real llama.cpp, in process."""

from __future__ import annotations

import hashlib
import json
import subprocess

import pytest
from machine import SHARED, empty_store

from pipeline import job, republish, run
from pipeline.convert import REFERENCE
from pipeline.errors import BadInputError
from pipeline.matrix import Gates, Limit
from pipeline.quantize import QUANT, Quant
from pipeline.result import Recipe, Release
from pipeline.toolchain import tools


def by_hand(store, steps, recipe_arguments, base, tmp_path) -> str:
    """Run llama-quantize as a person would, and return the sha256 of what it makes."""
    llama = tools(store, steps.toolchain)
    imatrix = store.get(steps.imatrix)
    reference = store.get(steps.reference).file(REFERENCE)
    output = tmp_path / "by-hand.gguf"
    command = [
        llama.path("llama-quantize"),
        "--imatrix",
        steps.imatrix.file_name,
        *recipe_arguments,
        reference,
        output,
        base,
    ]
    subprocess.run(command, cwd=imatrix.path, check=True, capture_output=True)
    return hashlib.sha256(output.read_bytes()).hexdigest()


def made_steps(store) -> set[str]:
    return {f"{a.kind}/{a.digest}" for a in store.artifacts()}


def test_a_release_is_whole_and_says_the_truth(make, matrix_file, store, tmp_path):
    made = make(matrix_file("llama", "Q8_0, Q4_K_M, IQ2_XS"))
    files = {p.name for p in made.directory.iterdir()}
    assert files == {
        "llama-Q8_0.gguf", "llama-Q4_K_M.gguf", "llama-IQ2_XS.gguf", "imatrix.gguf", "README.md", "LICENSE", "test.log",
        "quality.svg", "release.json", ".gitattributes",
    }  # fmt: skip
    release = Release.model_validate_json((made.directory / "release.json").read_bytes())
    for entry in release.files:
        content = (made.directory / entry.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.size, entry.sha256)
    for result in release.results:
        assert result.file.sha256 == by_hand(store, made.steps, [], result.recipe.base, tmp_path)
        assert not result.withheld
    klds = {r.quant: r.quality.mean_kld.value for r in release.results}
    assert 0 < klds["Q8_0"] < klds["Q4_K_M"] < klds["IQ2_XS"]
    floor = release.provenance.reference_quality
    assert floor.mean_kld.value < klds["Q8_0"]
    assert floor.same_top.value > 99
    assert release.provenance.chat_template
    assert all(r.speed.generation_rate.value > 0 for r in release.results)


def test_again_nothing_is_made_and_no_byte_changes(make, matrix_file, store):
    path = matrix_file()
    first = make(path)
    before = {p.name: p.read_bytes() for p in first.directory.iterdir()}, made_steps(store)
    make(path)
    assert ({p.name: p.read_bytes() for p in first.directory.iterdir()}, made_steps(store)) == before
    for file in first.directory.iterdir():
        file.unlink()
    first.directory.rmdir()
    make(path)
    assert {p.name: p.read_bytes() for p in first.directory.iterdir()} == before[0]


def test_one_quant_alone_then_one_more(make, matrix_file, store):
    path = matrix_file("llama", "Q8_0, Q4_K_M")
    made = make(path, only="Q4_K_M")
    assert [r.quant for r in made.results] == ["Q4_K_M"]
    assert not (made.directory / "llama-Q8_0.gguf").exists()
    before = made_steps(store)
    made = make(matrix_file("llama", "Q5_K_M, Q4_K_M"))
    assert [r.quant for r in made.results] == ["Q5_K_M", "Q4_K_M"]
    added = [name.split("/")[0] for name in made_steps(store) - before]
    assert sorted(kind for kind in added if kind != "tensor") == [
        "answer",
        "checks",
        "plot",
        "quality",
        "quant",
        "speed",
    ]
    shared = len([name for name in before if name.startswith("tensor/")])
    assert 0 < added.count("tensor") < shared  # some of its tensors are of a type that Q4_K_M has, too


def test_a_run_of_one_quant_never_takes_others_from_the_release(make, matrix_file, store):
    path = matrix_file("llama", "Q8_0, Q4_K_M")
    make(path)
    made = make(path, only="Q4_K_M")
    assert [r.quant for r in made.results] == ["Q8_0", "Q4_K_M"]
    with pytest.raises(BadInputError, match="has Q8_0, made from other inputs"):
        make(path, only="Q4_K_M", prompt="Another question")


def test_a_quant_that_fails_its_gate_is_withheld(make, matrix_file):
    made = make(matrix_file("llama", "Q8_0, Q2_K"), gates=Gates(max_mean_kld=Limit.of(0.02)))
    assert [r.withheld for r in made.results] == [False, True]
    assert not (made.directory / "llama-Q2_K.gguf").exists()
    assert "withheld" in (made.directory / "README.md").read_text()
    release = json.loads((made.directory / "release.json").read_bytes())
    assert [v["check"] for v in release["results"][1]["verdicts"] if v["outcome"] == "fail"] == ["mean KLD"]


def test_nothing_that_passes_is_no_release(make, matrix_file):
    made = make(matrix_file("llama", "Q2_K"), gates=Gates(max_mean_kld=Limit.of(0.0)))
    assert made.results[0].withheld
    assert not made.directory.exists()


def test_the_original_style(make, matrix_file, model_directory):
    """The seed's settings give the seed's names, its card whole and a footer."""
    settings = ('filename: "{model}_{quant}.gguf"', "imatrix_format: dat", "card: footer")
    made = make(matrix_file("gemma", "IQ3_S, Q4_K_M", *settings))
    assert {p.name for p in made.directory.iterdir()} == {
        ".gitattributes", "README.md", "gemma_IQ3_S.gguf", "gemma_Q4_K_M.gguf", "imatrix.dat", "test.log",
        "release.json",
    }  # fmt: skip
    card = (made.directory / "README.md").read_text()
    assert card.startswith((model_directory("gemma") / "README.md").read_text().rstrip())
    assert "Quantization of Model [tiny/gemma]" in card
    attributes = (made.directory / ".gitattributes").read_text()
    for name in ("gemma_IQ3_S.gguf", "gemma_Q4_K_M.gguf", "imatrix.dat"):
        assert f"{name} filter=lfs diff=lfs merge=lfs -text\n" in attributes


def test_experts_recipes_and_tensors_of_their_own(make, matrix_file, store, tmp_path):
    recipe = Recipe(name="Q4_K_X", base="Q4_K_M", token_embedding="Q8_0", output="Q6_K", tensors={"attn_v": "Q8_0"})
    made = make(matrix_file("mixtral", "Q4_K_M"), recipes=(recipe,))
    arguments = ["--token-embedding-type", "q8_0", "--output-tensor-type", "q6_k", "--tensor-type", "attn_v=q8_0"]
    file = made.results[0].file
    assert file.sha256 == by_hand(store, made.steps, arguments, "Q4_K_M", tmp_path)
    assert file.types["Q6_K"] >= 1
    assert made.results[0].provenance.imatrix_entries > 0


def test_fallbacks_are_counted_and_said(make, matrix_file):
    made = make(matrix_file("odd", "Q4_K_M"))
    file = made.results[0].file
    assert len(file.fallbacks) > 10
    assert file.bits_per_weight > 5.2
    warnings = [v for v in made.results[0].verdicts if v.outcome == "warn"]
    assert [v.check for v in warnings] == ["fallbacks"]
    assert f"{len(file.fallbacks)} of 21 tensors" in warnings[0].seen


def test_a_quant_that_was_damaged_is_made_anew(make, matrix_file, store, monkeypatch):
    written = Quant.make

    def damaged(self, room, store, task):
        written(self, room, store, task)
        with (room / QUANT).open("r+b") as file:
            file.seek(-200_000, 2)
            file.write(bytes([255]) * 4096)

    monkeypatch.setattr(Quant, "make", damaged)
    made = make(matrix_file("llama", "Q4_K_M"))
    assert "NaN as scale" in made.results[0].failures[0].seen
    assert not made.directory.exists()
    monkeypatch.undo()
    provenance = made.results[0].provenance
    assert not job.run(store, made.steps, made.steps.model.recipes[0], provenance).withheld


def test_what_the_store_has_lost_and_the_target_has_is_not_made_again(make, matrix_file, machine_store, tmp_path):
    made = make(matrix_file("llama", "Q8_0, Q4_K_M"))
    before = {p.name: p.read_bytes() for p in made.directory.iterdir()}
    elsewhere = run.Workshop(empty_store(machine_store, tmp_path / "other"), tmp_path / "results", made.shop.target)
    assert run.run_model(elsewhere, made.steps, made.steps.model.recipes) == []
    assert {a.kind for a in elsewhere.store.artifacts()} - {*SHARED} == {"papers", "plot"}
    assert {p.name: p.read_bytes() for p in made.directory.iterdir()} == before
    # Where the file is not what it was, it is.
    (made.directory / "llama-Q8_0.gguf").write_bytes(b"GGUF")
    (again,) = run.run_model(elsewhere, made.steps, made.steps.model.recipes)
    assert again.quant == "Q8_0"
    assert (made.directory / "llama-Q8_0.gguf").read_bytes() == before["llama-Q8_0.gguf"]


def test_no_run_brings_back_what_was_withdrawn(make, matrix_file, store):
    made = make(matrix_file("llama", "Q8_0, Q4_K_M"))
    model, target = made.steps.model, made.shop.target
    target.publish(republish.without(made.shop, model, ["Q4_K_M"], "Loops", "2026-11-25"))
    results = run.run_model(made.shop, made.steps, model.recipes)
    assert [r.quant for r in results] == ["Q8_0"]
    assert not (made.directory / "llama-Q4_K_M.gguf").exists()
    assert "tiny/llama:Q4_K_M was withdrawn on 2026-11-25 (Loops)" in store.display._stream.getvalue()
    # Made of something else it is another file, and the reason stays on the card.
    other = matrix_file("llama", "Q8_0, Q4_K_M", "calibration_chunks: 3")
    assert [r.quant for r in make(other).results] == ["Q8_0", "Q4_K_M"]
    card = (made.directory / "README.md").read_text()
    assert "- `Q4_K_M`, on 2026-11-25: Loops. The file of that name that is here now is another one" in card
