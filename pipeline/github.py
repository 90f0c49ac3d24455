"""The little of GitHub that we need: a branch with one changed file, pull requests, and comments on them."""

from __future__ import annotations

import base64
import os
import re
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ConfigDict, RootModel, ValidationError

from pipeline.errors import BadInputError, GitHubError
from pipeline.matrix.located import shown

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

Entry = TypeVar("Entry", bound=BaseModel)

API: Final = "https://api.github.com"
REPOSITORY: Final = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
BOT: Final = "github-actions[bot]"
"""Who writes with the token that Actions gives to a job."""
LONGEST_COMMENT: Final = 65_536
"""Characters; of a pull request's text, too."""
# Seconds.
CONNECT_LIMIT = 15.0
SILENCE_LIMIT = 60.0
LONGEST_WAIT = 60.0
ATTEMPTS = 4
PAGE = 100
MAX_PAGES = 30  # GitHub lists 3,000 files of a pull request, and no more


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class User(_Answer):
    login: str


class _Repository(_Answer):
    full_name: str = ""
    default_branch: str = "main"


class Branch(_Answer):
    ref: str
    sha: str
    repo: _Repository | None = None
    """None where the fork is gone."""


class Base(_Answer):
    ref: str


class Pull(_Answer):
    number: int
    html_url: str
    state: str
    title: str
    body: str | None
    head: Branch
    base: Base


class Comment(_Answer):
    id: int
    html_url: str
    body: str | None
    user: User | None


class ChangedFile(_Answer):
    filename: str
    previous_filename: str | None = None


class _Object(_Answer):
    sha: str


class _Reference(_Answer):
    object: _Object


class _Content(_Answer):
    sha: str
    content: str


class _Written(_Answer):
    content: _Object


@dataclass(frozen=True)
class File:
    """A file on a branch; `sha` is git's name for its content, and says what a change starts from."""

    content: bytes
    sha: str


@dataclass(frozen=True)
class GitHub:
    """One repository. Every method raises `GitHubError` with the sentence for what went wrong."""

    api: str
    repository: str
    """owner/name"""
    token: str = field(repr=False)

    @classmethod
    def of_environment(cls) -> Self:
        """Take what Actions sets.

        Raises `BadInputError` where it does not.
        """
        repository, token = os.environ.get("GITHUB_REPOSITORY", ""), os.environ.get("GITHUB_TOKEN", "")
        if not REPOSITORY.fullmatch(repository):
            raise BadInputError(
                "This command changes something on GitHub, and GITHUB_REPOSITORY does not say where: set it to"
                " owner/name. In GitHub Actions it is there."
            )
        if not token:
            raise BadInputError(
                "This command changes something on GitHub and needs a token: in a workflow give the step"
                " `env: GITHUB_TOKEN: ${{ github.token }}`."
            )
        return cls((os.environ.get("GITHUB_API_URL") or API).rstrip("/"), repository, token)

    @property
    def owner(self) -> str:
        return self.repository.partition("/")[0]

    def default_branch(self) -> str:
        doing = "reading what the repository is"
        return self._ask(_Repository, "GET", "", doing).default_branch

    def head(self, branch: str) -> str | None:
        """Return the commit that a branch is at, None where there is no such branch."""
        doing = f"looking for the branch {branch}"
        answer = self._send("GET", f"/git/ref/heads/{quote(branch)}", doing, None)
        return None if answer.status_code == 404 else self._read(_Reference, answer, doing).object.sha

    def set_branch(self, branch: str, commit: str) -> None:
        """Let a branch be at `commit`, wherever it was, and whether or not it was there."""
        doing = f"putting the branch {branch} in place"
        if self.head(branch) is None:
            self._ask(_Reference, "POST", "/git/refs", doing, {"ref": f"refs/heads/{branch}", "sha": commit})
        else:
            moved = {"sha": commit, "force": True}
            self._ask(_Reference, "PATCH", f"/git/refs/heads/{quote(branch)}", doing, moved)

    def read(self, path: str, revision: str) -> File:
        where = f"/contents/{quote(path)}?ref={quote(revision, safe='')}"
        found = self._ask(_Content, "GET", where, f"reading {path} at {shown(revision)}")
        return File(base64.b64decode(found.content), found.sha)

    def write(self, path: str, before: File, content: bytes, branch: str, message: str) -> None:
        """Commit `content` to a branch, where the file has not changed since `before` was read."""
        body = {
            "message": message,
            "content": base64.b64encode(content).decode(),
            "sha": before.sha,
            "branch": branch,
        }
        self._ask(_Written, "PUT", f"/contents/{quote(path)}", f"writing {path} to the branch {branch}", body)

    def pulls(self, owner: str, branch: str, state: str = "open") -> list[Pull]:
        """Return the pull requests that come from a branch of `owner`, the newest first."""
        where = f"/pulls?state={state}&head={quote(f'{owner}:{branch}', safe='')}"
        return self._pages(Pull, where, f"listing the pull requests of {shown(branch)}")

    def open_pull(self, branch: str, base: str, title: str, body: str) -> Pull:
        given = {"title": title, "body": body, "head": branch, "base": base, "maintainer_can_modify": True}
        return self._ask(Pull, "POST", "/pulls", f"opening a pull request for the branch {branch}", given)

    def edit_pull(self, number: int, title: str, body: str) -> Pull:
        doing = f"updating pull request {number}"
        return self._ask(Pull, "PATCH", f"/pulls/{number}", doing, {"title": title, "body": body})

    def changed_files(self, number: int) -> list[ChangedFile]:
        """Return what a pull request changes; GitHub lists 3,000 files, and no more."""
        return self._pages(ChangedFile, f"/pulls/{number}/files", f"listing the files of pull request {number}")

    def comments(self, number: int) -> list[Comment]:
        return self._pages(Comment, f"/issues/{number}/comments", f"reading the comments on pull request {number}")

    def comment(self, number: int, body: str) -> Comment:
        doing = f"commenting on pull request {number}"
        return self._ask(Comment, "POST", f"/issues/{number}/comments", doing, {"body": body})

    def edit_comment(self, comment: int, body: str) -> Comment:
        doing = "updating the comment on a pull request"
        return self._ask(Comment, "PATCH", f"/issues/comments/{comment}", doing, {"body": body})

    def _pages(self, of: type[Entry], where: str, doing: str) -> list[Entry]:
        found: list[Entry] = []
        for page in range(1, MAX_PAGES + 1):
            answer = self._send("GET", f"{where}{'&' if '?' in where else '?'}per_page={PAGE}&page={page}", doing, None)
            more = self._read(RootModel[list[of]], answer, doing).root  # type: ignore[valid-type]
            found += more
            if len(more) < PAGE:
                break
        return found

    def _ask(self, of: type[Entry], method: str, path: str, doing: str, body: Mapping[str, Any] | None = None) -> Entry:
        return self._read(of, self._send(method, path, doing, body), doing)

    def _read(self, of: type[Entry], answer: httpx2.Response, doing: str) -> Entry:
        if not answer.is_success:
            raise GitHubError(_refused(answer, doing, self.repository))
        try:
            return of.model_validate_json(answer.content)
        except ValidationError as error:
            raise GitHubError(
                f"GitHub gave an answer that cannot be read while {doing}. Check GITHUB_API_URL, and run again."
            ) from error

    def _send(self, method: str, path: str, doing: str, body: Mapping[str, Any] | None) -> httpx2.Response:
        """Send a request, again where that helps.

        Once more after an answer that says that nothing came of it: a failure of GitHub, or a limit on how fast one
        may write. Without an answer a change may have been made, so only what reads is sent again. Not by stamina,
        whose one hook speaks of the Hub.
        """
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
            "User-Agent": "llm-quantizer",
        }
        limits = httpx2.Timeout(SILENCE_LIMIT, connect=CONNECT_LIMIT)
        url = f"{self.api}/repos/{self.repository}{path}"
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = httpx2.request(method, url, headers=headers, json=body, timeout=limits, verify=_certificates())
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                why, wait = shown(str(error)) or type(error).__name__, 2.0**attempt
                if method != "GET" or attempt == ATTEMPTS or isinstance(error, httpx2.InvalidURL):
                    raise GitHubError(
                        f"GitHub could not be reached while {doing}: {why}. Check the network and GITHUB_API_URL, and"
                        " run again; what was finished is kept."
                    ) from error
            else:
                asked = _wait(answer, attempt)
                if asked is None or asked > LONGEST_WAIT or attempt == ATTEMPTS:
                    return answer
                why, wait = f"it answered {answer.status_code}", asked
            # In one write: other threads may have to say the same.
            print(f"GitHub: {why}; trying again in {wait:.0f} s.\n", end="", file=sys.stderr, flush=True)
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")


@cache
def _certificates() -> ssl.SSLContext:
    """Read the machine's certificates, once: that takes longer than most requests."""
    return httpx2.create_ssl_context()


def _wait(answer: httpx2.Response, attempt: int) -> float | None:
    """Return the seconds after which another try may help, None where none does."""
    if answer.status_code >= 500:
        return 2.0**attempt
    if answer.status_code not in (403, 429) or _used_up(answer) is not None:
        return None
    after = answer.headers.get("Retry-After", "")
    if after.isdecimal():
        return float(after)
    return 2.0**attempt if "secondary rate limit" in answer.text else None


def _used_up(answer: httpx2.Response) -> datetime | None:
    """Return when the limit of requests an hour ends, None where it is not what the answer is about."""
    reset = answer.headers.get("X-RateLimit-Reset", "")
    if answer.status_code in (403, 429) and answer.headers.get("X-RateLimit-Remaining") == "0" and reset.isdecimal():
        return datetime.fromtimestamp(int(reset), UTC)
    return None


def _refused(answer: httpx2.Response, doing: str, repository: str) -> str:
    said = _said(answer)
    if (reset := _used_up(answer)) is not None:
        return f"GitHub's rate limit is used up while {doing}. Run again after {reset:%Y-%m-%d %H:%M} UTC."
    match answer.status_code:
        case 401:
            return (
                f"GitHub does not accept the token in GITHUB_TOKEN while {doing} ({said}). It is wrong or expired: give"
                " the step `env: GITHUB_TOKEN: ${{ github.token }}`."
            )
        case 403 if "not permitted to create" in said:
            return (
                f"GitHub Actions may not open pull requests in {repository}. Allow it under Settings, Actions, General:"
                " “Allow GitHub Actions to create and approve pull requests”."
            )
        case 403 | 429 if "rate limit" in said.lower():
            return f"GitHub wants fewer requests while {doing} ({said}). Run again in some minutes."
        case 403:
            return (
                f"The token in GITHUB_TOKEN may not do this in {repository}: {doing} ({said}). Give the job the"
                " `permissions` that watch.yml and comment.yml of this repository name."
            )
        case 404:
            return (
                f"GitHub has no such thing, or the token may not see it, while {doing} ({said}). Check"
                " GITHUB_REPOSITORY and the job's `permissions`."
            )
        case 409:
            return f"Something else changed the same on GitHub while {doing} ({said}). Run again."
        case 422:
            return f"GitHub takes this for wrong while {doing}: {said}. Look at the branch and its pull request there."
    return f"GitHub failed while {doing}: it answered {answer.status_code}, {said}. Run again later."


def _said(answer: httpx2.Response) -> str:
    """Return GitHub's own words, in one line."""
    try:
        content = answer.json()
    except ValueError:
        return "without a word"
    if not isinstance(content, dict):
        return "without a word"
    errors = content.get("errors")
    details = (
        [e.get("message") or e.get("code") for e in errors if isinstance(e, dict)] if isinstance(errors, list) else []
    )
    words = [str(word).rstrip(".") for word in (content.get("message"), *details) if word]
    return shown("; ".join(words), 200) or "without a word"
