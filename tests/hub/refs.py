"""Branches, tags, the list of commits and their squashing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from .answers import RefusedError
from .commits import alone
from .repos import MAIN, Commit
from .views import paged

if TYPE_CHECKING:
    from .answers import Call
    from .repos import Repo
    from .server import LoopbackHub

HEADS, TAGS, PULLS = "refs/heads/", "refs/tags/", "refs/pr/"


def listing(call: Call, repo: Repo) -> Response:
    def named(prefix: str) -> list[dict[str, str]]:
        refs = {ref.removeprefix(prefix): ref for ref in sorted(repo.refs) if ref.startswith(prefix)}
        return [{"name": name, "ref": ref, "targetCommit": repo.refs[ref]} for name, ref in refs.items()]

    answer = {"branches": named(HEADS), "tags": named(TAGS), "converts": []}
    if call.flag("include_prs"):
        answer["pullRequests"] = named(PULLS)
    return JSONResponse(answer)


def create_branch(call: Call, repo: Repo, branch: str) -> Response:
    if HEADS + branch in repo.refs:
        raise RefusedError(409, f"Reference already exists: {HEADS}{branch}")
    repo.point(HEADS + branch, repo.commit(call.json().get("startingPoint") or "main").id)
    return JSONResponse({})


def delete_branch(repo: Repo, branch: str) -> Response:
    if HEADS + branch == MAIN:
        raise RefusedError(403, f"Cannot delete {MAIN}")
    if HEADS + branch not in repo.refs:
        raise RefusedError(404, "Reference does not exist")
    repo.point(HEADS + branch, None)
    return JSONResponse({})


def create_tag(call: Call, repo: Repo, revision: str) -> Response:
    tag = call.json()["tag"]
    commit = repo.commit(revision)
    if TAGS + tag in repo.refs:
        raise RefusedError(409, f"Tag reference exists already: {TAGS}{tag}")
    repo.point(TAGS + tag, commit.id)
    return JSONResponse({})


def delete_tag(repo: Repo, tag: str) -> Response:
    if TAGS + tag not in repo.refs:
        raise RefusedError(404, f"Invalid rev id: {tag}", "RevisionNotFound")
    repo.point(TAGS + tag, None)
    return JSONResponse({})


def commits(hub: LoopbackHub, call: Call, repo: Repo, revision: str) -> Response:
    entries: list[dict[str, Any]] = [
        {
            "id": commit.id,
            "title": commit.title,
            "message": commit.message,
            "authors": [{"user": commit.author}],
            "date": commit.date,
        }
        for commit in repo.history(repo.commit(revision))
    ]
    return paged(hub, call, entries)


def squash(hub: LoopbackHub, call: Call, repo: Repo, branch: str) -> Response:
    with alone(hub, repo):
        head = repo.commit(branch)
        title = call.json().get("message", f"Super-squash branch '{branch}'")
        made = Commit.make([], title, "", call.user().name, head.files)
        repo.put(made)
        repo.point(repo.branch(branch), made.id)
    return JSONResponse({})
