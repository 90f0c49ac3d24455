"""A repo on the Hub as it is at one commit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huggingface_hub import RepoFile, hf_hub_url
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status
from pydantic import ValidationError

from pipeline.errors import BadInputError
from pipeline.hub import api
from pipeline.hub.part import part
from pipeline.release import RELEASE
from pipeline.result import FileEntry, Release

if TYPE_CHECKING:
    from collections.abc import Mapping

MAIN = "main"


@dataclass(frozen=True)
class Remote:
    repo: str
    commit: str | None
    """None where there is no such repo or branch; then it holds nothing."""
    files: Mapping[str, RepoFile]

    def holds(self, file: FileEntry, content: bytes | None = None) -> bool:
        """Whether it has these very bytes. A file that is not large is known by git's sha1 alone: give its `content`.

        Without it the file is fetched.
        """
        found = self.files.get(file.name)
        if found is None or found.size != file.size:
            return False
        if found.lfs:
            return bool(found.lfs.sha256 == file.sha256)
        if content is None:
            content = self.read(file.name)
            return hashlib.sha256(content).hexdigest() == file.sha256
        return bool(found.blob_id == git_sha1(content))

    def read(self, name: str, *, first: int | None = None) -> bytes:
        """Return a file, or its `first` bytes alone; nothing where there is none."""
        if name not in self.files:
            return b""
        if first:
            return part(self.repo, name, self.commit, 0, first)
        answer = get_session().get(hf_hub_url(self.repo, name, revision=self.commit), headers=build_hf_headers())
        hf_raise_for_status(answer)
        return answer.content

    def release(self) -> Release | None:
        """Return what the release that is here says of itself.

        Raises `BadInputError` where that cannot be read: without it nobody can tell which files are ours.
        """
        if RELEASE not in self.files:
            return None
        try:
            return Release.model_validate_json(self.read(RELEASE))
        except ValidationError as error:
            raise BadInputError(
                f"{RELEASE} on {self.repo} cannot be read as the record of a release, so that nobody can tell which"
                " files beside it belong to it. Put it back as it was (see the repo's history), then run again."
            ) from error


def look(repo: str, branch: str = MAIN) -> Remote:
    """Look at the head of a branch."""
    hub = api()
    try:
        commit = str(hub.model_info(repo, revision=branch).sha)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return Remote(repo, None, {})
    return at(repo, commit)


def at(repo: str, commit: str) -> Remote:
    tree = api().list_repo_tree(repo, revision=commit, recursive=True)
    return Remote(repo, commit, {entry.path: entry for entry in tree if isinstance(entry, RepoFile)})


def git_sha1(content: bytes) -> str:
    """Return the name of a blob, as git gives it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
