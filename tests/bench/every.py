"""`python -m tests.bench.every`: whether every quant type has llama-quantize's bytes, on models of many shapes.

Each with an imatrix and without; what llama-quantize refuses to make without one, the engine has to refuse, too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

from pipeline.artifact import file_sha256
from pipeline.convert import REFERENCE
from pipeline.errors import PipelineError
from pipeline.quantize import QUANT, Quant
from pipeline.recipe import QUANT_TYPES
from pipeline.result import Recipe
from pipeline.toolchain import tools
from tests.bench import inputs
from tests.bench.inputs import IMATRIX, Shape
from tests.bench.ladder import scratch_store
from tests.given import Given
from tests.machine import opened, pinned

EQUAL, REFUSED, DIFFERENT = "equal", "both refuse", "different"
MODELS = {
    "rows of 256 and 14336": partial(inputs.random, shape=Shape(1, 256, 14336, 512)),
    "rows of 576 and 1536": partial(inputs.random, shape=Shape(2, 576, 1536, 512)),
    "rows of 1024": partial(inputs.random, shape=Shape(1, 1024, 1024, 512)),
    "4 experts, one unseen": partial(inputs.random, shape=Shape(1, 512, 1024, 512, 4)),
    "SmolLM2-135M": inputs.smollm2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=[*MODELS], choices=[*MODELS], metavar="MODEL")
    parser.add_argument("--types", nargs="+", default=[*QUANT_TYPES], choices=[*QUANT_TYPES], metavar="TYPE")
    options = parser.parse_args()
    wrong = []
    print(f"{'':24} {'imatrix':7}  {'equal':>5}  {'both refuse':>11}  different")
    for model in options.models:
        with tempfile.TemporaryDirectory(prefix="llm-quantizer-") as scratch:
            MODELS[model](Path(scratch))
            for imatrix in (True, False):
                found = compare(Path(scratch), options.types, imatrix=imatrix)
                counts = Counter(found.values())
                different = [name for name, outcome in found.items() if outcome == DIFFERENT]
                said = f"{counts[EQUAL]:5}  {counts[REFUSED]:11}  {', '.join(different) or 0}"
                print(f"{model:24} {'with' if imatrix else 'without':7}  {said}", flush=True)
                wrong += different
    sys.exit(bool(wrong))


def compare(root: Path, types: list[str], *, imatrix: bool) -> dict[str, str]:
    """Return what came of each type. Theirs runs where the files lie: the name of an imatrix is in the quant."""
    outcomes = {}
    given = [Given(root / name, name, pinned()) for name in (REFERENCE, IMATRIX)]
    with opened(pinned()) as shared, scratch_store(root, shared) as store:
        llama = tools(shared, pinned())
        for name in types:
            options = ["--imatrix", IMATRIX] if imatrix else []
            command = [llama.path("llama-quantize"), *options, REFERENCE, "theirs.gguf", name, str(llama.threads)]
            refused = subprocess.run(command, check=False, cwd=root, capture_output=True).returncode != 0
            try:
                ours = store.get(Quant(*given, Recipe(name=name, base=name, imatrix=imatrix))).files[QUANT].sha256
            except PipelineError:
                outcomes[name] = REFUSED if refused else DIFFERENT
            else:
                outcomes[name] = EQUAL if not refused and ours == file_sha256(root / "theirs.gguf") else DIFFERENT
    return outcomes


if __name__ == "__main__":
    main()
