"""The content-addressed store behind Xet: what hf_xet 1.8.0 uploads to and downloads from.

The protocol is that of `spec/api.md` in github.com/huggingface/xet-core; version 2 of its requests is that of
`cas_types/mod.rs` there, the grants are those of `xet_client/README.md`. An uploaded file is put together at once
and handed to the objects of the Hub, so that whoever does not speak Xet gets the same bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
import uuid
from dataclasses import asdict
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from .reconstruction import Reconstruction
from .shard import BadShardError, File, Term, chunk_hashes, for_dedup, parse
from .xorb import BadXorbError, Chunk, chunks_of, unpacked

if TYPE_CHECKING:
    from pathlib import Path

    from .objects import Objects

TOKEN_SECONDS = 60 * 60


class Cas:
    """All state lies on disk, under `root` and in `objects`: another Cas on the same root serves the same files."""

    def __init__(self, root: Path, objects: Objects) -> None:
        self._root, self._objects = root, objects
        for name in ("files", "room", "shards", "xorbs"):
            (root / name).mkdir(parents=True, exist_ok=True)
        if not (root / "key").exists():
            self._write(root / "key", secrets.token_bytes(32))
        self._key = (root / "key").read_bytes()
        self._chunks: dict[str, list[Chunk]] = {}  # by xorb, read when they are first needed
        self._files: dict[str, File] = {}
        self._xet_hashes: dict[str, str] = {}  # by sha256
        for path in (root / "files").iterdir():
            fields = json.loads(path.read_bytes())
            self._know(File(fields["xet_hash"], fields["sha256"], [Term(**term) for term in fields["terms"]]))
        self._neighbours: dict[str, Path] = {}  # by chunk, the description of the xorbs that came with it
        for path in (root / "shards").iterdir():
            self._offer(path, chunk_hashes(path.read_bytes())[0])

    def xet_hash(self, sha256: str) -> str | None:
        """The name that Xet has for a file, if that is how it came."""
        return self._xet_hashes.get(sha256)

    def token(self, *, write: bool) -> str:
        claim = f"{'write' if write else 'read'}.{int(time.time()) + TOKEN_SECONDS}"
        return f"{claim}.{self._signature(claim)}"

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/xorb-grants/{prefix}/{hash}", self._grant, methods=["POST"]),
            Route("/v1/xorbs/{prefix}/{hash}", self._put_xorb, methods=["POST"]),
            Route("/v1/shards", self._put_shard_v1, methods=["POST"]),
            Route("/v2/shards", self._put_shard_v2, methods=["POST"]),
            Route("/v1/chunks/{prefix}/{hash}", self._get_chunk),
            Route("/v1/reconstructions/{hash}", self._reconstruct_v1),
            Route("/v2/reconstructions/{hash}", self._reconstruct_v2),
            Route("/xorbs/{hash}", self._get_xorb),
        ]

    def _allow(self, request: Request, *, write: bool) -> None:
        claim, _, signature = request.headers.get("authorization", "").removeprefix("Bearer ").rpartition(".")
        right, _, expires = claim.partition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(claim).encode()) or int(expires) < time.time():
            raise HTTPException(HTTPStatus.UNAUTHORIZED, "the token is none of mine, or has expired")
        if write and right != "write":
            raise HTTPException(HTTPStatus.FORBIDDEN, "the token is for reading")

    def _signature(self, claim: str) -> str:
        return hmac.new(self._key, claim.encode(), hashlib.sha256).hexdigest()

    def _grant(self, request: Request) -> Response:
        """Spare the client a xorb that lies here already; any other it then sends without a grant."""
        self._allow(request, write=True)
        return JSONResponse({}, HTTPStatus.OK if self._xorb(_hash(request)).exists() else HTTPStatus.NOT_FOUND)

    async def _put_xorb(self, request: Request) -> Response:
        self._allow(request, write=True)
        inserted = await run_in_threadpool(self._store_xorb, _hash(request), await _body(request))
        return JSONResponse({"was_inserted": inserted})

    def _store_xorb(self, name: str, body: bytes) -> bool:
        # Its hash is not checked: that is BLAKE3, which Python lacks. The sha256 of the files settles it.
        path, room = self._xorb(name), self._room()
        if path.exists():
            return False
        room.write_bytes(body)
        try:
            chunks_of(room)
            room.replace(path)
        except BadXorbError as reason:
            raise HTTPException(HTTPStatus.BAD_REQUEST, str(reason)) from reason
        finally:
            room.unlink(missing_ok=True)
        return True

    async def _put_shard_v1(self, request: Request) -> Response:
        self._allow(request, write=True)
        await run_in_threadpool(self._store_shard, await _body(request))
        return JSONResponse({"result": 1})

    async def _put_shard_v2(self, request: Request) -> Response:
        await self._put_shard_v1(request)
        return Response('{"type":"result"}\n', media_type="application/x-ndjson")

    def _store_shard(self, body: bytes) -> None:
        try:
            shard = parse(body)
            wanted = {term.xorb for file in shard.files for term in file.terms} | set(shard.chunks)
            if missing := sorted(name for name in wanted if not self._xorb(name).exists()):
                raise BadShardError(f"the shard refers to xorbs that are not here: {', '.join(missing)}")
            new = [file for file in shard.files if not self._is_here(file)]
            for file in new:
                self._put_together(file)
        except (BadShardError, BadXorbError) as reason:
            raise HTTPException(HTTPStatus.BAD_REQUEST, str(reason)) from reason
        for file in new:
            self._write(self._root / "files" / file.xet_hash, json.dumps(asdict(file)).encode())
            self._know(file)
        if shard.chunks:
            path = self._root / "shards" / hashlib.sha256(shard.xorbs).hexdigest()
            self._write(path, shard.xorbs)
            self._offer(path, shard.chunks)

    def _put_together(self, file: File) -> None:
        """Write the file into the objects. Raises BadShardError where that is not what its uploader had."""
        digest, room = hashlib.sha256(), self._objects.room()
        try:
            with room.open("wb") as written:
                for term in file.terms:
                    before = written.tell()
                    for part in unpacked(self._xorb(term.xorb), self._chunks_in(term)):
                        written.write(part)
                        digest.update(part)
                    if written.tell() - before != term.size:
                        raise BadShardError(f"a term of {term.size} bytes has {written.tell() - before}")
            if digest.hexdigest() != file.sha256:
                raise BadShardError(f"{file.xet_hash} has sha256 {digest.hexdigest()}, not {file.sha256}")
            self._objects.add_file(room, file.sha256)
        finally:
            room.unlink(missing_ok=True)

    def _get_chunk(self, request: Request) -> Response:
        """Tell who asks for a chunk that lies here about all xorbs that came with it, so that none is sent again."""
        self._allow(request, write=False)
        path = self._neighbours.get(_hash(request))
        if path is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return Response(for_dedup(path.read_bytes()), media_type="application/octet-stream")

    def _reconstruct_v1(self, request: Request) -> Response:
        return JSONResponse(self._reconstruction(request).v1(_fetch_base(request)))

    def _reconstruct_v2(self, request: Request) -> Response:
        return JSONResponse(self._reconstruction(request).v2(_fetch_base(request)))

    def _reconstruction(self, request: Request) -> Reconstruction:
        self._allow(request, write=False)
        file = self._files.get(_hash(request))
        if file is None:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        start, end = 0, sum(term.size for term in file.terms)
        if asked := request.headers.get("range"):
            start, last = map(int, asked.removeprefix("bytes=").split("-"))
            if start >= end:
                raise HTTPException(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            end = min(last + 1, end)
        return Reconstruction.of(file.terms, self._chunks_of, start, end)

    def _get_xorb(self, request: Request) -> Response:
        """What a reconstruction points to: any ranges of a xorb, without a token, as a signed URL would give them."""
        path = self._xorb(_hash(request))
        if not path.exists():
            raise HTTPException(HTTPStatus.NOT_FOUND)
        return FileResponse(path, media_type="application/octet-stream")

    def _xorb(self, name: str) -> Path:
        return self._root / "xorbs" / name

    def _chunks_of(self, name: str) -> list[Chunk]:
        if name not in self._chunks:
            self._chunks[name] = chunks_of(self._xorb(name))
        return self._chunks[name]

    def _chunks_in(self, term: Term) -> list[Chunk]:
        chunks = self._chunks_of(term.xorb)
        if not 0 <= term.start < term.end <= len(chunks):
            raise BadShardError(f"a term has chunks {term.start} to {term.end} of {len(chunks)}")
        return chunks[term.start : term.end]

    def _is_here(self, file: File) -> bool:
        return self._xet_hashes.get(file.sha256) == file.xet_hash and self._objects.has(file.sha256)

    def _know(self, file: File) -> None:
        self._files[file.xet_hash] = file
        self._xet_hashes[file.sha256] = file.xet_hash

    def _offer(self, path: Path, chunks: dict[str, list[str]]) -> None:
        self._neighbours.update(dict.fromkeys((chunk for each in chunks.values() for chunk in each), path))

    def _room(self) -> Path:
        return self._root / "room" / uuid.uuid4().hex

    def _write(self, path: Path, body: bytes) -> None:
        room = self._room()
        room.write_bytes(body)
        room.replace(path)


async def _body(request: Request) -> bytes:
    try:
        return await request.body()
    except ClientDisconnect as reason:  # no fault of the server's, so nothing for its log
        raise HTTPException(HTTPStatus.BAD_REQUEST, "the client left in the middle of the body") from reason


def _hash(request: Request) -> str:
    name: str = request.path_params["hash"]
    if not re.fullmatch("[0-9a-f]{64}", name):
        raise HTTPException(HTTPStatus.BAD_REQUEST, f"{name} is no hash")
    return name


def _fetch_base(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}{request.scope.get('root_path', '')}/xorbs/"
