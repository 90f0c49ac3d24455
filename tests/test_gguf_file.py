"""The reader of GGUF headers: what they say, and damaged and hostile ones, which must not hang or blow up."""

from __future__ import annotations

import os
import struct
import time
from contextlib import suppress

import ggufs
import numpy as np
import pytest
from gguf import GGUFWriter
from ggufs import METADATA, blank, head, info, text, value

from pipeline import gguf_file
from pipeline.errors import ToolchainError
from pipeline.gguf_cursor import MAX_HEADER, MAX_STRINGS

TENSORS = {"a": blank((32, 4), "F16"), "b": blank((32,))}
KEY = text("general.name") + value("x")


@pytest.fixture
def reference(tmp_path):
    """A file of the `gguf` package's own making."""
    path = tmp_path / "reference.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(3)
    writer.add_context_length(2048)
    writer.add_head_count_kv([2, 0, 1])
    writer.add_token_scores([0.0] * (gguf_file.LAYERS + 1))
    writer.add_token_list([b"a", b"b"])
    writer.add_tensor("a", np.zeros((4, 32), np.float16))
    writer.add_tensor("b", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf_file.read(path)


def test_reads_a_file_back(reference):
    assert (reference.architecture, reference.layers, reference.hyperparameter("context_length")) == ("llama", 4, 2048)
    assert reference.tensors["a"] == gguf_file.Tensor("a", (32, 4), "F16", 128, 256)
    arrays = {key: of for key, of in reference.metadata.items() if isinstance(of, tuple)}
    assert arrays == {"llama.attention.head_count_kv": (2, 0, 1)}
    assert reference.array("tokenizer.ggml.tokens") == ["a", "b"]
    assert reference.types == {"F16": 1, "F32": 1}
    assert reference.parameters == 160
    assert reference.bits_per_weight == 8 * (256 + 128) / 160
    assert reference.size == reference.needed == reference.path.stat().st_size


@pytest.mark.parametrize("keep", [0, 3, 40, -1])
def test_a_file_that_is_cut_short_does_not_open(reference, keep):
    content = reference.path.read_bytes()
    reference.path.write_bytes(content[:keep])
    with pytest.raises(ToolchainError, match="does not open as GGUF"):
        gguf_file.read(reference.path)


def test_a_header_is_read_though_the_data_is_cut_short(reference):
    reference.path.write_bytes(reference.path.read_bytes()[:-1])
    file = gguf_file.parse(reference.path)
    assert file.tensors == reference.tensors
    assert (file.size, file.needed) == (reference.size - 1, reference.size)


@pytest.mark.parametrize(
    ("content", "seems"),
    [
        (b"", "it is empty"),
        (b"hello\nworld\n", "seems to be a text"),
        ("häßlich, aber lesbar ".encode() * 100, "seems to be a text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer.* Run `git lfs pull`"),
        (b"<!DOCTYPE html><html>", "web page, perhaps an error"),
        (b'{"error": "Repository not found"}', "JSON, perhaps an error"),
        (struct.pack("<Q", 20) + b'{"__metadata__":{}} ', "seems to be safetensors.* Convert it first"),
        (b"PK\x03\x04" + bytes(60), "zip archive, perhaps PyTorch's pickled weights"),
        (b"\x80\x02}q\x00.", "pickled weights.* look for safetensors"),
        (b"tjgg" + bytes(60), "GGML file of before August 2023"),
        (bytes(1000), "nothing but zeros, as an unfinished download"),
        (b"\x7fELF\x02\x01\x01", r"begins with b'\\x7fELF', not with GGUF"),
        (b"GG", "seems to be a text"),
    ],
)
def test_what_is_no_gguf_is_named(tmp_path, content, seems):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(gguf_file.NoGGUFError, match=seems) as caught:
        gguf_file.parse(path)
    assert caught.value.advice.endswith(".")
    assert caught.value.exit_code == 2


def test_directories_and_pipes_are_no_files(tmp_path):
    with pytest.raises(gguf_file.NoGGUFError, match="it is a directory"):
        gguf_file.parse(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(gguf_file.NoGGUFError, match="it is no regular file"):
        gguf_file.parse(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"GGUF\x00\x00\x00\x03" + bytes(40), "big-endian"),
        (head(0, 0, version=1) + bytes(40), "GGUF version 1, which llama.cpp no longer reads"),
        (head(0, 0, version=9), "GGUF version 9, and the newest is 3"),
        (head(0, 0, version=0), "version 0"),
        (head(1 << 62, 0) + bytes(99), "announces 4611686018427387904 keys"),
        (head(60_000, 0) + bytes(99), "announces 60000 keys, for which the file is too short"),
        (head(0, 1 << 40) + bytes(99), "announces 1099511627776 tensors"),
        (head(1, 0) + struct.pack("<Q", 1 << 60) + bytes(99), "a text of 1152921504606846976 bytes .* past the end"),
        (head(1, 0) + text("k") + struct.pack("<I", 77) + bytes(99), "a value has the type 77"),
        (head(1, 0) + text("k") + struct.pack("<IIQ", 9, 8, 1 << 50) + bytes(99), "announces .* texts in its arrays"),
        (head(1, 0) + text("k") + struct.pack("<IIQ", 9, 8, 50) + bytes(99), "50 texts in its arrays, for which"),
        (head(1, 0) + text("k") + struct.pack("<IIQ", 9, 10, 1 << 50) + bytes(99), "numbers in an array"),
        (head(1, 0) + text("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(99), "an array of arrays"),
        (head(1, 0) + text("k") + struct.pack("<IIQ", 9, 33, 1) + bytes(99), "an array has the type 33"),
        (head(2, 0) + KEY + KEY, "the key general.name is there twice"),
        (head(1, 0) + text("") + value(1) + bytes(9), "a key has no name"),
        (head(1, 0) + text(b"\xff\xfe") + value(1), r"the name of a key is no UTF-8: b'\\xff\\xfe'"),
        (head(1, 0) + text("general.alignment") + value(0), "general.alignment is 0, which is no power of two"),
        (head(1, 0) + text("general.alignment") + value(24), "general.alignment is 24, which is no power of two"),
        (head(1, 0) + text("general.alignment") + value("8"), "general.alignment is no number of 32 bits"),
        (head(0, 1) + info("t", (1,) * 5, 0, 0), "the tensor t has 5 dimensions"),
        (head(0, 1) + info("t", (1 << 40, 1 << 40), 0, 0), "the tensor t has the impossible shape"),
        (head(0, 1) + info("t", (0, 1 << 63), 0, 0), "the tensor t has the impossible shape"),
        (head(0, 1) + info("t", (100,), 12, 0), "the tensor t has rows of 100 weights, which no blocks of Q4_K fill"),
        (head(0, 1) + info("t", (32,), 4, 0), "the tensor t has a type that llama.cpp has removed, 4"),
        (head(0, 1) + info("t", (32,), 999, 0), "the tensor t has a type that is unknown, 999"),
        (head(0, 2) + info("t", (8,), 0, 0) * 2, "the tensor t is there twice"),
        (head(0, 1) + info("e\x1b[2Jvil\n", (8,), 99, 0), r"the tensor e\\x1b\[2Jvil\\n has a type"),
        (head(1, 1) + KEY, "it ends within its header|for which the file is too short"),
    ],
)
def test_damaged_and_hostile_headers(tmp_path, content, fault):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(gguf_file.DamagedError, match=fault) as caught:
        gguf_file.parse(path)
    assert not caught.value.fault.endswith(".")
    assert len(caught.value.fault) < 200


@pytest.mark.parametrize(
    "plausible",
    [
        head(1, 0) + text("k") + struct.pack("<IIQ", 9, 8, MAX_STRINGS),
        head(1, 0) + text("k") + struct.pack("<IIQ", 9, 8, 4_000_000_000),
        head(65_000, 300_000),
        head(1, 0) + text("k") + struct.pack("<IQ", 8, 39_000_000_000),
        head(1, 0) + text("k") + struct.pack("<IIQ", 9, 10, 1 << 32),
        head(0, 500_000),
    ],
)
def test_a_huge_sparse_file_is_given_up_at_once(tmp_path, plausible):
    path = tmp_path / "huge.gguf"
    path.write_bytes(plausible)
    os.truncate(path, 40_000_000_000)
    begin = time.monotonic()
    with suppress(gguf_file.DamagedError):
        assert gguf_file.parse(path).data_begin < MAX_HEADER
    assert time.monotonic() - begin < 8


def test_every_cut_and_many_changed_bytes_end_in_a_file_or_a_sentence(tmp_path):
    content = ggufs.content(METADATA, TENSORS)
    path = tmp_path / "model.gguf"
    rng = np.random.default_rng(7)
    damaged = [content[:n] for n in range(0, len(content), 37)]
    for _ in range(600):
        changed = bytearray(content)
        for at in rng.integers(0, min(len(content), 1400), 2):
            changed[at] = rng.integers(256)
        damaged.append(bytes(changed))
    outcomes = []
    for case in damaged:
        path.write_bytes(case)
        try:
            file = gguf_file.parse(path)
        except gguf_file.UnreadableError as error:
            outcomes.append(str(error)[-1:])
        else:
            outcomes.append(type(file.layers + file.bits_per_weight + len(file.architecture)))
    assert set(outcomes) == {float, "."}


def test_a_string_that_is_no_utf8_keeps_its_bytes_in_sight(tmp_path):
    # As llama-quantize leaves a path that it cut within a character.
    metadata = METADATA | {"quantize.imatrix.dataset": "über".encode()[:1]}
    assert ggufs.write(tmp_path / "x.gguf", TENSORS, metadata).metadata["quantize.imatrix.dataset"] == "\\xc3"


def test_a_vocabulary_alone_needs_no_padding(tmp_path):
    file = ggufs.write(tmp_path / "vocabulary.gguf", {})
    assert gguf_file.read(file.path).needed == file.size


def test_text_of_a_file_is_cut_and_made_printable():
    assert gguf_file.shown("a" * 100) == "a" * 79 + "…"
    assert gguf_file.shown("a\x1b[31m\u202eb\udce4") == "a\\x1b[31m\\u202eb\\udce4"
