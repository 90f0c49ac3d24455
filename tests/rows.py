"""Rows that tests give to ggml's quantizers."""

from __future__ import annotations

import numpy as np

from pipeline.kernels.prove import ABORTING


def tamed(name, values, importance):
    """The rows, without numbers whose products overflow where ggml then ends the process; `prove` leaves these out too.

    A weight of these types is importance * |x| or x * x, and is taken times x * x.
    """
    if not name.startswith(ABORTING):
        return values
    largest = 3e7 if importance is None else min(3e7, np.cbrt(1e30 / max(1.0, float(importance.max()))))
    return values.clip(-largest, largest).astype(np.float32)
