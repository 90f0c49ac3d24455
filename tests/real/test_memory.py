"""The memory that a preview promises, held against what llama.cpp says that it takes."""

from __future__ import annotations

import re

import models
import pytest
from conftest import empty_store, write_matrix

from pipeline import gguf_file, matrix, run, shell
from pipeline.convert import REFERENCE
from pipeline.preview.memory import cache_bytes
from pipeline.toolchain import tools

MIB = 1 << 20


@pytest.mark.parametrize("kind", models.KINDS)
def test_the_cache_is_as_large_as_llama_cpp_makes_it(kind, machine_store, toolchain, model_directory, tmp_path):
    store = empty_store(machine_store, tmp_path / "store")
    path = write_matrix(tmp_path / "matrix.yml", model_directory(kind))
    (steps,) = run.look(matrix.load(path).models, toolchain, path)
    reference = store.get(steps.reference).file(REFERENCE)
    llama = tools(store, toolchain)
    for context in (300, models.CONTEXT):
        command = [llama.path("llama-completion"), "-m", reference, "-c", str(context), "-n", "1", "-p", "a"]
        options = ["-no-cnv", "-st", "--log-verbosity", "4", "--threads", "1", "-fit", "off"]
        printed = shell.run([*command, *options], cwd=tmp_path, doing="asking for the size of the cache").stderr
        said = [float(size) for size in re.findall(r"KV buffer size = +([\d.]+) MiB", printed)]
        expected = cache_bytes(gguf_file.read(reference), context)
        assert said, printed[-2000:]
        assert sum(said) * MIB == pytest.approx(expected, abs=0.01 * MIB)
