"""The tokens with which a client goes from the Hub to its content-addressed store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from . import rights
from .cas import TOKEN_SECONDS

if TYPE_CHECKING:
    from .answers import Call
    from .repos import Repo
    from .server import LoopbackHub


def read_token(hub: LoopbackHub, call: Call, repo: Repo, revision: str) -> Response:
    repo.commit(revision)
    return _token(hub, call, write=False)


def write_token(hub: LoopbackHub, call: Call, repo: Repo, revision: str) -> Response:
    if not call.flag("create_pr"):  # whose revision is not known yet, and is sent as None
        repo.branch(revision)
    rights.afford(hub, repo, 0)
    return _token(hub, call, write=True)


def headers(hub: LoopbackHub, call: Call, *, write: bool = True) -> dict[str, str]:
    expires = int(time.time()) + TOKEN_SECONDS
    token = hub.cas.token(write=write)
    return {
        "X-Xet-Cas-Url": f"{call.endpoint}/cas",
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(expires),
    }


def _token(hub: LoopbackHub, call: Call, *, write: bool) -> Response:
    """Both as headers, for the Python client, and as JSON, for hf_xet and the JavaScript client."""
    about = headers(hub, call, write=write)
    url, token, expires = about.values()
    return JSONResponse({"casUrl": url, "accessToken": token, "exp": int(expires)}, headers=about)
