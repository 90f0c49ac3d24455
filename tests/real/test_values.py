"""SmolLM2-135M and the tiny models through the real converter and quantizer: every number in its place."""

from __future__ import annotations

import shutil
import struct
import subprocess
import time

import numpy as np
import pytest
from conftest import write_matrix
from machine import empty_store

from pipeline import demo, ggml, gguf_file, matrix, run
from pipeline.check import conversion, derivation, hyperparameters, logits, sample, values
from pipeline.convert import REFERENCE
from pipeline.imatrix import Imatrix
from pipeline.measure import LOGITS
from pipeline.quantize import QUANT, Quant
from pipeline.recipe import TENSOR_TYPES, builtin
from pipeline.toolchain import tools


class Made:
    """What the machine's store holds of a model."""

    def __init__(self, store, steps, quant):
        self.store, self.steps = store, steps
        self.reference = gguf_file.read(store.get(steps.reference).file(REFERENCE))
        self.imatrix = store.get(steps.imatrix).file("imatrix.gguf")
        self.library = tools(store, steps.toolchain).path("llama-quantize").parent / ggml.LIBRARY
        self.source = steps.source.open(store)
        self.quant = self.make(quant)

    def make(self, quant):
        step = Quant(self.steps.reference, self.steps.imatrix, builtin(quant))
        return gguf_file.read(self.store.get(step).file(QUANT))

    def derive(self, quant, imatrix=None):
        (verdict,) = derivation.derive(quant, self.reference, imatrix or self.imatrix, self.library)
        return verdict


@pytest.fixture(scope="module")
def smol(machine_store, toolchain, tmp_path_factory):
    """The demo's model, with what the machine's store has of it; what is made besides goes to another store."""
    root = tmp_path_factory.mktemp("smol")
    model = demo.model(machine_store)
    store = empty_store(machine_store, root / "store")
    for kind in ("reference", "imatrix", "logits", "quant"):
        (store.root / kind).mkdir()
        for artifact in (machine_store.root / kind).glob("*"):
            (store.root / kind / artifact.name).symlink_to(artifact)
    (steps,) = run.look([model], toolchain, root / "matrix.yml")
    return Made(store, steps, "Q4_K_M")


def test_smollm2_is_its_source_and_its_quant_is_its_reference(smol, conclude):
    began = time.monotonic()
    (verdict,) = conversion.tensors(smol.reference, smol.source)
    converted = time.monotonic()
    assert verdict.seen == "272 of 272 tensors hold the source's values, 60 of them in llama.cpp's own order"
    (verdict,) = values.compare(smol.quant, smol.reference)
    compared = time.monotonic()
    assert verdict.outcome == "pass"
    verdict = smol.derive(smol.quant)
    derived = time.monotonic()
    assert verdict.outcome == "pass"
    assert "rows of 272 tensors are, byte for byte, what the reference and the imatrix give" in verdict.seen
    (verdict,) = hyperparameters.compare(smol.reference, smol.source)
    assert verdict.seen == "12 hyperparameters agree with config.json"
    rate = smol.reference.path.stat().st_size / (converted - began) / 1e9
    conclude(
        f"SmolLM2: conversion {converted - began:.1f} s ({rate:.1f} GB/s), values {compared - converted:.1f} s,"
        f" derivation {derived - compared:.1f} s"
    )


def test_smollm2_predicts_what_transformers_predicts(smol):
    path = smol.store.get(smol.steps.logits).file(LOGITS)
    found = logits.parity(path, smol.source, add_bos=None, available_bytes=None)
    assert not isinstance(found, str), found
    assert found.nmse < 5e-4
    assert logits.judge(found).outcome == "pass"


def damaged(smol, tmp_path, change):
    """A copy of the quant in which `change(bytes of each tensor by name)` changed some."""
    path = shutil.copyfile(smol.quant.path, tmp_path / "damaged.gguf")
    path.chmod(0o600)
    data = np.memmap(path, np.uint8, "r+")
    change({n: ggml.blocks(smol.quant, np.asarray(data), t) for n, t in smol.quant.tensors.items()})
    data.flush()
    return gguf_file.read(path)


def swap(blocks):
    one, other = blocks["blk.3.ffn_gate.weight"], blocks["blk.4.ffn_gate.weight"]
    kept = one.copy()
    one[:] = other
    other[:] = kept


def one_row(blocks):
    rows = blocks["blk.3.ffn_gate.weight"]
    rows[0] = rows[1]


def test_swapped_tensors_of_a_real_quant(smol, tmp_path):
    quant = damaged(smol, tmp_path, swap)
    (verdict,) = values.compare(quant, smol.reference)
    assert "blk.3.ffn_gate.weight holds the weights of blk.4.ffn_gate.weight" in verdict.seen
    assert smol.derive(quant).seen.startswith("2 of 272 tensors are not what the reference and the imatrix give")


def test_one_row_of_a_real_quant(smol, tmp_path):
    quant = damaged(smol, tmp_path, one_row)
    (verdict,) = values.compare(quant, smol.reference)
    assert "blk.3.ffn_gate.weight holds other values than the reference's in 1 of " in verdict.seen


def test_a_foreign_imatrix_and_none(smol, tmp_path):
    imatrix = shutil.copyfile(smol.imatrix, tmp_path / "imatrix.gguf")
    imatrix.chmod(0o600)
    file = gguf_file.read(imatrix)
    data = np.memmap(imatrix, np.uint8, "r+")
    for name, tensor in file.tensors.items():
        if name.endswith(".in_sum2"):
            sums = ggml.blocks(file, np.asarray(data), tensor)
            sums[:] = np.roll(sums.reshape(-1).view(np.float32), 7).view(np.uint8).reshape(sums.shape)
    data.flush()
    verdict = smol.derive(smol.quant, imatrix)
    assert verdict.outcome == "fail"
    assert "tensors are not what the reference and the imatrix give" in verdict.seen
    without = Quant(smol.steps.reference, smol.steps.imatrix, builtin("Q4_K_S").model_copy(update={"imatrix": False}))
    verdict = smol.derive(gguf_file.read(smol.store.get(without).file(QUANT)))
    assert verdict.outcome == "fail"
    assert "is quantized without the imatrix" in verdict.seen


def test_the_older_imatrix_says_the_same(smol):
    old = Imatrix(smol.steps.reference, smol.steps.calibration, 1, "dat")
    new = Imatrix(smol.steps.reference, smol.steps.calibration, 1, "gguf")
    theirs = derivation.read_importance(smol.store.get(old).file("imatrix.dat"))
    ours = derivation.read_importance(smol.store.get(new).file("imatrix.gguf"))
    assert ours.keys() == theirs.keys()
    assert all(np.allclose(ours[name], theirs[name], rtol=1e-5) for name in ours)


@pytest.mark.parametrize("content", [b"", b"GGUF", struct.pack("<i", 10**9), struct.pack("<iii", 1, 4, 4) + b"name"])
def test_what_is_no_imatrix_is_a_skip(smol, tmp_path, content):
    (tmp_path / "imatrix").write_bytes(content)
    assert smol.derive(smol.quant, tmp_path / "imatrix").outcome == "skip"


def test_every_type_stays_within_its_limit(smol):
    """With twice the room that a fail needs, with and without an imatrix."""
    quantizer, random = ggml.Quantizer(smol.library), np.random.default_rng(0)
    data = ggml.map_file(smol.reference)
    tensor = smol.reference.tensors["blk.15.ffn_down.weight"]
    real = sample.take(smol.reference, data, tensor, np.arange(0, 576, 72))
    bell = random.normal(size=(4, 1536)).astype(np.float32)
    importance = np.exp(random.normal(size=1536) * 2).astype(np.float32)
    for type_ in TENSOR_TYPES:
        if type_ not in values.LARGEST or type_ in ("F32", "F16", "BF16"):
            continue
        for rows in (real, bell, random.standard_t(4, size=(4, 1536)).astype(np.float32)):
            for weights in (importance, np.ones_like(importance)):
                held = ggml.dequantize(quantizer.quantize(rows, type_, weights), type_)
                error, peaks = values._sums(held, rows)[:2].sum(1)
                assert (error / peaks) ** 0.5 < 1.2 * values.LARGEST[type_], type_


@pytest.mark.parametrize("kind", ["gemma", "mixtral", "llama"])
def test_the_tiny_models(machine_store, toolchain, model_directory, tmp_path, kind):
    path = write_matrix(tmp_path / "matrix.yml", model_directory(kind))
    (steps,) = run.look(matrix.load(path).models, toolchain, path)
    made = Made(empty_store(machine_store, tmp_path / "store"), steps, "Q4_K_M")
    outcomes = [*conversion.tensors(made.reference, made.source), *hyperparameters.compare(made.reference, made.source)]
    outcomes += [*values.compare(made.quant, made.reference), made.derive(made.quant)]
    assert [verdict.outcome for verdict in outcomes] == ["pass"] * 4, outcomes
    command = [tools(made.store, toolchain).path("llama-quantize"), "--imatrix", made.imatrix.name]
    by_hand = tmp_path / "by-hand.gguf"
    subprocess.run([*command, made.reference.path, by_hand, "Q4_K_M"], cwd=made.imatrix.parent, check=True)
    assert by_hand.read_bytes() == made.quant.path.read_bytes()
