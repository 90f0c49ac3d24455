"""Large files by plain HTTP: the batch endpoint of git-lfs, and what stands for the storage behind it.

The URLs that a batch answers are secrets that stand for the right to upload, as signed ones do.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio.to_thread
from starlette.responses import JSONResponse, Response

from . import rights, xet
from .answers import PREFIXES, RefusedError
from .objects import SHA256

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starlette.requests import Request

    from .answers import Call
    from .repos import Repo
    from .server import LoopbackHub

BLOCK = 1 << 20  # bytes; what is hashed and written at once


@dataclass
class Upload:
    oid: str
    size: int
    parts: dict[int, tuple[Path, str]] = field(default_factory=dict)  # number -> file and ETag


def batch(hub: LoopbackHub, call: Call, repo_type: str, repo_id: str) -> Response:
    body = call.json()
    # With no ref, it is for a pull request, which everybody may make.
    if "ref" in body:
        repo = rights.writable(hub, call, repo_type, repo_id)
    else:
        call.user()
        repo = rights.readable(hub, call, repo_type, repo_id)
    asked = body.get("objects", [])
    rights.afford(hub, repo, sum(entry["size"] for entry in asked if not hub.objects.has(entry["oid"])))
    transfers = body.get("transfers", ["basic"])
    if "xet" in transfers:  # the JavaScript client's way; the Python client asks for an Xet token instead
        objects = [_to_xet(hub, call, repo, entry, body.get("ref", {}).get("name")) for entry in asked]
        transfer = "xet"
    else:
        objects = [_actions(hub, call, repo, entry, transfers) for entry in asked]
        transfer = "multipart" if any("chunk_size" in _header(entry) for entry in objects) else "basic"
    answer = {"transfer": transfer, "objects": objects, "hash_algo": "sha256"}
    return JSONResponse(answer, media_type="application/vnd.git-lfs+json")


def _header(entry: dict[str, Any]) -> dict[str, str]:
    header: dict[str, str] = entry.get("actions", {}).get("upload", {}).get("header", {})
    return header


def _actions(hub: LoopbackHub, call: Call, repo: Repo, entry: dict[str, Any], transfers: list[str]) -> dict[str, Any]:
    oid, size = entry["oid"], entry["size"]
    if not SHA256.fullmatch(oid):
        return {"oid": oid, "size": size, "error": {"code": 422, "message": "The oid is no sha256"}}
    if hub.objects.has(oid):
        return {"oid": oid, "size": size}
    name = secrets.token_hex(16)
    hub.uploads[name] = Upload(oid, size)
    url = f"{call.endpoint}/lfs/{name}"
    upload: dict[str, Any] = {"href": url}
    if size > hub.part_size and "multipart" in transfers:
        parts = -(-size // hub.part_size)
        urls = {f"{number:05d}": f"{url}/{number}" for number in range(1, parts + 1)}
        upload = {"href": f"{url}/complete", "header": {"chunk_size": str(hub.part_size), **urls}}
    verify = {"href": f"{call.endpoint}/{PREFIXES[repo.repo_type]}{repo.repo_id}.git/info/lfs/verify"}
    return {"oid": oid, "size": size, "authenticated": True, "actions": {"upload": upload, "verify": verify}}


def _to_xet(hub: LoopbackHub, call: Call, repo: Repo, entry: dict[str, Any], branch: str | None) -> dict[str, Any]:
    oid, size = entry["oid"], entry["size"]
    if hub.objects.has(oid):
        return {"oid": oid, "size": size}
    token = f"{call.endpoint}/api/{repo.repo_type}s/{repo.repo_id}/xet-write-token/"
    token += quote(branch, safe="") if branch else "None?create_pr=1"
    return {"oid": oid, "size": size, "actions": {"upload": {"href": token, "header": xet.headers(hub, call)}}}


async def receive(hub: LoopbackHub, request: Request, name: str, part: str | None) -> Response:
    """Take the body of a file, or of one part of it, as it comes."""
    upload = _upload(hub, name)
    room = hub.objects.room()
    digest = hashlib.md5(usedforsecurity=False) if part else hashlib.sha256()
    try:
        size = await _write(request, room, digest.update)
        if part:
            upload.parts[int(part)] = (room, f'"{digest.hexdigest()}"')
            return Response(headers={"ETag": f'"{digest.hexdigest()}"'})
        _keep(hub, upload, room, size, digest.hexdigest())
    except BaseException:
        room.unlink(missing_ok=True)
        raise
    return Response(headers={"ETag": f'"{digest.hexdigest()}"'})


async def _write(request: Request, path: Path, update: Callable[[bytes], None]) -> int:
    """Write the body to `path` and return its size in bytes; the disk and the hash are left to threads."""
    size, waiting = 0, bytearray()
    with path.open("wb") as file:

        def take(block: bytes) -> None:
            update(block)
            file.write(block)

        async for chunk in request.stream():
            size += len(chunk)
            waiting += chunk
            if len(waiting) >= BLOCK:
                await anyio.to_thread.run_sync(take, bytes(waiting))
                waiting.clear()
        await anyio.to_thread.run_sync(take, bytes(waiting))
    return size


def complete(hub: LoopbackHub, call: Call, name: str) -> Response:
    """Put the parts together."""
    upload, body = _upload(hub, name), call.json()
    if hub.objects.has(upload.oid):  # asked again, for the answer was lost
        return JSONResponse({"success": True})
    numbers = range(1, len(upload.parts) + 1)
    known = [{"partNumber": number, "etag": upload.parts.get(number, (None, ""))[1]} for number in numbers]
    if body.get("oid") != upload.oid or body.get("parts") != known:
        raise RefusedError(400, "The parts are not those that were uploaded")
    room, digest, size = hub.objects.room(), hashlib.sha256(), 0
    try:
        with room.open("wb") as whole:
            for number in numbers:
                with upload.parts[number][0].open("rb") as part:
                    while block := part.read(BLOCK):
                        digest.update(block)
                        size += whole.write(block)
        _keep(hub, upload, room, size, digest.hexdigest())
    except BaseException:
        room.unlink(missing_ok=True)
        raise
    for path, _ in upload.parts.values():
        path.unlink(missing_ok=True)
    return JSONResponse({"success": True})


def verify(hub: LoopbackHub, call: Call, repo_type: str, repo_id: str) -> Response:
    call.user()
    rights.visible(hub, call, repo_type, repo_id)
    body = call.json()
    if not hub.objects.has(body["oid"]) or hub.objects.size(body["oid"]) != body["size"]:
        raise RefusedError(404, f"The object {body['oid']} has not been uploaded")
    return JSONResponse({})


def _upload(hub: LoopbackHub, name: str) -> Upload:
    try:
        return hub.uploads[name]
    except KeyError:
        raise RefusedError(403, "Request has expired") from None


def _keep(hub: LoopbackHub, upload: Upload, path: Path, size: int, sha256: str) -> None:
    if (size, sha256) != (upload.size, upload.oid):
        raise RefusedError(400, f"The body is {size} bytes with sha256 {sha256}, not {upload.size} with {upload.oid}")
    hub.objects.add_file(path, sha256)
