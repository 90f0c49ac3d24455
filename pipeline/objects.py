"""Named bytes that several machines reach: files of a folder, or objects wherever fsspec has a client for."""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
import uuid
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.errors import BadInputError
from pipeline.shell import SECRET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# A secret may hold any character, so whatever is between a colon and an @ counts.
PASSWORD = re.compile(r"://.*:.*@")
# s3fs tries again what broke off; at each of its tries botocore does, and what the server failed on as well: as they
# come, a server that is down is waited for longer than a minute. An upload of many parts may take a while to be put
# together. Of a file that is sent, so many parts are in memory at once.
S3: dict[str, Any] = {
    "max_concurrency": 4,
    "config_kwargs": {"read_timeout": 60, "retries": {"mode": "standard", "total_max_attempts": 3}},
}
S3_TRIES = 2
S3_PART = 16 << 20
LONGEST = 200


class UnreachableError(Exception):
    """The place could not be read or written: a reason in one line, without a secret."""


class Objects(Protocol):
    """The objects of one place. What is written is seen whole or not at all.

    Every method but `read` of what is not there raises `UnreachableError`, whatever went wrong.
    """

    def read(self, name: str, begin: int, end: int) -> bytes:
        """Return the bytes from `begin` to before `end`, fewer where it is shorter.

        Raises `FileNotFoundError` where there is no such object.
        """

    def write(self, name: str, content: bytes) -> None: ...

    def upload(self, name: str, file: Path) -> None: ...

    def remove(self, name: str) -> None:
        """Remove it, if it is there."""


def at(url: str) -> Objects:
    """Return the objects at a URL of fsspec's, or in a folder by its path.

    Raises `BadInputError` for what is no place, or holds a secret; it is then not repeated.
    """
    scheme, separator, path = url.partition("://")
    if PASSWORD.search(url) or (separator and "?" in url):
        raise BadInputError(
            f"The {scheme}:// URL in --remote-store holds a password or a signature, which would end up in logs. Leave"
            " it out, and give the credentials as the client of that place takes them, such as AWS_ACCESS_KEY_ID and"
            " AWS_SECRET_ACCESS_KEY."
        )
    if not separator or scheme == "file":
        return Folder(Path(path or url))
    if not path.strip("/"):
        raise BadInputError(f"--remote-store names {scheme}:// and no place there, such as {scheme}://bucket/folder.")
    if scheme in {"http", "https"}:
        raise BadInputError(
            f"Nothing can be written to the {scheme}:// URL in --remote-store. Name a folder, or s3://…."
        )
    return Elsewhere(scheme, url)


class Folder:
    """A folder, such as a share that several machines mount."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            # Not created: it may be the place of a share that is not mounted, and would fill this machine's disk.
            raise BadInputError(f"--remote-store names {root}, which is no folder. Create it, or mount the share.")
        self._root = root.absolute()

    def read(self, name: str, begin: int, end: int) -> bytes:
        with _reached(), (self._root / name).open("rb") as file:
            file.seek(begin)
            return file.read(end - begin)

    def write(self, name: str, content: bytes) -> None:
        with self._put(name) as part:
            part.write_bytes(content)

    def upload(self, name: str, file: Path) -> None:
        with self._put(name) as part:
            shutil.copyfile(file, part)

    def remove(self, name: str) -> None:
        with _reached(write=True):
            (self._root / name).unlink(missing_ok=True)

    @contextmanager
    def _put(self, name: str) -> Iterator[Path]:
        """Give a file to write, which is renamed to `name` when it is whole."""
        path = self._root / name
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
        with _reached(write=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield part
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)


class Elsewhere:
    """What fsspec reaches: S3 and what speaks like it, a repo of the Hub, and many more."""

    def __init__(self, scheme: str, url: str) -> None:
        import fsspec

        try:
            # Never an instance that somebody else in this process has set up.
            found = fsspec.core.url_to_fs(url, skip_instance_cache=True, **(S3 if scheme == "s3" else {}))
        except (ImportError, ValueError) as error:
            raise BadInputError(
                f"--remote-store cannot be used with {scheme}:// ({reason(error)}). For s3://, install the extra `s3`:"
                " pip install -c constraints.txt -e '.[s3]'. Other clients are listed in the documentation of fsspec."
            ) from error
        self._system: Any = found[0]
        self._root: str = found[1].rstrip("/")
        self._parts: dict[str, int] = {}
        # On the Hub each is a commit, and two at the same time are a conflict.
        self._turn = threading.Lock() if scheme == "hf" else None
        if scheme == "s3":
            self._system.retries = S3_TRIES
            self._parts["chunksize"] = S3_PART

    def read(self, name: str, begin: int, end: int) -> bytes:
        with _reached():
            self._system.invalidate_cache()  # what other machines have put there since counts
            try:
                return bytes(self._system.cat_file(f"{self._root}/{name}", start=begin, end=end))
            except OSError as error:
                if error.errno == errno.EINVAL and "range" in str(error).lower():
                    return b""  # S3 has no range of an object that ends before it
                raise

    def write(self, name: str, content: bytes) -> None:
        with _reached(write=True):
            self._change(partial(self._system.pipe_file, f"{self._root}/{name}", content))

    def upload(self, name: str, file: Path) -> None:
        with _reached(write=True):
            self._change(partial(self._system.put_file, str(file), f"{self._root}/{name}", **self._parts))

    def remove(self, name: str) -> None:
        with _reached(write=True), suppress(FileNotFoundError):
            self._change(partial(self._system.rm_file, f"{self._root}/{name}"))

    def _change(self, call: Callable[[], None]) -> None:
        if self._turn is None:
            call()
            return
        from pipeline.hub import ask

        with self._turn:
            ask(self._root, call)  # which tries again on the conflicts with other machines


def reason(error: BaseException) -> str:
    """Say in a line what an exception is about: nothing that steers a terminal, no signed address, no secret."""
    lines = re.sub(r"\[Errno -?\d+\] ", "", str(error)).strip().splitlines()
    said = re.sub(r"(\w+://[^\s?'\"]+)\?[^\s'\")]*", r"\1", lines[0]) if lines else type(error).__name__
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= 8:
            said = said.replace(value, "…")
    return "".join(c if c.isprintable() else " " for c in said)[:LONGEST].rstrip(". ")


@contextmanager
def _reached(*, write: bool = False) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each client of fsspec raises exceptions of its own
        if isinstance(error, FileNotFoundError) and not write:
            raise
        raise UnreachableError(reason(error)) from error
