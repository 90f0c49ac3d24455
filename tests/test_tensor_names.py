"""What is grouped can be had back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.tensor_names import expand, group

NAMES = st.one_of(
    st.builds("blk.{}.{}.weight".format, st.integers(0, 99), st.sampled_from(["attn_k", "ffn_down", "ssm.1.a"])),
    st.sampled_from(["output.weight", "token_embd.weight", "blk.x.weight", "v.blk.3.weight"]),
)


def test_layers_in_a_row_are_a_range():
    names = [f"blk.{n}.attn_k.weight" for n in (0, 1, 2, 5, 7, 8)] + ["output.weight"]
    assert group(names) == {"blk.*.attn_k.weight": "0-2,5,7-8", "output.weight": ""}
    assert group([]) == {}


@given(st.lists(NAMES, unique=True))
def test_there_and_back(names):
    assert sorted(expand(group(names))) == sorted(names)
