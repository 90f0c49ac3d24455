"""Files given as steps, in place of a reference or an imatrix that is made; and a program that makes quants of them."""

from __future__ import annotations

import pickle
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline import shell
from pipeline.artifact import Step, file_sha256
from pipeline.engine import worker
from pipeline.engine.worker import Job
from pipeline.progress import Display
from pipeline.store import Store

if TYPE_CHECKING:
    from pipeline.toolchain import Toolchain


@dataclass(frozen=True)
class Given(Step):
    """`file_name`: a copy of the file at `path`."""

    path: Path
    file_name: str
    toolchain: Toolchain
    kind: ClassVar[str] = "given"

    @property
    def source(self) -> SimpleNamespace:
        return SimpleNamespace(id="tiny/given")

    @property
    def label(self) -> str:
        return self.path.name

    def inputs(self) -> dict[str, Any]:
        return {"sha256": file_sha256(self.path)}

    def make(self, room, _store, _task) -> None:
        shutil.copyfile(self.path, room / self.file_name)


def main(root: str, pickled: str) -> None:
    """Make pickled quants in the store `root`, and print each tensor that is quantized."""
    run = shell.run

    def logged(command, **options):
        if worker.__file__ in command:
            for work in Job.read(command[-1]).works:
                print(work.name, work.type)
        return run(command, **options)

    shell.run = logged
    store = Store(Path(root), Display())
    for quant in pickle.loads(Path(pickled).read_bytes()):  # noqa: S301 - the test wrote them
        store.get(quant)


if __name__ == "__main__":
    import given  # what is pickled belongs to the module, not to the program

    given.main(*sys.argv[1:])
