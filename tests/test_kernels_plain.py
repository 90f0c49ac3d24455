"""What is particular to the kernels of types without a search: scales next to powers of two, weights between levels."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from pipeline.ggml import LIBRARY, NUMBERS
from pipeline.gguf_file import SIZES
from pipeline.kernels import proof, prove
from pipeline.toolchain import tools

pytestmark = pytest.mark.real
FP4 = ("MXFP4", "NVFP4")
TERNARY = ("Q2_0", "TQ1_0", "TQ2_0")
MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
"""Of a float of four bits."""


@pytest.fixture(scope="module")
def pairs(machine_store, toolchain):
    ours = proof.proven(machine_store, toolchain, [*FP4, *TERNARY]).library
    loaded = ctypes.CDLL(str(tools(machine_store, toolchain).path(LIBRARY))), ctypes.CDLL(str(ours))
    return {name: prove.Pair(*loaded, prove.Type(name, NUMBERS[name], *SIZES[name])) for name in (*FP4, *TERNARY)}


def blocks(peaks, others, length):
    """Blocks of `length` weights, a row each: a peak, that the scale follows from, and some of the others by turns."""
    peaks = np.asarray(peaks, np.float32)
    rows = np.resize(np.asarray(others, np.float32), (len(peaks), length))
    rows[:, 3] = peaks
    return np.ascontiguousarray(rows)


@pytest.mark.parametrize("name", FP4)
def test_scales_next_to_powers_of_two(pairs, name):
    """Of all exponents: log2f rounds up to the next whole number, or not, by the last bits."""
    powers = np.ldexp(1.0, np.arange(-149, 128)).astype(np.float32).view(np.uint32)
    peaks = (powers[:, None] + np.arange(-128, 128)).astype(np.uint32).reshape(-1).view(np.float32)
    assert pairs[name].different(blocks(peaks[(peaks > 0) & np.isfinite(peaks)], [0.0], 64), None) == 0


def test_scales_of_eight_bits(pairs):
    """Around every number that they have, and above the largest of them."""
    steps = np.arange(1 << 12, dtype=np.float64)
    peaks = 6 * np.concatenate([(1 + steps % 256 / 256) * 2.0 ** (steps // 256 - 6), steps / 2**17])
    peaks = peaks.astype(np.float32)
    near = np.concatenate([np.nextafter(peaks, np.float32(0)), peaks, np.nextafter(peaks, np.float32(np.inf))])
    assert pairs["NVFP4"].different(blocks(near, [0.0, 0.3, -0.2, 1e-3], 64), None) == 0


@pytest.mark.parametrize("name", FP4)
def test_weights_between_two_floats(pairs, name):
    middle = ((MAGNITUDES[1:] + MAGNITUDES[:-1]) / 2).astype(np.float32)
    near = [np.nextafter(middle, np.float32(0)), middle, np.nextafter(middle, np.float32(9)), MAGNITUDES]
    others = np.concatenate([*near, *(-n for n in near)])
    for scale in np.ldexp(1.0, np.arange(-9, 9)):
        values = blocks(np.repeat(6 * scale, 31), others * scale, 64)  # 31 rows, so that each stands in all places
        assert pairs[name].different(values, None) == 0


@pytest.mark.parametrize("name", TERNARY)
def test_weights_between_two_levels(pairs, name):
    for peak in (1.0, 0.7, 3e-39, 2.9e-39, 1e-45, 3e38):  # of some the inverse overflows, of one it is subnormal
        half = np.float32(peak / 2)
        others = [half, np.nextafter(half, np.float32(0)), np.nextafter(half, np.float32(np.inf)), peak, 0.0]
        values = blocks([peak, -peak, peak], [*others, *(-np.array(others))], 256)
        assert pairs[name].different(values, None) == 0
