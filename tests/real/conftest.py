"""The real toolchain, built once into the machine's store, and tiny models in stores that are thrown away."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from machine import ROOT, empty_store

from pipeline import job, matrix, run
from pipeline.publish.folder import Folder
from pipeline.result import Release

if TYPE_CHECKING:
    from pipeline.store import Store


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def prepared(machine_store, toolchain, model_directory, tmp_path_factory):
    """A store with what all quants of the tiny llama share, made once."""
    root = tmp_path_factory.mktemp("prepared")
    store = empty_store(machine_store, root / "store")
    path = write_matrix(root / "matrix.yml", model_directory("llama"))
    (steps,) = run.look(matrix.load(path).models, toolchain, path)
    job.prepare(store, steps)
    return store


@pytest.fixture
def store(request, machine_store, prepared, tmp_path):
    """A store of the test's own, with what the tiny llama's quants share; nothing of it with `empty_store`."""
    if request.node.get_closest_marker("empty_store"):
        return empty_store(machine_store, tmp_path / "store")
    return copied_store(machine_store, prepared, tmp_path / "store")


def copied_store(machine_store: Store, prepared: Store, root: Path) -> Store:
    store = empty_store(machine_store, root)
    for kind in ("reference", "vetting", "imatrix", "logits", "parity"):
        shutil.copytree(prepared.root / kind, root / kind, copy_function=os.link)
    return store


MATRIX = """\
version: 1
llama_cpp: {{sdist: llama-cpp-python==0.3.36, sha256: {sha256}, commit: "0c1e57098"}}
defaults: {{organization: me, quants: [{quants}], max_tokens: 16, calibration_chunks: 4, evaluation_chunks: 2}}
models:
  - source: tiny/{kind}
    path: {path}
"""


@pytest.fixture
def matrix_file(tmp_path, model_directory):
    """`matrix_file(kind, quants, *lines)` writes a matrix with one model; `lines` are added to it."""

    def write(kind: str = "llama", quants: str = "Q8_0, Q4_K_M", *lines: str) -> Path:
        return write_matrix(tmp_path / "matrix.yml", model_directory(kind), quants, *lines)

    return write


def write_matrix(path: Path, model: Path, quants: str = "Q8_0", *lines: str) -> Path:
    pin = matrix.load(ROOT / "matrix.yml").llama_cpp
    text = MATRIX.format(sha256=pin.sha256, quants=quants, kind=model.name, path=model)
    path.write_text(text + "".join(f"    {line}\n" for line in lines))
    return path


@dataclass
class Made:
    """A finished run of one model."""

    steps: job.Steps
    results: list
    directory: Path
    shop: run.Workshop


@pytest.fixture
def make(store, tmp_path, toolchain):
    """`make(matrix_file, only)` runs the one model of a matrix as `python -m pipeline run` does."""

    def run_it(path: Path, only: str | None = None, **changes) -> Made:
        shop = run.Workshop(store, tmp_path / "results", Folder(tmp_path / "out"))
        model = replace(matrix.load(path).models[0], **changes)
        (steps,) = run.look([model], toolchain, path)
        wanted = [r for r in model.recipes if only in (None, r.name)]
        run.refuse_early(store, [(steps, wanted)], path, tmp_path / "out")
        results = run.run_model(shop, steps, wanted)
        return Made(steps, results, shop.target.directory(model.repo), shop)

    return run_it


@pytest.fixture
def start(store, tmp_path):
    """Start `python -m pipeline COMMAND…` on the test's store, results and target."""

    def begin(*arguments: object, **options) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
        environment = os.environ | {"LLM_QUANTIZER_STORE": str(store.root)} | options.pop("env", {})
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )

    return begin


@pytest.fixture
def command(start, tmp_path):
    """Run a command to its end; returns exit code, stdout, stderr."""

    def to_its_end(name: str, path: Path, *arguments: object):
        places = ["--results", tmp_path / "results", "--publish-to", tmp_path / "out"] if name == "run" else []
        process = start(name, "--matrix", path, *places, *arguments)
        out, err = process.communicate()
        return process.returncode, out, err

    return to_its_end


def leftovers(store) -> list[str]:
    return [p.name for p in (store.root / ".rooms").iterdir()]


def weights(directory: Path) -> dict[str, str]:
    release = Release.model_validate_json((directory / "release.json").read_bytes())
    return {f.name: f.sha256 for f in release.files if f.name.endswith((".gguf", ".dat"))}
