"""Blocks that are sound and blocks that are not: no number, absurd or zeroed, of every type there is."""

from __future__ import annotations

import ctypes
import threading

import ggufs
import numpy as np
import pytest
from bench.gate import random_blocks
from ggufs import IDS, Tensor, blank

from pipeline import gguf_file
from pipeline.check import blocks
from pipeline.check.block_formats import FLOATS, FORMATS, Scale
from pipeline.recipe import TENSOR_TYPES
from pipeline.toolchain import tools

NAME = "blk.0.ffn_up.weight"
NEED_IMATRIX = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"}
RNG = np.random.default_rng(3)


@pytest.fixture
def write(tmp_path):
    """`write(tensors)` writes a file; a tensor is `(shape, type, array)`."""

    def to_file(tensors, name="quant.gguf"):
        raw = {key: Tensor(shape, kind, array.tobytes()) for key, (shape, kind, array) in tensors.items()}
        return ggufs.write(tmp_path / name, raw)

    return to_file


@pytest.fixture(params=[1 << 20, 7000], ids=["one piece", "many pieces"])
def piece(request, monkeypatch):
    monkeypatch.setattr(blocks, "PIECE", request.param)


def matrix(kind, rows=64, row=1024):
    array = random_blocks(kind, rows * row // gguf_file.SIZES[kind][0])
    return array.reshape(-1, gguf_file.SIZES[kind][1])


def put(array, block, scale: Scale, bits: bytes):
    if scale.coding == "iq1_m":
        for i, nibble in enumerate((bits[0] & 15, bits[0] >> 4, bits[1] & 15, bits[1] >> 4)):
            at = scale.offset + 2 * i + 1
            array[block, at] = (array[block, at] & 15) | nibble << 4
    else:
        array[block, scale.offset : scale.offset + len(bits)] = list(bits)


NAN, INF = b"\x01\xfe", b"\x00\x7c"


def test_every_type_is_known():
    assert FORMATS.keys() | FLOATS.keys() == TENSOR_TYPES.keys() | {"F64"}
    for kind, scales in FORMATS.items():
        assert max(s.offset for s in scales) < gguf_file.SIZES[kind][1]


@pytest.mark.parametrize("kind", TENSOR_TYPES)
def test_sound_blocks_pass(write, kind, piece):
    (verdict,) = blocks.scan(write({NAME: ((1024, 64), kind, matrix(kind))}))
    assert (verdict.check, verdict.outcome) == ("blocks", "pass")
    assert "in 1 tensors, all scales finite" in verdict.seen


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "NVFP4"])
def test_a_scale_that_is_no_number(write, kind, piece):
    per_row = 1024 // gguf_file.SIZES[kind][0]
    block = 50 * per_row + per_row - 1
    for scale in FORMATS[kind]:
        faults = (("Inf", b"\xff"),) if scale.coding == "e8m0" else (("NaN", NAN), ("Inf", INF))
        for what, bits in faults:
            array = matrix(kind)
            put(array, block, scale, bits)
            (verdict,) = blocks.scan(write({NAME: ((1024, 64), kind, array)}))
            assert verdict.outcome == "fail"
            assert verdict.seen == f"{what} as {scale.name} in {NAME}, block {block} (row 50) of {kind}"


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_a_weight_that_is_no_number(write, kind, piece):
    width = gguf_file.SIZES[kind][1]
    for what, number in (("NaN", np.nan), ("Inf", -np.inf)):
        array = matrix(kind)
        bits = np.array([number], "<f2" if kind == "F16" else "<f4").tobytes()[-width:]
        array[2048 * 3 + 5] = array[60_000] = list(bits)
        (verdict,) = blocks.scan(write({NAME: ((1024, 64), kind, array)}))
        assert verdict.seen == f"{what} as weight in {NAME}, weight 6149 (row 6) of {kind}; 2 such weights in 1 tensor"
        assert "the source is broken: take another revision of it" in verdict.advice


def test_the_incident_of_61440_blocks(write):
    """ik_llama.cpp#649: NaN in experts of several layers."""
    tensors = {}
    for layer in range(5):
        array = matrix("Q4_K", rows=4 * 64)
        if layer:
            array[(3 * 64 + 10) * 4 : (3 * 64 + 20) * 4, 2:4] = list(NAN)
        tensors[f"blk.{layer}.ffn_down_exps.weight"] = ((1024, 64, 4), "Q4_K", array)
    (verdict,) = blocks.scan(write(tensors))
    assert verdict.seen == (
        "NaN as minimum in blk.1.ffn_down_exps.weight, block 808 (expert 3, row 10) of Q4_K;"
        " 160 such blocks in 4 tensors"
    )


# With the weights that the blocks were made of


@pytest.fixture
def made(write):
    """`made(change)`: a Q8_0 of 32 rows and its reference, after `change(weights, blocks)` on either."""

    def make(change=lambda _weights, _blocks: None, shape=(256, 32), name=NAME):
        weights = RNG.standard_normal((*shape[::-1],)).astype("<f4") * 0.02
        rows = weights.reshape(-1, 32)
        scales = np.abs(rows).max(axis=1, keepdims=True) / 127
        levels = np.round(rows / scales).astype(np.int8).view(np.uint8)
        quantized = np.concatenate([scales.astype("<f2").view(np.uint8), levels], axis=1)
        change(rows, quantized)
        source = (rows.view("<u2")[:, 1::2]).copy()
        return (
            write({name: (shape, "Q8_0", quantized)}),
            write({name: (shape, "BF16", source)}, "reference.gguf"),
        )

    return make


def clear(block, weights=slice(0)):
    def change(rows, quantized):
        quantized[block, :2] = 0
        rows[weights] = 0

    return change


def test_a_sound_file_with_its_reference(made, piece):
    (verdict,) = blocks.scan(*made())
    assert verdict.outcome == "pass"
    assert verdict.seen.endswith("all scales finite and looked up in the reference where odd")


def test_an_absurd_scale(made, piece):
    def change(_, quantized):
        quantized[77, :2] = list(np.array([9.0], "<f2").tobytes())

    (verdict,) = blocks.scan(*made(change))
    assert verdict.outcome == "fail"
    assert f"absurd scale in {NAME}, block 77 (row 9) of Q8_0: it makes weights up to 1,143, and the" in verdict.seen
    assert "the largest in the reference there is 0.0" in verdict.seen


@pytest.mark.parametrize(
    ("block", "weights", "outcome"),
    [
        (slice(77, 78), slice(0), "fail"),  # one block was zeroed
        (slice(77, 78), slice(77, 78), "pass"),  # and its weights are zero
        (slice(0, 256), slice(0), "fail"),  # all of them
        (slice(0, 256), slice(0, 256), "pass"),
        (slice(72, 80), slice(0), "fail"),  # a row
        (slice(3, 256, 8), slice(0), "pass"),  # inputs that the imatrix never saw: in every row
    ],
)
def test_zeroed_blocks(made, piece, block, weights, outcome):
    (verdict,) = blocks.scan(*made(clear(block, weights)))
    assert verdict.outcome == outcome
    if outcome == "fail":
        count, row = len(range(256)[block]), block.start // 8
        assert verdict.seen == (
            f"zeroed blocks: {count} in 1 tensor are zero, and the reference is not there: first {NAME},"
            f" block {block.start} (row {row}) of Q8_0"
        )


def test_zeroed_blocks_of_one_expert(made, piece):
    shape = (256, 8, 4)
    (verdict,) = blocks.scan(*made(clear(slice(2 * 64, 3 * 64)), shape))
    assert "first blk.0.ffn_up.weight, block 128 (expert 2, row 0) of Q8_0" in verdict.seen
    (verdict,) = blocks.scan(*made(clear(slice(2 * 64 + 3, 3 * 64, 8)), shape))
    assert verdict.outcome == "pass"


def test_blocks_whose_weights_are_few_or_tiny_may_be_zero(made):
    def few(rows, quantized):
        quantized[9, :2] = 0
        rows[9, :20] = 0

    def tiny(rows, quantized):
        quantized[9, :2] = 0
        rows[9] = 1e-6

    assert [blocks.scan(*made(change))[0].outcome for change in (few, tiny)] == ["pass", "pass"]


def test_a_tensor_that_is_copied_is_a_copy(write, piece):
    tensors = {"output_norm.weight": ((1024,), "F32", matrix("F32", rows=1)), NAME: ((1024, 64), "F16", matrix("F16"))}
    reference = write(tensors, "reference.gguf")
    assert blocks.scan(write(tensors), reference)[0].outcome == "pass"
    norm = tensors["output_norm.weight"][2].copy()
    norm[7] = list(np.array([2.5], "<f4").tobytes())
    (verdict,) = blocks.scan(write(tensors | {"output_norm.weight": ((1024,), "F32", norm)}), reference)
    assert verdict.outcome == "fail"
    assert verdict.seen == (
        "1 tensor of the type that the reference has differ from it, and llama-quantize copies such: first"
        " output_norm.weight, weight 7 of F32"
    )


def test_a_reference_of_another_shape_or_type_is_not_looked_at(made, write):
    quant, _ = made(clear(slice(77, 78)))
    other = write({NAME: ((256, 31), "BF16", np.ones(256 * 31, "<u2"))}, "other.gguf")
    assert blocks.scan(quant, other)[0].outcome == "pass"
    quantized = write({NAME: ((256, 32), "Q4_0", matrix("Q4_0", 32, 256))}, "other.gguf")
    assert blocks.scan(quant, quantized)[0].outcome == "pass"
    assert blocks.scan(quant, write({}, "other.gguf"))[0].outcome == "pass"


# Without a reference


def test_a_tensor_without_anything(write, piece):
    tensors = {
        NAME: ((1024, 64), "Q4_K", np.zeros((256, 144), np.uint8)),
        "blk.1.ffn_up.weight": ((1024, 64), "F16", np.zeros((64, 1024), "<f2")),
        "blk.1.attn_q.bias": ((1024,), "F32", np.zeros(1024, "<f4")),
        "blk.2.ffn_up.weight": ((1024, 64), "Q4_K", matrix("Q4_K")),
    }
    (verdict,) = blocks.scan(write(tensors))
    assert (verdict.outcome, verdict.seen) == ("warn", f"2 tensors all zero: {NAME}, blk.1.ffn_up.weight")


@pytest.mark.parametrize(
    ("name", "zeros", "outcome"),
    [
        (NAME, 3000, "warn"),
        (NAME, 100, "pass"),
        ("token_embd.weight", 3000, "pass"),
        ("output.weight", 3000, "pass"),
    ],
)
def test_many_zeroed_blocks_in_a_row(write, name, zeros, outcome):
    array = matrix("Q8_0", rows=256)
    array[1000 : 1000 + zeros, :2] = 0
    array[1010 + zeros :: 7, :2] = 0
    (verdict,) = blocks.scan(write({name: ((1024, 256), "Q8_0", array)}))
    assert verdict.outcome == outcome
    if outcome == "warn":
        assert f"{zeros} blocks in a row are zero in {name}, block 1000 (row 31) of Q8_0" in verdict.seen


def test_a_scale_far_above_all_others(write, piece):
    array = matrix("Q8_0")
    array[100, :2] = list(np.array([60000.0], "<f2").tobytes())
    (verdict,) = blocks.scan(write({NAME: ((1024, 64), "Q8_0", array)}))
    assert verdict.outcome == "warn"
    assert f"suspicious scale in {NAME}, block 100 (row 3) of Q8_0: it makes weights up to 7.62e+06" in verdict.seen


# The work itself


def test_a_file_that_is_cut_short_is_looked_at_as_far_as_it_goes(write, piece):
    array = matrix("Q4_K")
    array[3, :2] = list(NAN)
    file = write({NAME: ((1024, 64), "Q4_K", array), "z.weight": ((1024, 64), "Q4_K", array)})
    file.path.write_bytes(file.path.read_bytes()[: file.data_begin + 200 * 144 + 7])
    (verdict,) = blocks.scan(gguf_file.parse(file.path))
    assert verdict.seen == f"NaN as scale in {NAME}, block 3 (row 0) of Q4_K"


def test_nothing_to_look_at(write):
    assert blocks.scan(write({}))[0].outcome == "skip"
    assert blocks.scan(write({"ids.weight": ((8, 4), "I32", np.zeros(32, "<i4"))}))[0].outcome == "skip"


def test_progress_is_told_and_every_thread_works(write, piece):
    shares, workers = [], set()

    def watch(share):
        shares.append(share)
        workers.add(threading.get_ident())

    file = write({f"blk.{i}.ffn_up.weight": ((1024, 64), "Q4_K", matrix("Q4_K")) for i in range(40)})
    blocks.scan(file, threads=3, watch=watch)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert threading.get_ident() not in workers


def test_a_file_that_is_gone_is_an_error(write):
    file = write({NAME: ((1024, 64), "Q4_K", matrix("Q4_K"))})
    file.path.unlink()
    with pytest.raises(FileNotFoundError):
        blocks.scan(file)


def test_any_bytes_end_in_verdicts(write):
    reference = write({NAME: ((1024, 16), "F32", matrix("F32", 16))}, "reference.gguf")
    for kind in TENSOR_TYPES:
        array = RNG.integers(0, 256, matrix(kind, 16).shape, np.uint8)
        file = write({NAME: ((1024, 16), kind, array), "b.weight": ((1024, 4, 4), kind, array)})
        for verdict in blocks.scan(file) + blocks.scan(file, reference):
            assert verdict.outcome in ("pass", "warn", "fail")
            assert len(verdict.seen) < 400
    assert blocks.scan(ggufs.write(reference.path, {"s": blank((), "F32")}))[0].outcome == "pass"


# What ggml itself makes


def data(kind, rows, row):
    weights = RNG.standard_normal((rows, row)).astype("<f4") * 0.02
    if kind == "heavy tails":
        weights = (RNG.standard_t(2, (rows, row)) * 0.02).astype("<f4")
    if kind == "outliers":
        weights[np.arange(rows), RNG.integers(0, row, rows)] *= 1000
    if kind == "sparse":
        weights *= RNG.random((rows, row)) < 0.02
    if kind == "all the same":
        weights[:] = 0.013
    if kind == "tiny":
        weights *= 1e-4
    if kind == "tinier":
        weights *= 1e-6
    if kind == "zero":
        weights[: rows // 2] = 0
    return weights


def importance(kind, row):
    weights = RNG.random(row).astype("<f4") ** 4
    if kind == "unseen inputs":
        weights[: row // 2] = 0
    if kind == "extreme":
        weights = (10 ** RNG.uniform(-8, 4, row)).astype("<f4")
    return weights


@pytest.mark.real
@pytest.mark.parametrize("kind", FORMATS)
def test_whatever_ggml_makes_of_its_reference_passes(machine_store, toolchain, write, kind):
    library = tools(machine_store, toolchain).path("llama-quantize").parent / "libggml-base.so"
    quantize = ctypes.CDLL(str(library)).ggml_quantize_chunk
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    quantize.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    rows, row = 4, 512
    for weighted in ("none", "even", "unseen inputs", "extreme"):
        if weighted == "none" and kind in NEED_IMATRIX:
            continue
        tensors, source = {}, {}
        for of in ("even", "heavy tails", "outliers", "sparse", "all the same", "tiny", "tinier", "zero"):
            weights, matters = np.ascontiguousarray(data(of, rows, row)), importance(weighted, row)
            block, size = gguf_file.SIZES[kind]
            made = np.zeros((rows * row // block, size), np.uint8)
            imatrix = None if weighted == "none" else matters.ctypes.data
            quantize(IDS[kind], weights.ctypes.data, made.ctypes.data, 0, rows, row, imatrix)
            tensors[f"{of}.weight"] = ((row, rows), kind, made)
            source[f"{of}.weight"] = ((row, rows), "F32", weights)
        verdicts = blocks.scan(write(tensors), write(source, "reference.gguf"))
        assert [v.outcome for v in verdicts] == ["pass"], (weighted, verdicts)
