"""Where the blocks of each ggml type have their scales, and how large a weight a scale can make.

Source: the block structs in ggml/src/ggml-common.h and `dequantize_row_*` in ggml/src/ggml-quants.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    Bytes = np.ndarray[Any, np.dtype[np.uint8]]
    Array = np.ndarray[Any, np.dtype[Any]]

Coding = Literal["f16", "e8m0", "ue4m3", "iq1_m"]
# Magnitudes from here on are no finite numbers: exactly this one is an infinity, to ggml, and what is above it is no
# number at all. ggml takes every byte of ue4m3 as a number.
_INFINITE: Final[Mapping[Coding, int]] = {"f16": 0x7C00, "iq1_m": 0x7C00, "e8m0": 0xFF, "ue4m3": 0x80}
# The smallest scale above zero.
_SMALLEST: Final[Mapping[Coding, float]] = {"f16": 2**-24, "iq1_m": 2**-24, "e8m0": 2**-127, "ue4m3": 2**-9}


class Scale(NamedTuple):
    """One scale of a block: it begins at byte `offset`, and the largest weight that it can make is `level` times it."""

    offset: int
    level: float
    name: str = "scale"
    coding: Coding = "f16"

    @property
    def infinite(self) -> int:
        return _INFINITE[self.coding]

    @property
    def smallest(self) -> float:
        return _SMALLEST[self.coding]

    def magnitudes(self, blocks: Bytes) -> Array:
        """Return the scale of each block (a row of bytes) without its sign, as an integer that sorts alike."""
        if self.coding == "e8m0":
            return blocks[:, self.offset]
        if self.coding == "ue4m3":
            return np.bitwise_and(blocks[:, self.offset], np.uint8(0x7F))
        if self.coding == "iq1_m":
            # The upper four bits of four words, of which the last has the highest.
            words = blocks[:, self.offset : self.offset + 8].view("<u2") >> np.uint16(12)
            bits: Array = (words << np.array([0, 4, 8, 12], "<u2")).sum(axis=1, dtype="<u2")
        else:
            bits = blocks[:, self.offset : self.offset + 2].view("<u2")[:, 0]
        return np.bitwise_and(bits, np.uint16(0x7FFF))

    def value(self, magnitude: int) -> float:
        """Return the number that a magnitude stands for."""
        if self.coding == "e8m0":
            return float(2.0 ** (magnitude - 127)) if magnitude else 0.0
        if self.coding == "ue4m3":
            exponent, mantissa = magnitude >> 3, magnitude & 7
            return float(2.0 ** (exponent - 7) * (1 + mantissa / 8)) if exponent else mantissa * 2.0**-9
        return float(np.array(magnitude, "<u2").view("<f2"))


def _minimum(offset: int, level: float) -> Scale:
    return Scale(offset, level, "minimum")


FORMATS: Final[Mapping[str, tuple[Scale, ...]]] = {
    "Q1_0": (Scale(0, 1),),
    "Q2_0": (Scale(0, 2),),
    "Q4_0": (Scale(0, 8),),
    "Q4_1": (Scale(0, 15), _minimum(2, 1)),
    "Q5_0": (Scale(0, 16),),
    "Q5_1": (Scale(0, 31), _minimum(2, 1)),
    "Q8_0": (Scale(0, 127),),
    "MXFP4": (Scale(0, 6, coding="e8m0"),),
    "NVFP4": tuple(Scale(offset, 6, coding="ue4m3") for offset in range(4)),
    "Q2_K": (Scale(80, 15 * 3), _minimum(82, 15)),
    "Q3_K": (Scale(108, 32 * 4),),
    "Q4_K": (Scale(0, 63 * 15), _minimum(2, 63)),
    "Q5_K": (Scale(0, 63 * 31), _minimum(2, 63)),
    "Q6_K": (Scale(208, 128 * 32),),
    "TQ1_0": (Scale(52, 1),),
    "TQ2_0": (Scale(64, 1),),
    "IQ1_S": (Scale(0, 15 * 1.125),),
    "IQ1_M": (Scale(48, 15 * 1.125, coding="iq1_m"),),
    "IQ2_XXS": (Scale(0, 15.5 / 4 * 43),),
    "IQ2_XS": (Scale(0, 15.5 / 4 * 43),),
    "IQ2_S": (Scale(0, 15.5 / 4 * 43),),
    "IQ3_XXS": (Scale(0, 15.5 / 2 * 62),),
    "IQ3_S": (Scale(0, 31 * 15),),
    "IQ4_NL": (Scale(0, 127),),
    "IQ4_XS": (Scale(0, 32 * 127),),
}
"""Every type of blocks that llama-quantize writes."""

FLOATS: Final[Mapping[str, tuple[str, int]]] = {
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F32": ("<u4", 0x7F80_0000),
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
}
"""Type to the integer of its size, and the infinity among them."""


def weights(raw: Bytes, type_: str) -> Array:
    """Return F16, BF16 or F32 as float32."""
    floats: Array
    if type_ == "BF16":
        floats = np.left_shift(raw.view("<u2"), 16, dtype="<u4").view("<f4")
    else:
        floats = raw.view("<f2" if type_ == "F16" else "<f4").astype("<f4", copy=False)
    return floats
