"""Between uvicorn and the Hub: every request is written down, and goes wrong where a fault is due."""

from __future__ import annotations

import asyncio
import functools
import re
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .faults import Fault, Faults

CONTROL = "/-/"
UPLOADS = re.compile(r"^PUT /lfs/|^POST /cas/|^POST /api/\w+/[^/]+/[^/]+/commit/")
CONNECTION = "hub.connection"


@dataclass
class Request:
    """`received` and `sent` are bytes of body; `status` is 0 as long as there is no answer. No header is kept."""

    method: str
    path: str  # raw, with the query
    status: int = 0
    received: int = 0
    sent: int = 0

    @property
    def uploads(self) -> bool:
        return UPLOADS.search(f"{self.method} {self.path}") is not None


class Connection(H11Protocol):
    """uvicorn's protocol, whose connection the application can drop."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.gone = asyncio.Event()
        self.app = functools.partial(_with_connection, self.app, self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.gone.set()

    async def reset(self) -> None:
        """Let the client see "connection reset by peer", whatever was sent before."""
        linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abort()
        await self.gone.wait()

    async def close(self) -> None:
        """Send what is left to send, and no more."""
        self.transport.close()
        await self.gone.wait()


async def _with_connection(app: ASGIApp, connection: Connection, scope: Scope, receive: Receive, send: Send) -> None:
    scope[CONNECTION] = connection
    await app(scope, receive, send)


class Traffic:
    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self._app = app
        self._faults = faults
        self.requests: list[Request] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = scope["query_string"].decode("latin-1")
        raw_path = scope["raw_path"].decode("latin-1")
        if raw_path.startswith(CONTROL):
            await self._app(scope, receive, send)
            return
        request = Request(scope["method"], f"{raw_path}?{query}" if query else raw_path)
        self.requests.append(request)
        exchange = _Exchange(request, self._faults, scope[CONNECTION], receive, send)
        if (headers := self._faults.too_many(request.path)) is not None:
            await exchange.answer(scope, 429, "Too many requests, try again later", headers)
            return
        fault = self._faults.take(request.method, request.path)
        if fault and fault.action in ("refuse", "reset", "status"):
            await exchange.refuse(fault, scope)
            return
        if fault and fault.action == "delay":
            await asyncio.sleep(fault.seconds)
        exchange.lost = fault is not None and fault.action == "lose"
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            request.status = 0
            return
        if exchange.lost:
            await scope[CONNECTION].reset()
        elif exchange.cut:
            await scope[CONNECTION].close()


@dataclass
class _Exchange:
    """One request's two streams, counted and, where a fault wants it, broken off."""

    request: Request
    faults: Faults
    connection: Connection
    receive_: Receive
    send_: Send
    lost: bool = False
    cut: Fault | None = None

    async def receive(self) -> Message:
        message = await self.receive_()
        self.request.received += len(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if self.lost:
            return
        if message["type"] == "http.response.start":
            lengths = [int(value) for name, value in message["headers"] if name.lower() == b"content-length"]
            self.request.status = int(message["status"])
            self.cut = self.faults.take_cut(self.request.method, self.request.path, sum(lengths))
        else:
            body = message.get("body", b"")
            if self.cut:
                body = body[: self.cut.after_bytes - self.request.sent]
                message = {**message, "body": body, "more_body": True}
            if self.request.method != "HEAD":
                self.request.sent += len(body)
        await self.send_(message)

    async def refuse(self, fault: Fault, scope: Scope) -> None:
        if fault.action == "status":
            await self.answer(scope, fault.status, fault.error or f"Fault {fault.status}", fault.headers)
            return
        while fault.action == "reset" and self.request.received < fault.after_bytes:
            if not (await self.receive()).get("more_body"):
                break
        await self.connection.reset()

    async def answer(self, scope: Scope, status: int, message: str, headers: Mapping[str, str]) -> None:
        while (await self.receive()).get("more_body"):  # else the client meets a broken pipe
            pass
        answer = JSONResponse({"error": message}, status, {**headers, "X-Error-Message": message})
        await answer(scope, self.receive, self.send)
