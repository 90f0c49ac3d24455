"""What a full disk leaves of an imatrix is none."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from pipeline import imatrix


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "imatrix.gguf"
    writer = gguf.GGUFWriter(path, "imatrix")
    for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight"):
        writer.add_tensor(f"{name}.in_sum2", np.ones(64, dtype=np.float32))
        writer.add_tensor(f"{name}.counts", np.ones(1, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_entries_are_the_tensors_that_it_covers(written, tmp_path):
    assert imatrix.entries(written) == 2
    older = tmp_path / "imatrix.dat"
    older.write_bytes((2).to_bytes(4, "little") + b"and so on")
    assert imatrix.entries(older) == 2


def test_one_that_was_cut_is_not_whole(written):
    assert imatrix._is_whole(written)
    content = written.read_bytes()
    for length in (len(content) - 40, 30, 3, 0):
        written.write_bytes(content[:length])
        assert not imatrix._is_whole(written)
    written.unlink()
    assert not imatrix._is_whole(written)
