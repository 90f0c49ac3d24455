"""The buttons, by the shipped workflow files: withdraw, render cards, watch."""

from __future__ import annotations

import shutil

import pytest
from conftest import REVISION
from github import FakeGitHub

from pipeline.matrix import parse


@pytest.fixture
def published(world, model_directory):
    """A world in which a model is published, pinned at its revision."""
    world.hub.add("tiny/llama", model_directory("llama"), REVISION)
    world.matrix(f"  - source: tiny/llama\n    revision: {REVISION} # as tested\n")
    world.checkout.commit("A model")
    world.publish()
    return world


def weights_sent(world, since):
    """Bytes of large files that the Hub was sent."""
    return sum(r.received for r in world.hub.requests[since:] if r.uploads and "/commit/" not in r.path)


def test_a_withdrawn_quant_stays_away_and_its_reason_on_the_card(published):
    world, since = published, len(published.hub.requests)
    ran = world.button("withdraw.yml", name="tiny/llama:Q4_K_M", reason="Answers in loops.", lift=False)
    assert ran.failed() == [], ran.log[-5000:]
    release = world.release("me/llama-GGUF")
    assert [r.quant for r in release.published] == ["Q8_0"]
    files = world.hub.repos.get("model", "me/llama-GGUF").commit("main").files
    assert "llama-Q4_K_M.gguf" not in files
    card = world.file("me/llama-GGUF", "README.md").decode()
    assert "1 of 2 quants published, 1 withdrawn" in card
    assert "Answers in loops." in card
    # No run brings it back, and the reason stays where the card is rendered anew.
    again = world.button("quantize.yml", models="", quants="", publish=True, force=True, llama_cpp="")
    assert again.failed() == [], again.log[-5000:]
    assert len(again.ran("Job")) == 1
    ran = world.button("cards.yml", models="*")
    assert ran.failed() == [], ran.log[-5000:]
    assert "Answers in loops." in world.file("me/llama-GGUF", "README.md").decode()
    assert [r.quant for r in world.release("me/llama-GGUF").published] == ["Q8_0"]
    assert weights_sent(world, since) == 0
    # Until somebody ends that.
    ran = world.button("withdraw.yml", name="tiny/llama:Q4_K_M", reason="", lift=True)
    assert ran.failed() == [], ran.log[-5000:]
    again = world.button("quantize.yml", models="", quants="", publish=True, force=False, llama_cpp="")
    assert [r.quant for r in world.release("me/llama-GGUF").published] == ["Q8_0", "Q4_K_M"], again.log[-5000:]


def test_what_moved_on_upstream_becomes_a_pull_request_and_a_release_without_weights(
    published, model_directory, tmp_path
):
    world = published
    changed = shutil.copytree(model_directory("llama"), tmp_path / "changed")
    card = (changed / "README.md").read_text()
    (changed / "README.md").write_text(f"{card}\nSome more words.\n")
    world.hub.add("tiny/llama", changed, "b" * 40)
    with FakeGitHub("someone/llm-quantizer") as github:
        github.repository.commit("main", {"matrix.yml": (world.checkout.root / "matrix.yml").read_bytes()}, "Begin")
        for _ in range(2):  # the second time, there is nothing to do
            ran = world.run(
                "workflow_dispatch", "watch.yml", inputs={"only": "tiny/llama", "dry_run": "false"},
                secrets={"WATCH_TOKEN": github.token}, environment=github.environment(),
            )  # fmt: skip
            assert ran.failed() == [], ran.log[-5000:]
        (pull,) = github.repository.pulls
        text = github.repository.files("watch/tiny--llama")["matrix.yml"].decode()
    assert pull.title == "tiny/llama: card or licence changed"
    assert f"    revision: {'b' * 40} # as tested\n" in text
    assert parse(text.encode(), "matrix.yml", tmp_path).models[0].revision == "b" * 40
    # Merged, it leads to a release that uploads no weight.
    world.checkout.write("matrix.yml", text)
    since = len(world.hub.requests)
    ran = world.merge()
    assert ran.failed() == [], ran.log[-5000:]
    assert (ran.ran("Prepare"), ran.ran("Job"), len(ran.ran("Release"))) == ([], [], 1)
    release = world.release("me/llama-GGUF")
    assert release.provenance.revision == "b" * 40
    assert [r.quant for r in release.published] == ["Q8_0", "Q4_K_M"]
    assert weights_sent(world, since) == 0
    assert "Some more words." in world.file("me/llama-GGUF", "README.md").decode()
