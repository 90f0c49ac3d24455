"""Files that are whole and files that are not: data, tensors, types, metadata, shards, imatrix keys."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace

import ggufs
import pytest
from ggufs import METADATA, blank

from pipeline import gguf_file
from pipeline.check import metadata as keys
from pipeline.check import shards as split
from pipeline.check import structure, tensor_types
from pipeline.check.metadata import ImatrixKeys
from pipeline.convert import REFERENCE
from pipeline.preview.engine import _write_imatrix
from pipeline.quantize import planned
from pipeline.recipe import QUANT_TYPES
from pipeline.result import Fallback
from pipeline.toolchain import tools

TENSORS = {"a.weight": blank((32, 4), "F16"), "b.weight": blank((64, 8)), "c.bias": blank((6,))}
MB = 1 << 20


@pytest.fixture
def reference(tmp_path):
    return ggufs.write(tmp_path / "reference.gguf", TENSORS)


@pytest.fixture
def quant(tmp_path):
    """`quant(tensors, **metadata)` writes a file; a value of None takes the key out."""

    def write(tensors=TENSORS, name="quant.gguf", **changes):
        changed = METADATA | {key.replace("__", "."): of for key, of in changes.items()}
        return ggufs.write(tmp_path / name, tensors, {k: v for k, v in changed.items() if v is not None})

    return write


def test_a_sound_file_passes_every_check(quant, reference):
    file = quant()
    verdicts = [
        structure.layout(file),
        structure.tensors(file, reference),
        tensor_types.types(file, {name: tensor.type for name, tensor in file.tensors.items()}),
        tensor_types.declared(file),
        keys.metadata(file, reference),
    ]
    assert [(v.check, v.outcome, v.advice) for v in verdicts] == [
        (name, "pass", "") for name in ("file", "tensors", "types", "types", "metadata")
    ]
    assert split.shards(file.path).outcome == "skip"
    assert keys.imatrix_keys(file).outcome == "skip"


def test_a_damaged_header_is_a_verdict(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(ggufs.head(0, 0, version=1) + bytes(9))
    with pytest.raises(gguf_file.DamagedError) as caught:
        gguf_file.parse(path)
    verdict = structure.damaged(caught.value)
    assert (verdict.check, verdict.outcome) == ("file", "fail")
    assert verdict.seen == "it is GGUF version 1, which llama.cpp no longer reads"


# The file's data


def changed(file, change):
    content = bytearray(file.path.read_bytes())
    file.path.write_bytes(change(content))
    return gguf_file.parse(file.path)


def shifted(file, name, by):
    """Write another offset for one tensor into the table."""

    def change(content):
        tensor = file.tensors[name]
        at = content.index(name.encode()) + len(name) + 4 + 8 * len(tensor.shape) + 4
        content[at : at + 8] = (tensor.offset + by).to_bytes(8, "little")
        return content

    return changed(file, change)


@pytest.mark.parametrize(
    ("change", "outcome", "seen"),
    [
        (
            lambda f: changed(f, lambda c: c[:-64]),
            "fail",
            "truncated: it needs 3576 bytes and has 3544, the data ends in",
        ),
        (lambda f: changed(f, lambda c: c[: f.data_begin]), "fail", "truncated: it needs"),
        (
            lambda f: changed(f, lambda c: c + b"garbage"),
            "fail",
            "7 bytes follow the last tensor, c.bias: trailing bytes",
        ),
        (
            lambda f: changed(f, lambda c: c + bytes(4000)),
            "warn",
            "4000 bytes follow the last tensor, c.bias, all zero",
        ),
        (lambda f: changed(f, lambda c: c[:-8]), "pass", "3 tensors one behind the other"),
        (
            lambda f: shifted(f, "b.weight", 8),
            "fail",
            "b.weight begins at 264, which is no multiple of the alignment, 32",
        ),
        (lambda f: shifted(f, "b.weight", 32), "fail", "a gap of 32 bytes between tensors: b.weight begins at 288"),
        (lambda f: shifted(f, "b.weight", -32), "fail", "two tensors overlap: b.weight begins"),
        (lambda f: shifted(f, "a.weight", 32), "fail", "a.weight, the first tensor, begins at 32, not at 0"),
    ],
)
def test_data_lies_where_the_table_says(quant, change, outcome, seen):
    verdict = structure.layout(change(quant()))
    assert verdict.outcome == outcome
    assert seen.split(" it needs")[0] in verdict.seen
    assert bool(verdict.advice) == (outcome != "pass")


def test_names_that_llama_cpp_refuses(quant):
    assert "has a name of 70 bytes" in structure.layout(quant({"n" * 70: blank((4,))})).seen
    assert structure.layout(quant({"n" * 63: blank((4,))})).outcome == "pass"
    empty = structure.layout(quant({"none": ggufs.Tensor((0, 4), "F32", b"")}))
    assert (empty.outcome, empty.seen) == ("warn", "1 tensors without any weight: none")


def punched(file, begin, size):
    """Write the file again without a part of it, as an interrupted download into reserved space leaves it."""
    content = file.path.read_bytes()
    file.path.unlink()
    with file.path.open("wb") as out:
        out.write(content[:begin])
        out.seek(begin + size)
        out.write(content[begin + size :])
    return gguf_file.parse(file.path)


def knows_holes(path):
    with path.open("wb") as out:
        out.seek(4 * MB)
        out.write(b"x")
    with path.open("rb") as file:
        return os.lseek(file.fileno(), 0, os.SEEK_DATA) > 0


@pytest.mark.parametrize(
    ("tensor", "outcome"), [("blk.0.ffn_up.weight", "fail"), ("token_embd.weight", "warn"), ("blk.0.bias", "warn")]
)
def test_parts_that_were_never_written(quant, tmp_path, tensor, outcome):
    if not knows_holes(tmp_path / "probe"):
        pytest.skip("this file system knows of no holes")
    shape = (MB,) if tensor.endswith("bias") else (1024, 1024)
    file = quant({"output_norm.weight": blank((1024,)), tensor: blank(shape)})
    assert structure.layout(file).outcome == "pass"
    verdict = structure.layout(punched(file, file.data_begin + MB, 2 * MB))
    assert verdict.outcome == outcome
    assert verdict.seen.endswith(f"bytes in 1 tensors were never written (holes in the file): {tensor}")
    lost = int(verdict.seen.split()[0])
    assert abs(lost - 2 * MB) < 1 << 17
    os.truncate(file.path, file.data_begin + MB)
    os.truncate(file.path, file.size)
    assert structure.layout(gguf_file.parse(file.path)).outcome == outcome


def test_a_file_system_that_knows_no_holes_says_nothing(quant, monkeypatch):
    def refuse(*_):
        raise OSError(22, "Invalid argument")

    file = quant()
    monkeypatch.setattr(os, "lseek", refuse)
    assert structure.layout(file).outcome == "pass"


# Tensors


@pytest.mark.parametrize(
    ("change", "outcome", "seen"),
    [
        ({"c.bias": None}, "fail", "1 of 3 tensors missing: c.bias"),
        ({"d": blank((4,))}, "fail", "1 of 3 tensors not the reference's: d"),
        ({"d\n\x1b": blank((4,))}, "fail", "not the reference's: d\\n\\x1b"),
        ({"b.weight": blank((8, 64))}, "fail", "b.weight is 8×64 and 64×8 in the reference (transposed)"),
        ({"b.weight": blank((32, 16))}, "fail", "(as many weights, in another shape)"),
        ({"b.weight": blank((64, 9))}, "fail", "b.weight is 64×9 and 64×8 in the reference"),
        ({"a.weight": None, "A.weight": TENSORS["a.weight"]}, "fail", "missing: a.weight; 1 of 3 tensors not the"),
        ({}, "pass", "3 tensors with the names and shapes of the reference's"),
    ],
)
def test_tensors_are_held_against_the_reference(quant, reference, change, outcome, seen):
    verdict = structure.tensors(quant({k: v for k, v in (TENSORS | change).items() if v}), reference)
    assert verdict.outcome == outcome
    assert seen in verdict.seen


def test_another_order_is_told_and_no_fault(quant):
    names = ["blk.10.a", "output", "blk.2.a", "token_embd", "blk.2.B"]
    reference = quant({name: blank((4,)) for name in names}, name="reference.gguf")
    ours = sorted(names, key=structure.sorting)
    assert ours == ["output", "token_embd", "blk.2.B", "blk.2.a", "blk.10.a"]
    for order, told in ((names, False), (ours, False), (sorted(names), True)):
        verdict = structure.tensors(quant({name: blank((4,)) for name in order}), reference)
        assert (verdict.outcome, "in an order of their own" in verdict.seen) == ("pass", told)


def test_fallbacks_are_held_against_the_file(reference):
    assert structure.fallbacks(reference, []).outcome == "pass"
    told = Fallback(tensor="a.weight", wanted="Q4_K", used="F16")
    assert structure.fallbacks(reference, [told]).outcome == "warn"
    untrue = Fallback(tensor="a.weight", wanted="Q4_K", used="Q5_0")
    assert structure.fallbacks(reference, [told, untrue]).outcome == "fail"
    gone = Fallback(tensor="z", wanted="Q4_K", used="Q5_0")
    assert structure.fallbacks(reference, [gone]).outcome == "fail"


# Types


def test_types_are_held_against_the_plan(reference):
    planned = {name: tensor.type for name, tensor in reference.tensors.items()}
    assert tensor_types.types(reference, planned).outcome == "pass"
    verdict = tensor_types.types(reference, planned | {"b.weight": "Q4_K"})
    assert verdict.seen == "1 of 3 tensors are not of the planned type: b.weight is F32 and not Q4_K"
    assert verdict.outcome == "fail"
    assert tensor_types.types(reference, {"a.weight": "F16"}).outcome == "warn"


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        ("gemma-2b-Q4_K_M.gguf", "Q4_K_M"),
        ("gemma-2b.i1-iq4_xs.gguf", "IQ4_XS"),
        ("gemma-2b-q8_0-00001-of-00003.gguf", "Q8_0"),
        ("gemma-F16-merged.Q5_K.gguf", "Q5_K_M"),
        ("gemma-2b-BF16.gguf", "BF16"),
        ("gemma-2b-Q4_K_XL.gguf", None),
        ("gemma-2b-UD-Q2_K.gguf", None),
        ("gemma-2b-Q4_0_4_4.gguf", None),
        ("gemma-2b-fp16.gguf", None),
        ("Q4_K_M-gemma.gguf", None),
    ],
)
def test_what_a_file_name_claims(name, claim):
    assert tensor_types.name_claim(name) == claim


def quantized(quant, kind, number, name):
    matrices = {f"blk.{i}.ffn_up.weight": blank((256, 2), kind) for i in range(3)}
    return quant({"token_embd.weight": blank((256, 8), "Q6_K"), **matrices}, name, general__file_type=number)


@pytest.mark.parametrize(
    ("kind", "number", "name", "outcome", "seen"),
    [
        ("Q4_K", 15, "x-Q4_K_M.gguf", "pass", "the types of the quant type Q4_K_M"),
        ("Q4_K", 15, "x-Q8_0.gguf", "fail", "named Q8_0, but most weights are Q4_K (100 %): mislabelled"),
        ("Q8_0", 15, "x.gguf", "warn", "labelled (general.file_type) Q4_K_M, but most weights are Q8_0"),
        ("Q5_K", 17, "x-Q2_K.gguf", "fail", "named Q2_K, but most weights are Q5_K (100 %), and hardly any Q2_K"),
        ("F16", 1, "x-Q4_K_M.gguf", "fail", "named Q4_K_M, but most weights are F16 (100 %)"),
        ("Q4_K", 14, "x-Q4_K_M.gguf", "warn", "named Q4_K_M, and general.file_type says Q4_K_S"),
        ("Q4_K", 15, "x-Q4_K_XL.gguf", "pass", "the types of the quant type Q4_K_M"),
        ("Q4_K", None, "x-mine.gguf", "skip", "neither the file's name nor general.file_type"),
        ("Q4_K", "what", "x.gguf", "skip", "neither"),
        ("Q4_K", 15 + 1024, "x.gguf", "pass", "Q4_K_M"),
    ],
)
def test_a_file_is_what_it_says(quant, kind, number, name, outcome, seen):
    verdict = tensor_types.declared(quantized(quant, kind, number, name))
    assert verdict.outcome == outcome
    assert seen in verdict.seen


def test_a_file_is_what_it_was_made_as(quant):
    file = quantized(quant, "Q8_0", 15, "quant.gguf")
    # A recipe that gives every tensor a type of its own is still of its base.
    assert tensor_types.declared(file, "Q4_K_M").outcome == "pass"
    assert "made as Q6_K, and general.file_type says Q4_K_M" in tensor_types.declared(file, "Q6_K").seen
    assert tensor_types.declared(file, "Q4_K_M", "x-Q4_K_M.gguf").outcome == "fail"
    nothing = quantized(quant, "Q8_0", None, "quant.gguf")
    assert "general.file_type says nothing" in tensor_types.declared(nothing, "Q6_K").seen


@pytest.mark.real
def test_no_quant_type_contradicts_itself(machine_store, toolchain, tmp_path):
    """What llama-quantize plans for rows that divide, rows that do not, and experts is what `declared` expects."""
    program = tools(machine_store, toolchain).path("llama-quantize")
    _write_imatrix(tmp_path / "imatrix.gguf", "text")
    numbers = {name: number for number, name in tensor_types.FILE_TYPES.items()}
    assert numbers.keys() == QUANT_TYPES.keys()
    for row, experts in ((1024, 0), (576, 0), (512, 8)):
        reference = planned_model(tmp_path / REFERENCE, row, experts)
        for name in QUANT_TYPES:
            options = ["--imatrix", "imatrix.gguf"] if "0" not in name else []
            command = [program, "--dry-run", *options, REFERENCE, "quant.gguf", name]
            printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
            types = planned(printed.stdout + printed.stderr)
            if printed.returncode and name == "Q1_0":
                continue  # has no fallback, so llama-quantize refuses
            assert types.keys() == reference.tensors.keys()
            made = {t: gguf_file.Tensor.of(t, reference.tensors[t].shape, kind) for t, kind in types.items()}
            metadata = reference.metadata | {"general.file_type": numbers[name]}
            file = replace(reference, tensors=made, metadata=metadata, path=tmp_path / f"x-{name}.gguf")
            assert tensor_types.declared(file).outcome == "pass", (row, experts, name)
            wrong = "Q8_0" if QUANT_TYPES[name].bits < 5.5 else "Q2_K"
            if name != "MXFP4_MOE":
                assert tensor_types.declared(file, name=f"x-{wrong}.gguf").outcome == "fail", (row, name)


def planned_model(path, row, experts):
    """A llama of 4 layers whose tensors are a hole in the file."""
    dimensions = {"attention.head_count": 8, "attention.head_count_kv": 2, "embedding_length": row, "block_count": 8}
    dimensions |= {"feed_forward_length": 2 * row, "context_length": 64, "vocab_size": 64}
    dimensions |= {"expert_count": experts, "expert_used_count": 2} if experts else {}
    metadata = {"general.architecture": "llama", "llama.attention.layer_norm_rms_epsilon": 1e-5}
    shapes = {"token_embd.weight": (row, 64), "output.weight": (row, 64)}
    many = (experts,) if experts else ()
    for layer in range(8):
        for role, shape in {"attn_q": (row, row), "attn_k": (row, row // 4), "attn_v": (row, row // 4)}.items():
            shapes[f"blk.{layer}.{role}.weight"] = shape
        shapes[f"blk.{layer}.attn_output.weight"] = (row, row)
        for role, shape in {"ffn_gate": (row, 2 * row), "ffn_up": (row, 2 * row), "ffn_down": (2 * row, row)}.items():
            shapes[f"blk.{layer}.{role}{'_exps' if experts else ''}.weight"] = (*shape, *many)
    metadata |= {f"llama.{key}": of for key, of in dimensions.items()}
    offset, infos = 0, b""
    for name, shape in shapes.items():
        infos += ggufs.info(name, shape, 1, offset)
        offset += gguf_file.Tensor.of(name, shape, "F16").size
    pairs = b"".join(ggufs.text(key) + ggufs.value(of) for key, of in metadata.items())
    path.write_bytes(ggufs.head(len(metadata), len(shapes)) + pairs + infos)
    os.truncate(path, gguf_file.parse(path).needed)
    return gguf_file.read(path)


# Metadata


@pytest.mark.parametrize(
    ("change", "outcome", "seen"),
    [
        ({"general__file_type": 15, "quantize__imatrix__file": "i", "split__count": 3}, "pass", "11 keys"),
        (
            {"llama__rope__freq_base": 500000.0},
            "fail",
            "the rope base (llama.rope.freq_base) is 500000, and 10000 in the reference",
        ),
        (
            {"llama__attention__layer_norm_rms_epsilon": 1e-6},
            "fail",
            "the norm epsilon (llama.attention.layer_norm_rms_epsilon) is 9.99999997e-07, and 9.99999975e-06 in",
        ),
        (
            {"tokenizer__ggml__pre": None},
            "fail",
            "the pre-tokenizer (tokenizer.ggml.pre) is missing, the reference has",
        ),
        ({"tokenizer__ggml__pre": "default"}, "fail", "differs: 'default' here, 'smollm' in the reference"),
        (
            {"tokenizer__chat_template": "{{ messages }} " * 9 + "x"},
            "fail",
            "the chat template (tokenizer.chat_template) differs: '{{ messages }} {{",
        ),
        (
            {"tokenizer__ggml__bos_token_id": 2},
            "fail",
            "the id of the token BOS (tokenizer.ggml.bos_token_id) is 2, and 1",
        ),
        (
            {"tokenizer__ggml__tokens": [f"token{i}" if i != 17 else "\x1b[2J" for i in range(40)]},
            "fail",
            "the vocabulary (tokenizer.ggml.tokens) differs: tokenizer.ggml.tokens[17] is '\\x1b[2J', and 'token17' in",
        ),
        ({"tokenizer__ggml__tokens": ["a"] * 39}, "fail", "has 39 values, and 40 in the reference"),
        ({"tokenizer__ggml__token_type": [1] * 599 + [3]}, "fail", "tokenizer.ggml.token_type[599] is 3, and 1 in the"),
        ({"llama__attention__head_count_kv": [2, 1]}, "fail", "llama.attention.head_count_kv[1] is 1, and 0 in the"),
        ({"llama__block_count": "2"}, "fail", "is of another type: '2' here, 2 in the reference"),
        ({"tokenizer__ggml__add_bos_token": True}, "fail", "is added (True), the reference has none"),
        ({"general__name": "Mine"}, "warn", "general.name differs: 'Mine' here, 'Tiny' in the reference"),
        ({"mradermacher__note": "hello"}, "warn", "mradermacher.note is added ('hello')"),
        ({"general__architecture": "qwen2"}, "fail", "the architecture (general.architecture) differs: 'qwen2' here"),
        ({f"llama__x{i}": i for i in range(9)}, "fail", "; and 6 more keys"),
    ],
)
def test_metadata_is_the_references(quant, reference, change, outcome, seen):
    verdict = keys.metadata(quant(**change), reference)
    assert verdict.outcome == outcome
    assert seen in verdict.seen
    assert len(verdict.seen) < 600
    assert verdict.seen.isprintable()


def test_strings_end_at_their_first_nul_as_llama_quantize_cuts_them(quant):
    cut = {"tokenizer__ggml__tokens": ["a", "b", "c"], "general__description": "text"}
    long = {"tokenizer__ggml__tokens": ["a", "b\0ugh", "c"], "general__description": "text\0more"}
    reference = quant(name="reference.gguf", **long)
    assert keys.metadata(quant(**cut), reference).outcome == "pass"


def test_a_difference_deep_in_a_long_text_is_shown_where_it_is(quant):
    reference = quant(name="reference.gguf", tokenizer__chat_template="x" * 5000 + "tool_call" + "y" * 50)
    verdict = keys.metadata(quant(tokenizer__chat_template="x" * 5000 + "tool_cell" + "y" * 50), reference)
    assert "differs from byte 5006 on: 'xxxxxxxxxxxxxxtool_cell" in verdict.seen


# The imatrix


IMATRIX = {
    "quantize__imatrix__file": "imatrix.gguf",
    "quantize__imatrix__dataset": "calibration.txt",
    "quantize__imatrix__entries_count": 210,
    "quantize__imatrix__chunks_count": 16,
}
OURS = ImatrixKeys("imatrix.gguf", 210, 16, "calibration.txt")


def test_an_imatrix_is_ours(quant):
    file = quant(**IMATRIX)
    assert keys.imatrix_keys(file, OURS).seen == "made with imatrix.gguf: 210 entries from 16 chunks"
    assert "entries_count 210" in keys.imatrix_keys(file).seen
    assert keys.imatrix_keys(file, ImatrixKeys("imatrix.gguf", 210)).outcome == "pass"
    foreign = keys.imatrix_keys(file, OURS._replace(entries=96))
    assert foreign.outcome == "fail"
    assert foreign.seen == "another imatrix than ours: quantize.imatrix.entries_count is 210, not 96"
    assert (
        "imatrix.dataset is calibration.txt, not b.txt" in keys.imatrix_keys(file, OURS._replace(dataset="b.txt")).seen
    )


def test_an_imatrix_that_was_wanted_or_not(quant):
    assert keys.imatrix_keys(quant(), OURS).seen.startswith("unused imatrix: the recipe wants imatrix.gguf")
    assert keys.no_imatrix(quant()).outcome == "pass"
    assert keys.no_imatrix(quant(**IMATRIX)).outcome == "fail"


def test_names_are_cut_as_llama_quantize_cuts_them(quant):
    long = "ü" * 100 + ".txt"
    file = quant(**IMATRIX | {"quantize__imatrix__dataset": long.encode()[:127]})
    assert keys.imatrix_keys(file, OURS._replace(dataset=long)).outcome == "pass"


# Shards


def parts(tmp_path, kinds=("Q4_K",) * 3, **changes):
    """Write three shards as llama-gguf-split does; `changes` may replace the keys of one (`shard2`)."""
    paths = []
    for number, kind in enumerate(kinds):
        roles = ("attn_q", "attn_k", "ffn_up", "ffn_down")
        tensors = {f"blk.{number}.{role}.weight": blank((256, 2), kind) for role in sorted(roles)}
        own = {"split.no": number, "split.count": 3, "split.tensors.count": 12} | changes.get(f"shard{number + 1}", {})
        metadata = (METADATA if number == 0 else {}) | {k: v for k, v in own.items() if v is not None}
        paths.append(tmp_path / f"x-{number + 1:05}-of-00003.gguf")
        ggufs.write(paths[-1], tensors, metadata)
    return paths


def test_shards_that_belong_together(tmp_path):
    paths = parts(tmp_path)
    for path in paths:
        assert split.shards(path).seen == "3 of 3 shards, 12 tensors, each of them once"
    whole = split.merged([gguf_file.read(path) for path in paths])
    assert len(whole.tensors) == 12
    assert split.shards(paths[0], whole).outcome == "pass"
    less = replace(whole, tensors={"other.weight": whole.tensors["blk.0.attn_q.weight"], **whole.tensors})
    assert "1 of 13 tensors missing: other.weight" in split.shards(paths[0], less).seen
    assert structure.layout(gguf_file.read(paths[2])).outcome == "pass"


def renumber(paths):
    paths[1].rename(paths[1].with_name("swap"))
    paths[2].rename(paths[1])
    paths[1].with_name("swap").rename(paths[2])


def duplicate(paths):
    metadata = {"split.no": 1, "split.count": 3, "split.tensors.count": 12}
    ggufs.write(paths[1], {"blk.0.attn_q.weight": blank((256, 2), "Q4_K")}, metadata)


def out_of_order(paths):
    metadata = {"split.no": 1, "split.count": 3, "split.tensors.count": 12}
    ggufs.write(paths[1], {f"blk.{n}.attn_q.weight": blank((256, 2), "Q4_K") for n in (5, 6, 7, 8)}, metadata)


@pytest.mark.parametrize(
    ("damage", "seen"),
    [
        (lambda paths: paths[1].unlink(), "1 of 3 shards missing: x-00002-of-00003.gguf"),
        (renumber, "shards of two builds, or renamed: x-00002-of-00003.gguf says split.no 2, not 1"),
        (lambda paths: paths[1].write_bytes(b"hello there"), "shard x-00002-of-00003.gguf: it seems to be a text"),
        (lambda paths: os.truncate(paths[2], 900), "shard x-00003-of-00003.gguf: it is cut short"),
        (
            duplicate,
            "shards of two builds: blk.0.attn_q.weight is in x-00001-of-00003.gguf and in x-00002-of-00003.gguf",
        ),
        (out_of_order, "shards of two builds: each has its tensors in order, and one after the other they are not"),
    ],
)
def test_shards_that_do_not(tmp_path, damage, seen):
    paths = parts(tmp_path)
    damage(paths)
    verdict = split.shards(paths[0])
    assert verdict.outcome == "fail"
    assert seen in verdict.seen


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"shard2": {"split.count": 4}}, "x-00002-of-00003.gguf says split.count 4, not 3"),
        ({"shard3": {"split.tensors.count": 13}}, "x-00003-of-00003.gguf says split.tensors.count 13, not 12"),
        ({"shard1": {"split.no": None}}, "x-00001-of-00003.gguf says split.no nothing, not 0"),
        ({f"shard{n}": {"split.tensors.count": 14} for n in (1, 2, 3)}, "hold 12 tensors together and announce 14"),
        ({"shard2": {"general.name": "Other"}}, "x-00002-of-00003.gguf says general.name Other, not Tiny"),
        ({"kinds": ("Q4_K", "Q8_0", "Q4_K")}, "none of the types in x-00002-of-00003.gguf is in the other shards"),
    ],
)
def test_shards_of_two_builds(tmp_path, changes, seen):
    verdict = split.shards(parts(tmp_path, **changes)[0])
    assert verdict.outcome == "fail"
    assert seen in verdict.seen


def test_a_shard_under_another_name(tmp_path):
    path = parts(tmp_path)[0].rename(tmp_path / "model.gguf")
    assert "one of 3 shards (split.count), but its name does not end in -00001-of-00003.gguf" in split.shards(path).seen


@pytest.mark.real
def test_what_llama_gguf_split_writes_passes(machine_store, toolchain, tmp_path):
    names = [f"blk.{n}.{role}.weight" for n in range(6) for role in ("attn_k", "attn_q", "ffn_up")]
    whole = ggufs.write(tmp_path / "whole.gguf", {name: blank((512, 8), "Q4_K") for name in names})
    program = tools(machine_store, toolchain).path("llama-gguf-split")
    command = [program, "--split", "--split-max-tensors", "5", whole.path, tmp_path / "part"]
    subprocess.run(command, capture_output=True, check=True)
    first = tmp_path / "part-00001-of-00004.gguf"
    assert split.shards(first, whole).outcome == "pass"
    files = [gguf_file.read(path) for path in sorted(tmp_path.glob("part-*"))]
    assert [structure.layout(file).outcome for file in files] == ["pass"] * 4
    assert keys.metadata(split.merged(files), whole).outcome == "pass"
