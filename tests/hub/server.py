"""Enough of the Hub's protocol for an unmodified `huggingface_hub` to read models and datasets from.

The shapes are those that huggingface_hub 2.4.0 was seen to need; see the protocol table in the facts. Nothing
announces Xet, so every download is plain HTTP.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

if TYPE_CHECKING:
    from pathlib import Path

# What the Hub's own .gitattributes sends to large file storage.
LARGE = {".bin", ".gguf", ".model", ".safetensors"}


@dataclass(frozen=True)
class Blob:
    path: Path
    size: int
    oid: str  # git's sha1; of the pointer, for a large file
    sha256: str | None  # of a large file
    pointer_size: int

    def large(self, key: str) -> dict[str, Any]:
        """The entry of a large file, none for another. The sha256 goes by two names: hence `key`."""
        if not self.sha256:
            return {}
        return {"lfs": {key: self.sha256, "size": self.size, "pointerSize": self.pointer_size}}

    @classmethod
    def of(cls, path: Path) -> Blob:
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest() if path.suffix in LARGE else None
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n"
        stored = pointer.encode() if sha256 else content
        oid = hashlib.sha1(b"blob %d\0" % len(stored) + stored, usedforsecurity=False).hexdigest()
        return cls(path, len(content), oid, sha256, len(pointer))


@dataclass
class Repo:
    repo_id: str
    gated: bool = False
    private: bool = False
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)


@dataclass
class _Fault:
    path_substring: str
    count: int
    status: int = 0  # answer this, or
    after_bytes: int = 0  # drop the connection here


class _RefusedError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class LoopbackHub:
    """A read-only Hub. As a context manager it serves on `endpoint` until it is left.

    `requests` lists the (method, raw path with query) of all that was asked. `tokens` says which private or
    gated repos a token may read; a token that is not listed is a bad one.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, Blob] = {}
        self.requests: list[tuple[str, str]] = []
        self.tokens: dict[str, set[str]] = {}
        self.page_size = 1000  # entries in one page of a tree
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        for connection in list(self._server.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()  # waits for the handlers

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def cdn(self) -> str:
        """Where large files lie. Another origin, as on the Hub: no token is sent there, and none is accepted."""
        return f"http://localhost:{self._server.server_port}"

    def add(
        self,
        repo_id: str,
        directory: Path,
        revision: str,
        branch: str = "main",
        *,
        gated: bool = False,
        private: bool = False,
        repo_type: str = "model",
    ) -> None:
        """Publish the files of `directory` as the commit `revision` at the head of `branch`.

        The files are hashed now and read when asked for: leave them as they are.
        """
        repo = self.repos.setdefault((repo_type, repo_id), Repo(repo_id))
        repo.gated, repo.private = gated, private
        files = {p.relative_to(directory).as_posix(): p for p in sorted(directory.rglob("*")) if p.is_file()}
        blobs = {name: Blob.of(path) for name, path in files.items()}
        repo.refs[branch] = revision
        repo.commits[revision] = blobs
        self.large |= {blob.sha256: blob for blob in blobs.values() if blob.sha256}

    def fail(self, path_substring: str, status: int, count: int = 1) -> None:
        """Answer the next `count` requests whose raw path holds `path_substring` with `status`."""
        self._faults.append(_Fault(path_substring, count, status=status))

    def cut(self, path_substring: str, after_bytes: int, count: int = 1) -> None:
        """Drop the connection `after_bytes` into the next `count` bodies that are longer and match.

        A large file's body comes from `/cdn/<sha256>/<file name>`.
        """
        self._faults.append(_Fault(path_substring, count, after_bytes=after_bytes))

    def fault(self, path: str, length: int | None = None) -> _Fault | None:
        """Take the fault that is due: before a request without `length`, before its body with it."""
        with self._lock:
            for fault in self._faults:
                due = fault.status if length is None else not fault.status and length > fault.after_bytes
                if due and fault.count and fault.path_substring in path:
                    fault.count -= 1
                    return fault
        return None

    def repo(self, repo_type: str, repo_id: str, token: str | None, *, content: bool = False) -> Repo:
        """The repo, if `token` may see it; or with `content`, what is in its files."""
        if token is not None and token not in self.tokens:
            raise _RefusedError(401, "", "Invalid credentials in Authorization header")
        repo = self.repos.get((repo_type, repo_id))
        allowed = repo_id in self.tokens.get(token or "", ())
        if repo is None or (repo.private and not allowed):
            raise _RefusedError(404, "RepoNotFound", "Repository not found")
        if content and repo.gated and not allowed:
            access = f"Access to {repo_type} {repo_id} is restricted"
            if token is None:
                raise _RefusedError(
                    401,
                    "GatedRepo",
                    f"{access}. You must have access to it and be authenticated to access it. Please log in.",
                )
            raise _RefusedError(
                403,
                "GatedRepo",
                f"{access} and you are not in the authorized list. Visit"
                f" https://huggingface.co/{repo_id} to ask for access.",
            )
        return repo


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, hub: LoopbackHub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.connections: set[socket.socket] = set()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        self.server.connections.add(self.request)
        super().setup()

    def finish(self) -> None:
        super().finish()
        self.server.connections.discard(self.request)

    def log_message(self, *_: object) -> None:
        pass  # `requests` is the log

    def do_GET(self) -> None:
        hub = self.server.hub
        hub.requests.append((self.command, self.path))
        url = urlsplit(self.path)
        try:
            if fault := hub.fault(self.path):
                raise _RefusedError(fault.status, "", HTTPStatus(fault.status).phrase)
            # Split before unquoting: a revision may hold a slash, as refs%2Fpr%2F1.
            self._route([unquote(segment) for segment in url.path.strip("/").split("/")], parse_qs(url.query))
        except _RefusedError as refused:
            headers = {"X-Error-Code": refused.code} if refused.code else {}
            self._json({"error": str(refused)}, refused.status, {**headers, "X-Error-Message": str(refused)})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _route(self, segments: list[str], query: dict[str, list[str]]) -> None:
        hub, token = self.server.hub, self._token()
        match segments:
            case ["cdn", sha256, _]:
                if token is not None:
                    raise _RefusedError(400, "", "Only one auth mechanism allowed")
                self._blob(hub.large[sha256], {"ETag": f'"{sha256}"'})
            case ["api", ("models" | "datasets") as kind, owner, name, *rest]:
                repo = hub.repo(kind[:-1], f"{owner}/{name}", token, content=rest == ["auth-check"])
                match rest:
                    case []:
                        self._info(repo, "main", query)
                    case ["revision", revision]:
                        self._info(repo, revision, query)
                    case ["tree", revision, *path]:
                        self._tree(repo, revision, "/".join(path), query)
                    case ["auth-check"]:
                        self._json({})
                    case _:
                        raise _RefusedError(404, "", "Not found")
            case ["datasets", owner, name, "resolve", revision, *path]:
                repo = hub.repo("dataset", f"{owner}/{name}", token, content=True)
                self._resolve(repo, revision, "/".join(path))
            case [owner, name, "resolve", revision, *path]:
                repo = hub.repo("model", f"{owner}/{name}", token, content=True)
                self._resolve(repo, revision, "/".join(path))
            case _:
                raise _RefusedError(404, "", "Not found")

    def _info(self, repo: Repo, revision: str, query: dict[str, list[str]]) -> None:
        sha, files = _commit(repo, revision)
        siblings: list[dict[str, Any]] = [{"rfilename": name} for name in files]
        if "blobs" in query:
            for sibling, blob in zip(siblings, files.values(), strict=True):
                sibling |= {"size": blob.size, "blobId": blob.oid, **blob.large("sha256")}
        gated = "manual" if repo.gated else False
        self._json({"id": repo.repo_id, "sha": sha, "private": repo.private, "gated": gated, "siblings": siblings})

    def _tree(self, repo: Repo, revision: str, below: str, query: dict[str, list[str]]) -> None:
        _, files = _commit(repo, revision)
        prefix = f"{below}/" if below else ""
        deep = query.get("recursive", [""])[0].lower() in ("true", "1")
        entries: dict[str, dict[str, Any]] = {}
        for name, blob in files.items():
            if not name.startswith(prefix):
                continue
            inner = name.removeprefix(prefix).split("/")
            for depth in range(1, len(inner) if deep else min(len(inner), 2)):
                folder = prefix + "/".join(inner[:depth])
                entries[folder] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": folder}
            if deep or len(inner) == 1:
                about = {"type": "file", "oid": blob.oid, "size": blob.size, "path": name}
                entries[name] = {**about, **blob.large("oid")}
        if below and not entries:
            raise _RefusedError(404, "EntryNotFound", f"{below} does not exist on {revision}")
        start = int(query.get("cursor", ["0"])[0])
        end = start + self.server.hub.page_size
        here = f"{self.server.hub.endpoint}{urlsplit(self.path).path}?recursive={deep}&cursor={end}"
        more = {"Link": f'<{here}>; rel="next"'} if end < len(entries) else {}
        self._json(list(entries.values())[start:end], headers=more)

    def _resolve(self, repo: Repo, revision: str, path: str) -> None:
        sha, files = _commit(repo, revision)
        if path not in files:
            raise _RefusedError(404, "EntryNotFound", "Entry not found")
        blob = files[path]
        if blob.sha256 is None:
            self._blob(blob, {"ETag": f'"{blob.oid}"', "X-Repo-Commit": sha})
            return
        location = f"{self.server.hub.cdn}/cdn/{blob.sha256}/{quote(blob.path.name)}"
        headers = {"X-Linked-Size": str(blob.size), "X-Linked-ETag": f'"{blob.sha256}"', "Location": location}
        self._send(302, {**headers, "X-Repo-Commit": sha}, f"Found. Redirecting to {location}".encode())

    def _blob(self, blob: Blob, headers: dict[str, str]) -> None:
        content, headers = blob.path.read_bytes(), {**headers, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked is None or asked.groups() == ("", ""):
            self._send(200, headers, content)
            return
        first, last = asked.groups()
        start = int(first) if first else max(blob.size - int(last), 0)
        end = min(int(last) + 1, blob.size) if first and last else blob.size
        if start >= end:
            self._send(416, {**headers, "Content-Range": f"bytes */{blob.size}"}, b"")
            return
        self._send(206, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{blob.size}"}, content[start:end])

    def _json(self, body: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(body).encode())

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        cut = self.server.hub.fault(self.path, len(body)) if self.command == "GET" else None
        with contextlib.suppress(ConnectionError):  # the client may leave when it likes
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[: cut.after_bytes] if cut else body)
        self.close_connection = self.close_connection or cut is not None

    def _token(self) -> str | None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if scheme == "Bearer" else None


def _commit(repo: Repo, revision: str) -> tuple[str, dict[str, Blob]]:
    sha = repo.refs.get(revision, revision)
    if sha not in repo.commits:
        raise _RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return sha, repo.commits[sha]
