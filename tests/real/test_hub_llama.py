"""llama.cpp's own downloader takes a release of ours from the loopback Hub and runs it."""

from __future__ import annotations

import os
import subprocess

from hub import LoopbackHub

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
