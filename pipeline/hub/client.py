"""The Hub's own client, with a limit on how long it waits."""

from __future__ import annotations

import httpx2
from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.utils import disable_progress_bars, logging
from huggingface_hub.utils._http import default_client_factory

# Seconds. The longest answers are those to commits of many files, which the Hub has been seen to take a minute for.
CONNECT_LIMIT = 15.0
SILENCE_LIMIT = 180.0


def api() -> HfApi:
    """Return a client that signs in as the environment says, if it does.

    It asks for the token anew at each call, since that of a trusted publisher lives for an hour.
    """
    return HfApi(library_name="llm-quantizer")


def _limited() -> httpx2.Client:
    client = default_client_factory()  # has no limit at all
    client.timeout = httpx2.Timeout(SILENCE_LIMIT, connect=CONNECT_LIMIT)
    return client


set_client_factory(_limited)
# `ask` says in a line what the client would say of each try with the whole URL; progress is for the display.
disable_progress_bars()
logging.set_verbosity_error()  # type: ignore[no-untyped-call]
