"""The run, by the shipped workflow files: a merge, a button, what fails and what is withheld, and a run after that."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from conftest import REVISION, SETTINGS, plan_of

from pipeline import demo
from pipeline.artifact import digest_of
from pipeline.card.markdown import inline
from pipeline.preview import record

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_REPO = "me/SmolLM2-135M-Instruct-GGUF"
QUANTS = ["Q8_0", "Q6_K", "Q4_K_M", "Q3_K_M"]


@pytest.fixture
def smollm2(machine_store):
    """The real model, as the demo has it."""
    return machine_store.get(demo.DemoModel()).file("SmolLM2-135M-Instruct")


def test_a_pull_request_foresees_what_its_merge_publishes(world, smollm2, conclude):
    world.hub.add(SMOLLM2, smollm2, REVISION)
    world.matrix("  - source: somebody/else\n    path: .github\n")
    base = world.checkout.commit("Main")
    world.matrix(f"  - source: {SMOLLM2}\n", ", ".join(QUANTS), SETTINGS.replace("16", "32"))
    ran = world.pull_request(base)
    world.keep(ran, SMOLLM2_REPO, "pull-request")
    assert ran.failed() == [], ran.log[-5000:]
    (seen,) = record.parse((world.checkout.artifacts / "preview" / "preview.json").read_bytes()).outlooks
    foreseen = {quant.file: quant.size for quant in seen.quants}
    (page,) = [text for _, text in ran.summaries]
    assert "1 model, 4 files" in page
    weights = (smollm2 / "model.safetensors").stat().st_size
    sent = sum(request.sent for request in world.hub.requests if "safetensors" in request.path)
    assert sent < 0.02 * weights
    conclude(f"the preview of SmolLM2 was sent {sent:,} of {weights:,} bytes of weights")
    # Merged, it goes from the plan to a release.
    ran = world.merge(base)
    world.keep(ran, SMOLLM2_REPO, "merge")
    assert ran.returncode == 0, ran.log[-5000:]
    assert ran.failed() == []
    steps = {"Plan": 1, "Prepare": 1, "Job": 4, "Stage": 4, "Release": 1, "Report": 1}
    assert {step: len(ran.ran(step)) for step in steps} == steps
    release = world.release(SMOLLM2_REPO)
    assert [r.quant for r in release.published] == QUANTS
    assert {r.file.name: r.file.size for r in release.published} == foreseen
    assert release.provenance.revision == REVISION
    assert set(plan_of(ran, world)) == {f"{SMOLLM2}:{quant}" for quant in QUANTS}
    page = next(text for job, text in ran.summaries if "Report" in job)
    assert page.startswith("## ✅ 4 of 4 published, 0 withheld, 0 failed")
    assert "```mermaid" in page
    # Four jobs, a page each.
    assert sum("Job" in job for job, _ in ran.summaries) == 4
    # Where everything is published, a second run has nothing to do, and says so.
    again = world.button("quantize.yml", models="", quants="", publish=True, force=False, llama_cpp="")
    assert again.returncode == 0
    assert set(plan_of(again, world).values()) == {"published"}
    assert again.ran("Prepare") == []
    assert "Nothing to do" in again.summaries[-1][1]


LLAMA_QUANTIZE = """\
#!{python}
import subprocess
import sys
from pathlib import Path
from gguf import GGUFReader

words = sys.argv[1:]
if "Q5_K_M" in words and Path({flag!r}).exists():
    sys.exit("main: the GPU fell off the bus")
subprocess.run([{real!r}, *words], check=True)
if "Q4_K_M" in words and "--dry-run" not in words:
    (tensor,) = [t for t in GGUFReader("quant.gguf", "r+").tensors if t.name == "blk.1.ffn_up.weight"]
    tensor.data[7, :2] = 0x01, 0xFE
"""
NAN = "NaN as scale in blk.1.ffn_up.weight, block 7 (row 7) of Q4_K"


def break_quantizing(world, toolchain, flag):
    """Let llama-quantize fail on Q5_K_M while there is a file `flag`, and end well on Q4_K_M with a NaN in its file.

    It is the engine here, so that it writes the file.
    """
    world.checkout.environment["LLM_QUANTIZER_ENGINE"] = "llama-quantize"
    kind = world.store.root / toolchain.kind
    tree, copy = kind / digest_of(toolchain), world.store.root / "copy"
    shutil.copytree(tree, copy, symlinks=True)
    kind.unlink()
    kind.mkdir()
    home = kind / tree.name
    copy.rename(home)
    tool = home / "bin" / "llama-quantize"
    real = tool.rename(tool.with_name("real-quantize"))
    tool.write_text(LLAMA_QUANTIZE.format(python=sys.executable, flag=str(flag), real=str(real)))
    tool.chmod(0o755)
    manifest = home / "artifact.json"
    manifest.chmod(0o644)
    said = json.loads(manifest.read_text())
    said["files"]["bin/llama-quantize"]["size"] = tool.stat().st_size
    manifest.write_text(json.dumps(said))
    flag.touch()


def test_what_fails_and_what_is_broken_keeps_nothing_else_back(world, toolchain, model_directory, tmp_path):
    flag = tmp_path / "flag"
    break_quantizing(world, toolchain, flag)
    world.hub.add("tiny/llama", model_directory("llama"), REVISION)
    world.matrix("  - source: other/model\n    path: .github\n", "Q8_0, Q5_K_M, Q4_K_M, Q6_K")
    world.checkout.commit("A matrix without the model")
    # A button, with a model that the matrix does not list.
    inputs = {"quants": "", "publish": True, "force": False, "llama_cpp": ""}
    ran = world.button("quantize.yml", models="tiny/llama", **inputs)
    world.keep(ran, "me/llama-GGUF", "failed-and-withheld")
    assert [(job.partition("-")[0], step) for job, step in ran.failed()] == [
        ("Q5_K_M", "Job"),
        ("Q4_K_M", "Job"),
    ], ran.failed()
    release = world.release("me/llama-GGUF")
    assert [r.quant for r in release.published] == ["Q8_0", "Q6_K"]
    (withheld,) = release.withheld
    assert withheld.quant == "Q4_K_M"
    assert [v.seen for v in withheld.failures if v.check == "blocks"] == [NAN]
    assert withheld.quality is None
    assert release.missing == ("Q5_K_M",)
    page = next(text for job, text in ran.summaries if "Report" in job)
    assert "2 of 4 published, 1 withheld, 1 failed" in page
    assert "the GPU fell off the bus" in page
    assert inline(NAN) in page
    card = world.file("me/llama-GGUF", "README.md").decode()
    assert "2 of 4 quants published, 1 withheld, 1 missing" in card
    assert inline(NAN) in card
    files = world.hub.repos.get("model", "me/llama-GGUF").commit("main").files
    assert {name for name in files if name.endswith(".gguf")} == {"llama-Q8_0.gguf", "llama-Q6_K.gguf", "imatrix.gguf"}
    # Mended, and run again: nothing but what failed is made, and nothing else is sent.
    flag.unlink()
    before = len(world.hub.requests)
    again = world.button("quantize.yml", models="tiny/llama", **inputs)
    world.keep(again, "me/llama-GGUF", "run-again")
    assert again.failed() == [], again.log[-5000:]
    assert plan_of(again, world) == {
        "tiny/llama:Q8_0": "published",
        "tiny/llama:Q5_K_M": "run",
        "tiny/llama:Q4_K_M": "withheld",
        "tiny/llama:Q6_K": "published",
    }
    page = again.summaries[-1][1]
    assert page.startswith("## ⚠️ 1 of 2 published, 1 withheld, 0 failed, 2 kept from the last release")
    assert inline(NAN) in page
    assert len(again.ran("Job")) == len(again.ran("Stage")) == 1
    assert [r.quant for r in world.release("me/llama-GGUF").published] == ["Q8_0", "Q5_K_M", "Q6_K"]
    sent = sum(request.received for request in world.hub.requests[before:] if request.uploads)
    assert sent < 2 * world.release("me/llama-GGUF").results[1].file.size


def test_a_dry_run_publishes_nothing(world, model_directory):
    world.hub.add("tiny/llama", model_directory("llama"), REVISION)
    world.matrix("  - source: tiny/llama\n", "Q8_0")
    world.checkout.commit("A matrix")
    ran = world.button("quantize.yml", models="*", quants="", publish=False, force=False, llama_cpp="")
    assert ran.failed() == [], ran.log[-5000:]
    assert (len(ran.ran("Job")), ran.ran("Stage"), ran.ran("Release")) == (1, [], [])
    assert world.hub.repos.get("model", "me/llama-GGUF") is None
    assert "dry run" in ran.summaries[-1][1]
