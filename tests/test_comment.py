"""The comment on a pull request, made of an artifact that nobody vouches for."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

import pytest
from click.testing import CliRunner
from github.repository import Pull

from pipeline import cli, comment, endings
from pipeline.errors import BadInputError
from pipeline.github import BOT, ChangedFile
from pipeline.preview import record
from pipeline.preview.record import Outlook

SHA, NEWER = "a" * 40, "b" * 40
RUN = {
    "event": "pull_request",
    "head_sha": SHA,
    "head_branch": "patch-1",
    "head_repository": {"full_name": "somebody/quants", "owner": {"login": "somebody"}},
    "html_url": "https://github.example/me/quants/actions/runs/1",
}
OUTLOOK = Outlook(
    source="owner/model",
    revision=None,
    repo="nold/model-GGUF",
    exists=False,
    architecture="LlamaForCausalLM",
    parameters=1,
    context=1,
    private=False,
    licence="mit",
    notice=False,
    licence_files=(),
    gated=None,
    cores=16,
    quants=(),
    deletes=(),
    upload=1,
    disk=1,
    card="# A card",
)


@pytest.fixture
def rendered(monkeypatch):
    """A stand-in for the page of a preview, which shows what it was given."""
    given = []

    def page(outlooks, problems=()):
        given.append((tuple(outlooks), tuple(problems)))
        return "".join(f"## {o.source}\n\n{o.card}\n\n" for o in outlooks) + "".join(f"- {p}\n" for p in problems)

    module = types.ModuleType("pipeline.preview.page")
    module.page = page
    monkeypatch.setitem(sys.modules, "pipeline.preview.page", module)
    return given


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "artifact"
    path.mkdir()
    (path / "preview.json").write_bytes(record.dump(record.Preview(outlooks=(OUTLOOK,))))
    return path


@pytest.fixture
def event(tmp_path, monkeypatch):
    """`event(…)` lets this be the job for a run of the check that differs from RUN in what is given."""

    def put(**changed):
        path = tmp_path / "event.json"
        path.write_text(json.dumps({"action": "completed", "workflow_run": RUN | changed}))
        monkeypatch.setenv("GITHUB_EVENT_PATH", str(path))

    put()
    return put


@pytest.fixture
def repository(fake_github, event, rendered):
    """A repository with pull request 7, which is at what the check ran for."""
    fake_github.repository.commit("main", {"matrix.yml": b"llama_cpp: {path: .}\n"}, "First")
    fake_github.repository.pulls.append(pull())
    return fake_github.repository


def pull(**changed):
    about = {
        "number": 7,
        "title": "Add a model",
        "body": "",
        "owner": "somebody",
        "branch": "patch-1",
        "base": "main",
        "sha": SHA,
        "files": [{"filename": "matrix.yml"}],
    }
    return Pull(**about | changed)


def run(directory):
    """Run the command as `main` does; returns exit code, stdout, stderr."""
    runner = CliRunner()
    with runner.isolation() as (out, err, _):
        code = endings.guarded(lambda: cli.cli.main(["comment", str(directory)], standalone_mode=False))
        return code, out.getvalue().decode(), err.getvalue().decode()


def test_one_comment_is_kept_up_to_date(repository, artifact, fake_github):
    repository.add_comment(7, "somebody", f"{comment.MARKER}\nnot ours")
    repository.add_comment(7, BOT, f"another one of the bot's, which quotes {comment.MARKER}")
    code, out, _ = run(artifact)
    assert (code, out) == (0, "commented: https://github.example/comment/1002\n")
    assert repository.comments[2].body == f"{comment.MARKER}\n## owner/model\n\n# A card\n\n"
    before = fake_github.changes()
    assert run(artifact)[1] == "is as it was: https://github.example/comment/1002\n"
    assert fake_github.changes() == before
    (artifact / "problems.txt").write_text("matrix.yml:3:5: it is wrong\n")
    assert run(artifact)[1] == "updated: https://github.example/comment/1002\n"
    assert repository.comments[2].body.endswith("- matrix.yml:3:5: it is wrong\n")
    assert [c.body.partition("\n")[2] for c in repository.comments[:2]] == ["not ours", ""]
    assert len(repository.comments) == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"sha": NEWER},  # it has moved on
        {"state": "closed"},
        {"owner": "another"},
        {"branch": "patch-2"},
    ],
)
def test_a_stale_run_writes_nothing(repository, artifact, fake_github, changed):
    repository.pulls[0] = pull(**changed)
    code, out, _ = run(artifact)
    assert (code, out) == (0, "Nothing to comment on: no open pull request is at aaaaaaaaaaaa (any more).\n")
    assert fake_github.changes() == []


@pytest.mark.parametrize(
    "changed", [{"event": "push"}, {"event": "pull_request_target"}, {"head_repository": None}, {"head_branch": None}]
)
def test_a_run_of_no_pull_request_writes_nothing(repository, artifact, fake_github, event, changed):
    event(**changed)
    assert run(artifact)[0] == 0
    assert fake_github.requests == []


def test_the_same_branch_of_another_repository(repository, artifact, fake_github, event):
    event(head_repository={"full_name": "somebody/another", "owner": {"login": "somebody"}})
    assert "Nothing to comment on" in run(artifact)[1]
    assert fake_github.changes() == []


def test_the_number_is_never_taken_from_the_artifact(repository, artifact):
    repository.pulls.append(pull(number=8, owner="victim"))
    for name in ("number", "pr.txt", "NR"):
        (artifact / name).write_text("8")
    run(artifact)
    assert [c.number for c in repository.comments] == [7]


@pytest.mark.parametrize("content", [None, "", "{}", '{"workflow_run": {"event": "pull_request"}}', "[]"])
def test_without_the_event_of_a_run(repository, artifact, monkeypatch, tmp_path, content):
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("GITHUB_EVENT_PATH", str(path))
    code, _, err = run(artifact)
    assert code == 2
    assert "names no event of `workflow_run`" in err
    monkeypatch.delenv("GITHUB_EVENT_PATH")
    assert run(artifact)[0] == 2


def test_github_that_refuses(repository, artifact, fake_github):
    fake_github.fault("POST /issues", 403, "Resource not accessible by integration")
    code, _, err = run(artifact)
    assert code == 4
    assert "may not do this in me/quants: commenting on pull request 7" in err


# --- what the pull request changes ---


def warned(*files):
    made = [ChangedFile(filename=f) if isinstance(f, str) else ChangedFile(**f) for f in files]
    warning = comment._warning(made, toolchain=False)
    body = comment.body(comment.Findings((), ("x",)), warning, comment.Run.model_validate(RUN))
    assert body.startswith(f"{comment.MARKER}\n")
    return body.removeprefix(f"{comment.MARKER}\n").removesuffix("- x\n")


def test_a_change_of_the_matrix_alone_is_no_warning(rendered):
    assert warned("matrix.yml", "README.md", "docs/.github/x", "my-pipeline/x") == ""


@pytest.mark.parametrize(
    "name", [".github/workflows/check.yml", "pipeline/job.py", "templates/card.md.j2", "pyproject.toml", "Makefile"]
)
def test_a_change_of_code_comes_first(rendered, name):
    text = warned("matrix.yml", name)
    assert text == (
        f"**This changes what a run does, not only what it makes:** `{name}`. A maintainer has to read these changes"
        " before any run.\n\n"
    )
    assert warned({"filename": "elsewhere", "previous_filename": name}) == text


@pytest.mark.parametrize(
    ("holds", "said"),
    [
        (b"llama_cpp: {path: .} # as it was\nmodels: []\n", False),
        (b"llama_cpp: {git: https://evil.example/llama.cpp}\n", True),
        (b"llama_cpp: &a {path: .}\n", True),
        (b"[]", True),
    ],
)
def test_another_llama_cpp_is_code_too(repository, artifact, holds, said):
    repository.pulls[0].files = [{"filename": "matrix.yml", "status": "modified"}]
    repository.pulls[0].holds = {"matrix.yml": holds}
    run(artifact)
    (made,) = repository.comments
    assert made.body.startswith(f"{comment.MARKER}\n**This changes what a run does") == said
    assert ("`llama_cpp in matrix.yml`. A maintainer has to read" in made.body) == said


def test_hostile_names_of_changed_files(rendered):
    text = warned("pipeline/`@everyone`\n# x", "pipeline/" + "y" * 9999)
    assert "\n# x" not in text
    assert "``pipeline/`@everyone` # x``" in text
    assert len(text) < 500
    assert " and 93 more." in warned(*(f"pipeline/{i:03}" for i in range(103)))


def test_more_files_than_github_lists(rendered):
    assert "more files than GitHub lists" in warned(*(f"f{i}" for i in range(3000)))


# --- the artifact ---


def problems(directory):
    return comment.read(directory).problems


def test_an_artifact_of_nothing(tmp_path):
    assert problems(tmp_path) == ("The check left nothing to show: it ended early. Its log says why.",)
    assert problems(tmp_path / "nowhere") == problems(tmp_path)


def test_a_preview_of_nothing_is_one(artifact):
    (artifact / "preview.json").write_bytes(record.dump(record.Preview()))
    assert problems(artifact) == ()


def test_a_link_is_not_followed(tmp_path, artifact):
    secret = tmp_path / "secret"
    secret.write_text("sesame")
    for name in ("preview.json", "problems.txt"):
        (artifact / name).unlink(missing_ok=True)
        (artifact / name).symlink_to(secret)
    found = comment.read(artifact)
    assert found.outlooks == ()
    assert found.problems == (
        "preview.json of the check cannot be read as a plain file, so it is left out.",
        "problems.txt of the check cannot be read as a plain file, so it is left out.",
    )


def test_a_directory_in_place_of_a_file(artifact):
    (artifact / "preview.json").unlink()
    (artifact / "preview.json").mkdir()
    (artifact / "preview.json" / "preview.json").write_text("[]")
    assert problems(artifact) == ("preview.json of the check cannot be read as a plain file, so it is left out.",)


def test_a_pipe_is_not_waited_for(artifact):
    os.mkfifo(artifact / "problems.txt")
    assert problems(artifact) == ("problems.txt of the check is no plain file, so it is left out.",)


def test_a_file_of_two_gigabytes(artifact):
    for name in ("preview.json", "problems.txt"):
        with (artifact / name).open("wb") as file:
            file.truncate(2 << 30)
    assert problems(artifact) == (
        "The preview is larger than 4194304 bytes, so it is not read.",
        "There is more, in the log of the check.",
    )


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b'{"a": 1}', b"[" * 100_000, b'[{"source": "a/b"}]', b"null", b""])
def test_a_preview_that_is_none(artifact, data):
    (artifact / "preview.json").write_bytes(data)
    (artifact / "problems.txt").write_bytes(b"said \xff\xfe\x00\x1b[31m\r\n")
    found = comment.read(artifact)
    assert found.outlooks == ()
    assert found.problems[0].startswith("This is no preview of this version")
    assert found.problems[1] == "said \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m"


def test_problems_are_counted(artifact):
    (artifact / "problems.txt").write_text("".join(f"{i}: {'x' * 200}\n\n" for i in range(1000)))
    found = problems(artifact)
    assert len(found) == comment.MOST_PROBLEMS + 1
    assert found[-1] == "There is more, in the log of the check."
    (artifact / "problems.txt").write_text("y" * 10_000)
    assert problems(artifact) == ("y" * (comment.LONGEST_PROBLEM - 1) + "…",)


def test_what_is_said_to_github_alone_is_not_said_twice(artifact):
    (artifact / "problems.txt").write_text("matrix.yml:3:5: no\n::error file=matrix.yml,line=3,col=5::no\n")
    assert problems(artifact) == ("matrix.yml:3:5: no",)


# --- the text ---


def text_of(outlooks=(), problems=()):
    return comment.body(comment.Findings(tuple(outlooks), tuple(problems)), "", comment.Run.model_validate(RUN))


@pytest.mark.parametrize("at", ["@", "&#64;", "&#0064;", "&#x40;", "&#X040;", "&commat;"])
def test_nobody_is_mentioned(rendered, at):
    assert f"{at}everyone" not in text_of(problems=[f"ping {at}everyone"])
    assert "a @ b" in text_of(problems=["a @ b"])


def test_a_comment_is_cut_where_github_would_refuse_it(rendered):
    card = "<details><summary>more</summary>\n\n```text\n" + "line\n" * 3_999
    outlooks = [OUTLOOK.model_copy(update={"card": card})] * 10
    text = text_of(outlooks)
    assert 50_000 < len(text) <= comment.LONGEST_COMMENT
    assert text.endswith(
        "This is cut here: a comment has 65536 characters. [All of it](https://github.example/me/quants/actions/runs/1)\n"
    )
    assert "```\n" in text[-2_000:]
    for card in ("x" * 20_000, "<b>" * 6_000, "> " * 9_000 + "<details>", "<plaintext>"):
        text = text_of([OUTLOOK.model_copy(update={"card": card})] * 10)
        assert len(text) <= comment.LONGEST_COMMENT
        assert ("This is cut here" in text) == (len(card) > 100)


def test_the_event_is_read_by_what_it_says(event):
    assert comment.Run.of_environment().head_branch == "patch-1"
    event(head_branch="x" * 300)
    assert comment.Run.of_environment().head_branch == "x" * 300
    Path(os.environ["GITHUB_EVENT_PATH"]).write_bytes(b"\xff")
    with pytest.raises(BadInputError):
        comment.Run.of_environment()
