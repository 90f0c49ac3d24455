"""What can be read about a repo, and of its files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlencode

import yaml
from starlette.responses import FileResponse, JSONResponse, Response

from .answers import RefusedError
from .git import File, trees

if TYPE_CHECKING:
    from .answers import Call
    from .repos import Commit, Repo
    from .server import LoopbackHub

XET_INFO = "application/vnd.xet-fileinfo+json"  # the JavaScript client asks for this instead of a redirect


class Body(FileResponse):
    chunk_size = 1 << 20


def info(hub: LoopbackHub, call: Call, repo: Repo, revision: str) -> Response:
    commit = repo.commit(revision)
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in commit.files]
    if call.flag("blobs"):
        for sibling, file in zip(siblings, commit.files.values(), strict=True):
            sibling |= {"size": file.size, "blobId": file.oid, **file.lfs("sha256")}
    card = _metadata(hub, commit)
    everything = {
        "author": repo.namespace,
        "sha": commit.id,
        "lastModified": repo.changed,
        "createdAt": repo.created,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": list(card.get("tags") or []),
        "cardData": card,
        "siblings": siblings,
        "usedStorage": sum(repo.stored().values()),
    }
    if call.flag("securityStatus"):
        everything["securityRepoStatus"] = {"scansDone": True, "filesWithIssues": []}
    asked = call.query.get("expand", []) + call.query.get("expand[]", [])
    if asked:
        everything = {key: value for key, value in everything.items() if key in asked}
    name = {"modelId": repo.repo_id} if repo.repo_type == "model" else {}
    return JSONResponse({"_id": repo.full_name, "id": repo.repo_id, **name, **everything})


def _metadata(hub: LoopbackHub, commit: Commit) -> dict[str, Any]:
    """The YAML at the head of the card, nothing where there is none or it cannot be read."""
    file = commit.files.get("README.md")
    parts = hub.objects.path(file.sha256).read_text(errors="replace").split("---\n", 2) if file else []
    try:
        content = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else None
    except yaml.YAMLError:
        return {}
    # A date in YAML is no date in JSON.
    return json.loads(json.dumps(content, default=str)) if isinstance(content, dict) else {}


def validate(content: str) -> Response:
    """Whether a card's metadata can be read: what is wrong, or missing, as the Hub says it."""
    lines = content.splitlines()
    end = lines.index("---", 1) if lines[:1] == ["---"] and "---" in lines[1:] else 0
    try:
        metadata = yaml.safe_load("\n".join(lines[1:end]))
    except yaml.YAMLError as error:
        return JSONResponse({"errors": [{"message": f"Invalid YAML: {error}"}], "warnings": []}, 400)
    if not metadata:
        return JSONResponse({"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]})
    if not isinstance(metadata, dict):
        return JSONResponse({"errors": [{"message": "The metadata is no mapping"}], "warnings": []}, 400)
    return JSONResponse({"errors": [], "warnings": []})


def tree(hub: LoopbackHub, call: Call, repo: Repo, revision: str, below: str) -> Response:
    commit = repo.commit(revision)
    prefix = f"{below}/" if below else ""
    files = {path: file for path, file in commit.files.items() if path.startswith(prefix)}
    folders = {path: oid for path, oid in trees(commit.files).items() if path and path.startswith(prefix)}
    if below and not files:
        raise RefusedError(404, f"{below} does not exist on {revision}", "EntryNotFound")
    entries = {path: _folder(path, oid) for path, oid in folders.items()}
    entries |= {path: _file(hub, path, file) for path, file in files.items()}
    if not call.flag("recursive"):
        entries = {path: entry for path, entry in entries.items() if "/" not in path.removeprefix(prefix)}
    if call.flag("expand"):
        entries = {path: entry | _expanded(repo, commit, path) for path, entry in entries.items()}
    return paged(hub, call, [entries[path] for path in sorted(entries)])


def paths_info(hub: LoopbackHub, call: Call, repo: Repo, revision: str) -> Response:
    """What is known of some paths: asked for by a form by the Python client, in JSON by others."""
    if call.headers.get("content-type", "").startswith("application/json"):
        body = call.json()
        paths, expand = body["paths"], bool(body.get("expand"))
    else:
        form = parse_qs(call.body.decode())
        paths, expand = form.get("paths", []), form.get("expand", [""])[0].lower() == "true"
    commit = repo.commit(revision)
    folders, answer = trees(commit.files), []
    for path in dict.fromkeys(path.strip("/") for path in paths):
        if path in commit.files:
            entry = _file(hub, path, commit.files[path])
        elif path and path in folders:
            entry = _folder(path, folders[path])
        else:
            continue  # what is not there is left out
        answer.append(entry | (_expanded(repo, commit, path) if expand else {}))
    return JSONResponse(answer)


def _folder(path: str, oid: str) -> dict[str, Any]:
    return {"type": "directory", "oid": oid, "size": 0, "path": path}


def _file(hub: LoopbackHub, path: str, file: File) -> dict[str, Any]:
    xet = hub.cas.xet_hash(file.sha256) if file.large else None
    about = {"type": "file", "oid": file.oid, "size": file.size, "path": path, **file.lfs("oid")}
    return about | ({"xetHash": xet} if xet else {})


def _expanded(repo: Repo, commit: Commit, path: str) -> dict[str, Any]:
    def below(commit: Commit) -> dict[str, File]:
        return {name: file for name, file in commit.files.items() if name == path or name.startswith(f"{path}/")}

    last = commit
    for older in repo.history(commit)[1:]:
        if below(older) != below(commit):
            break
        last = older
    scan = {"status": "safe", "avScan": {"status": "safe"}, "pickleImportScan": None}
    seen = {"securityFileStatus": scan} if path in commit.files else {}
    return {"lastCommit": {"id": last.id, "title": last.title, "date": last.date}, **seen}


def paged(hub: LoopbackHub, call: Call, entries: list[dict[str, Any]]) -> Response:
    start = int(call.query.get("cursor", ["0"])[0])
    end = start + hub.page_size
    query = urlencode({**call.query, "cursor": end}, doseq=True)
    more = {"Link": f'<{call.endpoint}{call.raw_path}?{query}>; rel="next"'} if end < len(entries) else {}
    return JSONResponse(entries[start:end], headers=more)


def resolve(hub: LoopbackHub, call: Call, repo: Repo, revision: str, path: str) -> Response:
    commit = repo.commit(revision)
    headers = {"X-Repo-Commit": commit.id}
    if path not in commit.files:
        raise RefusedError(404, "Entry not found", "EntryNotFound", headers)
    file = commit.files[path]
    if not file.large:
        return Body(
            hub.objects.path(file.sha256), headers={**headers, "ETag": f'"{file.oid}"'}, media_type="text/plain"
        )
    headers |= {"X-Linked-Size": str(file.size), "X-Linked-ETag": f'"{file.sha256}"'}
    if xet := hub.cas.xet_hash(file.sha256):
        token = f"{call.endpoint}/api/{repo.repo_type}s/{repo.repo_id}/xet-read-token/{commit.id}"
        links = {"xet-auth": token, "xet-reconstruction-info": f"{call.endpoint}/cas/v1/reconstructions/{xet}"}
        headers |= {"X-Xet-Hash": xet, "Link": ", ".join(f'<{url}>; rel="{rel}"' for rel, url in links.items())}
        if XET_INFO in call.headers.get("accept", ""):
            return JSONResponse({"hash": xet, **links}, headers=headers, media_type=XET_INFO)
    location = f"{call.other_origin}/cdn/{file.sha256}/{quote(path.rpartition('/')[2])}"
    return Response(f"Found. Redirecting to {location}", 302, {**headers, "Location": location}, "text/plain")


def large(hub: LoopbackHub, sha256: str, authorization: str | None) -> Response:
    """A large file's body, from where the redirect led: its URL stands for the right, and a token is too much."""
    if authorization:
        raise RefusedError(400, "Only one auth mechanism allowed")
    if not hub.objects.has(sha256):
        raise RefusedError(404, "NoSuchKey")
    return Body(hub.objects.path(sha256), headers={"ETag": f'"{sha256}"'}, media_type="application/octet-stream")
