"""Repos made, deleted and set."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from . import commits, rights
from .answers import PREFIXES, RefusedError

if TYPE_CHECKING:
    from .answers import Call
    from .repos import Repo
    from .server import LoopbackHub

NAME = re.compile(r"(?!.*(--|\.\.))\w[\w.-]{0,95}(?<![.-])(?<!\.git)", re.ASCII)


def create(hub: LoopbackHub, call: Call) -> Response:
    user, body = call.user(), call.json()
    repo_type, namespace = body.get("type") or "model", body.get("organization") or user.name
    repo_id = f"{namespace}/{body['name']}"
    if user.repo is not None:
        raise RefusedError(401, "This token may not create repos")
    if not user.writes_in(namespace):
        # The same where there is no such organization.
        raise RefusedError(403, f'You don\'t have the rights to create a {repo_type} under the namespace "{namespace}"')
    if not NAME.fullmatch(body["name"]):
        raise RefusedError(400, f"Invalid repo name: {repo_id}")
    private = bool(body.get("private")) or body.get("visibility") == "private"
    answer = {"url": f"{call.endpoint}/{PREFIXES[repo_type]}{repo_id}", "name": repo_id, "id": repo_id}
    others = (other for other in PREFIXES if other != repo_type and hub.repos.get(other, repo_id))
    taken = next(others, None) if hub.one_type_a_name else None
    try:
        if taken is not None:
            raise KeyError(repo_id)
        repo = hub.repos.create(repo_type, repo_id, private=private)
    except KeyError:
        said = f"You already created this {taken or repo_type} repo: {repo_id}"
        return JSONResponse({"error": said, **answer}, 409, {"X-Error-Message": said})
    commits.first(hub, repo, user.name)
    return JSONResponse(answer)


def delete(hub: LoopbackHub, call: Call) -> Response:
    user, body = call.user(), call.json()
    namespace = body.get("organization") or user.name
    hub.repos.delete(rights.writable(hub, call, body.get("type") or "model", f"{namespace}/{body['name']}"))
    return JSONResponse({})


def update(call: Call, repo: Repo) -> Response:
    body: dict[str, Any] = call.json()
    if (gated := body.get("gated", repo.gated)) not in (False, "auto", "manual"):
        raise RefusedError(400, "gated is auto, manual or false")
    repo.gated = gated
    repo.private = body.get("private", repo.private)
    if "visibility" in body:
        repo.private = body["visibility"] == "private"
    repo.save()
    return JSONResponse({"gated": repo.gated, "private": repo.private})
