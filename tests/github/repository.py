"""A repository in memory: branches that hold files, pull requests, comments."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Pull:
    number: int
    title: str
    body: str | None
    owner: str
    branch: str
    base: str
    sha: str = ""
    """Of a fork's head; that of a branch of the repository itself is the branch's."""
    state: str = "open"
    files: list[dict[str, str]] = field(default_factory=list)
    holds: dict[str, bytes] = field(default_factory=dict)
    """What of a fork's head differs from the base, by path."""


@dataclass
class Comment:
    id: int
    number: int
    login: str
    body: str


@dataclass
class Repository:
    full_name: str
    default_branch: str = "main"
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """The files of each commit, by path."""
    branches: dict[str, str] = field(default_factory=dict)
    pulls: list[Pull] = field(default_factory=list)
    comments: list[Comment] = field(default_factory=list)

    @property
    def owner(self) -> str:
        return self.full_name.partition("/")[0]

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        """Commit `files` over what the branch has."""
        before = self.branches.get(branch, "")
        content = {**self.commits.get(before, {}), **files}
        told = repr((before, message, sorted(content.items())))
        sha = hashlib.sha1(told.encode(), usedforsecurity=False).hexdigest()
        self.commits[sha] = content
        self.branches[branch] = sha
        return sha

    def files(self, ref: str) -> dict[str, bytes] | None:
        """The files at a branch or a commit."""
        return self.commits.get(self.branches.get(ref, ref))

    def head(self, pull: Pull) -> str:
        return self.branches.get(pull.branch, pull.sha) if pull.owner == self.owner else pull.sha

    def shown(self, pull: Pull) -> dict[str, Any]:
        """A pull request as the API shows it, as far as we read it."""
        repo = {"full_name": f"{pull.owner}/{self.full_name.partition('/')[2]}", "default_branch": "main"}
        return {
            "number": pull.number,
            "html_url": f"https://github.example/{self.full_name}/pull/{pull.number}",
            "state": pull.state,
            "title": pull.title,
            "body": pull.body,
            "head": {"ref": pull.branch, "sha": self.head(pull), "repo": repo},
            "base": {"ref": pull.base},
        }

    def add_comment(self, number: int, login: str, body: str) -> Comment:
        comment = Comment(len(self.comments) + 1000, number, login, body)
        self.comments.append(comment)
        return comment


def blob(content: bytes) -> str:
    """Git's name for a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
