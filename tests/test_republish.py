"""The last release once more: its card rendered anew, quants taken back, a withdrawal lifted. No job, no weight."""

from __future__ import annotations

import io
import json

import factories
import pytest
from bundles import entry, gguf
from test_safetensors import GOOD, write
from test_source import CONFIG, model

from pipeline import release, republish, run
from pipeline.errors import BadInputError
from pipeline.progress import Display
from pipeline.publish.folder import Folder
from pipeline.result import Release
from pipeline.store import Store

QUANTS = ("Q8_0", "Q4_K_M")


@pytest.fixture
def source(tmp_path):
    """The model upstream, as a directory."""
    directory = tmp_path / "gemma-2b"
    directory.mkdir()
    write(directory / "model.safetensors", GOOD)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "LICENSE").write_text("terms")
    (directory / "README.md").write_text("---\nlicense: gemma\n---\n# Gemma\n\nWords of its own.\n")
    return directory


@pytest.fixture
def shop(tmp_path, source):
    """A workshop with an empty store, and a release of two quants in the folder that it releases to."""
    made = run.Workshop(Store(tmp_path / "store", Display(io.StringIO())), tmp_path, Folder(tmp_path / "out"))
    results, places = [], {}
    for quant in QUANTS:
        name = f"gemma-2b-{quant}.gguf"
        content = gguf(name)
        (tmp_path / name).write_bytes(content)
        places[name] = tmp_path / name
        sums = {"size": len(content), "sha256": entry(name, content).sha256}
        results.append(factories.result(quant, file=factories.file(name, **sums)))
    (tmp_path / "imatrix.gguf").write_bytes(gguf("imatrix"))
    provenance = factories.provenance(imatrix=entry("imatrix.gguf", gguf("imatrix")), revision=None)
    draft = factories.release(quants=results, provenance=provenance).model_copy(update={"repo": wanted(source).repo})
    places["imatrix.gguf"] = tmp_path / "imatrix.gguf"
    made.target.publish(release.bundle(made.store, draft, "full", "# Old", places, {"LICENSE": b"terms"}))
    return made


def wanted(source):
    return model(path=source)


def held(shop):
    return {p.name: p.read_bytes() for p in shop.target.directory("me/gemma-2b-GGUF").iterdir()}


def test_a_card_is_rendered_anew_and_nothing_else_changes(shop, source):
    before = held(shop)
    change = shop.target.publish(republish.rendered(shop, wanted(source)))
    assert sorted(file.name for file in change.adds) == ["README.md", "release.json"]
    after = held(shop)
    assert "Words of its own." in after["README.md"].decode()
    assert {name for name in after if after[name] != before[name]} == {"README.md", "release.json"}
    assert shop.target.publish(republish.rendered(shop, wanted(source))).empty


def test_a_quant_is_taken_back(shop, source):
    bundle = republish.without(shop, wanted(source), ["q4_k_m"], "Answers in loops. ", "2026-11-25")
    assert shop.target.change(bundle).deletes == ("gemma-2b-Q4_K_M.gguf",)
    shop.target.publish(bundle)
    after = held(shop)
    assert set(after) & {"gemma-2b-Q4_K_M.gguf", "gemma-2b-Q8_0.gguf", "imatrix.gguf"} == {
        "gemma-2b-Q8_0.gguf",
        "imatrix.gguf",
    }
    card = after["README.md"].decode()
    assert "**1 of 2 quants published, 1 withdrawn:** Q4_K_M (withdrawn: Answers in loops.)" in card
    assert "- `Q4_K_M`, on 2026-11-25: Answers in loops." in card
    (gone,) = Release.model_validate_json(after["release.json"]).withdrawn
    assert (gone.quant, gone.date) == ("Q4_K_M", "2026-11-25")


def test_a_model_is_taken_back_and_its_card_stays(shop, source):
    shop.target.publish(republish.without(shop, wanted(source), [], "The authors asked for it", "2026-11-25"))
    after = held(shop)
    assert not any(name.endswith(".gguf") for name in after)
    assert {"README.md", "release.json", "LICENSE"} <= set(after)
    card = after["README.md"].decode()
    assert "**0 of 2 quants published, 2 withdrawn:**" in card
    assert card.count("The authors asked for it.") == 2
    assert "## How to run it" not in card
    with pytest.raises(BadInputError, match="has no published quant that could be withdrawn"):
        republish.without(shop, wanted(source), [], "Again", "2026-11-25")


def test_a_source_that_is_gone_keeps_nothing_from_being_taken_back(shop, source):
    (source / "config.json").unlink()
    shop.target.publish(republish.without(shop, wanted(source), ["Q8_0"], "Broken", "2026-11-25"))
    after = held(shop)
    assert "gemma-2b-Q8_0.gguf" not in after
    assert after["LICENSE"] == b"terms"
    with pytest.raises(BadInputError, match=r"has no config\.json"):
        republish.rendered(shop, wanted(source))


def test_a_reason_is_text_and_no_markdown(shop, source):
    reason = "<script>alert(1)</script> [here](http://evil.example) | `x"
    shop.target.publish(republish.without(shop, wanted(source), ["Q8_0"], reason, "2026-11-25"))
    card = held(shop)["README.md"].decode()
    assert "<script>" not in card
    assert "[here](http" not in card


def test_a_withdrawal_is_lifted(shop, source):
    shop.target.publish(republish.without(shop, wanted(source), ["Q8_0"], "Broken", "2026-11-25"))
    shop.target.publish(republish.lifted(shop, wanted(source), ["Q8_0"]))
    last = shop.target.last("me/gemma-2b-GGUF")
    assert last.withdrawn == ()
    assert [r.quant for r in last.published] == ["Q4_K_M"]
    with pytest.raises(
        BadInputError, match=r"Q8_0 of me/gemma-2b-GGUF is to be lifted, and is not withdrawn\. Withdrawn there: none"
    ):
        republish.lifted(shop, wanted(source), ["Q8_0"])


def test_what_is_not_there_cannot_be_taken_back(shop, source, tmp_path):
    with pytest.raises(BadInputError, match=r"has no Q2_K\. Published there: Q8_0, Q4_K_M\."):
        republish.without(shop, wanted(source), ["Q2_K"], "Broken", "2026-11-25")
    empty = run.Workshop(shop.store, tmp_path, Folder(tmp_path / "elsewhere"))
    with pytest.raises(BadInputError, match="There is no release me/gemma-2b-GGUF where --publish-to leads"):
        republish.rendered(empty, wanted(source))
