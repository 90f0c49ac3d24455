"""What the Hub's client raises, as sentences with the fix in them: the one table of them."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx2
from huggingface_hub import errors

from pipeline.errors import BadInputError, GatedError, HubError

if TYPE_CHECKING:
    from collections.abc import Iterator

XET = re.compile(r"CAS Client Error|Network error|Server error|Rate limited|Format error")
STORAGE = re.compile(r"storage|quota", re.IGNORECASE)


@contextmanager
def sentences(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turn what goes wrong while the Hub is asked for `repo` into `BadInputError` or `HubError`."""
    at = f" at {revision[:12]}" if revision else ""
    try:
        yield
    except errors.GatedRepoError as error:  # before RepositoryNotFoundError, which it derives from
        raise GatedError(
            f"{repo} is gated: accept its terms on its page on the Hub with the account whose token is in HF_TOKEN"
            " (or log in with `hf auth login`), then run again."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise BadInputError(
            f"The Hub has no repo {repo}, or it is private and HF_TOKEN may not see it. Check the spelling, or set"
            " HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        if revision is None:
            raise HubError(
                f"A branch or tag of {repo} that was just made is not there ({reason(error)}). Run again; what was"
                " finished is kept."
            ) from error
        raise BadInputError(f"{repo} has no revision {revision}. Check `revision` in matrix.yml.") from error
    except errors.EntryNotFoundError as error:
        raise BadInputError(f"{repo}{at} lacks a file that was listed: {reason(error)}. Run again.") from error
    except errors.HfHubHTTPError as error:
        raise HubError(_refused(error, repo, at)) from error
    except (errors.OfflineModeIsEnabled, httpx2.HTTPError, ConnectionError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not xet_failed(error):
            raise
        raise HubError(
            f"The Hub could not be asked for {repo}{at}: {reason(error)}. Check the network and HF_ENDPOINT, then run"
            " again; what was finished is kept."
        ) from error


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise what an upload over LFS failed of: the client hides it behind a RuntimeError that says no more."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__cause__, (httpx2.HTTPError, errors.HfHubHTTPError)):
            raise error.__cause__ from error
        raise


def xet_failed(error: BaseException) -> bool:
    """Whether Xet's client failed. It is not httpx: it raises built-in errors, and the text alone tells which."""
    return type(error) in {RuntimeError, ConnectionError} and bool(XET.search(str(error)))


def reason(error: BaseException) -> str:
    """Say in a line what an exception of the client is about: no stack of lines, and no signed address."""
    if isinstance(error, errors.HfHubHTTPError):
        said = (error.server_message or "").strip().splitlines()
        status = f"it answered {error.response.status_code}"
        return f"{status}, {said[0].rstrip('.')}" if said else f"{status} to {_bare(str(error.response.url))}"
    lines = re.sub(r"\[Errno -?\d+\] ", "", str(error)).strip().splitlines()
    return _bare(lines[0]).rstrip(".") if lines else type(error).__name__


def _refused(error: errors.HfHubHTTPError, repo: str, at: str) -> str:
    status, said = error.response.status_code, reason(error)
    if status == 401:
        return (
            f"The Hub does not accept the token that was sent for {repo}{at} ({said}). It is wrong, expired or revoked:"
            " make a new one on the Hub's page of access tokens and put it into HF_TOKEN."
        )
    if status in {403, 413} and STORAGE.search(said):
        return (
            f"The Hub has no room left for {repo} ({said}). Delete what is no longer needed in"
            f" {repo.partition('/')[0]}, or have its storage enlarged, then run again."
        )
    if status == 403:
        return (
            f"The token may not do this with {repo} ({said}). Use one that may write to it: of role `write`, or"
            f" fine-grained with write access to {repo.partition('/')[0]}."
        )
    return (
        f"The Hub failed on {repo}{at}: {said}. Nothing is lost; run again, later if it says so, and see"
        " https://status.huggingface.co."
    )


def _bare(text: str) -> str:
    """Leave out the query of every address: it may be signed."""
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\")]*", r"\1", text)
