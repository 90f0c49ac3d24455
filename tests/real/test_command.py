"""`python -m pipeline` as people and machines treat it: killed, run twice at once, given broken models."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from conftest import leftovers, weights
from machine import SHARED, empty_store

KINDS = ("reference", "imatrix", "logits", "quant", "answer", "quality", "speed")


@pytest.mark.empty_store
def test_killed_in_every_step_the_next_run_goes_on(start, command, store, matrix_file, machine_store, tmp_path):
    path = matrix_file("llama", "Q4_K_M")
    finished: dict[str, int] = {}
    for kind in KINDS:
        process = start("run", "--matrix", path, "--results", tmp_path / "results", "--publish-to", tmp_path / "out")
        while process.poll() is None and not any(room.startswith(f"{kind}-") for room in leftovers(store)):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, f"{kind} was over before it could be killed"
        for before, inode in finished.items():
            assert (store.root / before / "artifact.json").stat().st_ino == inode, f"{before} was made twice"
        finished = {
            f"{a.kind}/{a.digest}": a.file("artifact.json").stat().st_ino for a in store.artifacts() if a.kind in KINDS
        }
    assert command("run", path)[0] == 0
    assert leftovers(store) == []
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["llama-GGUF"]
    killed = weights(tmp_path / "out" / "llama-GGUF")
    other = empty_store(machine_store, tmp_path / "other-store")
    code, _, _ = command("run", path, "--store", other.root, "--publish-to", tmp_path / "other")
    assert code == 0
    assert weights(tmp_path / "other" / "llama-GGUF") == killed


def test_killed_while_publishing_the_release_is_the_old_one_or_the_new_one(start, command, matrix_file, tmp_path):
    path = matrix_file("llama", "Q8_0")
    released, beside = tmp_path / "out" / "llama-GGUF", tmp_path / "out" / ".llama-GGUF.new"
    assert command("run", path)[0] == 0
    before = {p.name: p.read_bytes() for p in released.iterdir()}
    path = matrix_file("llama", "Q8_0, Q4_K_M")
    process = start("run", "--matrix", path, "--results", tmp_path / "results", "--publish-to", tmp_path / "out")
    while process.poll() is None and not beside.exists():
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    after = {p.name: p.read_bytes() for p in released.iterdir()}
    assert after == before or set(after) == {*before, "llama-Q4_K_M.gguf"}
    assert command("run", path)[0] == 0
    assert set(weights(released)) == {"llama-Q8_0.gguf", "llama-Q4_K_M.gguf", "imatrix.gguf"}
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["llama-GGUF"]


@pytest.mark.empty_store
def test_two_runs_at_once_share_the_work(start, store, matrix_file, tmp_path):
    path = matrix_file("llama", "Q8_0, Q4_K_M")
    places = ["--matrix", path, "--results", tmp_path / "results", "--publish-to", tmp_path / "out"]
    runs = [start("run", *places) for _ in range(2)]
    outputs = [process.communicate() for process in runs]
    assert [process.returncode for process in runs] == [0, 0]
    done = re.findall(r"^(\S+: .*): done in", outputs[0][1] + outputs[1][1], re.MULTILINE)
    assert sorted(done) == sorted(set(done))
    assert len(done) == 5 + 2 * 5 + 2
    assert leftovers(store) == []


def test_a_killed_llama_quantize_is_named(start, store, matrix_file, tmp_path):
    path = matrix_file("llama", "IQ2_XXS")
    places = ["--publish-to", tmp_path / "out", "--results", tmp_path / "results"]
    process = start("run", "--matrix", path, "--engine", "llama-quantize", *places)
    while process.poll() is None:
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                name, parent = re.search(r"\((.*)\) \S (\d+)", entry.read_text()).groups()
            except (OSError, AttributeError):
                continue
            if name == "llama-quantize" and int(parent) == process.pid:
                os.kill(int(entry.parent.name), signal.SIGKILL)
        time.sleep(0.001)
    _, err = process.communicate()
    assert process.returncode == 3
    assert "error: llama-quantize was killed by SIGKILL while making tiny/llama:IQ2_XXS." in err
    assert "Traceback" not in err
    assert leftovers(store) == []


@pytest.mark.empty_store
def test_a_corrupted_safetensors_is_refused_before_any_work(command, store, matrix_file, model_directory, tmp_path):
    damaged = shutil.copytree(model_directory("gemma"), tmp_path / "gemma")
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:-1000])
    path = matrix_file("gemma", "Q8_0")
    path.write_text(path.read_text().replace(str(model_directory("gemma")), str(damaged)))
    code, _, err = command("run", path)
    assert code == 2
    assert re.fullmatch(rf"{path}:5:5: \S+ is damaged: its header promises .*Download it again\.\n", err)
    assert {a.kind for a in store.artifacts()} <= {*SHARED}


def test_an_architecture_that_llama_cpp_does_not_know(command, matrix_file, model_directory, tmp_path):
    strange = shutil.copytree(model_directory("gemma"), tmp_path / "gemma")
    config = (strange / "config.json").read_text().replace("GemmaForCausalLM", "GemmahForCausalLM")
    (strange / "config.json").write_text(config)
    path = matrix_file("gemma", "Q8_0")
    path.write_text(path.read_text().replace(str(model_directory("gemma")), str(strange)))
    code, _, err = command("run", path)
    assert code == 2
    assert f"{path}:5:5: tiny/gemma is a GemmahForCausalLM" in err


@pytest.mark.empty_store
def test_interrupted_is_130_and_nothing_is_left_half_done(start, store, matrix_file, tmp_path):
    path = matrix_file("llama", "Q8_0")
    process = start("run", "--matrix", path, "--publish-to", tmp_path / "out", "--results", tmp_path / "results")
    while not any(room.startswith("logits-") for room in leftovers(store)):
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.endswith("Interrupted. What was finished is kept; run again to go on.\n")
    assert leftovers(store) == []


@pytest.mark.parametrize("kind", ["answer", "quality"])
def test_a_quant_is_not_to_blame_for_an_interrupt(start, command, store, matrix_file, tmp_path, kind):
    path = matrix_file("llama", "Q8_0, Q4_K_M")
    places = ("--publish-to", tmp_path / "out", "--results", tmp_path / "results", "--at-once", 2)
    process = start("run", "--matrix", path, *places)
    while not any(room.startswith(f"{kind}-") for room in leftovers(store)):
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "warning" not in err
    code, _, err = command("run", path, "--at-once", 2)
    assert code == 0, err


def test_job_by_job_as_the_workflows_run_it(command, start, matrix_file, tmp_path):
    path = matrix_file("llama", "Q8_0, Q4_K_M")
    results = ["--results", tmp_path / "results"]
    assert command("prepare", path, "tiny/llama")[0] == 0
    code, out, _ = command("plan", path)
    assert code == 0
    assert "tiny/llama:Q8_0    run  quantized" not in out
    code, _, err = command("release", path, "tiny/llama", *results, "--publish-to", tmp_path / "out")
    assert code == 2
    assert "holds no result of tiny/llama:Q8_0, tiny/llama:Q4_K_M" in err
    assert "### ❌ `tiny/llama`: release, exit code 2" in start("summary", *results).communicate()[0]
    for quant in ("Q8_0", "Q4_K_M"):
        assert command("job", path, f"tiny/llama:{quant}", *results)[0] == 0
    code, out, err = command("release", path, "tiny/llama", *results, "--publish-to", tmp_path / "out")
    assert code == 0
    assert len(weights(tmp_path / "out" / "llama-GGUF")) == 3
    assert "Q4_K_M" in out
    summary = start("summary", *results).communicate()[0]
    assert summary.startswith(
        "## ✅ 2 of 2 published, 0 withheld, 0 failed\n\n### tiny/llama\n\nReleased as `me/llama-GGUF`"
    )
    assert summary.count("✅\N{NO-BREAK SPACE}published |") == 2
    page = start("summary", *results, "--job", "tiny/llama:Q4_K_M").communicate()[0]
    assert page.startswith("## ✅ `tiny/llama:Q4_K_M`: passed\n")
    assert re.search(r"^\| Time \| \d+\N{NO-BREAK SPACE}s \|$", page, re.MULTILINE)
