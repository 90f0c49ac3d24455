"""The engine that quantizes tensor by tensor, against llama-quantize: the same bytes, and nothing done twice."""

from __future__ import annotations

import pytest
from conftest import leftovers, write_matrix
from machine import empty_store

from pipeline import matrix, run
from pipeline.quantize import FALLBACKS, QUANT, Quant
from pipeline.recipe import QUANT_TYPES, builtin
from pipeline.result import Recipe
from pipeline.store import Store


class Maker:
    """A model's reference and imatrix, and both engines, each with a store of its own."""

    def __init__(self, store, steps, root):
        self.steps, self.ours, self.theirs = steps, store, Store(root, store.display)
        store.get(steps.reference)
        store.get(steps.imatrix)
        for kind in ("toolchain", "llama.cpp", "reference", "imatrix"):
            (root / kind).symlink_to(store.root / kind)

    def quant(self, recipe, engine="by-tensor", imatrix=None):
        return Quant(self.steps.reference, imatrix or self.steps.imatrix, recipe, engine)

    def differences(self, recipes, imatrix=None):
        """The recipes of which the two engines do not make the same files."""
        return [recipe.name for recipe in recipes if not self.is_same(recipe, imatrix)]

    def is_same(self, recipe, imatrix=None):
        ours = self.ours.get(self.quant(recipe, imatrix=imatrix))
        theirs = self.theirs.get(self.quant(recipe, "llama-quantize", imatrix))
        return ours.digest == theirs.digest and {ours.files[name] == theirs.files[name] for name in (QUANT, FALLBACKS)} == {True}

    def tensors(self):
        return sorted(a.label.partition(": ")[2] for a in self.ours.artifacts() if a.kind == "tensor")


@pytest.fixture
def maker(machine_store, toolchain, model_directory, tmp_path):
    def of(kind):
        path = write_matrix(tmp_path / "matrix.yml", model_directory(kind))
        (steps,) = run.look(matrix.load(path).models, toolchain, path)
        return Maker(empty_store(machine_store, tmp_path / "store"), steps, tmp_path / "theirs")

    return of


def test_every_type(maker):
    made = maker("llama")
    assert made.differences(map(builtin, QUANT_TYPES)) == []
    assert leftovers(made.ours) == []
