"""The reference without its weights, by llama.cpp's own converter: it decides names, shapes and types by headers."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline import convert, gguf_file, shell
from pipeline.artifact import Step, digest_of
from pipeline.convert import REFERENCE
from pipeline.errors import BadInputError
from pipeline.preview.outline import Outline
from pipeline.toolchain import tools

if TYPE_CHECKING:
    from pipeline.progress import Task
    from pipeline.source import Source
    from pipeline.store import Store
    from pipeline.toolchain import Toolchain

ROOT = Path(__file__).parent.parent.parent
HEADER = "reference.header"
SIZE = "size"
SCRIPT = "pipeline.preview.convert_headers"
MAX_SENTENCE = 500


@dataclass(frozen=True)
class Skeleton(Step):
    """`reference.header`: the bytes of the reference that come before its data, and `size`: those of all of it."""

    source: Source
    toolchain: Toolchain
    kind: ClassVar[str] = "skeleton"

    @property
    def label(self) -> str:
        return f"{self.source.id}: convert the headers"

    def inputs(self) -> dict[str, Any]:
        return {
            "outline": digest_of(Outline(self.source)),
            "toolchain": self.toolchain.identity,
            "transformers": convert.transformers_version(),
        }

    def make(self, room: Path, store: Store, task: Task) -> None:  # noqa: ARG002
        scratch = room / "scratch"
        scratch.mkdir()
        Outline(self.source).open(store, scratch / "source")
        layout = convert.lay_out(self.source, scratch / "source", scratch)
        refusal = scratch / "refusal"
        converter = tools(store, self.toolchain).converter
        shell.run(
            [sys.executable, "-m", SCRIPT, converter, refusal, *convert.arguments(layout, scratch)],
            cwd=ROOT,
            env=convert.OFFLINE,
            doing=f"converting the headers of {self.source.id}",
        )
        if refusal.exists():
            said = refusal.read_text(encoding="utf-8").replace(f"{layout}/", "")
            said = "".join(c if c.isprintable() else " " for c in said)[:MAX_SENTENCE]
            raise BadInputError(
                f"{self.source.id} cannot be converted by the pinned llama.cpp: {said.strip().rstrip('.')}. Pin a newer"
                " llama.cpp in matrix.yml if it was added since, or drop the model."
            )
        file = gguf_file.read(scratch / REFERENCE)
        with file.path.open("rb") as opened:
            (room / HEADER).write_bytes(opened.read(file.data_begin))
        (room / SIZE).write_text(str(file.path.stat().st_size))
        shutil.rmtree(scratch)

    def open(self, store: Store, path: Path) -> None:
        """Write the reference to `path` with a hole as large as its data."""
        artifact = store.get(self)
        path.write_bytes(artifact.file(HEADER).read_bytes())
        os.truncate(path, int(artifact.file(SIZE).read_text()))
