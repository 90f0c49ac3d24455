"""The Hub's own client, with a limit on how long it waits."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import httpx2
from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.utils import disable_progress_bars, hf_raise_for_status, logging
from huggingface_hub.utils._http import default_client_factory, parse_ratelimit_headers

if TYPE_CHECKING:
    from collections.abc import Mapping

# Seconds. The longest answers are those to commits of many files, which the Hub has been seen to take a minute for.
CONNECT_LIMIT = 15.0
SILENCE_LIMIT = 180.0
# A rate limit of the Hub lasts five minutes at most; a server that asks for more patience is not waited for.
LONGEST_ASKED_WAIT = 330.0


def api() -> HfApi:
    """Return a client that signs in as the environment says, if it does.

    It asks for the token anew at each call, since that of a trusted publisher lives for an hour.
    """
    return HfApi(library_name="llm-quantizer")


def reader() -> HfApi:
    """Return a client for reading sources: with the token in HF_READ_TOKEN, where there is one.

    So a run needs no right to write before it publishes, and a trusted publisher, whose token is good for one repo
    alone, reads what is public without any.
    """
    token = os.environ.get("HF_READ_TOKEN") or (False if os.environ.get("HF_OIDC_RESOURCE") else None)
    return HfApi(library_name="llm-quantizer", token=token)


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks to wait before the next try, None where it asks for nothing."""
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    after = headers.get("Retry-After", "")
    return float(after) if after.isdigit() else None


def _limited() -> httpx2.Client:
    client = default_client_factory()  # has no limit at all
    client.timeout = _limits()
    client.event_hooks = {"request": [*client.event_hooks["request"], _limit], "response": [_refuse_to_wait]}
    return client


def _limits() -> httpx2.Timeout:
    return httpx2.Timeout(SILENCE_LIMIT, connect=CONNECT_LIMIT)


def _limit(request: httpx2.Request) -> None:
    """Limit those requests too that are made with a limit of None: of what a repo is, and of all that has pages."""
    if not any((request.extensions.get("timeout") or {}).values()):
        request.extensions["timeout"] = _limits().as_dict()


def _refuse_to_wait(response: httpx2.Response) -> None:
    """Raise at once where the client, trying again by itself, would sleep for as long as it is told to."""
    if response.is_error and (asked_wait(response.headers) or 0) > LONGEST_ASKED_WAIT:
        response.read()
        hf_raise_for_status(response)


set_client_factory(_limited)
# `ask` says in a line what the client would say of each try with the whole URL; progress is for the display.
disable_progress_bars()
logging.set_verbosity_error()  # type: ignore[no-untyped-call]
