"""Which repo a request means, and whether it may see, read or write it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from .answers import RefusedError

if TYPE_CHECKING:
    from .answers import Call
    from .repos import Repo
    from .server import LoopbackHub


def visible(hub: LoopbackHub, call: Call, repo_type: str, repo_id: str) -> Repo:
    repo = hub.repos.get(repo_type, repo_id)
    if repo is None and (new_id := hub.repos.renamed.get((repo_type, repo_id))):
        location = f"{call.raw_path.replace(repo_id, new_id, 1)}?{urlencode(call.query, doseq=True)}"
        raise RefusedError(307, f"Temporary Redirect. Redirecting to {location}", headers={"Location": location})
    if repo is None or (repo.private and not (call.account and call.account.reads(repo))):
        raise RefusedError(404, "Repository not found", "RepoNotFound")
    return repo


def readable(hub: LoopbackHub, call: Call, repo_type: str, repo_id: str) -> Repo:
    """The repo, for one who may read what is in its files."""
    repo = visible(hub, call, repo_type, repo_id)
    if not repo.gated or (call.account and call.account.reads(repo)):
        return repo
    access = f"Access to {repo_type} {repo_id} is restricted"
    if call.account is None:
        please = "You must have access to it and be authenticated to access it. Please log in."
        raise RefusedError(401, f"{access}. {please}", "GatedRepo")
    please = f"Visit https://huggingface.co/{repo_id} to ask for access."
    raise RefusedError(403, f"{access} and you are not in the authorized list. {please}", "GatedRepo")


def writable(hub: LoopbackHub, call: Call, repo_type: str, repo_id: str) -> Repo:
    user = call.user()
    repo = visible(hub, call, repo_type, repo_id)
    if user.role != "write":
        raise RefusedError(403, "Forbidden: you must use a write token to upload to a repository.")
    if not user.writes(repo):
        raise RefusedError(403, "Authorization error.")
    return repo


def afford(hub: LoopbackHub, repo: Repo, asked: int) -> None:
    """Refuse what would take a namespace over its quota; `asked` in bytes."""
    limit = hub.quota.get(repo.namespace)
    if limit is None:
        return
    used = sum(hub.repos.stored(repo.namespace).values())
    if used >= limit or used + asked > limit:
        kind = "Private" if repo.private else "Public"
        raise RefusedError(403, f"{kind} repository storage limit reached, please upgrade your plan to continue")
