"""Asking the Hub until it answers: what the client does not retry is retried here, and nowhere else."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import httpx2
import stamina
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from pipeline.hub.client import LONGEST_ASKED_WAIT, asked_wait
from pipeline.hub.sentences import reason, sentences, unwrapped, xet_failed

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = TypeVar("Answer")

ATTEMPTS = 8
# Seconds: 1, 2, 4, … between tries, and some more by chance, so that jobs that met in a conflict part.
FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0
CHANCE = 3.0
# Where the client tries again by itself, too, one call may take minutes.
PATIENCE = 900.0


def ask(repo: str, call: Callable[[], Answer], revision: str | None = None) -> Answer:
    """Return what `call` returns; `repo` at `revision` is what it asks for.

    Tried again on conflicts (409, 412), rate limits (`Retry-After` is kept), the Hub's own failures (408, 5xx) and
    broken connections. A call that changes something must therefore look first at what is there: an answer may be
    lost after the work was done.

    Raises `BadInputError` or `HubError`, with the sentence for what went wrong in the end.
    """
    with sentences(repo, revision):
        for attempt in stamina.retry_context(
            on=partial(_helps, revision),
            attempts=ATTEMPTS,
            timeout=PATIENCE,
            wait_initial=FIRST_WAIT,
            wait_max=LONGEST_WAIT,
            wait_jitter=CHANCE,
        ):
            with attempt, unwrapped():
                answer = call()
    return answer


def _helps(revision: str | None, error: Exception) -> bool | float:
    """Say whether trying again may help; as a number: in so many seconds."""
    if isinstance(error, RevisionNotFoundError):
        return revision is None  # then it was a branch of ours, which another run has dropped
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status not in {408, 409, 412, 429} and status < 500:
            return False
        wait = asked_wait(error.response.headers)
        return True if wait is None else wait <= LONGEST_ASKED_WAIT and wait
    if xet_failed(error):
        return "HTTP status client error" not in str(error)  # 4xx; a rate limit has a text of its own
    return isinstance(error, (httpx2.TransportError, ConnectionError))


def _say(details: RetryDetails) -> None:
    print(
        f"The Hub: {reason(details.caused_by)}; trying again in {details.wait_for:.0f} s"
        f" (try {details.retry_num + 1} of {ATTEMPTS}).\n",
        end="",  # in one write: other threads may have to say the same
        file=sys.stderr,
        flush=True,
    )


set_on_retry_hooks([_say])
