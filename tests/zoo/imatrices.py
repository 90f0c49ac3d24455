"""Imatrices with which a model is quantized worse than without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline import gguf_file
from pipeline.check import imatrix
from zoo.draft import Draft
from zoo.quants import llama_quantize
from zoo.specimen import Subject, broken

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.kit import Kit, Model


def _judged(kit: Kit, file: Path, model: Model | None = None) -> Subject:
    """An imatrix, and for upstream's check a quant that is made with it."""
    of = model or kit.smol
    reference, text = gguf_file.read(of.reference), of.steps.imatrix.text.name
    return Subject(
        lambda: imatrix.verdicts(file, reference, text=text, chunks=of.steps.model.calibration_chunks),
        lambda: llama_quantize(kit, of.reference, "Q4_K_M", file),
    )


def _changed(kit: Kit, draft: Draft, model: Model | None = None) -> Subject:
    return _judged(kit, kit.write(draft, "imatrix.gguf"), model)


@broken("imatrix", "llama.cpp#6552, #9167: one of another model", r"made from another model")
def imatrix_of_another_model(kit: Kit) -> Subject:
    return _judged(kit, kit.experts.imatrix)


@broken("imatrix", "llama.cpp#14979: a part of the tensors is missing", r"it is not whole: .* have no entry")
def half_an_imatrix(kit: Kit) -> Subject:
    draft = Draft(kit.smol.imatrix)
    for name in list(draft.tensors):
        if int(name.split(".")[1]) >= 15:
            del draft.tensors[name]
    return _changed(kit, draft)


@broken(
    "imatrix",
    "llama.cpp#7816: sums that are no numbers",
    r"numbers that are not finite: blk\.12\.ffn_down\.weight \(3 NaN\)",
)
def nan_in_an_imatrix(kit: Kit) -> Subject:
    draft = Draft(kit.smol.imatrix)
    draft.tensors["blk.12.ffn_down.weight.in_sum2"].numbers()[0, 5:8] = np.nan
    return _changed(kit, draft)


@broken("imatrix", "llama.cpp#7816: sums that overflowed", r"numbers that are not finite: .* Inf\)")
def infinity_in_an_imatrix(kit: Kit) -> Subject:
    draft = Draft(kit.smol.imatrix)
    draft.tensors["blk.12.ffn_down.weight.in_sum2"].numbers()[0, 5] = np.inf
    return _changed(kit, draft)


@broken("imatrix", "llama.cpp#9899: experts that the text never reached", r"of the experts were never reached")
def experts_never_reached(kit: Kit) -> Subject:
    draft = Draft(kit.experts.imatrix)
    for name, part in draft.tensors.items():
        if "exps" in name:
            part.numbers().reshape(4, -1)[1:] = 0
    return _changed(kit, draft, kit.experts)


@broken(
    "imatrix",
    "gguf-my-repo, where it was long broken: an imatrix of another text than is named",
    r"measured on 'wiki\.train\.raw', not on",
)
def imatrix_of_another_text(kit: Kit) -> Subject:
    return _changed(kit, Draft(kit.smol.imatrix).set(imatrix__datasets=["wiki.train.raw"]))


@broken("imatrix", "llama.cpp#9167: a run that was stopped, and its last save used", r"it holds 10 of 16 chunks")
def imatrix_of_half_the_text(kit: Kit) -> Subject:
    draft = Draft(kit.smol.imatrix).set(imatrix__chunk_count=10)
    for name, part in draft.tensors.items():
        if name.endswith(".counts"):
            part.numbers()[:] *= 10 / 16
    return _changed(kit, draft)


@broken("imatrix", "a full disk, on which llama-imatrix ends with success", r"is no imatrix|cut short")
def imatrix_cut_short(kit: Kit) -> Subject:
    path = kit.directory() / "imatrix.gguf"
    content = kit.smol.imatrix.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return _judged(kit, path)
