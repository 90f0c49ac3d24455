"""What a run was asked for, by options or by a button: the matrix that it goes by, and which jobs of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline import matrix
from pipeline.errors import BadInputError
from pipeline.matrix import GitSource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.job import Steps
    from pipeline.matrix import Matrix

LLAMA_CPP = "https://github.com/ggml-org/llama.cpp"


@dataclass(frozen=True)
class Request:
    """`only`: as in `plan.select`. `quants`: of each model that is named, only these; all with none."""

    only: tuple[str, ...] = ()
    quants: tuple[str, ...] = ()
    unlisted: bool = False
    """Whether a model that `only` names and the matrix does not is taken from the Hub, with the matrix's defaults."""
    llama_cpp: str = ""
    """A commit in place of the matrix's pin."""

    def matrix(self, path: Path) -> Matrix:
        """Read the matrix, with what was asked for beyond it.

        Raises `BadInputError` as `matrix.load` does, and for a commit that is none.
        """
        listed = matrix.load(path)
        known = {model.source.casefold() for model in listed.models}
        more = [name for name in self.only if self.unlisted and _is_new(name, known)]
        if more:
            quants = {"quants": list(self.quants)} if self.quants else {}
            listed = matrix.load(path, [{"source": name, **quants} for name in more])
        if self.llama_cpp:
            listed = replace(listed, llama_cpp=self._toolchain(listed))
        return listed

    @property
    def patterns(self) -> list[str]:
        """What `plan.select` is to look for: each model with each quant, where quants are named."""
        models = self.only or (("*",) if self.quants else ())
        return [
            pattern
            for model in models
            for pattern in ([model] if ":" in model or not self.quants else [f"{model}:{q}" for q in self.quants])
        ]

    def _toolchain(self, listed: Matrix) -> GitSource:
        if not re.fullmatch("[0-9a-f]{40}", self.llama_cpp):
            raise BadInputError(
                f"{self.llama_cpp!r} is no commit of llama.cpp. Give all its 40 hex digits, in lower case."
            )
        url = listed.llama_cpp.url if isinstance(listed.llama_cpp, GitSource) else LLAMA_CPP
        return GitSource(url, self.llama_cpp)


def locked(asked: Matrix, works: Sequence[Steps]) -> Matrix:
    """Return the matrix of these models alone, at the revisions that were found."""
    return replace(asked, models=tuple(replace(s.model, revision=s.source.revision) for s in works))


def _is_new(name: str, known: set[str]) -> bool:
    return not re.search(r"[*?\[\]:]", name) and name.casefold() not in known
