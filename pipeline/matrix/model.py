"""The nouns of matrix.yml, frozen and fully resolved: nothing here is a default of something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
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
class Limit:
    """A limit that depends on how many bits a weight has; see `pipeline.check.quality.bits_of`."""

    steps: tuple[tuple[float, float], ...]
    """(bits per weight, limit from there on), most bits first."""

    @classmethod
    def of(cls, limits: Mapping[float, float]) -> Self:
        return cls(tuple(sorted(limits.items(), reverse=True)))

    def at(self, bits: float) -> float | None:
        """Return the limit for so many bits per weight; None below the lowest step, where nothing is asked."""
        return next((limit for least, limit in self.steps if bits >= least), None)


@dataclass(frozen=True)
class Gates:
    """What a quant must reach to be published; None for no limit.

    The defaults hold for a model of 135M parameters and for one of 70B. Each is three times or more of what healthy
    files of SmolLM2-135M read, or those of Llama-3-8B in llama.cpp's tools/perplexity/README.md, and well below what a
    file reads whose predictions have nothing to do with the model's: a mean KLD of 9 to 13.
    """

    max_mean_kld: Limit | None = Limit.of({8: 0.05, 6: 0.15, 5: 0.3, 4: 0.8, 3: 1.6, 2.5: 3.2, 1: 7.0})
    """Nats per token."""
    max_p999_kld: Limit | None = Limit.of({8: 1.0, 6: 4.0, 5: 6.0, 4: 12.0, 1: 24.0})
    """Nats per token."""
    min_same_top: Limit | None = Limit.of({8: 75.0, 6: 60.0, 5: 50.0, 4: 35.0, 3: 20.0, 2.5: 12.0, 1: 4.0})
    """Percent."""
    max_ppl_ratio: Limit | None = Limit.of({8: 1.1, 6: 1.3, 5: 1.5, 4: 2.5, 3: 5.0, 2.5: 20.0, 1: 500.0})
    max_logits_nmse: float | None = 0.01
    """Of the reference's logits against those of `transformers`: the squared error over the squared logits."""


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
