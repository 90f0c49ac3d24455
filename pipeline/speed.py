"""Tokens a second on this machine, by llama-bench."""

from __future__ import annotations

import json
import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline import shell
from pipeline.artifact import Step, digest_of
from pipeline.errors import ToolchainError
from pipeline.measure import QUALITY, Measured
from pipeline.quantize import QUANT
from pipeline.result import Estimate, Offload, Quality, Speed
from pipeline.toolchain import threads, tools

if TYPE_CHECKING:
    from pipeline.progress import Task
    from pipeline.store import Store
    from pipeline.toolchain import Tools

PROMPT_TOKENS = 128
GENERATED_TOKENS = 32
REPETITIONS = 3
SPEED = "speed.json"


@dataclass(frozen=True)
class Timed(Step):
    """`speed.json` of a quant on this machine."""

    measured: Measured
    kind: ClassVar[str] = "speed"

    @property
    def label(self) -> str:
        return f"{self.measured.quant.job}: time"

    def inputs(self) -> dict[str, Any]:
        return {
            "measured": digest_of(self.measured),
            "machine": machine(),
            "threads": threads(),
            "cuda": self.measured.quant.reference.toolchain.cuda,
        }

    def make(self, room: Path, store: Store, task: Task) -> None:  # noqa: ARG002
        quality = Quality.model_validate_json(store.get(self.measured).file(QUALITY).read_bytes())
        quant = self.measured.quant
        model = store.get(quant).file(QUANT)
        llama = tools(store, quant.reference.toolchain)
        (room / SPEED).write_text(bench(llama, model, quality.offload, room).model_dump_json())


def bench(llama: Tools, model: Path, offloaded: Offload, room: Path) -> Speed:
    """Measure prompt processing and generation with as many layers on the GPU as `offloaded` says."""
    doing = f"timing {model.name}"
    tests = ["-p", str(PROMPT_TOKENS), "-n", str(GENERATED_TOKENS), "-r", str(REPETITIONS), "-o", "json"]
    where = ["-t", str(llama.threads), "-ngl", str(offloaded.layers)]
    printed = shell.run([llama.path("llama-bench"), "-m", model, *tests, *where], cwd=room, doing=doing)
    try:
        runs = json.loads(printed.stdout)
        rates = {run["n_gen"]: Estimate(value=run["avg_ts"], error=run["stddev_ts"]) for run in runs}
        return Speed(
            prompt_tokens=PROMPT_TOKENS,
            prompt_rate=rates[0],
            generated_tokens=GENERATED_TOKENS,
            generation_rate=rates[GENERATED_TOKENS],
            repetitions=REPETITIONS,
            threads=llama.threads,
            machine=runs[0]["gpu_info"] if offloaded.layers else machine(),
            offload=offloaded,
        )
    except (ValueError, KeyError, IndexError) as error:
        raise ToolchainError(f"llama-bench printed something else than expected while {doing}: {error}.") from error


@cache
def machine() -> str:
    """Name this machine's processor."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    model = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    return model[1].strip() if model else platform.machine()
