"""What is fetched of a source at its revision: what is converted, and what a release needs of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.artifact import Step, file_sha256
from pipeline.errors import HubError
from pipeline.result import FileEntry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.progress import Task
    from pipeline.source import Source
    from pipeline.store import Store


@dataclass(frozen=True)
class Snapshot(Step):
    """What of a source on the Hub is converted, downloaded at its revision."""

    source: Source
    kind: ClassVar[str] = "source"
    resumable: ClassVar[bool] = True
    shared: ClassVar[bool] = False  # the Hub has the same bytes

    @property
    def label(self) -> str:
        return f"{self.source.id}: download"

    def inputs(self) -> dict[str, Any]:
        return {"source": self.source.id, "files": self.source.materials}

    def make(self, room: Path, store: Store, task: Task) -> None:  # noqa: ARG002
        download(self.source, self.source.converted, room, task)


@dataclass(frozen=True)
class Papers(Step):
    """A source's card and licence files: what a release needs of it, without the weights."""

    source: Source
    kind: ClassVar[str] = "papers"
    shared: ClassVar[bool] = False  # the Hub has the same bytes

    @property
    def label(self) -> str:
        return f"{self.source.id}: card and licence"

    def inputs(self) -> dict[str, Any]:
        return {"source": self.source.id, "files": self.source.papers}

    def make(self, room: Path, store: Store, task: Task) -> None:  # noqa: ARG002
        if self.source.path is None:
            download(self.source, self.source.paper_files, room, task)
            return
        for file in self.source.paper_files:
            shutil.copyfile(self.source.path / file.name, room / file.name)


def download(source: Source, files: Sequence[FileEntry], room: Path, task: Task) -> None:
    """Download files of a source at its revision, and hold them against what the Hub lists."""
    from pipeline.hub import ask, reader
    from pipeline.hub.progress import bar

    arrived = _Arrived(task, sum(file.size for file in files))
    for file in files:
        arrived.begin(file)
        where = {"revision": source.revision, "local_dir": room, "tqdm_class": bar(arrived.more)}
        ask(source.id, partial(reader().hf_hub_download, source.id, file.name, **where), source.revision)
        path = room / file.name
        if path.stat().st_size != file.size or (file.sha256 and file_sha256(path) != file.sha256):
            path.unlink()
            raise HubError(
                f"{source.id}: {file.name} came with other bytes than the Hub lists. Run again; if it happens again,"
                " the proxy or mirror in HF_ENDPOINT is to blame."
            )
    # The client's notes for resuming; what they were for is done.
    shutil.rmtree(room / ".cache", ignore_errors=True)


class _Arrived:
    """How much of a download has come, told to the display."""

    def __init__(self, task: Task, total: int) -> None:
        self._task = task
        self._total = total
        self._before = 0
        self._now = 0
        self._file = FileEntry(name="", size=0, sha256="")

    def begin(self, file: FileEntry) -> None:
        self._before += self._file.size
        self._file, self._now = file, 0
        self.more(0)

    def more(self, count: int) -> None:
        self._now = min(self._now + count, self._file.size)  # a second try may count again
        self._task.advance((self._before + self._now) / self._total, self._file.name)
