"""`python -m tests.fuzz.kernels`: the proof of each kernel, with other random numbers, as many rounds as wanted.

A round is what a machine does once before it uses a kernel. What differs is said with the seed that shows it again.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from pipeline.ggml import LIBRARY
from pipeline.kernels import build, proof
from pipeline.toolchain import tools
from tests.machine import opened, pinned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", nargs="+", metavar="TYPE", default=build.types(), choices=build.types())
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    if (compiler := build.compiler()) is None:
        sys.exit("There is no C compiler.")
    toolchain, wrong = pinned(), 0
    with opened(toolchain) as store, tempfile.TemporaryDirectory(prefix="llm-quantizer-") as scratch:
        ggml = tools(store, toolchain).path(LIBRARY)
        library = build.build(Path(scratch), compiler.command)
        for name in options.types:
            began = time.monotonic()
            room, rounds, seed = Path(scratch), options.rounds, options.seed
            verdict = proof.compared(ggml, library, [name], room, rounds=rounds, seed=seed)[name]
            print(f"{name}: {verdict}, {options.rounds} rounds in {time.monotonic() - began:.0f} s", flush=True)
            wrong += verdict not in (proof.SAME, proof.SLOW)
    print(f"--seed {options.seed}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
