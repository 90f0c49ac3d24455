"""The tables of quant types against llama.cpp, and what recipes become on the command line."""

# ruff: noqa: SIM905 - token_embedding is no password; names of types read better as words

from __future__ import annotations

import gguf
import pytest

from pipeline import recipe
from pipeline.result import Recipe

# What `llama-quantize --help` of llama.cpp 0c1e57098 lists, COPY and aliases left out.
KNOWN = """
    Q1_0 Q2_0 Q4_0 Q4_1 MXFP4_MOE Q5_0 Q5_1 IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ1_S IQ1_M TQ1_0 TQ2_0 Q2_K Q2_K_S
    IQ3_XXS IQ3_S IQ3_M IQ3_XS Q3_K_S Q3_K_M Q3_K_L IQ4_NL IQ4_XS Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K Q8_0 F16 BF16 F32
""".split()

# What it refused without an imatrix: every type tried, on small random llamas with four tensors of each shape.
REFUSED = set("IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ3_XXS IQ3_XS Q2_K_S".split())
REFUSED_PURE = REFUSED - {"IQ3_XS"}


def test_types_are_those_of_llama_quantize():
    assert sorted(recipe.QUANT_TYPES) == sorted(KNOWN)
    assert "COPY" not in recipe.QUANT_TYPES


def test_bits_of_tensor_types_are_those_of_their_blocks():
    known = {kind.name: 8 * size / weights for kind, (weights, size) in gguf.GGML_QUANT_SIZES.items()}
    shared = known.keys() & recipe.TENSOR_TYPES.keys()
    assert len(shared) >= 24
    assert {name: recipe.TENSOR_TYPES[name] for name in shared} == {name: known[name] for name in shared}


def test_every_quant_type_rests_on_a_tensor_type():
    assert {quant.tensor_type for quant in recipe.QUANT_TYPES.values()} <= recipe.TENSOR_TYPES.keys()
    assert set(recipe.ALIASES.values()) <= recipe.QUANT_TYPES.keys()


@pytest.mark.parametrize("name", KNOWN)
def test_bits_of_a_mixture_are_near_those_of_its_main_type(name):
    quant = recipe.QUANT_TYPES[name]
    assert 0.99 < quant.bits / recipe.TENSOR_TYPES[quant.tensor_type] < (2.1 if name == "MXFP4_MOE" else 1.35)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Q4_K_M", "Q4_K_M"),
        ("q4_k_m", "Q4_K_M"),
        ("Q4_K", "Q4_K_M"),
        ("q3_k", "Q3_K_M"),
        ("Q5_K", "Q5_K_M"),
        ("bf16", "BF16"),
        ("COPY", None),
        ("Q9_K", None),
        ("", None),
    ],
)
def test_quant_type(given, name):
    assert recipe.quant_type(given) == name


@pytest.mark.parametrize(("given", "name"), [("q4_k", "Q4_K"), ("Q8_0", "Q8_0"), ("Q4_K_M", None), ("Q8_1", None)])
def test_tensor_type(given, name):
    assert recipe.tensor_type(given) == name


def test_builtin():
    assert recipe.builtin("q4_k") == Recipe(name="Q4_K_M", base="Q4_K_M")
    with pytest.raises(KeyError):
        recipe.builtin("COPY")


@pytest.mark.parametrize("name", KNOWN)
def test_imatrix_is_needed_where_llama_quantize_refuses(name):
    assert recipe.needs_imatrix(Recipe(name=name, base=name)) == (name in REFUSED)
    assert recipe.needs_imatrix(Recipe(name=name, base=name, pure=True)) == (name in REFUSED_PURE)


@pytest.mark.parametrize(("kind", "needed"), [("IQ2_XS", True), ("IQ3_XXS", True), ("IQ3_S", False), ("Q2_K", False)])
def test_imatrix_is_needed_by_single_tensors(kind, needed):
    assert recipe.needs_imatrix(Recipe(name="X", base="Q4_K_M", tensors={"ffn_up": kind})) == needed


def test_embedding_types_can_do_without_an_imatrix():
    assert set(recipe.TENSOR_TYPES) - set(recipe.EMBEDDING_TYPES) == {"IQ1_S", "IQ2_XS", "IQ2_XXS"}


def test_bits_per_weight():
    assert recipe.bits_per_weight(Recipe(name="X", base="Q4_K_M")) == 4.8944
    assert recipe.bits_per_weight(Recipe(name="X", base="Q4_K_M", pure=True)) == 4.5


def test_mixes():
    assert [name for name in KNOWN if not recipe.mixes(name)] == ["F16", "BF16", "F32"]


def test_arguments_of_a_builtin_are_none():
    assert recipe.arguments(recipe.builtin("Q4_K_M")) == []


def test_arguments():
    made = Recipe(
        name="X",
        base="Q4_K_M",
        token_embedding="Q8_0",
        output="BF16",
        tensors={r"blk\.0\.": "Q6_K", "ffn_down": "IQ4_XS"},
        pure=True,
    )
    assert recipe.arguments(made) == [
        *("--token-embedding-type", "q8_0"),
        *("--output-tensor-type", "bf16"),
        *("--tensor-type", r"blk\.0\.=q6_k"),
        *("--tensor-type", "ffn_down=iq4_xs"),
        "--pure",
    ]
