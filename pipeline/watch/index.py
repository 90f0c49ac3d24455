"""What the package index has, looked at without pip: that would run what it looks at.

pip asks a source distribution's own code what it is, and the job that watches holds a token.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urljoin

import httpx2
from packaging.utils import InvalidSdistFilename, canonicalize_name, parse_sdist_filename
from pydantic import BaseModel, Field, ValidationError

from pipeline.errors import ToolchainError

if TYPE_CHECKING:
    from pathlib import Path

    from packaging.version import Version

INDEX: Final = "https://pypi.org/simple"
"""Where pip asks unless PIP_INDEX_URL says otherwise."""
JSON: Final = "application/vnd.pypi.simple.v1+json"
SHA256: Final = re.compile("[0-9a-f]{64}")
MAX_BYTES: Final = 1 << 30
# Seconds.
CONNECT_LIMIT = 15.0
SILENCE_LIMIT = 60.0


@dataclass(frozen=True)
class Listed:
    """A source distribution that the index lists."""

    name: str
    version: Version
    file: str
    url: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


class _File(BaseModel):
    filename: str
    url: str
    hashes: dict[str, str]
    yanked: bool | str = False


class _Project(BaseModel):
    """A project's page, as PEP 691 has it."""

    files: Annotated[list[_File], Field(max_length=100_000)]


def newest(name: str) -> Listed:
    """Return the newest source distribution of a project that is no pre-release and was not withdrawn.

    Raises `ToolchainError` where the index cannot say.
    """
    url = (os.environ.get("PIP_INDEX_URL") or INDEX).rstrip("/") + f"/{canonicalize_name(name)}/"
    doing = f"looking for the newest {name}"
    try:
        answer = httpx2.get(url, headers={"Accept": JSON}, timeout=_limits(), follow_redirects=True)
        answer.raise_for_status()
        project = _Project.model_validate_json(answer.content)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise ToolchainError(_unreachable(doing, error)) from error
    except ValidationError as error:
        raise ToolchainError(
            f"The package index gave no list of files in JSON (PEP 691) while {doing}. Let PIP_INDEX_URL name one that"
            " does, or look for a newer one by hand."
        ) from error
    found = [listed for file in project.files if (listed := _listed(name, str(answer.url), file))]
    if not found:
        raise ToolchainError(
            f"The package index has no source distribution of {name}. Check `llama_cpp` in matrix.yml."
        )
    return max(found, key=lambda listed: listed.version)


def download(listed: Listed, room: Path) -> Path:
    """Download a source distribution into `room`.

    Raises `ToolchainError` where it cannot be had with its sha256.
    """
    archive = room / listed.file
    digest, size = hashlib.sha256(), 0
    doing = f"downloading {listed}"
    try:
        with (
            httpx2.stream("GET", listed.url, timeout=_limits(), follow_redirects=True) as answer,
            archive.open("wb") as file,
        ):
            answer.raise_for_status()
            for piece in answer.iter_bytes():
                size += len(piece)
                if size > MAX_BYTES:
                    raise ToolchainError(f"{listed} is larger than {MAX_BYTES} bytes, so it is not looked at.")
                digest.update(piece)
                file.write(piece)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise ToolchainError(_unreachable(doing, error)) from error
    if digest.hexdigest() != listed.sha256:
        raise ToolchainError(f"{listed} came with other bytes than the package index lists. Run again.")
    return archive


def _listed(name: str, page: str, file: _File) -> Listed | None:
    try:
        found, version = parse_sdist_filename(file.filename)
    except InvalidSdistFilename:
        return None
    sha256 = file.hashes.get("sha256", "")
    right = found == canonicalize_name(name) and file.filename.endswith(".tar.gz") and "/" not in file.filename
    if not right or file.yanked or version.is_prerelease or not SHA256.fullmatch(sha256):
        return None
    return Listed(name, version, file.filename, urljoin(page, file.url), sha256)


def _limits() -> httpx2.Timeout:
    return httpx2.Timeout(SILENCE_LIMIT, connect=CONNECT_LIMIT)


def _unreachable(doing: str, error: Exception) -> str:
    """Say what went wrong without the address: it may hold a password."""
    status = error.response.status_code if isinstance(error, httpx2.HTTPStatusError) else None
    why = f"it answered {status}" if status else type(error).__name__
    return f"The package index failed while {doing}: {why}. Check the network and PIP_INDEX_URL, and run again."
