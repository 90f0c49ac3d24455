from __future__ import annotations

import json
import os
import struct

import pytest

from pipeline import safetensors
from pipeline.errors import BadInputError


def write(path, header, data=b"\0" * 8):
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return path


GOOD = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [0, 4]},
    "b": {"dtype": "BF16", "shape": [2], "data_offsets": [4, 8]},
}


def test_reads_names_shapes_and_types(tmp_path):
    tensors = safetensors.read_header(write(tmp_path / "m.safetensors", GOOD))
    assert tensors == {"a": safetensors.Tensor("BF16", (2, 1)), "b": safetensors.Tensor("BF16", (2,))}
    assert tensors["a"].parameters == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no safetensors file"),
        (b"\xff" * 100, "its header would be"),
        (struct.pack("<Q", 2) + b"[]", "is no safetensors file"),
        (struct.pack("<Q", 5) + b"{bad}", "is no safetensors file"),
        (struct.pack("<Q", 9) + b'{"a": {}}', "is no safetensors file"),
        (struct.pack("<Q", 1 << 63) + b"{}", r"its header would be 9223372036854775808 bytes long"),
        (struct.pack("<Q", 1_000_000) + b"[" * 1_000_000, "is no safetensors file"),
        (struct.pack("<Q", 10_005) + b'{"a":' + b"9" * 10_000, "is no safetensors file"),
    ],
)
def test_refuses_what_is_no_safetensors_file(tmp_path, content, said):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=said):
        safetensors.read_header(path)


@pytest.mark.parametrize("data", [b"\0" * 7, b"\0" * 9])
def test_refuses_a_file_that_is_too_short_or_too_long(tmp_path, data):
    with pytest.raises(BadInputError, match="is damaged: its header promises"):
        safetensors.read_header(write(tmp_path / "m.safetensors", GOOD, data))


def test_refuses_gaps_between_tensors(tmp_path):
    header = GOOD | {"b": {"dtype": "BF16", "shape": [1], "data_offsets": [6, 8]}}
    with pytest.raises(BadInputError, match="the data of b does not follow"):
        safetensors.read_header(write(tmp_path / "m.safetensors", header))


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        ({"dtype": "BF16", "shape": [2], "data_offsets": [2, 6]}, "the data of b does not follow the tensor before it"),
        ({"dtype": "BF16", "shape": [2], "data_offsets": [4, 2]}, "the data of b does not follow the tensor before it"),
        ({"dtype": "BF16", "shape": [2], "data_offsets": [4.0, 8.0]}, "the data of b does not follow"),
        ({"dtype": "BF16", "shape": [1 << 40], "data_offsets": [4, 8]}, "the data of b is 4 bytes, which its type"),
        ({"dtype": "BF16", "shape": [2, True], "data_offsets": [4, 8]}, "the shape of b is none"),
        ({"dtype": "BF16", "shape": [-2, -1], "data_offsets": [4, 8]}, "the shape of b is none"),
        ({"dtype": "BF16", "shape": [9] * 100_000, "data_offsets": [4, 8]}, "the shape of b is none"),
        ({"dtype": "BF17", "shape": [2], "data_offsets": [4, 8]}, "the type of b is unknown"),
        ({"dtype": ["BF16"], "shape": [2], "data_offsets": [4, 8]}, "is no safetensors file"),
    ],
)
def test_refuses_tensors_that_are_none(tmp_path, tensor, said):
    with pytest.raises(BadInputError, match=said):
        safetensors.read_header(write(tmp_path / "m.safetensors", GOOD | {"b": tensor}))


def test_a_header_longer_than_any_model_needs_is_not_read(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", 26_000_000))
    os.truncate(path, 30_000_000)
    with pytest.raises(
        BadInputError, match="has a header of 26000000 bytes, and 25000000 are more than any model needs"
    ):
        safetensors.read_header(path)


def test_weight_files_by_index_or_alone():
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    names = {"model-1.safetensors", "model-2.safetensors", "config.json"}
    assert safetensors.weight_files(names, index, "m") == ["model-1.safetensors", "model-2.safetensors"]
    assert safetensors.weight_files({"model.safetensors"}, None, "m") == ["model.safetensors"]


@pytest.mark.parametrize(
    ("names", "index", "said"),
    [
        (
            {"m-1.safetensors"},
            {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}},
            "lacks 1 of the 2 shards",
        ),
        ({"model-00001-of-00002.safetensors"}, None, "but no model.safetensors.index.json"),
        ({"m.safetensors"}, {"weight_map": ["m.safetensors"]}, "maps no names to files"),
        ({"m.safetensors"}, {"weight_map": {"a": ["m.safetensors"]}}, "maps no names to files"),
        ({"a/m.safetensors"}, {"weight_map": {"a": "a/m.safetensors"}}, "shards in other directories"),
        ({"pytorch_model.bin"}, None, "only as pickles"),
        ({"config.json", "model.gguf"}, None, "there are no weights"),
    ],
)
def test_refuses_incomplete_or_pickled_weights(names, index, said):
    with pytest.raises(BadInputError, match=said):
        safetensors.weight_files(names, index, "owner/name")
