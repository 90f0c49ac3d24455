"""Calibration and evaluation texts: the two that ship with the pipeline, a file, or a file of a Hub dataset."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline.artifact import Step, file_sha256
from pipeline.errors import BadInputError
from pipeline.matrix.model import EmbeddedText, HubText, PathText

if TYPE_CHECKING:
    from pipeline.progress import Task
    from pipeline.store import Store

TEXTS = Path(__file__).parent / "texts"


@dataclass(frozen=True)
class Text:
    """A text by what it is used for and where it comes from."""

    use: Literal["calibration", "evaluation"]
    origin: EmbeddedText | HubText | PathText

    @property
    def name(self) -> str:
        """What the card and the imatrix call it."""
        match self.origin:
            case EmbeddedText():
                return f"{self.use}.txt"
            case PathText(path=path):
                return path.name
            case HubText(file=file):
                return Path(file).name

    @property
    def described(self) -> str:
        """Where it comes from, for people."""
        match self.origin:
            case EmbeddedText():
                return f"llm-quantizer's own {self.name}"
            case PathText(path=path):
                return path.name
            case HubText(hub=hub, file=file, revision=revision):
                return f"{hub}/{file} at {revision[:12]}"

    @cached_property
    def sha256(self) -> str:
        match self.origin:
            case EmbeddedText():
                return file_sha256(TEXTS / self.name)
            case PathText(path=path):
                return file_sha256(path)
            case HubText(sha256=sha256):
                return sha256

    def open(self, store: Store) -> Path:
        """Return the file with the text, downloading it where that is still to be done."""
        match self.origin:
            case EmbeddedText():
                return TEXTS / self.name
            case PathText(path=path):
                return path
            case HubText():
                return store.get(DownloadedText(self.origin)).file("text")


@dataclass(frozen=True)
class DownloadedText(Step):
    """A file of a Hub dataset, at a revision and with a sha256 that the matrix pins, as `text`."""

    origin: HubText
    kind: ClassVar[str] = "text"
    shared: ClassVar[bool] = False  # the Hub has the same bytes

    @property
    def label(self) -> str:
        return f"download {self.origin.hub}/{self.origin.file}"

    def inputs(self) -> dict[str, Any]:
        return {"sha256": self.origin.sha256}

    def make(self, room: Path, store: Store, task: Task) -> None:  # noqa: ARG002
        from pipeline.hub import api, ask

        hub, file, revision = self.origin.hub, self.origin.file, self.origin.revision
        where = {"repo_type": "dataset", "local_dir": room / "download"}
        path = Path(ask(hub, partial(api().hf_hub_download, hub, file, revision=revision, **where), revision))
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.origin.sha256:
            raise BadInputError(
                f"{hub}/{file} at {revision[:12]} has sha256 {found}, and matrix.yml wants {self.origin.sha256}."
                " Correct `sha256` or `revision`."
            )
        path.rename(room / "text")
        shutil.rmtree(room / "download")
