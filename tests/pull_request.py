"""A pull request as the workflows treat it: check.yml's commands on what it brings, then comment.yml's."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from github.repository import Pull
from markdown_it import MarkdownIt
from test_cli import invoke

from pipeline.comment import MARKER, MENTION

if TYPE_CHECKING:
    from pathlib import Path

CHECK = ("check",)
PREVIEW = ("plan", "--base", "$BASE", "--publish-to", "hub", "--preview", "--format", "json")
OURS = {MARKER, "<details>", "</details>"} | {
    f"<summary>{title}</summary>" for title in ("Sizes to the byte", "How the card will begin")
}
ANNOTATION = re.compile(r"::error file=matrix\.yml,line=\d+,col=\d+::\S.*")
HEAD = "a" * 40
RUN = {
    "event": "pull_request",
    "head_sha": HEAD,
    "head_branch": "patch-1",
    "head_repository": {"full_name": "somebody/quants", "owner": {"login": "somebody"}},
    "html_url": "https://github.example/me/quants/actions/runs/1",
}


class Checked(NamedTuple):
    code: int
    messages: list[str]
    """What a person reads in the log, annotations left out."""
    preview: str
    """preview.json, as text."""


class PullRequest:
    """Pull request 7, in a repository of its own with the matrix `before` at its base."""

    def __init__(self, root: Path, before: str, github, monkeypatch) -> None:
        self.root = root
        self.github = github
        root.mkdir()
        self.artifact = root / "preview"
        self.write(before)
        for words in (["init", "--quiet"], ["add", "matrix.yml"], ["commit", "--quiet", "--message", "Base"]):
            self._git(*words)
        self.base = self._git("rev-parse", "HEAD").strip()
        event = root.parent / "event.json"
        event.write_text(json.dumps({"action": "completed", "workflow_run": RUN}))
        for name, value in {"GITHUB_ACTIONS": "true", "GITHUB_EVENT_PATH": str(event)}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(root.parent / "summary.md"))
        monkeypatch.chdir(root)
        github.repository.commit("main", {"matrix.yml": before.encode()}, "Base")

    def write(self, matrix: str) -> None:
        (self.root / "matrix.yml").write_text(matrix, encoding="utf-8", newline="")

    def check(self, matrix: str) -> Checked:
        """Run what check.yml runs, and leave what it uploads."""
        self.write(matrix)
        self.artifact.mkdir()
        code, out, err = invoke(*CHECK)
        (self.artifact / "problems.txt").write_text(err)
        if code == 0:
            code, out, err = invoke(*(word.replace("$BASE", self.base) for word in PREVIEW))
            (self.artifact / "preview.json").write_text(out)
        assert "Traceback" not in out + err
        lines = re.split("\r\n|\r|\n", err)
        commands = [line for line in lines if line.lstrip().startswith("::")]
        assert "##[" not in err
        assert all(
            ANNOTATION.fullmatch(line) or line.startswith("::group::") or line == "::endgroup::" for line in commands
        )
        messages = [line for line in lines if line.startswith("matrix.yml:")]
        assert sum(line.startswith("::error") for line in commands) == len(messages) * (code != 0)
        assert not list(self.root.parent.rglob("canary*"))
        return Checked(code, messages, out)

    def comment(self, *files: str) -> str:
        """Run what comment.yml runs; `files` are those that the pull request changes."""
        changed = [{"filename": name} for name in ("matrix.yml", *files)]
        given = {"title": "Add a model", "body": "", "owner": "somebody", "branch": "patch-1", "base": "main"}
        self.github.repository.pulls.append(Pull(number=7, sha=HEAD, files=changed, **given))
        code, _, err = invoke("comment", self.artifact)
        assert (code, err) == (0, "")
        (comment,) = self.github.repository.comments
        assert_tame(comment.body)
        return comment.body

    def _git(self, *words: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
        return subprocess.run(["git", *who, *words], cwd=self.root, check=True, capture_output=True, text=True).stdout


def assert_tame(markdown: str) -> None:
    """Nothing in it is HTML that is not ours, a picture, a link, or a mention of somebody."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    parts = [part for token in tokens for part in (token, *(token.children or []))]
    html = [line for part in parts if part.type.startswith("html") for line in part.content.split("\n") if line.strip()]
    assert set(html) <= OURS
    assert html.count("<details>") == html.count("</details>")
    assert not {part.type for part in parts} & {"image", "link_open"}
    assert not [part.content for part in parts if part.type == "text" and MENTION.search(part.content)]
