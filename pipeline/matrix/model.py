"""The nouns of matrix.yml, frozen and fully resolved: nothing here is a default of something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.result import Recipe


@dataclass(frozen=True)
class Sdist:
    """A source distribution that carries llama.cpp. `commit` may be abbreviated: it is there to be shown."""

    name: str
    version: str
    sha256: str
    commit: str


@dataclass(frozen=True)
class GitSource:
    url: str
    commit: str


@dataclass(frozen=True)
class PathSource:
    path: Path


Toolchain = Sdist | GitSource | PathSource


@dataclass(frozen=True)
class EmbeddedText:
    """The text that ships with the pipeline: one for calibration, another one for evaluation."""


@dataclass(frozen=True)
class HubText:
    hub: str
    file: str
    revision: str
    sha256: str


@dataclass(frozen=True)
class PathText:
    path: Path


Text = EmbeddedText | HubText | PathText


@dataclass(frozen=True)
class Gates:
    """What a quant must reach to be published: nats per token and percent; None for no limit."""

    max_mean_kld: float | None = None
    min_same_top: float | None = None


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model with all its settings, the defaults merged in."""

    source: str
    """owner/name on the Hub"""
    revision: str | None
    """40 hex digits; None to take what the Hub has when planned"""
    path: Path | None
    """absolute; a directory used in place of a download"""
    organization: str
    filename: str
    """a pattern with {quant} and perhaps {model}; see `file_name`"""
    recipes: tuple[Recipe, ...]
    prompt: str
    max_tokens: int
    calibration: Text
    calibration_chunks: int | None
    """None for the whole text, as below"""
    evaluation: Text
    evaluation_chunks: int | None
    imatrix_format: Literal["gguf", "dat"]
    card: Literal["full", "footer"]
    private: bool
    """of a repo that is not there yet"""
    gating: Literal["inherit", "open"]
    """whether the releases of a gated source must be gated or private"""
    max_shard_size: int
    """bytes; a quant that is larger is split"""
    gates: Gates
    line: int
    column: int
    """where the model stands in the file, from 1; line 0 for one that was asked for beside it"""

    def place(self, matrix_file: Path) -> str:
        """What a message about the model begins with: its place in the file, if it has one."""
        return f"{matrix_file}:{self.line}:{self.column}: " if self.line else ""

    @property
    def name(self) -> str:
        return self.source.partition("/")[2]

    @property
    def repo(self) -> str:
        return f"{self.organization}/{self.name}-GGUF"

    def file_name(self, quant: str) -> str:
        return self.filename.replace("{model}", self.name).replace("{quant}", quant)

    def job(self, quant: str) -> str:
        """The job id, `owner/name:QUANT`."""
        return f"{self.source}:{quant}"


@dataclass(frozen=True)
class Matrix:
    version: int
    llama_cpp: Toolchain
    models: tuple[Model, ...]
