"""What is foreseen from headers is what the real toolchain makes, to the byte."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from conftest import empty_store
from models import KINDS

from pipeline import gguf_file, matrix, run
from pipeline.convert import REFERENCE
from pipeline.errors import BadInputError
from pipeline.preview.engine import foresee
from pipeline.quantize import FALLBACKS, QUANT
from pipeline.recipe import builtin
from pipeline.result import Recipe

RECIPES = (
    *map(builtin, ("Q2_K", "Q3_K_L", "Q4_K_M", "Q5_0", "Q8_0", "IQ2_XXS", "IQ3_XXS", "IQ4_XS", "F16", "BF16")),
    Recipe(name="LARGE", base="Q4_K_M", token_embedding="Q8_0", output="Q6_K"),
    Recipe(name="OWN", base="Q3_K_S", tensors={"ffn_down": "Q6_K", r"blk\.0\.attn": "Q5_K"}),
    Recipe(name="PURE", base="Q4_K_S", pure=True),
    Recipe(name="PLAIN", base="IQ4_XS", imatrix=False),
    Recipe(name="EQUAL", base="Q4_0", imatrix=False),
)


@pytest.mark.parametrize(("kind", "form"), [*((kind, "gguf") for kind in KINDS), ("mixtral", "dat")])
def test_sizes_types_and_fallbacks_are_those_of_the_real_files(
    kind, form, matrix_file, toolchain, machine_store, tmp_path
):
    path = matrix_file(kind)
    recipes = [r for r in RECIPES if kind != "odd" or r.name != "LARGE"]
    model = replace(matrix.load(path).models[0], recipes=tuple(recipes), imatrix_format=form, calibration_chunks=1)
    (steps,) = run.look([model], toolchain, path)
    store = empty_store(machine_store, tmp_path / "own-store")
    foreseen = foresee(store, steps)
    assert {a.kind for a in store.artifacts()} == {"toolchain", "llama.cpp", "outline", "skeleton"}
    reference = gguf_file.read(store.get(steps.reference).file(REFERENCE))
    assert foreseen.reference_size == reference.path.stat().st_size
    assert (foreseen.reference.metadata, foreseen.reference.tensors) == (reference.metadata, reference.tensors)
    matrix_path = store.get(steps.imatrix).file(steps.imatrix.file_name)
    assert (foreseen.imatrix_size, foreseen.imatrix_exact) == (matrix_path.stat().st_size, True)
    for quant in foreseen.quants:
        made = store.get(steps.quant(quant.recipe))
        file = gguf_file.read(made.file(QUANT))
        assert quant.tensors == file.tensors, quant.recipe.name
        assert quant.size == made.files[QUANT].size, quant.recipe.name
        assert list(quant.tensors) == list(file.tensors), "the order decides what is in which shard"
        assert (quant.bits_per_weight, quant.types) == (file.bits_per_weight, file.types)
        announced = json.loads(made.file(FALLBACKS).read_bytes())
        assert [f.model_dump() for f in quant.fallbacks] == announced
        assert quant.shards == ()


def test_shards_are_those_of_the_real_files(matrix_file, toolchain, store):
    path = matrix_file("llama", "Q6_K, Q8_0, BF16, Q2_K")
    (steps,) = run.look([replace(matrix.load(path).models[0], max_shard_size=1_200_000)], toolchain, path)
    quants = foresee(store, steps).quants
    for quant in quants[:3]:
        made = store.get(steps.shards(quant.recipe)).files
        assert quant.shards == tuple(made[name].size for name in sorted(made))
    assert [len(quant.shards) for quant in quants] == [2, 2, 4, 0]


def test_rows_that_no_block_divides_are_refused_where_nothing_falls_back(matrix_file, toolchain, store):
    path = matrix_file("odd")
    large = [r for r in RECIPES if r.name == "LARGE"]
    (steps,) = run.look([replace(matrix.load(path).models[0], recipes=tuple(large))], toolchain, path)
    said = r"tiny/odd:LARGE: output\.weight has rows of 288 weights, which blocks of Q6_K, 256 each, do not fill"
    with pytest.raises(BadInputError, match=said):
        foresee(store, steps)
