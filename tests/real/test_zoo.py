"""Every broken file of the zoo is stopped, and told by what is wrong with it. `make zoo` shows the good ones, too."""

from __future__ import annotations

import models
import pytest
from zoo import imatrices, quants, releases, speech, weights  # noqa: F401 - they register specimens
from zoo.kit import open_kit
from zoo.specimen import SPECIMENS, named

from pipeline import recipe
from pipeline.check import behaviour
from pipeline.inspection import MAX_TOKENS, PROMPT, Inputs, examine
from pipeline.job import REPLIES
from pipeline.prompt import ANSWERS, write_answers

SLOW = {"tokenizer", "template", "weights", "hyperparameters", "quality"}
"""Kinds of which one file each is enough here: every one of them has some seconds of tokenizing beside it."""
CHOSEN = [s for n, s in enumerate(SPECIMENS) if s.kind not in SLOW or s.kind not in {o.kind for o in SPECIMENS[:n]}]


@pytest.fixture(scope="module")
def kit(machine_store, toolchain, tmp_path_factory):
    return open_kit(machine_store, toolchain, tmp_path_factory.mktemp("zoo"))


@pytest.mark.parametrize("specimen", CHOSEN, ids=lambda specimen: specimen.name)
def test_a_broken_file_is_told_by_what_is_wrong_with_it(kit, specimen):
    found = specimen.make(kit).gate()
    kit.clear()
    assert named(specimen, [verdict for verdict in found if verdict.outcome == "fail"]), found


def test_a_base_model_whose_reference_repeats_itself_passes(kit):
    """The case that the original pipeline published: gemma-2b, a base model, says one thing over and over."""
    model = kit.tiny(models.build("gemma", kit.room / "base"))
    quant = kit.directory() / "base-Q4_K_M.gguf"
    quant.symlink_to(model.quant(recipe.builtin("Q4_K_M")))
    loops = []
    for file in (model.reference, quant):
        write_answers(kit.llama, file, PROMPT, MAX_TOKENS, directory := kit.directory())
        replies = REPLIES.validate_json((directory / ANSWERS).read_bytes())
        loops.append(sum(behaviour.loop(answer.text) >= behaviour.LOOP for answer in replies))
    assert min(loops) >= 4
    found = examine(Inputs(quant, reference=model.reference, imatrix=model.imatrix), kit.llama)
    assert [verdict for verdict in found if verdict.outcome == "fail"] == []
    assert any(verdict.check == behaviour.CHECK for verdict in found)
