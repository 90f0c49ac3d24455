"""An imatrix is judged by its own numbers and by the reference that it should be made from."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest
from machine import ROOT

from pipeline import gguf_file
from pipeline.check import imatrix
from pipeline.toolchain import tools

if TYPE_CHECKING:
    from pathlib import Path

ROW, EXPERTS, LAYERS, CHUNKS = 64, 4, 6, 3
TENSORS = ("attn_q", "attn_k", "attn_output", "ffn_gate_exps")
TEXT = "calibration.txt"


@dataclass
class Made:
    """An imatrix before it is written: sums (matrices, row) and counts by tensor."""

    sums: dict[str, np.ndarray] = field(default_factory=dict)
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    chunks: int = CHUNKS
    datasets: tuple[str, ...] = (TEXT,)

    def gguf(self, path: Path) -> Path:
        writer = gguf.GGUFWriter(path, "imatrix")
        writer.add_array("imatrix.datasets", list(self.datasets))
        writer.add_uint32("imatrix.chunk_count", self.chunks)
        writer.add_uint32("imatrix.chunk_size", 512)
        for name, sums in self.sums.items():
            writer.add_tensor(f"{name}.in_sum2", sums.astype(np.float32))
            writer.add_tensor(f"{name}.counts", self.counts[name].astype(np.float32).reshape(-1, 1))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def dat(self, path: Path) -> Path:
        """As llama-imatrix writes the older format: means times calls, 1 where an expert saw nothing."""
        out = struct.pack("<i", len(self.sums))
        for name, sums in self.sums.items():
            counts = self.counts[name].reshape(-1, 1)
            means = np.where(counts > 0, sums / np.maximum(counts, 1), 1.0)
            out += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", CHUNKS, sums.size)
            out += (means * CHUNKS).astype("<f4").tobytes()
        text = self.datasets[0].encode()
        path.write_bytes(out + struct.pack("<ii", self.chunks, len(text)) + text)
        return path


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "reference.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for name in ("token_embd.weight", "output.weight"):
        writer.add_tensor(name, np.zeros((8, ROW), np.float16))
    for layer in range(LAYERS):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", np.ones(ROW, np.float32))
        writer.add_tensor(f"blk.{layer}.ffn_gate_inp.weight", np.ones((EXPERTS, ROW), np.float32))
        for name in TENSORS:
            shape = (EXPERTS, 8, ROW) if "exps" in name else (8, ROW)
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.zeros(shape, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf_file.read(path)


@pytest.fixture
def good():
    made = Made()
    random = np.random.default_rng(1)
    for layer in range(LAYERS):
        for name in TENSORS:
            matrices = EXPERTS if "exps" in name else 1
            full = f"blk.{layer}.{name}.weight"
            made.sums[full] = random.random((matrices, ROW)) * 900
            made.counts[full] = np.full(matrices, 512 * CHUNKS / (2 if matrices > 1 else 1))
    return made


def judge(path, reference, text=TEXT, chunks=CHUNKS):
    return imatrix.verdicts(path, reference, text=text, chunks=chunks)


@pytest.mark.parametrize("form", ["gguf", "dat"])
def test_a_good_one_passes(good, form, reference, tmp_path):
    (verdict,) = judge(getattr(good, form)(tmp_path / "i"), reference)
    assert (verdict.check, verdict.outcome) == ("imatrix", "pass")
    assert verdict.seen == "24 tensors covered, all finite, 3 chunks of 'calibration.txt'"
    assert judge(tmp_path / "i", reference, text=None, chunks=None)[0].outcome == "pass"


Q1, EXPS = "blk.1.attn_q.weight", "blk.2.ffn_gate_exps.weight"


def not_finite(made):
    made.sums[Q1][0, 3] = np.nan
    made.sums[EXPS][1, :2] = np.inf


def negative(made):
    made.sums[Q1][0, 3] = -1


def zero(made):
    made.sums[Q1][:] = 0


def never_reached(made):
    made.sums[EXPS][:] = 0
    made.counts[EXPS][:] = 0


def one_expert(made):
    made.sums[EXPS][1] = 0
    made.counts[EXPS][1] = 0


def most_experts(made):
    for layer in range(LAYERS):
        made.sums[f"blk.{layer}.ffn_gate_exps.weight"][2:] = 0
        made.counts[f"blk.{layer}.ffn_gate_exps.weight"][2:] = 0


def one_number(made):
    made.sums[Q1][:] = 7


def all_one_number(made):
    for name, sums in made.sums.items():
        sums[:] = made.counts[name][:, None] * 0.5


def half(made):
    for layer in range(3, LAYERS):
        for name in TENSORS:
            del made.sums[f"blk.{layer}.{name}.weight"]


def one_missing(made):
    del made.sums[Q1]


def larger_model(made):
    made.sums[f"blk.{LAYERS}.attn_q.weight"] = made.sums[Q1]
    made.counts[f"blk.{LAYERS}.attn_q.weight"] = made.counts[Q1]


def wider_model(made):
    made.sums[Q1] = np.ones((1, 2 * ROW))


def fewer_chunks(made):
    made.chunks = 1


def more_chunks(made):
    made.chunks = 9
    made.counts = {name: counts * 3 for name, counts in made.counts.items()}
    made.sums = {name: sums * 3 for name, sums in made.sums.items()}


def another_text(made):
    made.datasets = ("wiki\x1b[2J.txt",)


def another_text_too(made):
    made.datasets = ("wiki.txt", "/data/" + TEXT)


BOTH = [
    (not_finite, "fail", r"2 of 24 entries hold numbers that are not finite: blk.1.attn_q.weight \(1 NaN\), blk.2"),
    (negative, "fail", "1 of 24 entries hold negative sums of squares: blk.1.attn_q.weight"),
    (zero, "fail", "1 of 24 entries hold no input but zeros: blk.1.attn_q.weight"),
    (never_reached, "fail", "1 of 24 entries hold no input but zeros: blk.2.ffn_gate_exps.weight"),
    (one_expert, "warn", "4.2% of the experts were never reached by the text: 1 of 4 in blk.2.ffn_gate_exps.weight"),
    (most_experts, "fail", "50.0% of the experts were never reached by the text"),
    (one_number, "warn", "1 of 24 entries hold one number over and over, which says nothing: blk.1.attn_q.weight"),
    (half, "fail", "it is not whole: 12 of 24 tensors have no entry: blk.3.attn_q.weight"),
    (one_missing, "warn", "1 of 24 tensors have no entry: blk.1.attn_q.weight"),
    (larger_model, "fail", "1 of 25 entries are for tensors that this model does not have, 'blk.6.attn_q.weight'"),
    (wider_model, "fail", "the entry of blk.1.attn_q.weight has 128 numbers and the tensor's rows want 64"),
    (fewer_chunks, "fail", "it holds 1 of 3 chunks of the text"),
    (another_text, "fail", r"it was measured on 'wiki\\x1b\[2J.txt', not on 'calibration.txt'"),
]


@pytest.mark.parametrize("form", ["gguf", "dat"])
@pytest.mark.parametrize(("fault", "outcome", "seen"), BOTH, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_one_is_named(good, fault, outcome, seen, form, reference, tmp_path):
    fault(good)
    with np.errstate(invalid="ignore"):
        path = getattr(good, form)(tmp_path / "i")
    (verdict,) = judge(path, reference)
    assert verdict.outcome == outcome
    assert re.search(seen, verdict.seen), verdict.seen
    assert verdict.advice.endswith(".")


@pytest.mark.parametrize(
    ("fault", "outcome", "seen"),
    [
        (all_one_number, "fail", "24 of 24 entries hold one number over and over"),
        (more_chunks, "warn", "it holds 9 chunks, where 3 were asked for"),
        (another_text_too, "warn", "it was merged of 2 texts: 'wiki.txt', '/data/calibration.txt'"),
    ],
)
def test_what_gguf_alone_tells(good, fault, outcome, seen, reference, tmp_path):
    fault(good)
    (verdict,) = judge(good.gguf(tmp_path / "i"), reference)
    assert (verdict.outcome, verdict.seen[: len(seen)]) == (outcome, seen)


def test_three_chunks_at_once_lose_six_tokens(good, reference, tmp_path):
    good.counts = {name: counts * (1530 / 1536) for name, counts in good.counts.items()}
    good.chunks = 2
    (verdict,) = judge(good.gguf(tmp_path / "i"), reference)
    assert verdict.outcome == "pass"


def test_chunks_are_counted_not_believed(good, reference, tmp_path):
    good.counts = {name: counts / 3 for name, counts in good.counts.items()}
    (verdict,) = judge(good.gguf(tmp_path / "i"), reference)
    assert verdict.seen == "it holds 1 of 3 chunks of the text"


def test_views_of_tensors_are_no_other_model(good, reference, tmp_path):
    good.sums["blk.0.attn_k.weight (reshaped)"] = good.sums[Q1]
    good.counts["blk.0.attn_k.weight (reshaped)"] = good.counts[Q1]
    assert judge(good.gguf(tmp_path / "i"), reference)[0].outcome == "pass"


@pytest.mark.parametrize("form", ["gguf", "dat"])
def test_what_is_no_imatrix_fails_with_a_sentence(good, form, reference, tmp_path):
    path = getattr(good, form)(tmp_path / "i")
    content = path.read_bytes()
    lies = [content[:n] for n in (0, 3, 5, 40, 200, len(content) // 2)]
    lies += [b"\xff" * 64, content[:4] + b"\xff" * 300, b"GGUF" + b"\0" * 60]
    for lie in lies:
        path.write_bytes(lie)
        (verdict,) = judge(path, reference)
        assert verdict.outcome == "fail"
        assert "i is no imatrix" in verdict.seen or "i does not open" in verdict.seen, verdict.seen
    (verdict,) = judge(tmp_path, reference)
    assert verdict.outcome == "fail"
    (verdict,) = judge(tmp_path / "gone", reference)
    assert verdict.outcome == "fail"


def test_a_model_is_no_imatrix(reference):
    (verdict,) = judge(reference.path, reference)
    assert "it has no imatrix.datasets" in verdict.seen


@pytest.mark.real
@pytest.mark.parametrize("kind", ["mixtral", "llama"])
@pytest.mark.parametrize("form", ["gguf", "dat"])
def test_those_of_llama_imatrix_pass(kind, form, machine_store, toolchain, model_directory, tmp_path):
    llama = tools(machine_store, toolchain)
    model = tmp_path / "reference.gguf"
    convert = [sys.executable, llama.converter, model_directory(kind), "--outfile", model, "--outtype", "bf16"]
    subprocess.run([*map(str, convert)], check=True, capture_output=True)
    made = tmp_path / f"imatrix.{form}"
    text = ROOT / "pipeline/texts/calibration.txt"
    command = [llama.path("llama-imatrix"), "-m", model, "-f", text.name, "-o", made, "-c", "512", "--chunks", "2"]
    subprocess.run([*map(str, command), "--output-format", form], check=True, capture_output=True, cwd=text.parent)
    found = judge(made, gguf_file.read(model), chunks=2)
    assert [v.outcome for v in found] == ["pass"], found
