"""One request as the handlers see it, and what they may say no with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .accounts import Account

PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}


class RefusedError(Exception):
    """`code` goes into X-Error-Code, by which the client chooses its exception."""

    def __init__(self, status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}

    def response(self) -> Response:
        headers = {**self.headers, "X-Error-Message": str(self).encode("ascii", "replace").decode()}
        if self.code:
            headers["X-Error-Code"] = self.code
        return JSONResponse({"error": str(self)}, self.status, headers)


@dataclass(frozen=True)
class Call:
    """A request whose body has been read. `segments` are those of the raw path, unquoted one by one."""

    method: str
    segments: list[str]
    query: dict[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    account: Account | None
    endpoint: str  # the origin that the client used
    raw_path: str

    def json(self) -> dict[str, Any]:
        try:
            content = json.loads(self.body or b"{}")
        except ValueError:
            raise RefusedError(400, "The body is not JSON") from None
        if not isinstance(content, dict):
            raise RefusedError(400, "The body is not a JSON object")
        return content

    def user(self) -> Account:
        """Who asks; refused where nobody has signed in."""
        if self.account is None:
            raise RefusedError(401, "Invalid username or password.")
        return self.account

    def flag(self, name: str) -> bool:
        return self.query.get(name, [""])[0].lower() in ("true", "1")

    @property
    def other_origin(self) -> str:
        """The same server by its other name: where large files lie, so that no token is sent there."""
        here, there = ("localhost", "127.0.0.1") if "//localhost:" in self.endpoint else ("127.0.0.1", "localhost")
        return self.endpoint.replace(f"//{here}:", f"//{there}:")
