"""The Hub as a test holds it: a server in a thread, and what can be done to it from outside."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

import uvicorn

from . import app
from .accounts import Accounts, Publisher
from .cas import Cas
from .faults import Fault, Faults
from .git import ATTRIBUTES, DEFAULT_PATTERNS, File, attributes, is_large
from .objects import Objects
from .repos import Commit, Repos, now
from .traffic import Connection, Traffic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .lfs import Upload
    from .traffic import Request


class LoopbackHub:
    """As a context manager it serves on `endpoint` until it is left.

    With `data`, a directory, it goes on with what another left there; else all is gone in the end. Nobody has a
    right to write, nor a token, before `add_token`.
    """

    def __init__(self, data: Path | None = None, port: int = 0) -> None:
        self._port = port
        self._temporary = tempfile.mkdtemp(prefix="loopback-hub-") if data is None else None
        root = Path(data or self._temporary or "")
        self.objects = Objects(root / "objects")
        self.repos = Repos(root / "repos")
        self.cas = Cas(root / "cas", self.objects)
        self.accounts = Accounts()
        self.faults = Faults()
        self.uploads: dict[str, Upload] = {}
        self.quota: dict[str, int] = {}  # bytes that a namespace may store
        self.page_size = 1000  # entries in one page of a tree
        self.part_size = 100 << 20  # bytes; a larger file is uploaded in parts
        self.one_type_a_name = False  # whether a name that a dataset has is taken for a model
        self.commit_seconds = 0.0  # what a commit takes at least
        self._traffic = Traffic(app.build(self), self.faults)

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", self._port))
        # Else each answer waits 40 ms, between its head and its body, for the client's word.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            self._traffic, http=Connection, ws="none", lifespan="off", log_config=None, loop="asyncio", backlog=128
        )
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="loopback hub")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        if self._temporary:
            shutil.rmtree(self._temporary)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    @property
    def requests(self) -> list[Request]:
        """All requests so far, but for those that control the server."""
        return self._traffic.requests

    def uploaded(self) -> int:
        """How many bytes came in bodies that bring content: LFS, the Xet store, commits."""
        return sum(request.received for request in self.requests if request.uploads)

    def add_token(
        self,
        token: str,
        name: str,
        role: str = "read",
        orgs: Mapping[str, str] | None = None,
        access: Iterable[str] = (),
    ) -> None:
        """Let `token` be one of the user `name`.

        `orgs` says whether it reads or writes in an organization; `access` lists private and gated repos of others
        that it may read.
        """
        self.accounts.add(token, name, role, orgs or {}, access)

    def drop_token(self, token: str) -> None:
        """Let it be a bad one from now on."""
        self.accounts.drop(token)

    def add_publisher(self, resource: str, subject_token: str, seconds: int = 3600) -> None:
        """Trust the workflow that brings `subject_token`: for the repo `resource`, or a user's gated models.

        `GET /-/id-token?audience=A` with the bearer B, which stands for GitHub's, gives the id token `B@A`.
        """
        self.accounts.trust(Publisher(resource, subject_token, seconds))

    def fault(
        self,
        path: str,
        action: str = "status",
        *,
        method: str | None = None,
        count: int = 1,
        skip: int = 0,
        status: int = 503,
        headers: Mapping[str, str] | None = None,
        error: str | None = None,
        after_bytes: int = 0,
        seconds: float = 0.0,
    ) -> Fault:
        """Let the next `count` requests go wrong whose raw path with query the regular expression `path` finds.

        For the actions see `faults.ACTIONS`. The fault's own `count` says how many are still to come.
        """
        return self.faults.add(
            Fault(path, action, method, count, skip, status, headers or {}, error, after_bytes, seconds)
        )

    def limit(self, path: str, calls: int, seconds: float) -> None:
        """Answer 429 with Retry-After to more than `calls` matching requests in `seconds`."""
        self.faults.limit(path, calls, seconds)

    def add(
        self,
        repo_id: str,
        directory: Path,
        revision: str,
        branch: str = "main",
        *,
        gated: bool | str = False,
        private: bool = False,
        repo_type: str = "model",
    ) -> None:
        """Publish copies of the files of `directory`, and no others, as the commit `revision` on `branch`."""
        repo = self.repos.get(repo_type, repo_id) or self.repos.create(repo_type, repo_id)
        repo.gated, repo.private = "manual" if gated is True else gated, private
        own = directory / ATTRIBUTES
        lines = own.read_text() if own.is_file() else attributes(DEFAULT_PATTERNS)
        found = {p.relative_to(directory).as_posix(): p for p in sorted(directory.rglob("*")) if p.is_file()}
        files = {name: self._take(path, name, lines) for name, path in found.items()}
        head = repo.refs.get(f"refs/heads/{branch}")
        parents = [head] if head and head != revision else []
        repo.put(Commit(revision, parents, "Add files", "", repo.namespace, now(), files))
        repo.point(f"refs/heads/{branch}", revision)

    def rename(self, repo_id: str, new_id: str) -> None:
        """Give a model another name; who asks for the old one is sent to the new one."""
        self.repos.rename("model", repo_id, new_id)

    def _take(self, path: Path, name: str, lines: str) -> File:
        size = path.stat().st_size
        if path.stat().st_blocks * 512 < size // 2:
            return self._take_hole(path, size)
        with path.open("rb") as file:
            large = is_large(lines, name, size, file.read(512))
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if not self.objects.has(sha256):
            room = self.objects.room()
            shutil.copyfile(path, room)
            self.objects.add_file(room, sha256)
        return File.of(sha256, size, large=large, content=b"" if large else path.read_bytes())

    def _take_hole(self, path: Path, size: int) -> File:
        """Serve a file that is mostly a hole, however large, under a made-up sha256: nobody reads it to its end."""
        with path.open("rb") as file:
            sha256 = hashlib.sha256(b"%d %s" % (size, file.read(1 << 20))).hexdigest()
        if not self.objects.has(sha256):
            room = self.objects.room()
            os.link(path, room)
            self.objects.add_file(room, sha256)
        return File.of(sha256, size, large=True)


class _Server(uvicorn.Server):
    """uvicorn's server that stops at once: a test has no use for clients that still talk."""

    async def main_loop(self) -> None:
        await self.on_tick(0)
        while not self.should_exit:  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.01)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()
        while self.server_state.connections or self.server_state.tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.005)
