"""A pull request, by the shipped workflow files: what is right, what is wrong, and what is said of it."""

from __future__ import annotations

import json
import shutil

import pytest
from conftest import REVISION, TOKEN
from github import FakeGitHub
from github.repository import Pull

from pipeline import demo
from pipeline.preview import record


@pytest.fixture
def merged(world, model_directory):
    """A world in which main's matrix has one model, and its commit."""
    world.hub.add("tiny/llama", model_directory("llama"), REVISION)
    world.matrix("  - source: tiny/llama\n")
    return world, world.checkout.commit("Main")


def preview_of(world):
    return record.parse((world.checkout.artifacts / "preview" / "preview.json").read_bytes())


def test_three_mistakes_are_marked_on_their_lines_and_nothing_else_runs(merged):
    world, base = merged
    world.matrix("  - source: tiny/llama\n    quants: [Q4_KM]\n  - source: tiny llama\n    promt: Hello\n")
    world.hub.requests.clear()
    ran = world.pull_request(base)
    assert [step for _, step in ran.failed()] == ["Check"]
    assert ran.ran("Preview") == []
    assert world.hub.requests == []
    marked = [row for row in ran.rows if row.get("command") == "error"]
    places = {(row["kvPairs"]["file"], row["kvPairs"]["line"]) for row in marked}
    assert places == {("matrix.yml", "6"), ("matrix.yml", "7"), ("matrix.yml", "8")}
    assert sum("did you mean `Q4_K_M`?" in row["arg"] for row in marked) == 1
    assert "tiny llama" in (world.checkout.artifacts / "preview" / "problems.txt").read_text()


def test_one_quant_changed_is_all_that_is_looked_at(merged, model_directory):
    world, base = merged
    world.hub.add("tiny/gemma", model_directory("gemma"), "c" * 40)
    world.matrix("  - source: tiny/llama\n  - source: tiny/gemma\n")
    base = world.checkout.commit("Main, with another model")
    world.matrix("  - source: tiny/llama\n    quants: [Q8_0, Q4_K_M, Q6_K]\n  - source: tiny/gemma\n")
    world.hub.requests.clear()
    ran = world.pull_request(base)
    assert ran.failed() == [], ran.log[-5000:]
    (seen,) = preview_of(world).outlooks
    assert (seen.source, [q.quant for q in seen.quants]) == ("tiny/llama", ["Q8_0", "Q4_K_M", "Q6_K"])
    assert not any("tiny/gemma" in request.path for request in world.hub.requests)


def test_a_change_of_code_alone_previews_nothing(merged):
    world, base = merged
    world.checkout.write("README.md", "# Another readme\n")
    ran = world.pull_request(base)
    assert ran.failed() == [], ran.log[-5000:]
    assert preview_of(world).outlooks == ()
    assert "This changes no model." in ran.summaries[-1][1]


def test_a_model_that_cannot_work_fails_with_the_converters_own_sentence(merged, model_directory, tmp_path):
    world, base = merged
    broken = shutil.copytree(model_directory("gemma"), tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"num_attention_heads": None}))
    world.hub.add("tiny/broken", broken, "d" * 40)
    world.matrix("  - source: tiny/llama\n  - source: tiny/broken\n")
    ran = world.pull_request(base)
    assert [step for _, step in ran.failed()] == ["Preview"]
    (problem,) = preview_of(world).problems
    assert problem.startswith("matrix.yml:6:5: tiny/broken cannot be converted by the pinned llama.cpp")


def test_what_the_check_found_is_commented_and_hostile_text_stays_text(merged):
    world, base = merged
    world.matrix('  - source: tiny/llama\n    promt: "@everyone <img src=x> [here](http://evil.example)"\n')
    world.pull_request(base)
    (world.checkout.artifacts / "preview" / "pull-request-number").write_text("1")  # what a forger may try: not read
    found = {
        "event": "pull_request",
        "head_sha": "e" * 40,
        "head_branch": "patch-1",
        "head_repository": {"full_name": "somebody/llm-quantizer", "owner": {"login": "somebody"}},
        "html_url": "https://github.example/run/1",
        "id": 1,
    }
    with FakeGitHub("someone/llm-quantizer") as github:
        github.repository.commit("main", {"matrix.yml": (world.checkout.root / "matrix.yml").read_bytes()}, "Begin")
        files = [
            {"filename": "matrix.yml", "status": "modified"},
            {"filename": ".github/workflows/model.yml", "status": "modified"},
        ]
        pull = Pull(7, "Add", "", "somebody", "patch-1", "main", sha="e" * 40, files=files)
        github.repository.pulls.append(pull)
        ran = world.run(
            "workflow_run", "comment.yml", action="completed", workflow_run=found,
            secrets={"GITHUB_TOKEN": github.token}, environment=github.environment(),
        )  # fmt: skip
        assert ran.failed() == [], ran.log[-5000:]
        (comment,) = github.repository.comments
    assert comment.number == 7
    assert ".github/workflows/model.yml" in comment.body
    assert "unknown key `promt`; did you mean `prompt`?" in comment.body
    assert "@everyone" not in comment.body


def test_the_token_of_publishing_is_in_no_workflow_of_pull_requests():
    for name in ("check.yml", "test.yml", "comment.yml"):
        text = (demo.ROOT / ".github" / "workflows" / name).read_text()
        assert "secrets." not in text, f"{name} must not read a secret"
        assert TOKEN not in text
