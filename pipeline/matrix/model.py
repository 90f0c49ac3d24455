"""The nouns of matrix.yml, frozen and fully resolved: nothing here is a default of something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Self

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
class Limit:
    """A limit that depends on how many bits a weight has; see `pipeline.check.quality.bits_of`."""

    steps: tuple[tuple[float, float], ...]
    """(bits per weight, limit from there on), most bits first."""

    @classmethod
    def of(cls, limits: Mapping[float, float] | float) -> Self:
        """Make one by bits, or one number for all."""
        return cls(tuple(sorted(limits.items(), reverse=True)) if isinstance(limits, Mapping) else ((0.0, limits),))

    def at(self, bits: float) -> float | None:
        """Return the limit for so many bits per weight; None below the lowest step, where nothing is asked."""
        return next((limit for least, limit in self.steps if bits >= least), None)


MEAN_KLD: Final = Limit.of({16: 0.02, 8: 0.03, 6: 0.08, 5.5: 0.25, 4: 0.8, 3: 1.8, 2.5: 3.2, 1: 7.5})
P999_KLD: Final = Limit.of({16: 0.5, 8: 1.0, 6: 2.0, 5.5: 5.0, 4: 14.0, 3: 16.0, 2.5: 21.0})
SAME_TOP: Final = Limit.of({16: 90.0, 8: 80.0, 6: 70.0, 5.5: 50.0, 4: 24.0, 3: 10.0, 2.5: 5.0})
PPL_RATIO: Final = Limit.of({16: 1.02, 8: 1.05, 6: 1.1, 5.5: 1.3, 4: 2.0, 3: 4.0, 2.5: 15.0, 1: 500.0})


@dataclass(frozen=True)
class Gates:
    """What a quant must reach to be published; None for no limit.

    The defaults hold for a model of 135M parameters and for one of 70B. Each is three times or more of what healthy
    files of SmolLM2-135M read, or those of Llama-3-8B in llama.cpp's tools/perplexity/README.md, and well below what a
    file reads whose predictions have nothing to do with the model's: a mean KLD of 11 to 14. Below 2.5 bits a healthy
    file's worst tokens are as bad as such a file's, and a flat model's favourites change by chance.
    """

    max_mean_kld: Limit | None = MEAN_KLD
    """Nats per token."""
    max_p999_kld: Limit | None = P999_KLD
    """Nats per token."""
    min_same_top: Limit | None = SAME_TOP
    """Percent."""
    max_ppl_ratio: Limit | None = PPL_RATIO
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
