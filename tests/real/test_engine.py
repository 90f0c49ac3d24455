"""The engine that quantizes tensor by tensor, against llama-quantize: the same bytes, and nothing done twice."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import ggufs
import numpy as np
import pytest
from conftest import leftovers
from emulated_gpu import WithGpu, plug_in
from given import Given
from machine import ROOT, empty_store

from pipeline.convert import REFERENCE
from pipeline.engine import plan, worker
from pipeline.errors import KilledError, ToolchainError
from pipeline.ggml import LIBRARY, Quantizer
from pipeline.kernels import build, proof
from pipeline.kernels.proof import Kernels
from pipeline.quantize import FALLBACKS, QUANT, Quant
from pipeline.recipe import QUANT_TYPES, TENSOR_TYPES, builtin
from pipeline.result import Recipe
from pipeline.toolchain import tools
from pipeline.weights import from_f32

# ggml builds tables for these before it quantizes the first row, for seconds.
SLOW = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS"}


class Workbench:
    """Both engines on models that are written here, each with a store of its own."""

    def __init__(self, machine_store, toolchain, root):
        self.root, self.toolchain = root, toolchain
        self.ours, self.theirs = (empty_store(machine_store, root / name) for name in ("ours", "theirs"))

    def give(self, path, content, file_name):
        (self.root / path).write_bytes(content)
        return Given(self.root / path, file_name, self.toolchain)

    def model(self, name="llama", **changes):
        tensors, metadata = shapes(name)
        content = ggufs.content(metadata | changes, {n: weights(n, s) for n, s in tensors.items()})
        matrix = importance(tensors)
        return Quant(
            self.give(f"{name}.gguf", content, REFERENCE),
            self.give("imatrix", matrix, "imatrix.gguf"),
            builtin("Q4_K_M"),
        )

    def differs(self, quant):
        """What the two engines make differently."""
        ours, theirs = self.ours.get(quant), self.theirs.get(replace(quant, engine="llama-quantize"))
        assert ours.digest == theirs.digest
        return [name for name in (QUANT, FALLBACKS) if ours.files[name] != theirs.files[name]]

    def tensors(self):
        """The tensors in our store, and each one's inode: of a directory that is made again it is another."""
        found = [a for a in self.ours.artifacts() if a.kind == "tensor"]
        return {a.label.partition(": ")[2]: a.file("artifact.json").stat().st_ino for a in found}


@pytest.fixture
def bench(machine_store, toolchain, tmp_path):
    return Workbench(machine_store, toolchain, tmp_path)


def shapes(name):
    """The shapes of a tiny model's tensors, and its metadata."""
    architecture = "gemma" if name == "gemma" else "llama"
    row, wide, experts = (288, 544, 0) if name == "odd" else (256, 512, 4 if name == "mixtral" else 0)
    many = (experts,) if experts else ()
    made = {"token_embd.weight": (row, 64), "output_norm.weight": (row,)}
    made |= {} if name == "gemma" else {"output.weight": (row, 64)}
    for layer in range(2):
        roles = {
            "attn_norm": (row,),
            "ffn_norm": (row,),
            "attn_q": (row, row),
            "attn_k": (row, 64),
            "attn_v": (row, 64),
        }
        kind = "_exps" if experts else ""
        roles |= {"attn_output": (row, row), f"ffn_gate{kind}": (row, wide, *many), f"ffn_up{kind}": (row, wide, *many)}
        roles |= {f"ffn_down{kind}": (wide, row, *many)} | ({"ffn_gate_inp": (row, experts)} if experts else {})
        made |= {f"blk.{layer}.{role}.weight": shape for role, shape in roles.items()}
    metadata = {
        "general.architecture": architecture,
        "general.name": "cut\0short",
        "general.quantization_version": 1,
        "split.tensors.count": 9,
        f"{architecture}.block_count": 2,
        f"{architecture}.context_length": 64,
        f"{architecture}.embedding_length": row,
        f"{architecture}.feed_forward_length": wide,
        f"{architecture}.attention.head_count": 4,
        f"{architecture}.attention.head_count_kv": 1,
        f"{architecture}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{architecture}.vocab_size": 64,
        "tokenizer.ggml.tokens": ["a", "b\0c", ""],
        "quantize.imatrix.file": "of an older file",
        "tokenizer.chat_template": "{{ messages }}",
    }
    if experts:
        metadata |= {f"{architecture}.expert_count": experts, f"{architecture}.expert_used_count": 2}
    return made, metadata


def weights(name, shape):
    """Random numbers, in bf16 or f16 where they are a matrix."""
    values = np.random.default_rng(sum(map(ord, name))).normal(size=shape[::-1]).astype(np.float32) / 16
    kind = "F32" if len(shape) == 1 or "gate_inp" in name else "F16" if ".1.attn" in name else "BF16"
    return ggufs.Tensor(shape, kind, from_f32(values, kind).tobytes())


def sums(tensors):
    """Sums and counts of each matrix of the blocks; of a tensor of experts, one saw nothing and one little."""
    random = np.random.default_rng(5)
    for name, shape in tensors.items():
        if name.startswith("blk.") and len(shape) > 1:
            experts = shape[2] if len(shape) > 2 else 1
            counts = np.array([512, 0, 3, 77][:experts], np.float32)
            yield name, random.random((experts, shape[0])).astype(np.float32) * counts[:, None] * 9, counts


def importance(tensors, *, without=(), **metadata):
    """An imatrix; of the token embedding it has what does not fit, as llama-imatrix may leave it."""
    found = {"token_embd.weight": (np.ones((1, 64), np.float32), np.ones(1, np.float32))}
    found |= {name: (values, counts) for name, values, counts in sums(tensors) if name not in without}
    entries = {}
    for name, (values, counts) in found.items():
        entries[f"{name}.in_sum2"] = ggufs.Tensor(values.shape[::-1], "F32", values.tobytes())
        entries[f"{name}.counts"] = ggufs.Tensor((1, counts.size), "F32", counts.tobytes())
    keys = {"general.type": "imatrix", "imatrix.datasets": ["x" * 126 + "ä", "y"], "imatrix.chunk_count": 4}
    return ggufs.content(keys | {"imatrix.chunk_size": 512} | metadata, entries)


def older(tensors):
    """An imatrix.dat; one tensor was never called."""
    entries = [(name, values.reshape(-1)) for name, values, _ in sums(tensors)]
    content = struct.pack("<i", len(entries))
    for number, (name, values) in enumerate(entries):
        content += struct.pack("<i", len(name)) + name.encode()
        content += struct.pack("<ii", 0 if number == 3 else 7, values.size) + values.tobytes()
    return content + struct.pack("<ii", 9, 4) + b"text"


def test_every_quant_type(bench):
    """The slow types with their tables left out: in these files other tensors have the type that costs them."""
    quant = bench.model()
    for base in QUANT_TYPES:
        recipe = Recipe(name=base, base=base, tensors={"blk": "Q4_0"}) if base in SLOW else builtin(base)
        assert bench.differs(replace(quant, recipe=recipe)) == [], base
    assert leftovers(bench.ours) == []


def test_every_tensor_type_with_each_experts_own_importance(bench):
    """An expert that saw nothing among them, and all types of tensors in as few files as they fit into."""
    quant = bench.model("mixtral")
    places = ["ffn_down_exps", "ffn_up_exps", "ffn_gate_exps", "attn_q", "attn_k", "attn_output", "attn_v"]
    names = [f"blk.{layer}.{place}" for place in places for layer in (0, 1)]
    kinds = sorted(set(TENSOR_TYPES) - {"F32", "BF16", "F16"}, key=lambda kind: "IQ" not in kind)
    assert len(kinds) <= 2 * len(names)
    for begin in (0, len(names)):
        tensors = dict(zip(names, kinds[begin:], strict=False))
        recipe = Recipe(name="mixed", base="Q8_0", tensors=tensors)
        assert bench.differs(replace(quant, recipe=recipe)) == []
        assert {f"{name}.weight as {kind}" for name, kind in tensors.items()} <= bench.tensors().keys()


RECIPES = {
    "without imatrix": Recipe(name="x", base="IQ4_XS", imatrix=False),
    "pure": Recipe(name="x", base="Q4_K_M", pure=True),
    "ends": Recipe(name="x", base="Q3_K_S", token_embedding="Q8_0", output="F16"),
    "overrides": Recipe(name="x", base="Q4_K_M", tensors={"attn_(q|k)": "IQ3_S", r"blk\.1\.": "Q8_0"}),
    "floats": Recipe(name="x", base="F16", output="Q6_K"),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipes(bench, recipe):
    assert bench.differs(replace(bench.model(), recipe=recipe)) == []


@pytest.mark.parametrize("name", ["gemma", "odd", "mixtral"])
def test_architectures(bench, name):
    quant = bench.model(name)
    for base in ("Q4_K_M", "IQ3_S"):
        assert bench.differs(replace(quant, recipe=builtin(base))) == []
    announced = json.loads(bench.ours.get(quant).file(FALLBACKS).read_bytes())
    assert bool(announced) == (name == "odd")


def test_imatrices(bench):
    """In the older format, with an entry left out, and one that says neither chunks nor text."""
    quant = bench.model("mixtral")
    tensors, _ = shapes("mixtral")
    left_out = importance(tensors, without=("blk.1.attn_q.weight", "blk.0.ffn_up_exps.weight"))
    short = importance(tensors, imatrix__chunk_count=0)
    for name, content in {"imatrix.dat": older(tensors), "imatrix.gguf": left_out, "other.gguf": short}.items():
        assert bench.differs(replace(quant, imatrix=bench.give(name, content, name))) == [], name


def test_the_types_that_ignore_the_imatrix(machine_store, toolchain):
    quantizer = Quantizer(tools(machine_store, toolchain).path(LIBRARY))
    random = np.random.default_rng(0)
    rows, weights_ = random.normal(size=(4, 256)).astype(np.float32), random.random(256).astype(np.float32) * 99
    for kind in TENSOR_TYPES.keys() - SLOW | {"IQ3_XXS"}:
        same = np.array_equal(quantizer.quantize(rows, kind, weights_), quantizer.quantize(rows, kind, None))
        assert same == (kind in plan.WITHOUT_IMATRIX), kind


def test_the_next_quant_makes_only_what_is_new(bench):
    quant = bench.model()
    assert bench.differs(replace(quant, recipe=builtin("Q4_K_M"))) == []
    first = bench.tensors()
    assert bench.differs(replace(quant, recipe=builtin("Q4_K_S"))) == []
    second = bench.tensors()
    assert second.keys() - first.keys() == {"blk.0.attn_v.weight as Q5_K", "blk.1.attn_v.weight as Q5_K"} | {
        f"blk.{layer}.ffn_down.weight as Q4_K" for layer in (0, 1) if f"blk.{layer}.ffn_down.weight as Q6_K" in first
    }
    assert {name: second[name] for name in first} == first
    # What does not look at the imatrix is shared with a quant that is made without it.
    bench.ours.get(replace(quant, recipe=Recipe(name="x", base="Q4_K_M", imatrix=False)))
    assert len([name for name in bench.tensors() if name.startswith(("token_embd", "output"))]) == 2


def test_two_processes_at_once_share_the_work(bench):
    quant = bench.model()
    quants = [replace(quant, recipe=builtin(name)) for name in ("Q4_K_M", "IQ4_XS", "Q5_K_M", "Q4_K_S")]
    running = []
    for number, order in enumerate((quants, quants[::-1])):
        (bench.root / f"{number}").write_bytes(pickle.dumps(order))
        command = [sys.executable, "-m", "given", bench.ours.root, bench.root / f"{number}"]
        paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        running.append(subprocess.Popen(command, env=os.environ | paths, stdout=subprocess.PIPE, text=True))
    made = [process.communicate(timeout=60)[0].splitlines() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert all(made)
    assert len(made[0] + made[1]) == len(set(made[0] + made[1])) == len(bench.tensors())
    assert leftovers(bench.ours) == []
    assert all(bench.differs(quant) == [] for quant in quants)


def refused(bench, quant, error=ToolchainError):
    with pytest.raises(error) as raised:
        bench.ours.get(quant)
    assert leftovers(bench.ours) == []
    return str(raised.value)


def test_what_llama_quantize_refuses_late(bench):
    quant = bench.model("mixtral")
    tensors, _ = shapes("mixtral")
    tensors["blk.0.attn_q.weight"] = (512, 1)
    foreign = bench.give("foreign", importance(tensors), "foreign.gguf")
    assert "The imatrix has 512 numbers for blk.0.attn_q.weight, which needs 256" in refused(
        bench, replace(quant, imatrix=foreign)
    )
    tensors, _ = shapes("mixtral")
    short = bench.give("short", importance(tensors, without=("blk.1.attn_q.weight",)), "short.gguf")
    recipe = Recipe(name="x", base="Q4_0", tensors={"attn_q": "IQ3_XXS"})
    assert "blk.1.attn_q.weight becomes IQ3_XXS, which cannot be made without an imatrix" in refused(
        bench, replace(quant, imatrix=short, recipe=recipe)
    )
    for wrong in (replace(quant, imatrix=foreign), replace(quant, imatrix=short, recipe=recipe)):
        with pytest.raises(ToolchainError):
            bench.theirs.get(replace(wrong, engine="llama-quantize"))
    assert bench.tensors() == {}


def test_a_reference_that_is_not_finite_and_a_worker_that_dies(bench):
    quant = bench.model()
    content = bytearray(quant.reference.path.read_bytes())
    content[-2:] = b"\xc0\x7f"
    broken = replace(quant, reference=bench.give("broken", content, REFERENCE))
    assert "blk.1.ffn_down.weight holds numbers in the reference that are not finite" in refused(bench, broken)

    def kill():
        while not (found := children(worker.__file__)):
            time.sleep(0.001)
        os.kill(found[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert "was killed by SIGKILL while making tiny/given:Q4_K_M" in refused(bench, quant, KilledError)
    killer.join()


def test_a_kernel_that_is_wrong_makes_no_byte(bench, tmp_path, monkeypatch):
    """With a kernel that would have made other bytes, and without any compiler, the file is what it was."""
    quant = bench.model()
    sources = tmp_path / "sources"
    shutil.copytree(build.SOURCES, sources)
    text = (sources / "k_minimum.c").read_text()
    assert "weigh(now, 2)" in text
    (sources / "k_minimum.c").write_text(text.replace("weigh(now, 2)", "weigh(now, 1)"))
    for kind in ("kernels", "proof"):
        (bench.ours.root / kind).unlink()
    with monkeypatch.context() as planted:
        planted.setattr(proof, "Library", partial(proof.Library, sources=sources))
        assert bench.differs(quant) == []
    made = {}
    for artifact in bench.ours.artifacts():
        made |= json.loads(artifact.file(proof.VERDICTS).read_bytes()) if artifact.kind == "proof" else {}
    assert made["Q4_K"].endswith("bytes differ")
    assert made["Q6_K"] == proof.SAME
    said = bench.ours.display._stream.getvalue()
    assert said.count("warning: the fast quantizer of Q4_K is not used on the CPU, ggml's own is: ") == 1
    monkeypatch.setattr(build, "compiler", lambda *_: None)
    assert bench.differs(replace(quant, recipe=builtin("Q5_K_S"))) == []
    assert "warning: there is no C compiler" in bench.ours.display._stream.getvalue()


@pytest.fixture
def gpu_bench(machine_store, toolchain, tmp_path, monkeypatch):
    """Both engines, ours with an emulated GPU that nothing is proven of yet, and without kernels of the CPU."""
    plug_in(monkeypatch)
    monkeypatch.setenv("EMULATED_LOG", str(tmp_path / "launches"))
    proven = proof.proven

    def of(store, toolchain, types, target):
        return Kernels(None) if target is build.CPU else proven(store, toolchain, types, target)

    monkeypatch.setattr(proof, "proven", of)
    made = Workbench(machine_store, WithGpu(toolchain.source, cuda=True), tmp_path)
    for kind in ("kernels", "proof"):
        (made.ours.root / kind).unlink()
    return made


def launches(bench):
    return (bench.root / "launches").stat().st_size


def test_a_release_with_a_gpu(gpu_bench, monkeypatch):
    """With a GPU, and with one that has no memory left once its kernels are proven."""
    quant = gpu_bench.model()
    assert gpu_bench.differs(quant) == []
    proving = launches(gpu_bench)
    gpu_bench.ours.get(replace(quant, recipe=Recipe(name="x", base="Q4_K_M", imatrix=False)))
    assert launches(gpu_bench) > proving
    working = launches(gpu_bench)
    monkeypatch.setenv("EMULATED_MEMORY", "0")
    assert gpu_bench.differs(replace(quant, recipe=Recipe(name="x", base="Q4_K_M", pure=True))) == []
    assert launches(gpu_bench) == working
    assert "warning" not in gpu_bench.ours.display._stream.getvalue()


def test_a_gpu_that_is_wrong_makes_no_byte(gpu_bench, tmp_path, monkeypatch):
    sources = tmp_path / "sources"
    shutil.copytree(build.SOURCES, sources)
    text = (sources / "gpu.cu").read_text()
    right = "importance ? gpu_values + weights : NULL"
    assert right in text
    (sources / "gpu.cu").write_text(text.replace(right, "NULL"))
    monkeypatch.setattr(proof, "Library", partial(proof.Library, sources=sources))
    quant = gpu_bench.model()
    assert gpu_bench.differs(replace(quant, recipe=Recipe(name="x", base="Q4_K_M", output="Q8_0"))) == []
    said = gpu_bench.ours.display._stream.getvalue()
    for kind in ("Q4_K", "Q6_K"):
        assert f"warning: the fast quantizer of {kind} is not used on the GPU, the CPU's is: " in said
    assert "Q8_0 is not used" not in said


def children(script):
    """Our children that run a script."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and script.encode() in (entry.parent / "cmdline").read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found
