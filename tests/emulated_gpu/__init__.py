"""A GPU that is emulated by the C++ compiler: `nvcc` and `nvidia-smi` for it, to be found before others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.kernels import build, proof
from pipeline.toolchain import Toolchain

ROOM = Path(__file__).parent
SPARED = 2 << 30
"""Bytes of a GPU's memory that are left to others (gpu.cu)."""


@dataclass(frozen=True)
class WithGpu(Toolchain):
    """The machine's toolchain, under its own name, that says it was built for a GPU."""

    def inputs(self):
        return super().inputs() | {"cuda": False}


def plug_in(monkeypatch):
    """Let this machine have the GPU."""
    monkeypatch.setenv("PATH", f"{ROOM}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDACXX", raising=False)
    # It is no faster than the processor that emulates it, and gets less to do.
    monkeypatch.setattr(proof, "SLOW", proof.SAME)
    monkeypatch.setattr(build, "GPU", build.GPU._replace(piece=1 << 16))
