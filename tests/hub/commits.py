"""What changes a repo's files: asking how to upload, and the commit itself."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from threading import Event
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from . import rights
from .answers import RefusedError
from .git import ATTRIBUTES, DEFAULT_PATTERNS, LARGE_SIZE, File, attributes, covered, is_large
from .repos import Commit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .answers import Call
    from .repos import Repo
    from .server import LoopbackHub


def preupload(hub: LoopbackHub, call: Call, repo: Repo, revision: str) -> Response:
    files, asked = repo.commit(revision).files, call.json()["files"]
    if len(asked) > 256:
        raise RefusedError(413, "At most 256 files at once")
    lines = _attributes(hub, files)
    answers, new = [], 0
    for entry in asked:
        path, size, known = entry["path"], entry["size"], files.get(entry["path"])
        large = is_large(lines, path, size, base64.b64decode(entry.get("sample", "")))
        answer = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        if known:
            answer["oid"] = known.sha256 if known.large else known.oid
        if known is None or known.size != size:
            new += size
        answers.append(answer)
    rights.afford(hub, repo, new)
    return JSONResponse({"files": answers})


def commit(hub: LoopbackHub, call: Call, repo: Repo, revision: str) -> Response:
    """Make one commit of an ndjson body: a header line, then an operation a line."""
    lines = [json.loads(line) for line in call.body.splitlines() if line.strip()]
    if not lines or lines[0]["key"] != "header":
        raise RefusedError(400, "The first line must be the header")
    header, operations = lines[0]["value"], [(line["key"], line["value"]) for line in lines[1:]]
    with alone(hub, repo):
        head = repo.commit(revision)
        ref = _new_pull_request(repo) if call.flag("create_pr") else repo.branch(revision)
        if (parent := header.get("parentCommit")) and not head.id.startswith(parent):
            raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for key, value in operations:
            _apply(hub, files, key, value)
        new = {f.sha256: f.size for f in files.values()}.items() - hub.repos.stored(repo.namespace).items()
        rights.afford(hub, repo, sum(size for _, size in new))
        made = Commit.make(
            [head.id], header["summary"], header.get("description", ""), call.user().name, dict(sorted(files.items()))
        )
        repo.put(made)
        Event().wait(hub.commit_seconds)  # time.sleep is often taken away from the client, in this same process
        repo.point(ref, made.id)
    url = f"{call.endpoint}/{repo.full_name}"
    answer = {"success": True, "commitOid": made.id, "commitUrl": f"{url}/commit/{made.id}", "hookOutput": ""}
    if call.flag("create_pr"):
        answer["pullRequestUrl"] = f"{url}/discussions/{ref.rpartition('/')[2]}"
    return JSONResponse(answer)


@contextlib.contextmanager
def alone(hub: LoopbackHub, repo: Repo) -> Iterator[None]:
    if not repo.busy.acquire(blocking=False):
        raise RefusedError(409, "Another commit operation is in progress. Please retry later.")
    try:
        yield
    finally:
        repo.busy.release()


def first(hub: LoopbackHub, repo: Repo, author: str) -> None:
    """The commit that every repo starts with."""
    files = {ATTRIBUTES: _text(hub, attributes(DEFAULT_PATTERNS))}
    made = Commit.make([], "initial commit", "", author, files)
    repo.put(made)
    repo.point("refs/heads/main", made.id)


def _apply(hub: LoopbackHub, files: dict[str, File], key: str, value: dict[str, Any]) -> None:
    path = value["path"].rstrip("/")
    match key:
        case "file":
            content = base64.b64decode(value["content"]) if value.get("encoding") else value["content"].encode()
            if len(content) > LARGE_SIZE:
                raise RefusedError(400, f"Your push was rejected because {path} is larger than 10 MiB: use git-lfs")
            files[path] = _regular(hub, content)
        case "lfsFile":
            files[path] = _large(hub, path, value)
            lines = _attributes(hub, files)
            if not covered(lines, path):
                files[ATTRIBUTES] = _text(hub, lines + attributes([path]))
        case "deletedFile" if path in files:
            del files[path]
        case "deletedFolder" if any(name.startswith(f"{path}/") for name in files):
            for name in [name for name in files if name.startswith(f"{path}/")]:
                del files[name]
        case "deletedFile" | "deletedFolder":
            raise RefusedError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        case _:
            raise RefusedError(400, f"Unknown operation {key}")


def _large(hub: LoopbackHub, path: str, value: dict[str, Any]) -> File:
    oid, size = value["oid"], value.get("size")  # a copy has no size
    if not hub.objects.has(oid) or (size is not None and hub.objects.size(oid) != size):
        raise RefusedError(400, f"LFS pointer pointed to a file that does not exist: {path}")
    return File.of(oid, hub.objects.size(oid), large=True)


def _regular(hub: LoopbackHub, content: bytes) -> File:
    sha256 = hashlib.sha256(content).hexdigest()
    if not hub.objects.has(sha256):
        room = hub.objects.room()
        room.write_bytes(content)
        hub.objects.add_file(room, sha256)
    return File.of(sha256, len(content), large=False, content=content)


def _text(hub: LoopbackHub, text: str) -> File:
    return _regular(hub, text.encode())


def _attributes(hub: LoopbackHub, files: dict[str, File]) -> str:
    file = files.get(ATTRIBUTES)
    return hub.objects.path(file.sha256).read_text() if file else ""


def _new_pull_request(repo: Repo) -> str:
    return f"refs/pr/{1 + sum(ref.startswith('refs/pr/') for ref in repo.refs)}"
