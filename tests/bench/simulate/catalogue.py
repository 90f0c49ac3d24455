"""Made-up models in realistic sizes, and what the real planner makes of them."""

from __future__ import annotations

import io
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from pipeline import disk, job, matrix, plan, run
from pipeline.progress import Display
from pipeline.recipe import QUANT_TYPES, bits_per_weight, builtin
from pipeline.result import FileEntry
from pipeline.source import Source
from pipeline.store import Store

SEED = 1
# The 21 types of a usual ladder, and four more.
LADDER = [
    "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K", "IQ3_XXS", "IQ3_XS", "IQ3_M", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS",
    "IQ4_NL", "Q4_0", "Q4_1", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "Q8_0",
]  # fmt: skip
QUANTS = ["IQ1_S", "IQ1_M", "Q2_K_S", "IQ3_S", *LADDER]
SHARD = 5_000_000_000
MATRIX = f"""\
version: 1
llama_cpp: {{git: https://github.com/ggml-org/llama.cpp, commit: {"a" * 40}}}
defaults: {{organization: me, quants: [{", ".join(QUANTS)}]}}
models:
"""


@dataclass(frozen=True, eq=False)
class Shape:
    """How large a model is. `met`: the weights that a token meets, fewer than all in a mixture of experts."""

    name: str
    weights: float
    met: float
    vocabulary: int

    @property
    def reference(self) -> int:
        """Bytes in bf16."""
        return int(2 * self.weights)

    @property
    def shards(self) -> int:
        """Of the source."""
        return -(-self.reference // SHARD)

    def size(self, quant: str) -> int:
        """Bytes of a quant."""
        return int(self.weights * bits_per_weight(builtin(quant)) / 8)


# With how many of a thousand models are of each, a guess at what people quantize: mostly small.
SHAPES = {
    Shape("0.5B", 0.49e9, 0.49e9, 151_936): 120,
    Shape("1B", 1.24e9, 1.24e9, 128_256): 120,
    Shape("3B", 3.2e9, 3.2e9, 128_256): 130,
    Shape("8B", 8.0e9, 8.0e9, 128_256): 300,
    Shape("14B", 14.8e9, 14.8e9, 151_936): 110,
    Shape("27B", 27.2e9, 27.2e9, 262_144): 60,
    Shape("32B", 32.8e9, 32.8e9, 151_936): 50,
    Shape("70B", 70.6e9, 70.6e9, 128_256): 30,
    Shape("120B", 120.0e9, 120.0e9, 131_072): 5,
    Shape("30B-A3B", 30.5e9, 3.3e9, 151_936): 40,
    Shape("47B-A13B", 46.7e9, 12.9e9, 32_000): 15,
    Shape("109B-A17B", 109e9, 17e9, 202_048): 10,
    Shape("120B-A5B", 117e9, 5.1e9, 201_088): 10,
}


@dataclass(frozen=True)
class Planned:
    made: plan.Plan
    shapes: dict[str, Shape]
    """By the model's source."""
    stored: dict[Shape, int]
    """Bytes that a model of each shape adds to an empty store, as the pipeline reckons them."""


def planned(count: int) -> Planned:
    """Have so many models planned as the command `plan` does, the Hub's answers given."""
    shapes = random.Random(SEED).choices(list(SHAPES), list(SHAPES.values()), k=count)
    text = MATRIX + "".join(f"  - source: some-organization/a-model-of-theirs-{n}\n" for n in range(count))
    asked = matrix.parse(text.encode(), "matrix.yml", Path("/nowhere"))
    selections = plan.select(asked)
    toolchain = run.toolchain_of(asked, cuda=False)
    works = [job.Steps(s.model, looked(s.model.source, h), toolchain) for s, h in zip(selections, shapes, strict=True)]
    with tempfile.TemporaryDirectory(prefix="llm-quantizer-") as room:
        nothing_released = SimpleNamespace(last=lambda _repo: None)
        shop = run.Workshop(Store(Path(room) / "store", Display(io.StringIO())), Path(room), nothing_released)
        made = plan.plan(selections, run.states(shop, works))
    steps = dict(zip(shapes, works, strict=True))
    stored = {shape: _stored(works, shape) for shape, works in steps.items()}
    return Planned(made, {work.source.id: shape for work, shape in zip(works, shapes, strict=True)}, stored)


def _stored(steps: job.Steps, shape: Shape) -> int:
    """Bytes of a model in the store, with the tensors of each type: as many as a quant of mostly that type has."""
    tensors = {QUANT_TYPES[quant].tensor_type: shape.size(quant) for quant in QUANTS}
    return disk.peak(steps, shape.reference + sum(tensors.values()), [shape.size(quant) for quant in QUANTS])


def looked(source: str, shape: Shape) -> Source:
    """What the Hub would say of a model, without asking it."""
    names = tuple(f"model-{n:05}-of-{shape.shards:05}.safetensors" for n in range(1, shape.shards + 1))
    files = tuple(FileEntry(name=name, size=shape.reference // shape.shards, sha256="c" * 64) for name in names)
    config = {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16", "vocab_size": shape.vocabulary}
    contents = {file.name: file.sha256 for file in files}
    return Source(source, "a" * 40, None, files, names, config, "# A card", contents, "no")
