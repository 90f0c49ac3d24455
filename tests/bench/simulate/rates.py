"""What a step is taken to cost: each figure once, with where it is from.

What llama.cpp does on a CPU goes by the rates that the preview of a pull request estimates its jobs with.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.preview import minutes


@dataclass(frozen=True)
class Rate:
    what: str
    value: float
    unit: str
    source: str
    estimate: str = ""
    """In what it is no measurement of the thing itself; empty for one."""


@dataclass(frozen=True, eq=False)
class Machine:
    """What a runner is. The sizes are assumed, those of usual servers."""

    name: str
    cores: int
    memory: float
    gpu_memory: float


@dataclass(frozen=True)
class Requests:
    """Of one command to the Hub, as it counts them: of its API, and of files."""

    api: int
    files: int = 0

    def __add__(self, other: Requests) -> Requests:
        return Requests(self.api + other.api, self.files + other.files)

    def __mul__(self, times: int) -> Requests:
        return Requests(self.api * times, self.files * times)


MACHINES = (
    Machine(f"{minutes.CORES} cores", minutes.CORES, 128e9, 0.0),
    Machine(f"{minutes.CORES} cores and a GPU", minutes.CORES, 128e9, 80e9),
)

_PREVIEW = "`pipeline/preview/minutes.py`: SmolLM2-135M, two cores of an EPYC"
_HERE = "a Llama of 1.04B weights on a Xeon, seconds of its processor"
_BUSY = "the same, seconds of the clock while others used it, too"
_A100 = "llama.cpp's pull request 6017: Llama 7B on one A100"
_LARGER = "larger models"
_FLEET = "assumed"

MEET = Rate("prompts and chunks, CPU", minutes._MEETING, "weights × tokens a second and core", _PREVIEW, _LARGER)
READ = Rate("generating, CPU", minutes._READING, "bytes of weights a second", _PREVIEW, _LARGER)
GPU_MEET = Rate(
    "prompts and chunks, GPU", 6.74e9 * 6914, "weights × tokens a second", f"{_A100}, Q8_0 at 6,914 tokens/s", _LARGER
)
GPU_READ = Rate(
    "generating, GPU", 12.55 * 2**30 * 74.77, "bytes of weights a second", f"{_A100}, F16 at 74.8 tokens/s", _LARGER
)
CONVERT = Rate("converting", 70e6, "bytes of the reference a second", _HERE, _LARGER)
VET = Rate("checking the reference", 121e6, "bytes of the reference a second", _HERE, _LARGER)
COMPARE = Rate("comparing with transformers", 35e6, "bytes of the reference a second", _BUSY, _LARGER)
CHECK = Rate("checking a quant", 1.0e9, "bytes of the quant a second", _HERE, _LARGER)
HASH = Rate("SHA-256", 1.59e9, "bytes a second", "`hashlib` on the same Xeon, seconds of its processor")
DOWN = Rate("download from the Hub", 250e6, "bytes a second and runner", _FLEET, "no Hub was reached")
UP = Rate("upload to the Hub", 125e6, "bytes a second and runner", _FLEET, "no Hub was reached")
STORE = Rate("the shared store", 1.25e9, "bytes a second and runner", _FLEET, "a network of 10 Gbit/s")
ASK = Rate("an answer of the Hub", 0.2, "seconds", _FLEET, "no Hub was reached")
RUNNER = Rate(
    "what a job on a runner begins and ends with",
    45.0,
    "seconds",
    "15 are `RestartSec` of `gpu-runner.service`",
    "the rest",
)
HOSTED = Rate("a job on GitHub's own runners", 90.0, "seconds", _FLEET, "packages are installed")

# Weights a second and core by tensor type.
QUANTIZE = {name: rate * 1e6 for name, rate in minutes._QUANTIZING.items()}
QUANTIZING = Rate(
    f"quantizing, {len(QUANTIZE)} tensor types",
    min(QUANTIZE.values()),
    f"weights a second and core for the slowest, {max(QUANTIZE.values()) / 1e6:.0f} million for the fastest",
    "`pipeline/preview/minutes.py`, on a Xeon with AVX-512",
    "larger models; all tensors of a quant are taken to be of its main type",
)
# Of a type that nobody has measured.
SLOW = minutes._UNMEASURED * 1e6

RATES = (
    QUANTIZING,
    MEET,
    READ,
    GPU_MEET,
    GPU_READ,
    CONVERT,
    VET,
    COMPARE,
    CHECK,
    HASH,
    DOWN,
    UP,
    STORE,
    ASK,
    RUNNER,
    HOSTED,
)

# Counted on the Hub of tests/hub, over LFS; the test of this simulation counts them again. To look at a source, for the
# last release where there is none, to check that one may publish, to stage a quant where others are staged already, to
# find out whether a result's files are staged, whether a repo is open, and to publish, but for reading back.
LOOK = Requests(1, 6)
FIRST_LAST = Requests(1)
TARGET = Requests(5)
STAGE = Requests(9)
HOLDS = Requests(4)
IS_OPEN = Requests(1)
PUBLISH = Requests(21)
