"""What becomes of each tensor, the header that llama-quantize would write, and the file put together."""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import replace
from types import SimpleNamespace

import ggufs
import numpy as np
import pytest
from given import Given

from pipeline import gguf_file
from pipeline.engine import assembly, header, plan, tensors, worker
from pipeline.engine.assembly import Piece
from pipeline.engine.plan import Part
from pipeline.engine.tensors import QuantizedTensor, Wanted
from pipeline.errors import ToolchainError
from pipeline.gguf_file import Tensor
from pipeline.imatrix import Entry, ImatrixFile

TENSORS = {
    "token_embd.weight": ggufs.blank((256, 4), "BF16"),
    "output.weight": ggufs.blank((256, 4), "BF16"),
    "blk.0.attn_norm.weight": ggufs.blank((256,), "F32"),
    "blk.0.attn_q.weight": ggufs.blank((256, 2), "BF16"),
    "blk.0.ffn_up_exps.weight": ggufs.blank((256, 2, 3), "BF16"),
    "blk.0.odd.weight": ggufs.blank((256, 2), "Q4_0"),
    "blk.0.short.weight": ggufs.blank((32, 2), "BF16"),
}


@pytest.fixture
def reference(tmp_path):
    return ggufs.write(tmp_path / "reference.gguf", TENSORS)


def importance(tmp_path, chunks=4, datasets=("text",), **entries):
    found = {f"{name}.weight": Entry(0, values, 0, 1) for name, values in entries.items()}
    return ImatrixFile(tmp_path / "imatrix.gguf", False, chunks, 512, datasets, found)


def planned(reference, matrix, base="Q4_K_M", **types):
    wanted = {
        name: types.get(name.removesuffix(".weight").replace(".", "_"), t.type) for name, t in reference.tensors.items()
    }
    return {part.source.name.removesuffix(".weight"): part for part in plan.parts(reference, wanted, matrix, base)}


def test_what_has_its_type_already_is_copied(reference):
    parts = planned(reference, None, blk_0_attn_q="Q8_0")
    assert [name for name, part in parts.items() if not part.is_copied] == ["blk.0.attn_q"]
    assert list(parts) == [name.removesuffix(".weight") for name in TENSORS]
    made = parts["blk.0.attn_q"]
    assert (made.tensor.type, made.tensor.shape, made.tensor.size) == ("Q8_0", (256, 2), 2 * 8 * 34)


def test_the_imatrix_counts_where_it_changes_a_byte(reference, tmp_path):
    matrix = importance(tmp_path, **{"blk.0.attn_q": 256, "blk.0.ffn_up_exps": 768, "token_embd": 7})
    types = {"blk_0_attn_q": "Q4_K", "blk_0_ffn_up_exps": "Q8_0", "token_embd": "Q6_K", "output": "Q6_K"}
    parts = planned(reference, matrix, **types)
    assert {name for name, part in parts.items() if part.entry} == {"blk.0.attn_q"}
    parts = planned(reference, matrix, **types | {"blk_0_ffn_up_exps": "IQ1_M"})
    assert {name for name, part in parts.items() if part.entry} == {"blk.0.attn_q", "blk.0.ffn_up_exps"}


@pytest.mark.parametrize(
    ("types", "base", "said"),
    [
        ({"blk_0_odd": "Q8_0"}, "Q8_0", "blk.0.odd.weight is Q4_0 in the reference, and is not quantized again"),
        (
            {"blk_0_short": "Q4_K"},
            "Q4_K_M",
            "blk.0.short.weight has rows of 32 weights, which blocks of Q4_K, 256 each",
        ),
        ({"blk_0_ffn_up_exps": "Q4_K"}, "Q4_K_M", "The imatrix has 256 numbers .*, which needs 768"),
        ({"blk_0_attn_q": "IQ2_S"}, "IQ2_M", "blk.0.attn_q.weight becomes IQ2_S, which cannot be made without"),
        ({"blk_0_attn_q": "Q2_K"}, "Q2_K_S", "blk.0.attn_q.weight becomes Q2_K, which"),
        ({"output": "IQ2_XS"}, "Q4_K_M", "output.weight becomes IQ2_XS, which"),
    ],
)
def test_what_llama_quantize_refuses(reference, tmp_path, types, base, said):
    with pytest.raises(ToolchainError, match=said):
        planned(reference, importance(tmp_path, **{"blk.0.ffn_up_exps": 256}), base, **types)


def test_what_it_does_not_refuse(reference):
    planned(reference, None, blk_0_attn_q="Q2_K", output="IQ2_S", token_embd="IQ3_XXS", blk_0_ffn_up_exps="IQ3_S")


def test_a_plan_that_is_not_understood(reference):
    with pytest.raises(ToolchainError, match=r"plans 0 tensors and reference\.gguf has 7.*--engine llama-quantize"):
        plan.parts(reference, {}, None, "Q8_0")


def test_a_key_that_is_set_again_goes_to_the_end(tmp_path):
    metadata = {"general.file_type": 1, "split.count": 2, "general.name": "a\0b", "quantize.imatrix.file": "old"}
    reference = ggufs.write(tmp_path / "a.gguf", TENSORS, metadata | {"words": ["x\0y", "", "z"], "yes": True})
    kinds = [replace(part.tensor, shape=(*part.tensor.shape, 1)) for part in planned(reference, None).values()]
    matrix = importance(tmp_path, datasets=("t" * 126 + "ä",), x=1, y=2)
    head = header.write(reference, kinds, 15, matrix)
    (tmp_path / "b.gguf").write_bytes(head + bytes(reference.size - reference.data_begin))
    read = gguf_file.read(tmp_path / "b.gguf")
    assert list(read.values) == [
        "general.name", "words", "yes", "general.quantization_version", "general.file_type", "quantize.imatrix.file",
        "quantize.imatrix.dataset", "quantize.imatrix.entries_count", "quantize.imatrix.chunks_count",
    ]  # fmt: skip
    assert read.metadata["general.name"] == "a"
    assert read.array("words") == ["x", "", "z"]
    assert read.metadata["general.file_type"] == 15
    assert read.metadata["quantize.imatrix.dataset"] == "t" * 126 + "\\xc3"
    assert read.metadata["quantize.imatrix.entries_count"] == 2
    assert read.tensors == {name: Tensor.of(name, t.shape, t.type) for name, t in TENSORS.items()}
    assert [t.offset for t in read.tensors.values()] == [t.offset for t in reference.tensors.values()]
    assert read.data_begin == len(head)
    assert len(head) % 32 == 0


def test_nothing_is_said_of_what_is_not_known(tmp_path):
    reference = ggufs.write(tmp_path / "a.gguf", TENSORS)
    read = ggufs.METADATA.keys() - {"general.file_type"}
    for matrix, added in ((None, set()), (importance(tmp_path, 0, (), x=1), {"file", "entries_count"})):
        (tmp_path / "b.gguf").write_bytes(header.write(reference, [], 1, matrix))
        keys = gguf_file.read(tmp_path / "b.gguf").values.keys()
        assert keys - read == {"general.file_type", "general.quantization_version"} | {
            f"quantize.imatrix.{key}" for key in added
        }


@pytest.fixture
def pieces(tmp_path):
    (tmp_path / "one").write_bytes(b"abcdefgh")
    (tmp_path / "two").write_bytes(b"0123456789")
    return [Piece(tmp_path / "one", 2, 3, 0), Piece(tmp_path / "two", 0, 10, 32), Piece(tmp_path / "one", 0, 8, 64)]


WHOLE = b"head" + b"cde".ljust(32, b"\0") + b"0123456789".ljust(32, b"\0") + b"abcdefgh".ljust(32, b"\0")


def test_pieces_lie_where_they_belong_with_zeros_between(pieces, tmp_path):
    assembly.write(tmp_path / "file", b"head", pieces)
    assert (tmp_path / "file").read_bytes() == WHOLE


def test_blocks_that_lie_alike_are_asked_for_whole(tmp_path, monkeypatch):
    (tmp_path / "one").write_bytes(bytes(100) + bytes(range(256)) * 40)
    asked = []

    def copy(source, target, size, begin, to):
        asked.append((begin, to, size))
        return os.pwrite(target, os.pread(source, size, begin), to)

    monkeypatch.setattr(os, "copy_file_range", copy)
    assembly.write(tmp_path / "file", b"head", [Piece(tmp_path / "one", 100, 10240, 96)])
    assert (tmp_path / "file").read_bytes() == b"head" + bytes(96) + bytes(range(256)) * 40
    assert asked == [(100, 100, 3996), (4096, 4096, 6244)]


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_the_kernel_does_not_copy_we_do(pieces, tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr(assembly, "BUFFER", 3)
    assembly.write(tmp_path / "file", b"head", pieces)
    assert (tmp_path / "file").read_bytes() == WHOLE


def test_a_full_disk_and_a_short_piece_are_no_files(pieces, tmp_path, monkeypatch):
    with pytest.raises(OSError, match="one is shorter than it was"):
        assembly.write(tmp_path / "file", b"head", [Piece(pieces[0].path, 2, 7, 0)])
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "copy_file_range", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="No space left"):
        assembly.write(tmp_path / "other", b"head", pieces)


def part(name, rows):
    return Part(Tensor.of(name, (256, rows), "BF16"), Tensor.of(name, (256, rows), "Q8_0"))


def test_batches_are_small_enough_to_lose(monkeypatch):
    monkeypatch.setattr(tensors, "MOST_TENSORS", 3)
    monkeypatch.setattr(tensors, "MOST_WEIGHTS", 256 * 10)
    wanted = [Wanted(name, part(name, rows), 0) for name, rows in zip("abcdefg", (1, 1, 1, 1, 9, 50, 1), strict=True)]
    assert [[one.tensor for one in batch] for batch in tensors._batches(wanted)] == [
        ["a", "b", "c"],
        ["d", "e"],
        ["f"],
        ["g"],
    ]
    assert list(tensors._batches([])) == []


def test_a_tensor_is_named_by_what_decides_its_bytes(tmp_path):
    files = {name: tmp_path / name for name in ("reference", "imatrix", "other")}
    for name, path in files.items():
        path.write_text(name)
    toolchain = SimpleNamespace(identity="tools")
    reference, matrix, other = (Given(path, name, toolchain) for name, path in files.items())
    made = [
        QuantizedTensor(*of)
        for of in ((reference, matrix, "x", "Q4_K"), (reference, None, "x", "Q4_K"), (reference, other, "x", "Q4_K"))
    ] + [
        QuantizedTensor(*of)
        for of in ((other, None, "x", "Q4_K"), (reference, None, "x", "Q5_K"), (reference, None, "y", "Q4_K"))
    ]
    assert len({tensor.digest for tensor in made}) == len(made)
    assert made[1].digest == QuantizedTensor(reference, None, "x", "Q4_K").digest
    assert made[0].label == "tiny/given: x as Q4_K"


def work(tmp_path, **changes):
    fields = {"name": "x", "begin": 0, "source_type": 30, "type": 8, "row": 256, "rows": 9, "expert_rows": 9}
    fields |= {"source_row_bytes": 512, "row_bytes": 272, "out": str(tmp_path / "out"), "skipped": 0} | changes
    return worker.Work(**fields)


def test_pieces_never_reach_into_the_next_expert(tmp_path):
    made = worker._Tensor(work(tmp_path, expert_rows=3), np.arange(3 * 256, dtype=np.float32).reshape(3, 256), 256 * 2)
    assert [(piece.first, piece.rows) for piece in made.pieces] == [(0, 2), (2, 1), (3, 2), (5, 1), (6, 2), (8, 1)]
    base = made.weights_of(0)
    assert [(made.weights_of(row) - base) // 1024 for row in (0, 2, 3, 8)] == [0, 0, 1, 2]
    os.close(made.file)


def test_a_long_row_is_a_piece_of_its_own(tmp_path):
    made = worker._Tensor(work(tmp_path), None, 100)
    assert [(piece.first, piece.rows) for piece in made.pieces] == [(row, 1) for row in range(9)]
    assert made.weights_of(0) is None
    os.close(made.file)


def test_importance_is_the_mean_and_one_for_who_saw_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "Ggml", lambda *_: None)
    (tmp_path / "reference").write_bytes(b"")
    (tmp_path / "imatrix").write_bytes(np.array([3.0, 0, 2.5, 6, 9, 5, 7, 1.5, 3], "<f4").tobytes())
    for legacy, count, expected in (
        (False, {}, [[2, 3], [1, 1], [0.5, 1]]),
        (True, {"matrices": 1}, [[6, 9], [5, 7], [1.5, 3]]),
    ):
        job = worker.Job("", str(tmp_path / "reference"), str(tmp_path / "imatrix"), legacy, 1, [])
        if legacy:
            (tmp_path / "imatrix").write_bytes(struct.pack("<iii", 0, 0, 0) + (tmp_path / "imatrix").read_bytes()[12:])
        of = work(tmp_path, row=2, rows=6, expert_rows=2, sums=12, **{"matrices": 3} | count)
        assert worker.Run(job)._importance(of).tolist() == expected
        short = work(tmp_path, row=2, rows=6, expert_rows=2, sums=16, **{"matrices": 3} | count)
        with pytest.raises(worker.Failure, match="The imatrix ends within the numbers of x"):
            worker.Run(job)._importance(short)


def test_a_job_is_read_as_it_was_written(tmp_path):
    kernels = [worker.Kernels("gpu", {"Q4_K": 12}, worker.GPU_PIECE), worker.Kernels("cpu", {"Q4_K": 12, "Q4_0": 2})]
    job = worker.Job("library", "reference", None, False, 3, [work(tmp_path), work(tmp_path, sums=5)], kernels)
    job.write(tmp_path / "job")
    assert worker.Job.read(tmp_path / "job") == job


def test_what_goes_wrong_in_the_program_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "reference").write_bytes(b"")
    worker.Job(str(tmp_path / "reference"), str(tmp_path / "reference"), None, False, 1, []).write(tmp_path / "job")
    monkeypatch.setattr("sys.argv", ["worker", str(tmp_path / "job")])
    with pytest.raises(SystemExit, match="file too short"):
        worker.main()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(worker, "Run", lambda _job: (_ for _ in ()).throw(full))
    with pytest.raises(SystemExit, match="No space left on device"):
        worker.main()
