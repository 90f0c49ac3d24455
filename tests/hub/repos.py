"""Repos with their refs and commits, kept on disk so that a server started again serves the same.

<root>/<type>s/<owner>/<name>/repo.json            settings and refs
<root>/<type>s/<owner>/<name>/commits/<id>.json    one commit, with all files of its tree
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .answers import PREFIXES, RefusedError
from .git import File, object_id, trees

if TYPE_CHECKING:
    from pathlib import Path

MAIN = "refs/heads/main"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Commit:
    id: str
    parents: list[str]
    title: str
    message: str
    author: str
    date: str  # ISO 8601, UTC
    files: dict[str, File]

    @classmethod
    def make(cls, parents: list[str], title: str, message: str, author: str, files: dict[str, File]) -> Commit:
        date = now()
        # Not quite git's format: its time has no milliseconds, and two equal commits in a second would be one.
        text = "\n".join([trees(files)[""], *parents, author, date, title, message])
        return cls(object_id("commit", text.encode()), parents, title, message, author, date, files)


@dataclass
class Repo:
    root: Path
    repo_type: str
    repo_id: str
    private: bool = False
    gated: str | bool = False  # manual, auto or False
    created: str = field(default_factory=now)
    changed: str = field(default_factory=now)
    refs: dict[str, str] = field(default_factory=dict)  # full names, such as refs/heads/main

    def __post_init__(self) -> None:
        self.busy = threading.Lock()  # held during a commit
        self._lock = threading.Lock()
        self._commits: dict[str, Commit] = {}

    @property
    def namespace(self) -> str:
        return self.repo_id.partition("/")[0]

    @property
    def full_name(self) -> str:
        return PREFIXES[self.repo_type] + self.repo_id

    def save(self) -> None:
        keys = ("repo_type", "repo_id", "private", "gated", "created", "changed", "refs")
        _write(self.root / "repo.json", {key: getattr(self, key) for key in keys})

    def put(self, commit: Commit) -> None:
        """Keep a commit; a ref makes it visible."""
        _write(self.root / "commits" / f"{commit.id}.json", asdict(commit))
        self._commits[commit.id] = commit

    def point(self, ref: str, commit_id: str | None) -> None:
        """Let a ref name a commit, or none any more."""
        with self._lock:
            others = {name: commit for name, commit in self.refs.items() if name != ref}
            self.refs = others | ({ref: commit_id} if commit_id else {})
            self.changed = now()
            self.save()

    def ref(self, revision: str) -> str | None:
        """The full name of the ref that `revision` means, None where it means none."""
        if revision == "HEAD":
            return MAIN
        names = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        return next((name for name in names if name in self.refs), None)

    def commit(self, revision: str) -> Commit:
        ref = self.ref(revision)
        commit_id = self.refs.get(ref) if ref else None
        if commit_id is None and re.fullmatch("[0-9a-f]{7,40}", revision):
            found = [path.stem for path in (self.root / "commits").glob(f"{revision}*.json")]
            commit_id = found[0] if len(found) == 1 else None
        if commit_id is None:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if commit_id not in self._commits:
            content = json.loads((self.root / "commits" / f"{commit_id}.json").read_bytes())
            content["files"] = {path: File(*file) for path, file in content["files"].items()}
            self._commits[commit_id] = Commit(**content)
        return self._commits[commit_id]

    def branch(self, revision: str) -> str:
        """The ref that a commit to `revision` moves: a branch or a pull request."""
        ref = self.ref(revision)
        if ref is None or ref.startswith("refs/tags/"):
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return ref

    def history(self, commit: Commit) -> list[Commit]:
        """The commit and those before it, the newest first."""
        commits = [commit]
        while commits[-1].parents:
            commits.append(self.commit(commits[-1].parents[0]))
        return commits

    def stored(self) -> dict[str, int]:
        """The size in bytes of every body that the repo's commits hold, by sha256."""
        commits = [self.commit(path.stem) for path in (self.root / "commits").glob("*.json")]
        return {file.sha256: file.size for commit in commits for file in commit.files.values()}


class Repos:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._repos: dict[tuple[str, str], Repo] = {}
        self.renamed: dict[tuple[str, str], str] = {}  # to their new names, for as long as the server runs
        for path in root.glob("*/*/*/repo.json"):
            content = json.loads(path.read_bytes())
            self._repos[content["repo_type"], content["repo_id"]] = Repo(path.parent, **content)

    def get(self, repo_type: str, repo_id: str) -> Repo | None:
        return self._repos.get((repo_type, repo_id))

    def create(self, repo_type: str, repo_id: str, *, private: bool = False) -> Repo:
        """Make an empty repo; KeyError where it is there already."""
        with self._lock:
            if (repo_type, repo_id) in self._repos:
                raise KeyError(repo_id)
            repo = Repo(self._root / f"{repo_type}s" / repo_id, repo_type, repo_id, private)
            (repo.root / "commits").mkdir(parents=True)
            repo.save()
            self._repos[repo_type, repo_id] = repo
        return repo

    def rename(self, repo_type: str, repo_id: str, new_id: str) -> None:
        with self._lock:
            repo = self._repos.pop((repo_type, repo_id))
            root = self._root / f"{repo_type}s" / new_id
            root.parent.mkdir(exist_ok=True)
            repo.root.rename(root)
            repo.root, repo.repo_id = root, new_id
            repo.save()
            self._repos[repo_type, new_id] = repo
            self.renamed[repo_type, repo_id] = new_id

    def delete(self, repo: Repo) -> None:
        with self._lock:
            del self._repos[repo.repo_type, repo.repo_id]
            shutil.rmtree(repo.root)

    def stored(self, namespace: str) -> dict[str, int]:
        """The size in bytes of every body in a namespace's repos, by sha256."""
        repos = [repo for repo in list(self._repos.values()) if repo.namespace == namespace]
        return {sha256: size for repo in repos for sha256, size in repo.stored().items()}


def _write(path: Path, content: dict[str, Any]) -> None:
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    new.write_text(json.dumps(content))
    os.replace(new, path)  # noqa: PTH105 - named for its atomicity
