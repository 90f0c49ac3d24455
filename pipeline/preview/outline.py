"""A source without its weights: the small files as they are, and of each file of weights its header."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline import safetensors
from pipeline.artifact import Step
from pipeline.errors import BadInputError, HubError
from pipeline.snapshot import download

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.progress import Task
    from pipeline.result import FileEntry
    from pipeline.source import Source
    from pipeline.store import Store

# Fetched before a header's length is known; few are longer.
FIRST_BYTES = 100_000
MAX_FILES = 1_000
MAX_HEADERS_BYTES = 100_000_000
# Requests at a time.
FETCHERS = 8


@dataclass(frozen=True)
class Outline(Step):
    """`companions/`, and `headers/` with the bytes of each file of weights that come before its data."""

    source: Source
    kind: ClassVar[str] = "outline"
    shared: ClassVar[bool] = False  # the Hub has the same bytes

    @property
    def label(self) -> str:
        return f"{self.source.id}: headers"

    def inputs(self) -> dict[str, Any]:
        return {"source": self.source.digest}

    def make(self, room: Path, store: Store, task: Task) -> None:  # noqa: ARG002
        companions, headers = room / "companions", room / "headers"
        companions.mkdir()
        headers.mkdir()
        if self.source.path is None:
            download(self.source, self.source.companions, companions, task)
        else:
            for file in self.source.companions:
                shutil.copyfile(self.source.path / file.name, companions / file.name)
        held = {}
        for file, head in self._heads():
            held[file.name] = safetensors.parse(head, file.size, self._name(file))
            (headers / file.name).write_bytes(head)
        index = companions / safetensors.INDEX
        safetensors.check_index(json.loads(index.read_bytes()) if index.exists() else None, held, self.source.id)

    def open(self, store: Store, directory: Path) -> None:
        """Make `directory` look like the source: the weights in it are holes as large as what they stand for."""
        artifact = store.get(self)
        directory.mkdir()
        for file in self.source.companions:
            (directory / file.name).symlink_to(artifact.file("companions").resolve() / file.name)
        for file in self._weights:
            path = directory / file.name
            path.write_bytes((artifact.file("headers") / file.name).read_bytes())
            os.truncate(path, file.size)

    @property
    def _weights(self) -> list[FileEntry]:
        return [file for file in self.source.files if file.name in self.source.weights]

    def _heads(self) -> list[tuple[FileEntry, bytes]]:
        """Read every file's bytes before its data, and only after it is known that all together are few."""
        files = self._weights
        if len(files) > MAX_FILES:
            raise BadInputError(
                f"{self.source.id} has its weights in {len(files)} files, and more than {MAX_FILES} are not looked at."
                " Save it in larger shards."
            )
        with ThreadPoolExecutor(FETCHERS) as fetchers:
            firsts = list(fetchers.map(lambda file: self._read(file, 0, min(file.size, FIRST_BYTES)), files))
            ends = [
                safetensors.data_begin(first, file.size, self._name(file))
                for file, first in zip(files, firsts, strict=True)
            ]
            if sum(ends) > MAX_HEADERS_BYTES:
                raise BadInputError(
                    f"The headers of {self.source.id} have {sum(ends)} bytes, and more than {MAX_HEADERS_BYTES} are not"
                    " read. Save the model again, or drop it."
                )
            rests = fetchers.map(
                lambda file, first, end: self._read(file, len(first), end),
                files,
                firsts,
                ends,
            )
            heads = [(first + rest)[:end] for first, rest, end in zip(firsts, rests, ends, strict=True)]
        return list(zip(files, heads, strict=True))

    def _read(self, file: FileEntry, begin: int, end: int) -> bytes:
        if end <= begin:
            return b""
        if self.source.path is not None:
            with (self.source.path / file.name).open("rb") as opened:
                opened.seek(begin)
                return opened.read(end - begin)
        from pipeline.hub import ask
        from pipeline.hub.part import part

        revision = self.source.revision
        content = ask(self.source.id, lambda: part(self.source.id, file.name, revision, begin, end), revision)
        if len(content) != end - begin:
            raise HubError(
                f"{self.source.id}: {file.name} is shorter than the Hub lists. Run again; if it happens again, the"
                " proxy or mirror in HF_ENDPOINT is to blame."
            )
        return content

    def _name(self, file: FileEntry) -> str:
        return f"{self.source.id}: {file.name}" if self.source.path is None else str(self.source.path / file.name)
