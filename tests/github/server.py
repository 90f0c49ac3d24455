"""The stand-in as a test holds it: a server in a thread, whose repository can be read and changed from outside."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .repository import Pull, Repository, blob

if TYPE_CHECKING:
    from starlette.requests import Request

TOKEN = "ghs_of-a-stand-in"
BOT = "github-actions[bot]"
LONGEST = 65_536


@dataclass(frozen=True)
class Asked:
    method: str
    path: str  # below /repos/<repository>, with the query
    body: Any
    status: int


@dataclass
class Fault:
    """The next `count` requests that `pattern` finds in `METHOD path` get this answer; `lose`: none at all."""

    pattern: str
    status: int
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    count: int = 1
    lose: bool = False


class RefusedError(Exception):
    def __init__(self, status: int, message: str, errors: list[dict[str, str]] | None = None) -> None:
        super().__init__(message)
        self.body = {"message": message, "errors": errors or [], "documentation_url": "https://docs.github.example"}
        self.status = status


class FakeGitHub:
    """As a context manager it serves the API of one repository on `endpoint`. Nothing of it outlives the process."""

    def __init__(self, repository: str = "me/quants", token: str = TOKEN, port: int = 0) -> None:
        self.repository = Repository(repository)
        self.token = token
        self.requests: list[Asked] = []
        self.faults: list[Fault] = []
        self._port = port
        methods = ["GET", "POST", "PATCH", "PUT"]
        self._app = Starlette(routes=[Route("/{path:path}", self._everything, methods=methods)])

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", self._port))
        config = uvicorn.Config(self._app, ws="none", lifespan="off", log_config=None, loop="asyncio", http="h11")
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="fake github")
        self._thread.start()
        while not self._server.started:  # else it may be told to stop before it knows how
            time.sleep(0.001)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.force_exit = self._server.should_exit = True
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def environment(self) -> dict[str, str]:
        """What Actions would set for a job of this repository."""
        return {
            "GITHUB_API_URL": self.endpoint,
            "GITHUB_REPOSITORY": self.repository.full_name,
            "GITHUB_TOKEN": self.token,
        }

    def fault(self, pattern: str, status: int, message: str = "", **more: Any) -> None:
        self.faults.append(Fault(pattern, status, message, **more))

    def changes(self) -> list[str]:
        """What was asked to be changed, as `METHOD path`."""
        return [f"{asked.method} {asked.path}" for asked in self.requests if asked.method != "GET"]

    async def _everything(self, request: Request) -> Response:
        raw = await request.body()
        body = json.loads(raw) if raw else None
        path = request.url.path.removeprefix(f"/repos/{self.repository.full_name}")
        full = f"{path}?{request.url.query}" if request.url.query else path
        fault = next((f for f in self.faults if f.count and re.search(f.pattern, f"{request.method} {full}")), None)
        headers: dict[str, str] = {}
        try:
            if fault and not fault.lose:
                fault.count -= 1
                headers = fault.headers
                raise RefusedError(fault.status, fault.message)
            if request.url.path.startswith("/-/"):
                return self._control(request, body)
            if request.headers.get("authorization") != f"Bearer {self.token}":
                raise RefusedError(401, "Bad credentials")
            if path == request.url.path:
                raise RefusedError(404, "Not Found")
            status, content = self._answer(request, path, body)
        except RefusedError as refused:
            status, content = refused.status, refused.body
        self.requests.append(Asked(request.method, full, body, status))
        if fault and fault.lose:
            fault.count -= 1
            # The server drops a connection whose answer is shorter than it says.
            return Response(b"", headers={"Content-Length": "9"})
        return JSONResponse(content, status, headers)

    def _control(self, request: Request, body: Any) -> Response:
        """For tests that run this as a process: `/-/state` says what is there, `PUT /-/files` commits to main."""
        repository = self.repository
        if request.url.path == "/-/files" and request.method == "PUT":
            repository.commit(repository.default_branch, {k: v.encode() for k, v in body.items()}, "Files")
        elif request.url.path == "/-/pulls" and request.method == "POST":
            repository.pulls.append(Pull(**body))
        branches = {name: repository.files(name) or {} for name in repository.branches}
        return JSONResponse(
            {
                "branches": {n: {k: v.decode(errors="replace") for k, v in f.items()} for n, f in branches.items()},
                "pulls": [repository.shown(pull) for pull in repository.pulls],
                "comments": [vars(comment) for comment in repository.comments],
                "requests": [vars(asked) for asked in self.requests],
            }
        )

    def _answer(self, request: Request, path: str, body: Any) -> tuple[int, Any]:  # noqa: C901, PLR0912 - a table
        repository, query = self.repository, request.query_params
        match request.method, path.split("/")[1:]:
            case "GET", []:
                return 200, {"full_name": repository.full_name, "default_branch": repository.default_branch}
            case "GET", ["git", "ref", "heads", *name]:
                return 200, self._ref("/".join(name))
            case "POST", ["git", "refs"]:
                name = body["ref"].removeprefix("refs/heads/")
                if name in repository.branches:
                    raise RefusedError(422, "Reference already exists")
                self._point(name, body["sha"])
                return 201, self._ref(name)
            case "PATCH", ["git", "refs", "heads", *name]:
                self._ref("/".join(name))
                self._point("/".join(name), body["sha"])
                return 200, self._ref("/".join(name))
            case "GET", ["contents", *parts]:
                content = self._file(query.get("ref", repository.default_branch), "/".join(parts))
                return 200, {"sha": blob(content), "content": base64.encodebytes(content).decode()}
            case "PUT", ["contents", *parts]:
                file = "/".join(parts)
                if body["sha"] != blob(self._file(body["branch"], file)):
                    raise RefusedError(409, f"{file} does not match {body['sha']}")
                content = base64.b64decode(body["content"])
                sha = repository.commit(body["branch"], {file: content}, body["message"])
                return 200, {"content": {"sha": blob(content)}, "commit": {"sha": sha}}
            case "GET", ["pulls"]:
                return 200, self._page(query, [repository.shown(p) for p in self._listed(query)])
            case "POST", ["pulls"]:
                return 201, repository.shown(self._open(body))
            case "PATCH", ["pulls", number]:
                pull = self._pull(number)
                _check_length(body["body"])
                pull.title, pull.body = body["title"], body["body"]
                return 200, repository.shown(pull)
            case "GET", ["pulls", number, "files"]:
                return 200, self._page(query, self._pull(number).files)
            case "GET", ["issues", number, "comments"]:
                return 200, self._page(query, [_comment(c) for c in repository.comments if c.number == int(number)])
            case "POST", ["issues", number, "comments"]:
                self._pull(number)
                _check_length(body["body"])
                return 201, _comment(repository.add_comment(int(number), BOT, body["body"]))
            case "PATCH", ["issues", "comments", comment_id]:
                _check_length(body["body"])
                (comment,) = (c for c in repository.comments if c.id == int(comment_id))
                comment.body = body["body"]
                return 200, _comment(comment)
            case "POST", ["actions", "runners", "generate-jitconfig"]:
                return 201, _runner(body)
        raise RefusedError(404, "Not Found")

    def _ref(self, name: str) -> dict[str, Any]:
        if name not in self.repository.branches:
            raise RefusedError(404, "Not Found")
        return {"ref": f"refs/heads/{name}", "object": {"sha": self.repository.branches[name], "type": "commit"}}

    def _point(self, name: str, sha: str) -> None:
        if sha not in self.repository.commits:
            raise RefusedError(422, "Object does not exist")
        self.repository.branches[name] = sha

    def _file(self, ref: str, path: str) -> bytes:
        if ref.startswith("refs/pull/"):
            pull = self._pull(ref.split("/")[2])
            if path in pull.holds:
                return pull.holds[path]
            ref = self.repository.head(pull) if pull.owner == self.repository.owner else pull.base
        content = (self.repository.files(ref) or {}).get(path)
        if content is None:
            raise RefusedError(404, "Not Found")
        return content

    def _listed(self, query: Any) -> list[Pull]:
        owner, _, branch = query.get("head", ":").partition(":")
        wanted = query.get("state", "open")
        found = [p for p in self.repository.pulls if (p.owner, p.branch) == (owner, branch)]
        return [p for p in reversed(found) if wanted in ("all", p.state)]

    def _open(self, body: Any) -> Pull:
        repository = self.repository
        if body["head"] not in repository.branches:
            raise RefusedError(422, "Validation Failed", [{"field": "head", "code": "invalid"}])
        if any(p.state == "open" and p.branch == body["head"] for p in repository.pulls):
            said = f"A pull request already exists for {repository.owner}:{body['head']}."
            raise RefusedError(422, "Validation Failed", [{"message": said}])
        if repository.files(body["head"]) == repository.files(body["base"]):
            raise RefusedError(422, "Validation Failed", [{"message": "No commits between them"}])
        _check_length(body["body"])
        number = len(repository.pulls) + 1
        pull = Pull(number, body["title"], body["body"], repository.owner, body["head"], body["base"])
        repository.pulls.append(pull)
        return pull

    def _pull(self, number: str) -> Pull:
        found = [pull for pull in self.repository.pulls if pull.number == int(number)]
        if not found:
            raise RefusedError(404, "Not Found")
        return found[0]

    def _page(self, query: Any, entries: list[Any]) -> list[Any]:
        size, page = int(query.get("per_page", "30")), int(query.get("page", "1"))
        return entries[(page - 1) * size : page * size]


class _Server(uvicorn.Server):
    """uvicorn's server that notices within a hundredth of a second that it is to stop."""

    async def main_loop(self) -> None:
        await self.on_tick(0)
        while not self.should_exit:  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.01)


def _comment(comment: Any) -> dict[str, Any]:
    url = f"https://github.example/comment/{comment.id}"
    return {"id": comment.id, "html_url": url, "body": comment.body, "user": {"login": comment.login}}


def _runner(body: Any) -> dict[str, Any]:
    if missing := [key for key in ("name", "runner_group_id", "labels") if not body.get(key)]:
        raise RefusedError(422, f"Invalid request.\n\n{missing[0]} wasn't supplied.")
    runner = {"id": 1, "name": body["name"], "labels": [{"name": name} for name in body["labels"]]}
    return {"runner": runner, "encoded_jit_config": base64.b64encode(json.dumps(runner).encode()).decode()}


def _check_length(body: str) -> None:
    if len(body) > LONGEST:
        raise RefusedError(422, "Validation Failed", [{"message": "body is too long (maximum is 65536 characters)"}])
