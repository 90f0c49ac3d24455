"""The real hf_xet, up to and down from the loopback Hub's content-addressed store."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field

import hf_xet
import numpy as np
import pytest
import uvicorn
from hub.cas import TOKEN_SECONDS, Cas
from hub.objects import Objects
from hub.xorb import GROUPED_LZ4, LZ4, PLAIN, BadXorbError, chunks_of, ungrouped
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount

RANDOM = np.random.default_rng(7)
NOISE = RANDOM.bytes(3_000_000)
MORE_NOISE = RANDOM.bytes(3_000_000)
TEXT = b"".join(b"the %d-th of many lines that look alike\n" % number for number in range(60_000))
WEIGHTS = (RANDOM.standard_normal(1_000_001, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()  # bf16


@dataclass
class Served:
    """A Cas behind a real HTTP server, and what it was asked: method, path and bytes received."""

    cas: Cas
    objects: Objects
    url: str = ""
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    failing: str = ""  # requests whose path holds this answer 503

    async def __call__(self, scope, receive, send):
        received = 0

        async def counted():
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        fails = self.failing and self.failing in scope["path"]
        await (Response(status_code=503) if fails else self.app)(scope, counted, send)
        self.asked.append((scope["method"], scope["path"], received))

    def __post_init__(self):
        self.app = Starlette(routes=[Mount("/cas", routes=self.cas.routes())])

    def uploaded(self):
        """The bytes of all xorbs that came in since the last call."""
        total = sum(size for _, path, size in self.asked if path.startswith("/cas/v1/xorbs/"))
        self.asked.clear()
        return total

    def upload(self, *files, sha256=hf_xet.COMPUTE_SHA256, token=None):
        token = token or self.cas.token(write=True)
        with hf_xet.XetSession().new_upload_commit(self.url, token, int(time.time()) + TOKEN_SECONDS) as commit:
            handles = [commit.start_upload_bytes(body, sha256=sha256) for body in files]
        return [handle.result().xet_info.hash for handle in handles]

    def download(self, path, name, size, token=None):
        token = token or self.cas.token(write=False)
        with hf_xet.XetSession().new_file_download_group(self.url, token, int(time.time()) + TOKEN_SECONDS) as group:
            group.start_download_file(hf_xet.XetFileInfo(name, size), str(path))
        return path.read_bytes()


@pytest.fixture
def serve(tmp_path, monkeypatch):
    for name, value in {"CACHE": tmp_path / "cache", "CLIENT_RETRY_MAX_ATTEMPTS": 0}.items():
        monkeypatch.setenv(f"HF_XET_{name}", str(value))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    running = []

    def start():
        objects = Objects(tmp_path / "objects")
        served = Served(Cas(tmp_path / "cas", objects), objects)
        server = uvicorn.Server(uvicorn.Config(served, port=0, lifespan="off", ws="none", log_level="warning"))
        thread = threading.Thread(target=server.run)
        running.append((server, thread))
        thread.start()
        while not server.started:
            time.sleep(0.005)
        served.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/cas"
        return served

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join()


@pytest.fixture
def served(serve):
    return serve()


@pytest.fixture
def forget(tmp_path, monkeypatch):
    """The client as it is on a machine that never uploaded anything."""
    return lambda: monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "new cache"))


FILES = {
    "empty": (b"", set()),
    "small": (NOISE[:5_001], {PLAIN}),
    "noise": (NOISE, {PLAIN}),
    "text": (TEXT, {LZ4}),
    "weights": (WEIGHTS, {GROUPED_LZ4}),
    "repeated": (NOISE[:1_000_000] * 3, {PLAIN}),
    "mixed": (NOISE[:400_000] + TEXT + WEIGHTS + NOISE[200_000:], {PLAIN, LZ4, GROUPED_LZ4}),
}


@pytest.mark.parametrize("name", FILES)
def test_what_goes_up_comes_down(served, tmp_path, name):
    body, schemes = FILES[name]
    sha256 = hashlib.sha256(body).hexdigest()
    (xet_hash,) = served.upload(body)
    assert served.objects.path(sha256).read_bytes() == body
    assert served.cas.xet_hash(sha256) == xet_hash
    assert served.download(tmp_path / "down", xet_hash, len(body)) == body
    xorbs = (tmp_path / "cas/xorbs").iterdir()
    assert {chunk.scheme for xorb in xorbs for chunk in chunks_of(xorb)} == schemes


def test_the_first_version_of_each_request_is_served_too(served, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_XET_CLIENT_SHARD_API_VERSION", "1")
    monkeypatch.setenv("HF_XET_CLIENT_RECONSTRUCTION_API_VERSION", "1")
    (xet_hash,) = served.upload(TEXT)
    assert served.download(tmp_path / "down", xet_hash, len(TEXT)) == TEXT
    assert not [path for _, path, _ in served.asked if "/v2/" in path]


def test_content_that_occurs_twice_is_sent_once(served, forget, tmp_path):
    served.upload(NOISE[:1_000_000] * 3)
    assert served.uploaded() < 1_500_000
    forget()
    body = NOISE[:500_000] + MORE_NOISE + NOISE[500_000:1_000_000]
    (name,) = served.upload(body)
    assert served.uploaded() < len(MORE_NOISE) + 500_000  # and the chunks in which old meets new
    assert served.download(tmp_path / "down", name, len(body)) == body


def test_files_of_one_upload_share_xorbs(served, tmp_path):
    bodies = [NOISE[:300_000], NOISE[300_000:600_000], b""]
    names = served.upload(*bodies)
    assert len(list((tmp_path / "cas/xorbs").iterdir())) == 1
    for name, body in zip(names, bodies, strict=True):
        assert served.download(tmp_path / name, name, len(body)) == body


@pytest.mark.parametrize("cache", ["warm", "cold"])
def test_what_was_uploaded_is_not_sent_again(served, forget, cache):
    names = served.upload(NOISE)
    assert served.uploaded() > len(NOISE)
    if cache == "cold":
        forget()
    assert served.upload(NOISE) == names
    assert served.uploaded() == 0


def test_an_upload_that_broke_off_does_not_send_its_xorbs_again(served, forget):
    served.failing = "/shards"
    with pytest.raises(ConnectionError, match="503 Service Unavailable"):
        served.upload(NOISE)
    assert served.uploaded() > len(NOISE)
    assert not served.objects.has(hashlib.sha256(NOISE).hexdigest())
    forget()
    served.failing = ""
    served.upload(NOISE)
    assert served.uploaded() == 0
    assert served.objects.has(hashlib.sha256(NOISE).hexdigest())


@pytest.mark.parametrize("multirange", ["0", "1"])
def test_a_part_of_a_file_can_be_had(served, monkeypatch, multirange):
    monkeypatch.setenv("HF_XET_CLIENT_ENABLE_MULTIRANGE_FETCHING", multirange)
    served.upload(NOISE)
    body = NOISE[2_000_000:2_500_000] + TEXT + NOISE[:500_000]  # two ranges of one xorb, another between them
    (name,) = served.upload(body)
    group = hf_xet.XetSession().new_download_stream_group(served.url, served.cas.token(write=False), 2**40)
    for start, end in [(0, 1), (123_456, 2_000_001), (len(body) - 7, len(body)), (0, len(body))]:
        got = b"".join(group.download_stream(hf_xet.XetFileInfo(name, len(body)), start, end))
        assert got == body[start:end]


def test_a_new_cas_on_the_same_root_serves_and_knows_the_same(serve, forget, tmp_path):
    first = serve()
    token = first.cas.token(write=True)
    (name,) = first.upload(WEIGHTS)
    forget()
    second = serve()
    assert second.cas.xet_hash(hashlib.sha256(WEIGHTS).hexdigest()) == name
    assert second.download(tmp_path / "down", name, len(WEIGHTS), token) == WEIGHTS
    assert second.upload(WEIGHTS, token=token) == [name]
    assert second.uploaded() == 0


def test_tokens_are_checked(served, tmp_path, monkeypatch):
    (name,) = served.upload(TEXT)
    read, write = served.cas.token(write=False), served.cas.token(write=True)
    with pytest.raises(ConnectionError, match="403 Forbidden"):
        served.upload(NOISE, token=read)
    forged = read.replace("read", "write")
    with pytest.raises(ConnectionError, match="401 Unauthorized"):
        served.upload(NOISE, token=forged)
    with pytest.raises(RuntimeError, match="401 Unauthorized"):
        served.download(tmp_path / "down", name, len(TEXT), forged)
    assert served.download(tmp_path / "down", name, len(TEXT), write) == TEXT
    monkeypatch.setattr("hub.cas.TOKEN_SECONDS", -1)
    with pytest.raises(ConnectionError, match="401 Unauthorized"):
        served.upload(NOISE)


def test_a_shard_that_does_not_verify_is_refused(served, tmp_path):
    with pytest.raises(ConnectionError, match="400 Bad Request"):
        served.upload(NOISE, sha256="ab" * 32)
    assert served.cas.xet_hash("ab" * 32) is None
    served.upload(NOISE)
    for xorb in (tmp_path / "cas/xorbs").iterdir():
        xorb.unlink()  # the client remembers them
    with pytest.raises(ConnectionError, match="400 Bad Request"):
        served.upload(NOISE[1_000_000:])
    assert not list((tmp_path / "objects/room").iterdir())


def test_what_is_not_there_is_404(served, tmp_path):
    with pytest.raises(RuntimeError, match="404 Not Found"):
        served.download(tmp_path / "down", "ab" * 32, 5)


@pytest.mark.parametrize("body", [b"", b"junk", b"\0\5\0\0\0\5\0\0four", b"\1\4\0\0\0\4\0\0four"])
def test_junk_is_no_xorb(tmp_path, body):
    (tmp_path / "xorb").write_bytes(body)
    with pytest.raises(BadXorbError):
        chunks_of(tmp_path / "xorb")


@pytest.mark.parametrize("length", range(9))
def test_grouped_bytes_become_words_again(length):
    body = bytes(range(length))
    assert ungrouped(b"".join(body[place::4] for place in range(4))) == body
