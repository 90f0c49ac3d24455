"""Asking the Hub until it answers: what the client does not retry is retried here, and nowhere else."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

import httpx2
import stamina
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils._http import parse_ratelimit_headers
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from pipeline.hub.sentences import reason, sentences, xet_failed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Answer = TypeVar("Answer")

ATTEMPTS = 8
# Seconds: 1, 2, 4, … between tries, and some more by chance, so that jobs that met in a conflict part.
FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0
CHANCE = 3.0
# A rate limit of the Hub lasts five minutes at most; a server that asks for more patience is not waited for.
LONGEST_ASKED_WAIT = 330.0


def ask(repo: str, call: Callable[[], Answer], revision: str | None = None) -> Answer:
    """Return what `call` returns; `repo` at `revision` is what it asks for.

    Tried again on conflicts (409, 412), rate limits (`Retry-After` is kept), the Hub's own failures (408, 5xx) and
    broken connections. A call that changes something must therefore look first at what is there: an answer may be
    lost after the work was done.

    Raises `BadInputError` or `HubError`, with the sentence for what went wrong in the end.
    """
    with sentences(repo, revision):
        for attempt in stamina.retry_context(
            on=_helps,
            attempts=ATTEMPTS,
            timeout=None,
            wait_initial=FIRST_WAIT,
            wait_max=LONGEST_WAIT,
            wait_jitter=CHANCE,
        ):
            with attempt:
                answer = call()
    return answer


def _helps(error: Exception) -> bool | float:
    """Say whether trying again may help; as a number: in so many seconds."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status not in {408, 409, 412, 429} and status < 500:
            return False
        wait = _asked_wait(error.response.headers)
        return True if wait is None else wait <= LONGEST_ASKED_WAIT and wait
    if xet_failed(error):
        return "HTTP status client error" not in str(error)  # 4xx; a rate limit has a text of its own
    return isinstance(error, (httpx2.TransportError, ConnectionError))


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    after = headers.get("Retry-After", "")
    return float(after) if after.isdigit() else None


def _say(details: RetryDetails) -> None:
    print(
        f"The Hub: {reason(details.caused_by)}; trying again in {details.wait_for:.0f} s"
        f" (try {details.retry_num + 1} of {ATTEMPTS}).",
        file=sys.stderr,
        flush=True,
    )


set_on_retry_hooks([_say])
