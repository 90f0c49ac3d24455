"""Who publishes: a token of the environment or of a file, or a workflow that the Hub trusts."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import constants, get_token
from huggingface_hub.errors import HfHubHTTPError, OIDCError

from pipeline.errors import HubError
from pipeline.hub.ask import ask
from pipeline.hub.sentences import reason

RESOURCE = "HF_OIDC_RESOURCE"


def trusted() -> bool:
    """Whether this is to be a trusted publisher, with no token of a person."""
    return bool(os.environ.get(RESOURCE))


def token() -> str:
    """Return the token to publish with.

    `HF_OIDC_RESOURCE` goes before `HF_TOKEN`, and that before the file that `hf auth login` or `HF_TOKEN_PATH` names:
    the order of huggingface_hub, which does all of it.

    Raises `HubError`, with a sentence for each way in which none comes of it.
    """
    if trusted():
        return _trusted_token(os.environ[RESOURCE])
    found = get_token()
    if found:
        return found
    if "HF_TOKEN" in os.environ:
        raise HubError(
            "HF_TOKEN is set, and empty: in a workflow that means a secret that is not there, or that this event may"
            " not read. Put a token with write access into it."
        )
    path = Path(constants.HF_TOKEN_PATH)
    if "HF_TOKEN_PATH" in os.environ:
        state = "is empty" if path.is_file() else "is not there"
        raise HubError(f"HF_TOKEN_PATH names {path}, which {state}. Write a token with write access into it.")
    raise HubError(
        "Publishing to the Hub needs a token with write access: set HF_TOKEN, or log in with `hf auth login`. In a"
        " workflow, HF_OIDC_RESOURCE=<organization>/<repo> makes do without one, once the repo trusts the workflow."
    )


def _trusted_token(resource: str) -> str:
    found = ask(resource, lambda: _exchange(resource))
    assert found, "it was exchanged, or an exception raised"
    return found


def _exchange(resource: str) -> str | None:
    try:
        return get_token()
    except OIDCError as error:
        raise HubError(
            f"HF_OIDC_RESOURCE is {resource}, but this job cannot prove who it is: {reason(error)}. A trusted publisher"
            " is a job of GitHub Actions with `permissions: id-token: write`; anywhere else set HF_TOKEN."
        ) from error
    except HfHubHTTPError as error:
        if error.response.status_code not in {400, 401, 403, 404}:
            raise
        raise HubError(
            f"The Hub does not trust this workflow with {resource}: {reason(error)}. Add its repository, workflow file"
            f" and environment as trusted publisher in the settings of {resource}, which has to be there already."
        ) from error
