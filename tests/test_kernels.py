"""The kernels against ggml's own quantizers, and what becomes of one that differs, crashes or cannot be built."""

from __future__ import annotations

import ctypes
import io
import shutil
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from machine import BUILT, empty_store
from rows import tamed

from pipeline.errors import CrashedError, ToolchainError
from pipeline.ggml import LIBRARY, NUMBERS
from pipeline.gguf_file import SIZES
from pipeline.kernels import build, proof, prove
from pipeline.kernels.proof import Kernels
from pipeline.progress import Display
from pipeline.store import Store
from pipeline.toolchain import tools

TYPES = build.types()
# Without what makes vectors of the lanes: what any compiler and any processor understand.
PLAIN = [flag for flag in build.CPU.flags if flag not in ("-O3", "-march=native")]


@pytest.fixture(scope="module")
def ggml(machine_store, toolchain):
    return tools(machine_store, toolchain).path(LIBRARY)


@pytest.fixture(scope="module")
def pairs(machine_store, toolchain, ggml):
    libraries = ctypes.CDLL(str(ggml)), ctypes.CDLL(str(proof.proven(machine_store, toolchain, TYPES).library))
    return {name: prove.Pair(*libraries, prove.Type(name, NUMBERS[name], *SIZES[name])) for name in TYPES}


@pytest.fixture
def store(machine_store, tmp_path):
    """A store with the toolchain, and no kernels yet."""
    return empty_store(machine_store, tmp_path / "store", BUILT)


def said(store):
    return [line for line in store.display._stream.getvalue().splitlines() if "warning" in line]


def numbers(largest, smallest=None):
    low = -largest if smallest is None else smallest
    return st.floats(low, largest, width=32) | st.sampled_from([0.0, 0.5, 1.0, largest])


@st.composite
def rows(draw):
    """Rows of weights, and a weight a column or none. Numbers of one size, mostly, with a few of another among them."""
    count, row = draw(st.sampled_from([1, 2, 5, 17])), draw(st.sampled_from([256, 512]))
    size = draw(st.sampled_from([1e-39, 1e-15, 1e-6, 1.0, 1e5, 1e9]))
    seed = draw(st.integers(0, 1 << 32))
    noise = np.random.default_rng(seed).standard_normal((count, row)) * draw(st.sampled_from([0, 1])) * size
    few = draw(arrays(np.float32, (count, row), elements=numbers(2.0**30), fill=st.just(np.nan)))
    values = np.where(np.isnan(few), noise, few).astype(np.float32)
    weights = arrays(np.float32, row, elements=numbers(2.0**40, 0.0), fill=numbers(2.0**10, 0.0))
    return values, draw(weights)


@pytest.mark.real
@pytest.mark.parametrize("name", TYPES)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=rows())
def test_the_same_bytes_as_ggml(pairs, name, drawn):
    values, importance = drawn
    pair = pairs[name]
    for matrix in [importance] if pair.needs_imatrix else [None, importance]:
        assert pair.different(tamed(name, values, matrix), matrix) == 0


@pytest.mark.real
def test_every_kernel_is_proven_on_this_machine(machine_store, toolchain):
    assert proof.proven(machine_store, toolchain, [*TYPES, "F16"]).types == tuple(sorted(TYPES))


@pytest.mark.real
def test_the_plain_loops_are_right_without_vectors(ggml, tmp_path):
    library = build.build(tmp_path, build.compiler().command, flags=["-O1", *PLAIN])
    verdicts = proof.compared(ggml, library, TYPES, tmp_path)
    assert list(verdicts) == TYPES
    assert set(verdicts.values()) <= {proof.SAME, proof.SLOW}


FAULTS = {
    # A trial fewer, where there is an imatrix.
    ("legacy.c", "-0.9f, 0.05f, 36, 0", "-0.9f, 0.05f, 35, 0"),
    # A byte too far.
    (
        "legacy.c",
        "return (size_t)blocks * sizeof(BlockQ8_0);",
        "((BlockQ8_0 *)out)[blocks].scale = 0; return blocks * sizeof(BlockQ8_0);",
    ),
    # The last blocks, where they are fewer than lanes.
    ("plain.c", "to_half(sum[lane] / 128)", "to_half(from.count < LANES ? 1.0f : sum[lane] / 128)"),
    # Nothing made, so that it says.
    ("k_symmetric.c", "return (size_t)blocks * sizeof(BlockQ3_K);", "return 0;"),
    ("k_symmetric.c", "pack_6_bits(levels, made);", "__builtin_trap();"),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """The kernels with faults planted."""
    sources = tmp_path_factory.mktemp("faulty")
    for path in build.SOURCES.glob("*.[ch]"):
        shutil.copyfile(path, sources / path.name)
    for name, right, wrong in FAULTS:
        text = (sources / name).read_text()
        assert right in text, name
        (sources / name).write_text(text.replace(right, wrong))
    return sources


@pytest.fixture
def planted(store, toolchain, faulty, monkeypatch):
    """The store, where the kernels are those with faults."""
    monkeypatch.setattr(proof, "Library", partial(proof.Library, sources=faulty))
    return store


@pytest.mark.real
def test_a_kernel_that_differs_or_crashes_is_not_used(planted, toolchain):
    wrong = {"Q4_1", "Q8_0", "Q1_0", "Q3_K", "Q6_K"}
    kernels = proof.proven(planted, toolchain, [*wrong, "Q4_0", "Q4_K"])
    assert kernels.types == ("Q4_0", "Q4_K")
    assert kernels.library.is_file()
    warned = said(planted)
    assert len(warned) == len(wrong)
    for name in wrong:
        (line,) = [line for line in warned if f"quantizer of {name} is not used" in line]
        assert {"Q6_K": "was killed by SIG", "Q3_K": prove.NOTHING}.get(name, " bytes differ") in line
    proof.proven(planted, toolchain, wrong)
    assert said(planted) == warned  # once a run
    assert sorted(a.kind for a in planted.artifacts() if a.kind in {"kernels", "proof"}) == ["kernels", *["proof"] * 6]


@pytest.mark.real
def test_kernels_that_do_not_compile_are_done_without(store, toolchain, tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "legacy.c").write_text("no C")
    monkeypatch.setattr(proof, "Library", partial(proof.Library, sources=broken))
    assert proof.proven(store, toolchain, ["Q4_0"]) == Kernels(None)
    (warned,) = said(store)
    assert "ggml's own quantizers are used: " in warned


@pytest.mark.real
def test_a_compiler_that_does_not_know_this_processor(tmp_path, toolchain, store):
    picky = tmp_path / "picky"
    picky.write_text('#!/bin/sh\ncase "$*" in *native*) exit 1;; esac\nexec cc -O0 "$@"\n')
    picky.chmod(0o755)
    made = store.get(proof.Library(build.Compiler(str(picky), ""), "this one"))
    assert list(made.files) == [build.LIBRARY]


def test_no_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "cc-that-is-not-there -pipe")
    monkeypatch.setenv("PATH", str(tmp_path))
    store = Store(tmp_path / "store", Display(io.StringIO()))
    assert proof.proven(store, None, ["Q4_K"]) == proof.proven(store, None, ["Q4_K"]) == Kernels(None)
    (warned,) = said(store)
    assert "there is no C compiler" in warned


def test_types_without_a_kernel_need_no_compiler(tmp_path):
    assert proof.proven(SimpleNamespace(display=Display()), None, ["F16", "BF16"]) == Kernels(None)


@pytest.mark.programs
def test_the_compiler_is_the_first_one_that_answers(tmp_path, monkeypatch):
    for name, answer in {"mine": "echo mine $1", "cc": "exit 1", "gcc": "echo gcc"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}")
    monkeypatch.setenv("CC", "mine -pipe")
    assert build.compiler() == ("mine -pipe", "mine -pipe\n")
    monkeypatch.delenv("CC")
    assert build.compiler() == ("gcc", "gcc\n")


@pytest.mark.parametrize(
    ("printed", "verdict"),
    [
        ("Q4_0: 0 bytes differ; 1.73 times as fast\n", "same"),
        ("Q4_0: 0 bytes differ; 0.93 times as fast\n", "slow"),
        ("of ggml's\nQ4_0: 0 bytes differ; 2.00 times as fast\n", "same"),
        ("Q4_0: 7 bytes differ; 2.00 times as fast\n", "7 bytes differ"),
        ("Q4_0: 10 bytes differ; 2.00 times as fast\n", "10 bytes differ"),
        ("Q4_1: 0 bytes differ; 1.73 times as fast\n", "nothing came of comparing it with ggml"),
        (f"Q4_0: {prove.NOTHING}\n", prove.NOTHING),
        ("", "nothing came of comparing it with ggml"),
    ],
)
def test_what_the_proof_prints(monkeypatch, tmp_path, printed, verdict):
    monkeypatch.setattr(proof.shell, "run", lambda *_, **__: SimpleNamespace(stdout=printed))
    assert proof.compared(tmp_path / "ggml", tmp_path / "kernels", ["Q4_0"], tmp_path) == {"Q4_0": verdict}
    assert not list(tmp_path.iterdir())


def test_of_two_kernels_in_one_program_only_the_one_that_ends_it_is_wrong(monkeypatch, tmp_path):
    def run(command, **_):
        names = [type_.name for type_ in prove.Job.read(command[-1]).types]
        if "IQ1_S" in names:
            raise CrashedError("it was killed")
        return SimpleNamespace(stdout="".join(f"{name}: 0 bytes differ; 3.80 times as fast\n" for name in names))

    monkeypatch.setattr(proof.shell, "run", run)
    verdicts = proof.compared(tmp_path / "ggml", tmp_path / "kernels", ["IQ1_M", "IQ1_S"], tmp_path)
    assert verdicts == {"IQ1_M": proof.SAME, "IQ1_S": "it was killed"}
    assert not list(tmp_path.iterdir())


def test_what_is_not_the_kernels_fault_is_no_verdict(monkeypatch, tmp_path):
    def run(*_, **__):
        raise ToolchainError("python failed with exit code 1")

    monkeypatch.setattr(proof.shell, "run", run)
    with pytest.raises(ToolchainError, match="exit code 1"):
        proof.compared(tmp_path / "ggml", tmp_path / "kernels", ["Q4_0"], tmp_path)


@pytest.mark.parametrize("name", TYPES)
def test_the_proof_has_blocks_that_lanes_do_not_divide(name):
    type_ = prove.Type(name, NUMBERS[name], *SIZES[name])
    random = np.random.default_rng(0)
    cases = [(rows.size // type_.block, len(matrices)) for rows, matrices in prove.cases(type_, random)]
    assert any(blocks < 16 and tried > 1 for blocks, tried in cases)
    assert any(blocks > 16 and blocks % 16 and blocks % 2 for blocks, _ in cases)


def test_all_types_have_a_block_that_is_known():
    assert len(set(TYPES)) == len(TYPES) >= 10
    assert all(name in SIZES and name in NUMBERS for name in TYPES)


@pytest.mark.real
def test_a_kernel_that_gains_nothing_is_left_alone(store, toolchain, monkeypatch):
    monkeypatch.setattr(proof, "compared", lambda _ggml, _library, types, *_: dict.fromkeys(types, proof.SLOW))
    assert proof.proven(store, toolchain, ["Q4_0"]).types == ()
    assert said(store) == []
