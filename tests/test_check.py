"""Verdicts on files that are right and on files that are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGUFWriter

from pipeline import disk, gguf_file
from pipeline.check import structure
from pipeline.errors import OutOfRoomError, ToolchainError
from pipeline.result import Fallback

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, tensors: dict[str, np.ndarray]) -> gguf_file.GGUFFile:
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(3)
    writer.add_context_length(2048)
    writer.add_head_count_kv([2, 0, 1])
    writer.add_token_scores([0.0] * (gguf_file.LAYERS + 1))
    writer.add_token_list([b"a", b"b"])
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf_file.read(path)


A, B = np.zeros((4, 32), np.float16), np.ones(32, np.float32)


@pytest.fixture
def reference(tmp_path):
    return write(tmp_path / "reference.gguf", {"a": A, "b": B})


def test_reads_a_file_back(reference):
    assert (reference.architecture, reference.layers, reference.hyperparameter("context_length")) == ("llama", 4, 2048)
    assert reference.tensors["a"] == gguf_file.Tensor("a", (32, 4), "F16", 128, 256)
    arrays = {key: value for key, value in reference.metadata.items() if isinstance(value, tuple)}
    assert arrays == {"llama.attention.head_count_kv": (2, 0, 1)}
    assert reference.types == {"F16": 1, "F32": 1}
    assert reference.parameters == 160
    assert reference.bits_per_weight == 8 * (256 + 128) / 160


@pytest.mark.parametrize("keep", [0, 3, 40, -1])
def test_a_file_that_is_cut_short_does_not_open(reference, keep):
    content = reference.path.read_bytes()
    reference.path.write_bytes(content[:keep])
    with pytest.raises(ToolchainError, match="does not open as GGUF"):
        gguf_file.read(reference.path)


@pytest.mark.parametrize(
    ("tensors", "outcome", "seen"),
    [
        ({"a": A, "b": B}, "pass", "2 tensors with the names and shapes"),
        ({"a": A}, "fail", "1 of 2 tensors missing: b"),
        ({"a": A, "b": B, "c": B}, "fail", "1 of 2 tensors not the reference's: c"),
        ({"a": A[:2], "b": B}, "fail", "of another shape: a"),
        ({"b": B, "a": A}, "pass", "2 tensors"),
    ],
)
def test_tensors_are_held_against_the_reference(reference, tmp_path, tensors, outcome, seen):
    verdict = structure.tensors(write(tmp_path / "quant.gguf", tensors), reference)
    assert verdict.outcome == outcome
    assert seen in verdict.seen


def test_fallbacks_are_held_against_the_file(reference):
    assert structure.fallbacks(reference, []).outcome == "pass"
    told = Fallback(tensor="a", wanted="Q4_K", used="F16")
    assert structure.fallbacks(reference, [told]).outcome == "warn"
    untrue = Fallback(tensor="a", wanted="Q4_K", used="Q5_0")
    assert structure.fallbacks(reference, [told, untrue]).outcome == "fail"
    gone = Fallback(tensor="z", wanted="Q4_K", used="Q5_0")
    assert structure.fallbacks(reference, [gone]).outcome == "fail"


def test_too_little_disk_is_refused_before_any_work(monkeypatch, tmp_path):
    class Full:
        free = 10_000_000

    class Steps:
        toolchain = source = None

    class NoStore:
        root = tmp_path

        def find(self, _step):
            return None

    monkeypatch.setattr(disk, "needed", lambda *_: (5_000_000_000, 3_000_000_000))
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Full)
    with pytest.raises(OutOfRoomError, match=r"needs about 9\.2 GB \(estimated\).* 0\.0 GB are free"):
        disk.check(NoStore(), [(Steps(), ())], tmp_path / "out" / "deep")
