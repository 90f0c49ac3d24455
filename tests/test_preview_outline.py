"""Headers are fetched and no weight; what is wrong with them is said before anything large is fetched."""

from __future__ import annotations

import io
import json
import os
import re
import struct

import pytest
from huggingface_hub.utils import get_session
from test_safetensors import GOOD, write
from test_source import REPO, SHA, directory, model  # noqa: F401 - a fixture

from pipeline import source
from pipeline.errors import BadInputError, HubError
from pipeline.preview.outline import Outline
from pipeline.progress import Display
from pipeline.store import Store

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
SHARD_BYTES = 20_000_000


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", Display(io.StringIO()))


def shard(path, header, size):
    """Write a file of weights that is a hole behind its header."""
    write(path, header, b"")
    os.truncate(path, path.stat().st_size + size)


@pytest.fixture
def sharded(directory, loopback_hub):  # noqa: F811
    """Two shards of 20 MB, one of them with a header that is longer than what is fetched at first."""
    (directory / "model.safetensors").unlink()
    many = {
        f"a.{n}": {"dtype": "U8", "shape": [5000], "data_offsets": [n * 5000, n * 5000 + 5000]} for n in range(4000)
    }
    one = {"b": {"dtype": "BF16", "shape": [2, 5_000_000], "data_offsets": [0, SHARD_BYTES]}}
    shard(directory / SHARDS[0], many, SHARD_BYTES)
    shard(directory / SHARDS[1], one, SHARD_BYTES)
    index = {"weight_map": {**dict.fromkeys(many, SHARDS[0]), "b": SHARDS[1]}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    loopback_hub.add(REPO, directory, SHA)
    return directory


def fetched(hub):
    """Bytes of the files of weights that were sent."""
    return sum(r.sent for r in hub.requests if re.search(r"/cdn/.*\.safetensors$", r.path))


def test_no_weight_is_fetched_and_it_looks_like_the_source(sharded, loopback_hub, store, tmp_path):
    looked = source.look(model())
    Outline(looked).open(store, tmp_path / "open")
    found = {p.name: p.stat().st_size for p in (tmp_path / "open").iterdir()}
    assert found == {f.name: f.size for f in looked.converted}
    for path in (tmp_path / "open").iterdir():
        assert path.read_bytes() == (sharded / path.name).read_bytes()
    header = max((sharded / name).stat().st_size for name in SHARDS) - SHARD_BYTES
    assert header > 200_000
    assert fetched(loopback_hub) == header + 100_000 < 0.02 * looked.weight_bytes
    loopback_hub.requests.clear()
    Outline(looked).open(store, tmp_path / "again")
    assert loopback_hub.requests == []


def test_it_takes_no_room(sharded, store, tmp_path):
    outline = Outline(source.look(model()))
    outline.open(store, tmp_path / "open")
    assert store.find(outline).size < 1_000_000
    assert sum((tmp_path / "open" / name).stat().st_blocks * 512 for name in SHARDS) < 500_000


def test_a_directory_in_place_of_the_hub_gives_the_same(sharded, store, tmp_path):
    Outline(source.look(model())).open(store, tmp_path / "from-hub")
    Outline(source.look(model(sharded))).open(store, tmp_path / "from-path")
    assert {p.name: p.read_bytes() for p in (tmp_path / "from-hub").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "from-path").iterdir()
    }


def test_a_hub_that_fails_for_a_while_is_asked_again(sharded, loopback_hub, store, tmp_path):
    loopback_hub.fault("/cdn/", status=503, count=2)
    Outline(source.look(model())).open(store, tmp_path / "open")
    assert len([r for r in loopback_hub.requests if r.status == 503]) == 2


def test_a_server_that_sends_less_than_it_lists(sharded, loopback_hub, store):
    looked = source.look(model())
    loopback_hub.fault("/cdn/", status=200, count=8, error="no ranges here")
    with pytest.raises(HubError, match=r"safetensors is shorter than the Hub lists\. Run again"):
        store.get(Outline(looked))


def test_a_server_without_ranges_is_not_read_to_the_end(sharded, loopback_hub, store, tmp_path, monkeypatch):
    class Session:
        def stream(self, method, url, headers):
            return get_session().stream(method, url, headers={k: v for k, v in headers.items() if k != "Range"})

    monkeypatch.setattr("pipeline.hub.part.get_session", Session)
    Outline(source.look(model())).open(store, tmp_path / "open")
    assert (tmp_path / "open" / SHARDS[0]).read_bytes() == (sharded / SHARDS[0]).read_bytes()


@pytest.mark.parametrize(
    ("content", "size", "said"),
    [
        (struct.pack("<Q", 1 << 63), 10**9, "its header would be 9223372036854775808 bytes long"),
        (struct.pack("<Q", 1 << 32), 10**10, "has a header of 4294967296 bytes, and 25000000 are more than any model"),
        (struct.pack("<Q", 90_000) + b"[" * 90_000, 10**9, "is no safetensors file"),
        (struct.pack("<Q", 2) + b"{}", 10**9, "is damaged: its header promises 10 bytes and it has 1000000000"),
        (b"", 0, "is no safetensors file"),
    ],
)
def test_a_hostile_header_costs_next_to_nothing(directory, loopback_hub, store, content, size, said):  # noqa: F811
    (directory / "model.safetensors").write_bytes(content)
    os.truncate(directory / "model.safetensors", size)
    loopback_hub.add(REPO, directory, SHA)
    with pytest.raises(BadInputError, match=said):
        store.get(Outline(source.look(model())))
    assert fetched(loopback_hub) <= 100_000


def test_headers_that_are_large_together_are_not_fetched(directory, loopback_hub, store):  # noqa: F811
    names = [f"model-0000{n}-of-00005.safetensors" for n in range(1, 6)]
    for n, name in enumerate(names):
        (directory / name).write_bytes(struct.pack("<Q", 24_000_000 + n))
        os.truncate(directory / name, 10**9)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {n: n for n in names}}))
    loopback_hub.add(REPO, directory, SHA)
    with pytest.raises(BadInputError, match="The headers of google/gemma-2b have 120000050 bytes, and more than 10"):
        store.get(Outline(source.look(model())))
    assert fetched(loopback_hub) == 500_000


def test_an_index_that_does_not_fit_the_headers(directory, loopback_hub, store):  # noqa: F811
    index = {"weight_map": {"a": "model.safetensors", "c": "model.safetensors"}}
    assert "c" not in GOOD
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    loopback_hub.add(REPO, directory, SHA)
    with pytest.raises(BadInputError, match=r"the index puts c into model\.safetensors, which does not hold it"):
        store.get(Outline(source.look(model())))
