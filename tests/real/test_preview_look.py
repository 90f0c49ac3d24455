"""The page of models that lie on this machine, with a stand-in for what llama.cpp foresees."""

from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace

from conftest import MATRIX
from machine import ROOT, empty_store

from pipeline import gguf_file, matrix, preview, run, source
from pipeline.convert import REFERENCE
from pipeline.preview.foreseen import Foreseen, ForeseenQuant
from pipeline.preview.page import page
from pipeline.publish.folder import Folder


def foresee(store, steps):
    path = store.get(steps.reference).file(REFERENCE)
    file = gguf_file.read(path)
    quants = [ForeseenQuant(r, 1_000_000, file.tensors, (), ()) for r in steps.model.recipes]
    return Foreseen(file, path.stat().st_size, 1000, imatrix_exact=True, quants=tuple(quants))


def test_good_and_bad_models_of_one_matrix(monkeypatch, model_directory, machine_store, toolchain, tmp_path):
    good = model_directory("llama")
    unknown, long = (shutil.copytree(good, tmp_path / name) for name in ("unknown", "long"))
    config = json.loads((unknown / "config.json").read_text()) | {"architectures": ["NobodyForCausalLM"]}
    (unknown / "config.json").write_text(json.dumps(config))
    (long / "README.md").write_text("x" * (source.MAX_PAPER_BYTES + 1))
    path = tmp_path / "matrix.yml"
    pin = matrix.load(ROOT / "matrix.yml").llama_cpp
    text = MATRIX.format(sha256=pin.sha256, quants="Q8_0, Q4_K_M", kind="llama", path=good)
    text += "".join(f"  - {{source: tiny/{p.name}, path: {p}}}\n" for p in (unknown, long, tmp_path / "gone"))
    (tmp_path / "gone").mkdir()
    path.write_text(text)
    monkeypatch.setitem(sys.modules, "pipeline.preview.engine", SimpleNamespace(foresee=foresee))
    shop = run.Workshop(empty_store(machine_store, tmp_path / "store"), tmp_path, Folder(tmp_path / "out"))
    seen, failures = preview.look(shop, matrix.load(path).models, toolchain, path)
    (outlook,) = seen.outlooks
    assert (outlook.source, outlook.licence, outlook.gated, outlook.exists) == ("tiny/llama", "apache-2.0", None, False)
    assert [q.memory[-1].context for q in outlook.quants] == [2048, 2048]
    assert "license: apache-2.0" in outlook.card
    first, second, third = seen.problems
    assert first.startswith(f"{path}:7:5: tiny/unknown is a NobodyForCausalLM")
    assert second.startswith(f"{path}:8:5: tiny/long in {long}: README.md has 4000001 bytes")
    assert third.startswith(f"{path}:9:5: tiny/gone in ")
    assert len(failures) == 3
    assert page(seen.outlooks, seen.problems).startswith("**1 model, 2 files, 2")
