"""Failures on order: which requests go wrong, how, and how often; and limits of their rate."""

from __future__ import annotations

import math
import re
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ACTIONS = {
    "refuse": "reset the connection before an answer; nothing is done",
    "reset": "reset it once `after_bytes` of the request's body were read; nothing is done",
    "status": "answer `status` with `headers` and `error`; nothing is done",
    "delay": "wait `seconds`, then go on as ever",
    "cut": "do the work, drop the connection `after_bytes` into a body that is longer",
    "lose": "do the work, drop the connection without an answer",
}


@dataclass
class Fault:
    path: str  # a regular expression, searched in the raw path with its query
    action: str
    method: str | None = None
    count: int = 1
    skip: int = 0  # so many matches pass first
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    after_bytes: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"{self.action!r} is none of {', '.join(ACTIONS)}")
        re.compile(self.path)


@dataclass
class _Limit:
    path: str
    calls: int
    seconds: float
    since: float = 0.0  # the monotonic clock, where the window began
    seen: int = 0


class Faults:
    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._limits: list[_Limit] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> Fault:
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()
            self._limits.clear()

    def listing(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(fault) for fault in self._faults]

    def limit(self, path: str, calls: int, seconds: float) -> None:
        with self._lock:
            self._limits.append(_Limit(path, calls, seconds))

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that is due when a request comes in."""
        return self._take(method, path, lambda fault: fault.action != "cut")

    def take_cut(self, method: str, path: str, length: int) -> Fault | None:
        """The fault that is due for an answer whose body has `length` bytes."""
        if method == "HEAD":
            return None
        return self._take(method, path, lambda fault: fault.action == "cut" and length > fault.after_bytes)

    def _take(self, method: str, path: str, fits: Callable[[Fault], bool]) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.count and fault.method in (None, method) and fits(fault) and re.search(fault.path, path):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.count -= 1
                    return fault
        return None

    def too_many(self, path: str) -> dict[str, str] | None:
        """The headers of a 429, which say when to come again; None where a request may come now."""
        now = time.monotonic()
        with self._lock:
            for limit in self._limits:
                if not re.search(limit.path, path):
                    continue
                if not limit.seen or now >= limit.since + limit.seconds:
                    limit.since, limit.seen = now, 0
                if limit.seen >= limit.calls:
                    wait = math.ceil(limit.since + limit.seconds - now)
                    policy = f'"fixed window";"api";q={limit.calls};w={math.ceil(limit.seconds)}'
                    return {"Retry-After": str(wait), "RateLimit": f'"api";r=0;t={wait}', "RateLimit-Policy": policy}
                limit.seen += 1
        return None
