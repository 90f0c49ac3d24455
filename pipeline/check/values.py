"""Are the quant's weights the reference's, but for the error that their type leaves. Judged on rows of every tensor.

The error is counted in units of the peaks: the root of the mean square of `quant - reference`, over that of the
largest magnitude in each 16 weights of the reference. ggml's blocks are scaled to their peaks, so in these units the
error of a type hardly depends on how the weights are distributed: over Gaussian, uniform, heavy-tailed, half pruned
and outlier-ridden rows and SmolLM2's own, with and without an imatrix, it stays within 1.7 times its median.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pipeline.check import sample
from pipeline.check.verdict import failed, passed, skipped, warned
from pipeline.ggml import can_dequantize, map_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from pipeline.gguf_file import GGUFFile, Tensor
    from pipeline.result import Verdict

CHECK = "values"
PEAK = 16
# The largest error seen for each type in those trials, in units of the peaks (F16 and BF16: from rounding).
LARGEST = {
    "F32": 0.001, "F16": 0.001, "BF16": 0.001, "Q8_0": 0.0031, "Q6_K": 0.0149, "Q5_K": 0.0198, "Q5_1": 0.0221,
    "Q5_0": 0.0286, "Q4_K": 0.0412, "IQ4_XS": 0.0424, "IQ4_NL": 0.0432, "Q4_1": 0.0431, "Q4_0": 0.0492,
    "NVFP4": 0.0624, "Q3_K": 0.0841, "MXFP4": 0.0883, "IQ3_S": 0.1066, "IQ3_XXS": 0.141, "Q2_K": 0.164,
    "IQ2_S": 0.1688, "IQ2_XS": 0.2188, "IQ2_XXS": 0.2677, "IQ1_S": 0.3033, "IQ1_M": 0.3171, "TQ1_0": 0.3815,
    "TQ2_0": 0.3815,
}  # fmt: skip
SUSPECT, WRONG = 1.35, 2.0
"""How many times the largest error is worth a warning, and how many a fail."""
# Below this cosine two sets of weights have nothing to do with each other; IQ1_S and TQ1_0 stay above 0.5.
UNRELATED = 0.3
WEIGHTS, FEWEST = 1 << 15, 16
SHOWN, SEARCHED = 3, 12
AGAIN = "Quantize again from this reference, with the llama.cpp that matrix.yml pins."
FROM_REFERENCE = "Quantize from the unquantized reference: quantizing twice adds up the errors of both."
OTHER = "This file is made from another model or revision. Quantize this model's reference."


@dataclass
class _Look:
    """The sampled rows of one tensor, as sums over each row."""

    tensor: str
    type: str
    rows: NDArray[np.int64]
    length: int
    expert: NDArray[np.int64]
    error: NDArray[np.float64]
    peaks: NDArray[np.float64]
    both: NDArray[np.float64]
    ours: NDArray[np.float64]
    theirs: NDArray[np.float64]

    def part(self, chosen: NDArray[np.bool_]) -> tuple[float, float]:
        """Return error in peaks and cosine, over some of the rows; 0 and 1 where both are zero."""
        peaks, norms = float(self.peaks[chosen].sum()), float(self.ours[chosen].sum() * self.theirs[chosen].sum())
        error = float(self.error[chosen].sum())
        if not np.isfinite(error):
            return float("inf"), 0.0
        if not peaks:
            return (float("inf"), 0.0) if error else (0.0, 1.0)
        return (error / peaks) ** 0.5, float(self.both[chosen].sum()) / norms**0.5 if norms else 0.0


def compare(quant: GGUFFile, reference: GGUFFile, *, threads: int = 2, weights: int = WEIGHTS) -> list[Verdict]:
    """Compare rows of every tensor, about `weights` numbers of each and some of every expert."""
    ours, theirs = map_file(quant), map_file(reference)
    names = [name for name, tensor in quant.tensors.items() if _comparable(tensor, reference.tensors.get(name))]
    if not names:
        return [skipped(CHECK, "no tensor has the name and shape of one of the reference's")]

    def look(name: str) -> tuple[_Look, str, float]:
        rows = sample.row_numbers(quant.tensors[name], weights, FEWEST)
        seen = _look(quant, ours, name, reference, theirs, name, rows)
        return seen, *_fault(seen)

    with ThreadPoolExecutor(threads) as pool:
        looked = list(pool.map(look, names))
    wrong = [(seen, fault) for seen, fault, _ in looked if fault]
    if wrong:
        unrelated = sum(fault == OTHER_VALUES for _, fault in wrong)
        if unrelated * 2 > len(names):
            seen = f"{unrelated} of {len(names)} tensors have nothing in common with the reference's"
            return [failed(CHECK, f"{seen}, {sample.label(wrong[0][0].tensor)} among them", OTHER)]
        search = partial(_explain, quant, ours, reference, theirs, names)
        shown = [search(seen, fault) if at < SEARCHED else fault for at, (seen, fault) in enumerate(wrong)]
        return [_verdict([seen.tensor for seen, _ in wrong], shown)]
    rest = [name for name in quant.tensors if name not in set(names)]
    suspects = [(seen, times) for seen, _, times in looked if times > SUSPECT]
    if suspects:
        first, times = max(suspects, key=lambda pair: pair[1])
        seen = f"{len(suspects)} of {len(names)} tensors differ more from the reference than {first.type} is known to"
        return [warned(CHECK, f"{seen}: {sample.label(first.tensor)} {times:.1f} times as much", FROM_REFERENCE)]
    count = sum(seen.rows.size for seen, _, _ in looked)
    left = f"; {len(rest)} tensors are not compared ({sample.label(rest[0])} for one)" if rest else ""
    return [passed(CHECK, f"{count} rows of {len(names)} tensors are the reference's, within their types' error{left}")]


OTHER_VALUES = "holds other values than the reference's"


def _comparable(ours: Tensor, theirs: Tensor | None) -> bool:
    if theirs is None or theirs.shape != ours.shape or not ours.parameters:
        return False
    return can_dequantize(ours.type) and can_dequantize(theirs.type) and ours.type in LARGEST


def _look(
    quant: GGUFFile,
    ours: NDArray[np.uint8],
    name: str,
    reference: GGUFFile,
    theirs: NDArray[np.uint8],
    other: str,
    rows: NDArray[np.int64],
) -> _Look:
    """Hold rows of the quant's tensor `name` against the same rows of the reference's tensor `other`."""
    tensor, against = quant.tensors[name], reference.tensors[other]
    sums = []
    for batch in sample.batches(rows):
        made = sample.take(quant, ours, tensor, batch)
        meant = sample.take(reference, theirs, against, batch)
        sums.append(_sums(made, meant))
    each = tensor.parameters // tensor.shape[0] // sample.experts(tensor)
    return _Look(name, tensor.type, rows, tensor.shape[0], rows // each, *np.concatenate(sums, axis=1))


def _sums(made: NDArray[np.float32], meant: NDArray[np.float32]) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):
        difference = made - meant
        whole = meant.shape[1] // PEAK * PEAK
        blocks = np.abs(meant[:, :whole]).reshape(meant.shape[0], -1, PEAK).max(2) if whole else np.abs(meant)
        pairs = ((difference, difference), (blocks, blocks), (made, meant), (made, made), (meant, meant))
        sums = [np.einsum("ij,ij->i", one, two, dtype=np.float64) for one, two in pairs]
    sums[1] = sums[1] * (meant.shape[1] / blocks.shape[1])
    return np.stack(sums)


def _fault(seen: _Look) -> tuple[str, float]:
    """Return what is wrong with the rows, and their error as a multiple of the type's largest."""
    every = np.ones(seen.rows.size, bool)
    error, cosine = seen.part(every)
    times = error / LARGEST[seen.type]
    if not seen.ours.any() and seen.theirs.any():
        return "is all zero, and the reference's is not", times
    if not np.isfinite(seen.ours).all():
        return "holds NaN or Inf", times
    with np.errstate(all="ignore"):
        like = seen.both / np.sqrt(seen.ours * seen.theirs)
    loud = seen.theirs > 0.01 * seen.theirs.mean()  # quieter rows may vanish behind the scales of a type
    odd = seen.rows[loud & ~(like > UNRELATED - 0.1)]
    # A few rows of large numbers outweigh all others: then it is they that are wrong, and not the tensor.
    if cosine < UNRELATED and 2 * odd.size > int(loud.sum()):
        return OTHER_VALUES, times
    if last := int(seen.expert[-1]):
        parts = {number: seen.part(seen.expert == number) for number in range(last + 1)}
        limit = 2 * WRONG * LARGEST[seen.type]  # few rows each: twice as wide
        bad = [number for number, (off, like) in parts.items() if like < UNRELATED or off > limit]
        if bad and len(bad) <= last:
            listed = ", ".join(map(str, bad[:8])) + (" …" if len(bad) > 8 else "")
            return f"{OTHER_VALUES} in {len(bad)} of {last + 1} experts: {listed}", times
    if odd.size:
        return f"{OTHER_VALUES} in {odd.size} of {seen.rows.size} rows: row {odd[0]} for one", times
    if times > WRONG:
        return _describe(seen, error, cosine), times
    return "", times


def _describe(seen: _Look, error: float, cosine: float) -> str:
    """Name an error that is too large where the values have something in common."""
    factor = float(seen.both.sum() / seen.theirs.sum())
    left = float(seen.error.sum()) - (factor - 1) ** 2 * float(seen.theirs.sum())
    scaled = (max(left, 0.0) / float(seen.peaks.sum())) ** 0.5
    if abs(factor - 1) > 0.1 and scaled < WRONG * LARGEST[seen.type] * abs(factor) and cosine > 0.5:
        return f"holds {factor:.3g} times the reference's values"
    alike = min(LARGEST, key=lambda type_: abs(np.log(LARGEST[type_] / 1.2 / error)))
    relative = 100 * (float(seen.error.sum()) / float(seen.theirs.sum())) ** 0.5
    return (
        f"differs from the reference by {relative:.2g} % (RMS), {error / LARGEST[seen.type]:.1f} times the most that"
        f" {seen.type} leaves and about what {alike} leaves: was it made from a quantized file, or from another"
        " revision?"
    )


def _explain(
    quant: GGUFFile,
    ours: NDArray[np.uint8],
    reference: GGUFFile,
    theirs: NDArray[np.uint8],
    names: list[str],
    seen: _Look,
    fault: str,
) -> str:
    """Say where the values of a tensor come from, if it is somewhere in the reference."""
    if fault != OTHER_VALUES:
        return fault
    tensor = quant.tensors[seen.tensor]
    limit = WRONG * LARGEST[tensor.type]
    rows = seen.rows[:: max(1, seen.rows.size // 8)]
    for other in names:
        if other != seen.tensor and reference.tensors[other].shape == tensor.shape:
            error, cosine = _whole(_look(quant, ours, seen.tensor, reference, theirs, other, rows))
            if cosine > UNRELATED and error < limit:
                return f"holds the weights of {sample.label(other)}"
    made = sample.take(quant, ours, tensor, rows[:4])
    if found := _elsewhere(made, rows[:4], reference, theirs, reference.tensors[seen.tensor]):
        return found
    return fault


def _whole(seen: _Look) -> tuple[float, float]:
    return seen.part(np.ones(seen.rows.size, bool))


def _elsewhere(
    made: NDArray[np.float32], rows: NDArray[np.int64], reference: GGUFFile, theirs: NDArray[np.uint8], tensor: Tensor
) -> str:
    """Look for some rows among all rows of the reference's tensor, and among its columns where it is square."""
    norms = np.linalg.norm(made, axis=1)
    best, where = np.full(rows.size, -1.0), np.zeros(rows.size, np.int64)
    square = tensor.shape[:1] == tensor.shape[1:] and tensor.shape[0] <= 8192
    turned = np.zeros((rows.size, tensor.shape[0]), np.float32)
    for batch in _all_rows(tensor):
        meant = sample.take(reference, theirs, tensor, batch)
        with np.errstate(all="ignore"):
            like = np.nan_to_num(made @ meant.T / (norms[:, None] * np.linalg.norm(meant, axis=1)))
        top = like.argmax(1)
        better = like[np.arange(rows.size), top] > best
        where[better] = batch[top[better]]
        best = np.maximum(best, like.max(1))
        if square:
            turned[:, batch] = meant[:, rows].T
    if square and float((made * turned).sum()) > 0.5 * float(np.linalg.norm(made) * np.linalg.norm(turned)):
        return "is the reference's, transposed"
    if (best > 0.5).all():
        return f"holds the reference's rows in another order: row {rows[-1]} is the reference's row {where[-1]}"
    return ""


def _all_rows(tensor: Tensor) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of a tensor, of a very large one only the first."""
    count = min(tensor.parameters // tensor.shape[0], (1 << 28) // tensor.shape[0])
    step = max(1, (1 << 20) // tensor.shape[0])
    for first in range(0, count, step):
        yield np.arange(first, min(first + step, count))


def _verdict(names: list[str], faults: list[str]) -> Verdict:
    shown = "; ".join(f"{sample.label(name)} {fault}" for name, fault in zip(names[:SHOWN], faults, strict=False))
    more = f"; and {len(names) - SHOWN} more tensors" if len(names) > SHOWN else ""
    twice = all("quantized file" in fault for fault in faults)
    return failed(CHECK, shown + more, FROM_REFERENCE if twice else AGAIN)
