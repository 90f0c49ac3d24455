"""A quant that is too large for one file on the Hub, split into shards that llama.cpp opens by the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline import shell
from pipeline.artifact import Step, digest_of
from pipeline.file_names import NUMBERED
from pipeline.quantize import QUANT
from pipeline.toolchain import tools

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.progress import Task
    from pipeline.quantize import Quant
    from pipeline.store import Store


@dataclass(frozen=True)
class Shards(Step):
    """`quant-00001-of-0000N.gguf` and so on, each of `limit` bytes at most unless one tensor alone is larger."""

    quant: Quant
    limit: int
    kind: ClassVar[str] = "shards"
    shared: ClassVar[bool] = False  # the bytes of the quant over again: cut sooner than moved

    @property
    def label(self) -> str:
        return f"{self.quant.job}: split"

    def inputs(self) -> dict[str, Any]:
        return {"quant": digest_of(self.quant), "limit": self.limit}

    def make(self, room: Path, store: Store, task: Task) -> None:  # noqa: ARG002
        whole = store.get(self.quant).file(QUANT)
        llama = tools(store, self.quant.reference.toolchain)
        options = ["--split", "--split-max-size", f"{self.limit // 10**6}M"]
        command = [llama.path("llama-gguf-split"), *options, whole, QUANT.removesuffix(".gguf")]
        shell.run(command, cwd=room, doing=f"splitting {self.quant.job}")


def shard_name(file_name: str, shard: str) -> str:
    """Name a shard after the file that it is part of."""
    numbered = NUMBERED.fullmatch(shard)
    assert numbered, f"{shard} is no name of llama-gguf-split's"
    return f"{file_name.removesuffix('.gguf')}-{numbered[2]}.gguf"
