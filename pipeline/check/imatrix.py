"""Is the imatrix whole, finite, and one of this model, measured on this text.

What is known to go wrong: sums that are no numbers (llama.cpp#7816), experts that the text never reached
(llama.cpp#9899), tensors that were left out (llama.cpp#14979), and a file of another model under this one's name.

An imatrix of another model with the same names and shapes, a finetune of the same base say, cannot be told from its
numbers: the pipeline binds it by making it a step whose digest holds the reference's and the text's.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from pipeline import imatrix as imatrix_file
from pipeline.check.verdict import failed, passed, warned
from pipeline.errors import ToolchainError
from pipeline.matrix.located import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.gguf_file import GGUFFile, Tensor
    from pipeline.imatrix import ImatrixFile
    from pipeline.result import Verdict

CHECK: Final = "imatrix"
AGAIN: Final = "Delete this imatrix from the store and run again, so that it is measured anew."
ANOTHER: Final = "Measure an imatrix on this very reference."
LONGER: Final = "Use a longer or more varied calibration text."
MISSING: Final = 0.2
"""Share of the tensors that may be without an entry. Layers that only draft tokens are not run, nor are the keys and
values of layers that share another's: a few per cent of a healthy model's tensors."""
UNSEEN: Final = 0.25
"""Share of all experts that may have seen nothing."""
NOT_FINITE: Final = "numbers that are not finite"
NEGATIVE: Final = "negative sums of squares"
ZERO: Final = "no input but zeros"
CONSTANT: Final = "one number over and over, which says nothing"
_FAULTS: Final = {NOT_FINITE: AGAIN, NEGATIVE: AGAIN, ZERO: LONGER, CONSTANT: AGAIN}
# Tensors that llama-quantize does not quantize (src/llama-quant.cpp, tensor_allows_quantization), and small ones that
# are not multiplied as matrices.
_LEFT = (
    "_norm.weight",
    "ffn_gate_inp",
    "ffn_gate_tid2eid",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv",
    "indexer",
    "time_mix_",
    "channel_mix_lerp",
    "attn_rel_b",
    "hc_",
    "nextn",
)


def wants(tensor: Tensor) -> bool:
    """Whether llama-imatrix measures the tensor's inputs and llama-quantize asks for them.

    The matrices of the layers; never the embedding, and the output only where it is asked to.
    """
    name = tensor.name
    matrix = sum(size > 1 for size in tensor.shape[1:]) in (1, 2)
    return matrix and name.startswith("blk.") and name.endswith(".weight") and not any(part in name for part in _LEFT)


def verdicts(imatrix: Path, reference: GGUFFile, *, text: str | None, chunks: int | None) -> list[Verdict]:
    """Judge an imatrix, in GGUF or in the older format, by itself and against the reference.

    `text`: the file name of the calibration text, and `chunks`: how many of it were to be used; None where nobody
    knows. Memory is bounded by the largest tensor's entry.
    """
    try:
        file = imatrix_file.read(imatrix)
        found = _names(file, reference)
        if not any(verdict.outcome == "fail" for verdict in found):
            found += [*_origin(file, text, chunks), *_values(file, reference)]
    except (ToolchainError, OSError, ValueError, MemoryError) as error:
        return [failed(CHECK, shown(error, 300).rstrip("."), AGAIN)]
    if found:
        return found
    seen = f"{len(file.entries)} tensors covered, all finite"
    origin = f", {file.chunks} chunks of {_quoted(file.datasets)}" if file.datasets else ""
    return [passed(CHECK, seen + origin)]


def _origin(file: ImatrixFile, text: str | None, chunks: int | None) -> list[Verdict]:
    found = []
    if file.datasets and text is not None:
        names = [PurePath(dataset).name for dataset in file.datasets]
        if text not in names:
            seen = f"it was measured on {_quoted(file.datasets)}, not on {text!r}"
            found.append(failed(CHECK, seen, "Measure an imatrix on the calibration text of this model."))
        elif len(names) > 1:
            seen = f"it was merged of {len(names)} texts: {_quoted(file.datasets)}"
            found.append(warned(CHECK, seen, "Say on the card that other texts are in it."))
    if chunks and file.chunks:
        there = _chunks(file)
        if there < chunks - (not file.chunk_size):
            found.append(failed(CHECK, f"it holds {there} of {chunks} chunks of the text", AGAIN))
        elif there > chunks:
            seen = f"it holds {there} chunks, where {chunks} were asked for"
            found.append(warned(CHECK, seen, "Check that it is the one that was measured for this model."))
    return found


def _chunks(file: ImatrixFile) -> int:
    """Return how many chunks were measured; in the older format one less than that for some.

    llama-imatrix passes over batches of fewer than 16 tokens, as three chunks at once leave one, and rounds the number
    that it writes down.
    """
    if not file.chunk_size:
        return file.chunks
    most = max(float(np.nan_to_num(file.counts(name)).max(initial=0)) for name in file.entries)
    counted = round(most / file.chunk_size)
    return counted if file.chunks >= counted - 1 else file.chunks


def _names(file: ImatrixFile, reference: GGUFFile) -> list[Verdict]:
    """Hold names and sizes against the reference's."""
    # A matrix that is used through a view of it has the kind of view after its name, in brackets.
    foreign = [name for name in file.entries if " (" not in name and name not in reference.tensors]
    if foreign:
        seen = f"{len(foreign)} of {len(file.entries)} entries are for tensors that this model does not have"
        return [failed(CHECK, f"{seen}, {_quoted(foreign)}: it was made from another model", ANOTHER)]
    for name, entry in file.entries.items():
        tensor = reference.tensors.get(name)
        # As llama-quantize wants it: a row for each matrix of the tensor.
        wanted = tensor.shape[0] * (tensor.shape[2] if len(tensor.shape) > 2 else 1) if tensor else entry.values
        if tensor and entry.values != wanted:
            seen = f"the entry of {name} has {entry.values} numbers and the tensor's rows want {wanted}"
            return [failed(CHECK, f"{seen}: it was made from another model", ANOTHER)]
    wanting = [name for name, tensor in reference.tensors.items() if wants(tensor)]
    missing = [name for name in wanting if name not in file.entries]
    if not missing:
        return []
    seen = f"{len(missing)} of {len(wanting)} tensors have no entry: {_listed(missing)}"
    if len(missing) > MISSING * len(wanting):
        return [failed(CHECK, f"it is not whole: {seen}", AGAIN)]
    return [warned(CHECK, seen, "They are quantized without one; see that the model runs them at all.")]


class _Entry(NamedTuple):
    """What was seen of one tensor's numbers."""

    label: str
    fault: str
    """The first thing that is wrong with all of them; empty for none."""
    experts: int
    """How many it has; 0 for a tensor that every input goes through."""
    unseen: int


def _values(file: ImatrixFile, reference: GGUFFile) -> list[Verdict]:
    """Look at every number once, and say for each kind of fault where it is."""
    seen = [_look(file, reference.tensors[name]) for name in file.entries if name in reference.tensors]
    found = []
    for fault, advice in _FAULTS.items():
        if labels := [entry.label for entry in seen if entry.fault == fault]:
            # One constant is odd, and all of them say nothing.
            verdict = warned if fault == CONSTANT and len(labels) < len(seen) else failed
            found.append(
                verdict(CHECK, f"{len(labels)} of {len(seen)} entries hold {fault}: {_listed(labels)}", advice)
            )
    unseen = sorted((entry for entry in seen if entry.unseen), key=lambda entry: -entry.unseen)
    if unseen:
        share = sum(entry.unseen for entry in unseen) / sum(entry.experts for entry in seen)
        where = _listed([f"{entry.unseen} of {entry.experts} in {entry.label}" for entry in unseen])
        verdict = failed if share > UNSEEN else warned
        found.append(verdict(CHECK, f"{share:.1%} of the experts were never reached by the text: {where}", LONGER))
    return found


def _look(file: ImatrixFile, tensor: Tensor) -> _Entry:
    sums, counts = file.numbers(tensor.name)
    if not (np.isfinite(sums).all() and np.isfinite(counts).all()):
        nan, inf = (sum(int(odd(part).sum()) for part in (sums, counts)) for odd in (np.isnan, np.isinf))
        kinds = " and ".join(f"{n} {kind}" for n, kind in ((nan, "NaN"), (inf, "Inf")) if n)
        return _Entry(f"{tensor.name} ({kinds})", NOT_FINITE, 0, 0)
    rows = sums.reshape(-1, tensor.shape[0])
    empty = (rows == counts[0]).all(axis=1) if file.legacy else counts <= 0
    fault = ""
    if (sums < 0).any() or (counts < 0).any():
        fault = NEGATIVE
    elif empty.all() or not sums.any():
        fault = ZERO
    elif not empty.any() and rows.shape[1] > 1 and (rows == rows[:, :1]).all():
        fault = CONSTANT
    experts = len(empty) if len(empty) > 1 else 0
    return _Entry(tensor.name, fault, experts, 0 if fault else int(empty.sum()))


def _listed(names: Sequence[str]) -> str:
    """The first few."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _quoted(names: Sequence[str]) -> str:
    """The first few of names that a file gave."""
    return _listed([repr(name[:80]) for name in names[:3]] + list(names[3:]))
