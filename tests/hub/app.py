"""The Hub's routes. A path is split before it is unquoted: a revision may hold a slash, as refs%2Fpr%2F1."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote

import anyio.to_thread
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from . import commits, lfs, refs, rights, settings, views, xet
from .answers import Call, RefusedError
from .faults import Fault

if TYPE_CHECKING:
    from starlette.requests import Request

    from .repos import Repo
    from .server import LoopbackHub

METHODS = ["GET", "POST", "PUT", "DELETE"]
NOT_FOUND = "Not found"


def build(hub: LoopbackHub) -> Starlette:
    async def everything(request: Request) -> Response:
        try:
            return await _answer(hub, request)
        except RefusedError as refused:
            return refused.response()

    return Starlette(
        routes=[Mount("/cas", routes=hub.cas.routes()), Route("/{path:path}", everything, methods=METHODS)]
    )


async def _answer(hub: LoopbackHub, request: Request) -> Response:
    raw_path = request.scope["raw_path"].decode("latin-1")
    segments = [unquote(segment) for segment in raw_path.strip("/").split("/")]
    authorization = request.headers.get("Authorization")
    match request.method, segments:
        case "GET" | "HEAD", ["cdn", sha256, _]:
            return views.large(hub, sha256, authorization)
        case "PUT", ["lfs", name]:
            return await lfs.receive(hub, request, name, None)
        case "PUT", ["lfs", name, part] if part.isdecimal():
            return await lfs.receive(hub, request, name, part)
        case _, ["-", *rest]:
            return _control(hub, request, rest, await request.body())
    body = await request.body()
    call = Call(
        "GET" if request.method == "HEAD" else request.method,
        segments,
        parse_qs(request.url.query),
        request.headers,
        body,
        None if segments == ["oauth", "token"] else hub.accounts.of(authorization),
        str(request.base_url).rstrip("/"),
        raw_path,
    )
    return await anyio.to_thread.run_sync(_route, hub, call)


def _route(hub: LoopbackHub, call: Call) -> Response:
    match call.method, call.segments:
        case "GET", ["api", "whoami-v2"]:
            return JSONResponse(hub.accounts.whoami(call.user()))
        case "POST", ["api", "validate-yaml"]:
            return views.validate(call.json()["content"])
        case "POST", ["oauth", "token"]:
            return JSONResponse(hub.accounts.exchange(call.json()))
        case "POST", ["api", "repos", "create"]:
            return settings.create(hub, call)
        case "DELETE", ["api", "repos", "delete"]:
            return settings.delete(hub, call)
        case "POST", ["lfs", name, "complete"]:
            return lfs.complete(hub, call, name)
        case _, ["api", ("models" | "datasets" | "spaces") as kind, owner, name, *rest]:
            return _repo(hub, call, kind[:-1], f"{owner}/{name}", rest)
        case _, [("datasets" | "spaces") as kind, owner, name, *rest]:
            return _files(hub, call, kind[:-1], f"{owner}/{name}", rest)
        case _, [owner, name, *rest]:
            return _files(hub, call, "model", f"{owner}/{name}", rest)
    raise RefusedError(404, NOT_FOUND)


def _files(hub: LoopbackHub, call: Call, repo_type: str, repo_id: str, rest: list[str]) -> Response:
    match call.method, rest:
        case "POST", ["info", "lfs", "objects", "batch"]:
            return lfs.batch(hub, call, repo_type, repo_id.removesuffix(".git"))
        case "POST", ["info", "lfs", "verify"]:
            return lfs.verify(hub, call, repo_type, repo_id.removesuffix(".git"))
        case "GET", ["resolve", revision, *path]:
            repo = rights.readable(hub, call, repo_type, repo_id)
            return views.resolve(hub, call, repo, revision, "/".join(path))
    raise RefusedError(404, NOT_FOUND)


def _repo(hub: LoopbackHub, call: Call, repo_type: str, repo_id: str, rest: list[str]) -> Response:
    where = (hub, call, repo_type, repo_id)
    match call.method, rest:
        case "GET", ["auth-check"]:
            rights.readable(*where)
            return JSONResponse({})
        case "GET", ["auth-check", "write"]:
            rights.writable(*where)
            return JSONResponse({})
        case "GET", ["xet-read-token", revision]:
            return xet.read_token(hub, call, rights.readable(*where), revision)
        case "GET", ["xet-write-token", revision]:
            return xet.write_token(hub, call, _target(hub, call, repo_type, repo_id), revision)
        case "POST", ["preupload", revision]:
            return commits.preupload(hub, call, _target(hub, call, repo_type, repo_id), revision)
        case "POST", ["commit", revision]:
            return commits.commit(hub, call, _target(hub, call, repo_type, repo_id), revision)
        case "POST", ["paths-info", revision]:
            return views.paths_info(hub, call, rights.visible(*where), revision)
        case "GET", _:
            return _read(hub, call, rights.visible(*where), rest)
    return _change(hub, call, rights.writable(*where), rest)


def _target(hub: LoopbackHub, call: Call, repo_type: str, repo_id: str) -> Repo:
    """The repo of an upload: a pull request may come from everybody who reads it."""
    if call.flag("create_pr"):
        call.user()
        return rights.readable(hub, call, repo_type, repo_id)
    return rights.writable(hub, call, repo_type, repo_id)


def _read(hub: LoopbackHub, call: Call, repo: Repo, rest: list[str]) -> Response:
    match rest:
        case []:
            return views.info(hub, call, repo, "main")
        case ["revision", *revision]:
            return views.info(hub, call, repo, "/".join(revision))
        case ["tree", revision, *path]:
            return views.tree(hub, call, repo, revision, "/".join(path))
        case ["refs"]:
            return refs.listing(call, repo)
        case ["commits", *revision]:
            return refs.commits(hub, call, repo, "/".join(revision))
    raise RefusedError(404, NOT_FOUND)


def _change(hub: LoopbackHub, call: Call, repo: Repo, rest: list[str]) -> Response:
    match call.method, rest:
        case "PUT", ["settings"]:
            return settings.update(call, repo)
        case "POST", ["branch", *branch]:
            return refs.create_branch(call, repo, "/".join(branch))
        case "DELETE", ["branch", *branch]:
            return refs.delete_branch(repo, "/".join(branch))
        case "POST", ["tag", *revision]:
            return refs.create_tag(call, repo, "/".join(revision))
        case "DELETE", ["tag", *tag]:
            return refs.delete_tag(repo, "/".join(tag))
        case "POST", ["super-squash", *branch]:
            return refs.squash(hub, call, repo, "/".join(branch))
    raise RefusedError(404, NOT_FOUND)


def _control(hub: LoopbackHub, request: Request, rest: list[str], body: bytes) -> Response:
    """What a test tells a server that runs as a program."""
    match request.method, rest:
        case "GET", ["requests"]:
            return JSONResponse([vars(request) for request in hub.requests])
        case "DELETE", ["requests"]:
            hub.requests.clear()
            return JSONResponse({})
        case "GET", ["faults"]:
            return JSONResponse(hub.faults.listing())
        case "POST", ["faults"]:
            try:
                hub.faults.add(Fault(**json.loads(body)))
            except (TypeError, ValueError) as error:
                raise RefusedError(400, str(error)) from error
            return JSONResponse({})
        case "DELETE", ["faults"]:
            hub.faults.clear()
            return JSONResponse({})
        case "GET", ["id-token"]:
            # As GitHub's: who holds the job's request token gets an id token for one audience.
            job, audience = request.headers["Authorization"].removeprefix("Bearer "), request.query_params["audience"]
            return JSONResponse({"value": f"{job}@{audience}"})
    raise RefusedError(404, NOT_FOUND)
