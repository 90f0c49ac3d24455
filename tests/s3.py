"""An S3 server on this machine, moto's, whose answers go wrong on order."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Self

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "shared"


@dataclass
class Fault:
    method: str
    path: str  # a regular expression
    action: str  # "status", "cut": half of the body, "flip": a byte of it, "drop": no answer
    count: int
    status: int = 503


class LoopbackS3:
    """As a context manager it serves on `endpoint`, with one empty bucket."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self.requests: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self._ask("POST", "/moto-api/reset")
        self._ask("PUT", f"/{BUCKET}")
        self.requests.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def fault(self, method: str, path: str, action: str, count: int = 1_000_000, status: int = 503) -> None:
        self._faults.append(Fault(method, path, action, count, status))

    def heal(self) -> None:
        self._faults.clear()

    def count(self, method: str, path: str = "") -> int:
        return sum(asked == method and bool(re.search(path, where)) for asked, where in self.requests)

    def get(self, key: str) -> bytes:
        return self._ask("GET", f"/{BUCKET}/{key}")

    def put(self, key: str, content: bytes) -> None:
        self._ask("PUT", f"/{BUCKET}/{key}", content)

    def delete(self, key: str) -> None:
        self._ask("DELETE", f"/{BUCKET}/{key}")

    def listed(self, prefix: str = "") -> list[str]:
        listing = self._ask("GET", f"/{BUCKET}?list-type=2&prefix={prefix}").decode()
        return re.findall("<Key>(.*?)</Key>", listing)

    def _ask(self, method: str, path: str, content: bytes | None = None) -> bytes:
        connection = HTTPConnection("127.0.0.1", self._server.server_port)
        connection.request(method, path, content, {"Authorization": "AWS test/20260101/us-east-1/s3/aws4_request"})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        assert answer.status < 300, (method, path, answer.status, body)
        return body

    def _due(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.count and fault.method == method and re.search(fault.path, path):
                    fault.count -= 1
                    return fault
        return None

    def _answer(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        fault = self._due(method, path)
        if fault is None:
            return self._app(environ, start_response)
        if fault.action == "status":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(f"{fault.status} Fault", [("Content-Length", "0")])
            return [b""]
        if fault.action == "drop":
            raise ConnectionAbortedError
        body = b"".join(self._app(environ, start_response))
        if fault.action == "cut":
            return _half(body)
        return [body[:-1] + bytes([body[-1] ^ 1])]


def _half(body):
    yield body[: len(body) // 2]
    raise ConnectionAbortedError


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_args) -> None:
        """Say nothing of each request."""

    def connection_dropped(self, _error, _environ=None) -> None:
        self.close_connection = True
