"""The kernels of the GPU, on a GPU that is emulated by the C++ compiler (tests/emulated_gpu), against ggml's.

What a release has that is made with it stands in tests/real/test_engine.py.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from emulated_gpu import ROOM, SPARED, WithGpu, plug_in
from machine import BUILT, empty_store

from pipeline.engine import worker
from pipeline.engine.tensors import Workshop
from pipeline.ggml import LIBRARY, NUMBERS
from pipeline.gguf_file import SIZES
from pipeline.kernels import build, proof, prove
from pipeline.kernels.proof import Kernels
from pipeline.toolchain import tools

TYPES = build.types()


@pytest.fixture(scope="module")
def gpu_toolchain(toolchain):
    return WithGpu(toolchain.source, cuda=True)


@pytest.fixture(autouse=True)
def _a_gpu(monkeypatch):
    plug_in(monkeypatch)


@pytest.fixture(scope="module")
def ggml(machine_store, toolchain):
    return tools(machine_store, toolchain).path(LIBRARY)


@pytest.fixture(scope="module")
def gpu(tmp_path_factory):
    return build.build(tmp_path_factory.mktemp("gpu"), str(ROOM / "nvcc"), build.GPU)


@pytest.fixture
def empty(machine_store, tmp_path):
    """A store with the toolchain, and no kernels yet."""
    return empty_store(machine_store, tmp_path / "store", BUILT)


@pytest.fixture
def store(empty, gpu, monkeypatch):
    """The same, where the kernels have been compiled before."""
    monkeypatch.setattr(build, "build", lambda room, *_: shutil.copy(gpu, room))
    return empty


def said(store):
    return [line for line in store.display._stream.getvalue().splitlines() if "warning" in line]


def kernels_of(store, toolchain, types):
    workshop = Workshop(store, toolchain, None, None, None, "")
    return [(sorted(some.types), some.piece) for some in workshop._kernels(types)]


@pytest.mark.real
@pytest.mark.parametrize("name", TYPES)
def test_the_same_bytes_as_ggml(ggml, gpu, name, tmp_path):
    assert proof.compared(ggml, gpu, [name], tmp_path, build.GPU) == {name: proof.SAME}


@pytest.mark.real
def test_what_is_proven_is_tried_before_the_cpu(store, gpu_toolchain, toolchain, monkeypatch):
    cpu = Kernels(Path("cpu"), ("Q4_0",))
    proven = proof.proven

    def of(store, toolchain, types, target):
        return cpu if target is build.CPU else proven(store, toolchain, types, target)

    monkeypatch.setattr(proof, "proven", of)
    expected = [(["Q4_0", "Q8_0"], build.GPU.piece), (["Q4_0"], worker.PIECE)]
    assert kernels_of(store, gpu_toolchain, {"Q4_0", "Q8_0", "F16"}) == expected
    assert kernels_of(store, toolchain, {"Q4_0"}) == expected[1:]
    assert not said(store)


@pytest.fixture
def pair(ggml, gpu):
    of = prove.Type("Q4_K", NUMBERS["Q4_K"], *SIZES["Q4_K"])
    return prove.Pair(ctypes.CDLL(str(ggml)), ctypes.CDLL(str(gpu)), of)


@pytest.fixture
def door(ggml, gpu):
    return worker.Ggml(str(ggml), [worker.Kernels(str(gpu), {"Q4_K": NUMBERS["Q4_K"]}, 1 << 22)])


def through(door, pair, values):
    """Whether what comes through the worker's door has ggml's bytes."""
    theirs, ours = pair.out(values), pair.out(values)
    size = pair.by_ggml(values, None, theirs)
    made = door.quantize(pair.type.number, values.ctypes.data, ours.ctypes.data, *values.shape, None)
    return made == size and np.array_equal(theirs, ours)


@pytest.mark.real
def test_what_a_gpu_has_no_memory_for_is_done_without_it(pair, door, monkeypatch):
    random = np.random.default_rng(0)
    monkeypatch.setenv("EMULATED_MEMORY", str(SPARED + (1 << 16)))
    assert (door.piece(pair.type.number), door.piece(0)) == (1 << 22, worker.PIECE)
    for rows, fits in ((8, True), (80, False), (9, True)):
        values = random.standard_normal((rows, 512)).astype(np.float32)
        assert bool(pair.by_kernel(values, None, pair.out(values))) == fits
        assert through(door, pair, values)


@pytest.mark.real
def test_whoever_comes_while_the_gpu_is_busy_does_without_it(pair, door, monkeypatch):
    monkeypatch.setenv("EMULATED_SECONDS", "1")
    values = np.random.default_rng(0).standard_normal((4, 512)).astype(np.float32)
    with ThreadPoolExecutor(3) as pool:
        made = sorted(pool.map(lambda _: pair.by_kernel(values, None, pair.out(values)), range(3)))
        assert made == [0, made[1], made[1]]
        assert made[1] > 0
        assert all(pool.map(lambda _: through(door, pair, values), range(3)))
    assert pair.by_kernel(values, None, pair.out(values)) == made[1]


@pytest.mark.real
def test_a_gpu_without_memory_is_asked_again(store, gpu_toolchain, monkeypatch):
    monkeypatch.setenv("EMULATED_MEMORY", "0")
    assert proof.proven(store, gpu_toolchain, ["Q4_0"], build.GPU).types == ()
    (warned,) = said(store)
    assert "Q4_0 is not used on the GPU, the CPU's is: " in warned
    assert warned.endswith(prove.NOTHING)
    monkeypatch.delenv("EMULATED_MEMORY")
    assert proof.proven(store, gpu_toolchain, ["Q4_0"], build.GPU).types == ("Q4_0",)


@pytest.mark.real
def test_a_gpu_with_memory_for_less_than_a_piece_is_asked_again(ggml, gpu, tmp_path, monkeypatch):
    """Nothing of what it did not make counts as different."""
    monkeypatch.setattr(build, "GPU", build.GPU._replace(piece=1 << 20))
    monkeypatch.setenv("EMULATED_MEMORY", str(SPARED + (2 << 20)))
    assert proof.compared(ggml, gpu, ["Q8_0"], tmp_path, build.GPU) == {"Q8_0": prove.NOTHING}


@pytest.mark.real
def test_a_proof_belongs_to_a_gpu_its_driver_and_its_compiler(store, gpu_toolchain, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    asked = partial(proof.proven, store, gpu_toolchain, ["Q8_0"], build.GPU)
    assert asked().types == asked().types == ("Q8_0",)
    for number, (program, does) in enumerate({"nvidia-smi": "echo another", "nvcc": "echo a newer one"}.items(), 1):
        assert len([a for a in store.artifacts() if a.kind == "proof"]) == number
        (tmp_path / program).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / program).chmod(0o755)
        assert asked().types == ("Q8_0",)
    assert len([a for a in store.artifacts() if a.kind == "proof"]) == 3


@pytest.mark.real
def test_a_compiler_that_refuses_is_said(empty, gpu_toolchain, tmp_path, monkeypatch):
    (tmp_path / "nvcc").write_text("#!/bin/sh\n[ $1 = --version ]\n")
    (tmp_path / "nvcc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert proof.proven(empty, gpu_toolchain, ["Q4_0"], build.GPU) == Kernels(None)
    (warned,) = said(empty)
    assert "the CPU's quantizers are used: " in warned


@pytest.mark.real
@pytest.mark.parametrize("program", ["nvcc", "nvidia-smi"])
@pytest.mark.parametrize("does", ["exit 1", None])
def test_without_a_gpu_or_its_compiler_nothing_is_done_or_said(
    empty, gpu_toolchain, tmp_path, monkeypatch, program, does
):
    """Where a program is not there, or fails."""
    for other in {"nvcc", "nvidia-smi"} - {program}:
        shutil.copy(ROOM / other, tmp_path)
    if does:
        (tmp_path / program).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}")
    assert proof.proven(empty, gpu_toolchain, ["Q4_0"], build.GPU) == Kernels(None)
    assert empty.display._stream.getvalue() == ""


def test_a_weight_becomes_two_bytes_at_most():
    """What gpu.cu has room for."""
    assert all(SIZES[name][1] <= 2 * SIZES[name][0] for name in TYPES)
