"""llama.cpp's own downloader takes a release of ours from the loopback Hub and runs it."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from hub import LoopbackHub

from pipeline import file_names
from pipeline.check.names import names
from pipeline.toolchain import tools

REPO = "me/llama-GGUF"


def test_runs_straight_from_the_hub(make, matrix_file, store, tmp_path):
    made = make(matrix_file("llama", "Q4_K_M, Q8_0"))
    program = tools(store, made.steps.toolchain).path("llama-completion")
    cache = tmp_path / "cache"
    with LoopbackHub(tmp_path / "hub") as hub:
        hub.add(REPO, made.directory, "a" * 40)
        settings = {"MODEL_ENDPOINT": f"{hub.endpoint}/", "LLAMA_CACHE": str(cache)}
        ran = subprocess.run(
            [program, "-hf", f"{REPO}:Q4_K_M", "-n", "4", "-no-cnv", "-p", "hello"],
            env=os.environ | settings, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr.decode(errors="replace")
        assert not any("Q8_0" in request.path for request in hub.requests if "/resolve/" in request.path)
    wanted = (made.directory / "llama-Q4_K_M.gguf").read_bytes()
    assert wanted in [path.read_bytes() for path in cache.rglob("*") if path.is_file()]


LADDERS = {
    "plain": ("m-{}.gguf", ["Q2_K", "Q4_K_M", "Q8_0", "Q4_K_L", "IQ4_XS"]),
    "underscore": ("m-2b_{}.gguf", ["Q2_K", "Q4_K_M", "Q8_0"]),
    "floats": ("m-{}.gguf", ["F16", "BF16"]),
    "a variant": ("m-{}.gguf", ["IQ4_XS", "IQ4_XS-EMB8"]),
    "a model called like a quant": ("foo-Q8_0-distill-{}.gguf", ["Q2_K", "Q8_0"]),
    "a model that is none": ("mtp-1b-{}.gguf", ["Q2_K", "Q8_0"]),
    "a quant in front": ("{}_m.gguf", ["Q2_K", "Q8_0"]),
    "shards": ("m-{}-00001-of-00002.gguf", ["Q2_K", "Q8_0"]),
}


@pytest.mark.parametrize("ladder", LADDERS)
def test_tags_lead_where_we_say(machine_store, toolchain, tmp_path, ladder):
    """What is asked of the Hub tells which file llama.cpp takes; that it is no model in the end matters to nobody."""
    pattern, quants = LADDERS[ladder]
    files = {quant: [pattern.format(quant)] for quant in quants}
    if ladder == "shards":
        files = {quant: [*parts, parts[0].replace("00001-of", "00002-of")] for quant, parts in files.items()}
    listed = [*(name for parts in files.values() for name in parts), "imatrix.gguf"]
    directory = tmp_path / "repo"
    directory.mkdir()
    for name in listed:
        (directory / name).write_bytes(b"GGUF" + name.encode())
    program = tools(machine_store, toolchain).path("llama-completion")
    found, tags = {}, [*quants, "q8_0", "Q6_K"]
    with LoopbackHub(tmp_path / "hub") as hub:
        hub.add(REPO, directory, "a" * 40)
        for number, tag in enumerate(tags):
            before = len(hub.requests)
            settings = {"MODEL_ENDPOINT": f"{hub.endpoint}/", "LLAMA_CACHE": str(tmp_path / f"cache-{number}")}
            subprocess.run(
                [program, "-hf", f"{REPO}:{tag}", "-n", "1", "-no-cnv", "-p", "hello"],
                env=os.environ | settings, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
            )  # fmt: skip
            asked = [re.search(r"/resolve/[^/]+/([^?]*)", request.path) for request in hub.requests[before:]]
            if taken := sorted({name[1] for name in asked if name}):
                found[tag] = taken[0]
    assert found == {tag: name for tag in tags for name in file_names.taken([tag], listed).values()}
    wrong = [quant for quant in quants if found.get(quant) not in (None, files[quant][0])]
    assert bool(wrong) == any(v.outcome == "fail" and "-hf" in v.seen for v in names(files, ["imatrix.gguf"]))
