"""The memory that a preview promises, held against what llama.cpp says that it takes."""

from __future__ import annotations

import re
from dataclasses import replace

import models
import pytest
from conftest import write_matrix
from machine import empty_store

from pipeline import gguf_file, matrix, run, shell
from pipeline.convert import REFERENCE
from pipeline.preview.memory import cache_bytes
from pipeline.toolchain import tools

MIB = 1 << 20


# Two that slide: all layers but every second, and all but every sixth, keep a window of 512 tokens and a batch.
SLIDING = {"gemma2": ("Gemma2ForCausalLM", 3), "gemma3": ("Gemma3ForCausalLM", 7)}


@pytest.mark.parametrize("kind", models.KINDS)
def test_the_cache_is_as_large_as_llama_cpp_makes_it(kind, machine_store, toolchain, model_directory, tmp_path):
    compare(model_directory(kind), empty_store(machine_store, tmp_path / "store"), toolchain, tmp_path)


@pytest.mark.parametrize("kind", SLIDING)
def test_sliding_windows_too(kind, monkeypatch, machine_store, toolchain, tmp_path):
    architecture, layers = SLIDING[kind]
    gemma = models._KINDS["gemma"]
    shape = gemma.shape | {"num_hidden_layers": layers, "sliding_window": 512, "query_pre_attn_scalar": 64}
    monkeypatch.setitem(models._KINDS, kind, replace(gemma, architecture=architecture, shape=shape))
    store = empty_store(machine_store, tmp_path / "store")
    file = compare(models.build(kind, tmp_path / kind), store, toolchain, tmp_path)
    assert cache_bytes(file, 2048) < 2 * cache_bytes(file, 1024)


def compare(directory, store, toolchain, room):
    path = write_matrix(room / "matrix.yml", directory)
    (steps,) = run.look(matrix.load(path).models, toolchain, path)
    reference = store.get(steps.reference).file(REFERENCE)
    file = gguf_file.read(reference)
    llama = tools(store, toolchain)
    for context in (300, models.CONTEXT):
        command = [llama.path("llama-completion"), "-m", reference, "-c", str(context), "-n", "1", "-p", "a"]
        options = ["-no-cnv", "-st", "--log-verbosity", "4", "--threads", "1", "-fit", "off"]
        printed = shell.run([*command, *options], cwd=room, doing="asking for the size of the cache").stderr
        said = [float(size) for size in re.findall(r"KV buffer size = +([\d.]+) MiB", printed)]
        assert said, printed[-2000:]
        assert sum(said) * MIB == pytest.approx(cache_bytes(file, context), abs=0.01 * MIB * len(said))
    return file
