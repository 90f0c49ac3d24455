"""What every quant of a model is going to be, to the byte, from the headers of the model's files alone."""

from __future__ import annotations

import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gguf import GGUFWriter

from pipeline import gguf_file, imatrix
from pipeline.chunks import CONTEXT
from pipeline.convert import REFERENCE
from pipeline.engine import header
from pipeline.errors import BadInputError, ToolchainError
from pipeline.gguf_file import Tensor
from pipeline.preview import sizes
from pipeline.preview.foreseen import Foreseen, ForeseenQuant
from pipeline.preview.skeleton import Skeleton
from pipeline.quantize import FILE_TYPES, dry_run, fallbacks, planned
from pipeline.toolchain import tools

if TYPE_CHECKING:
    from pipeline.gguf_file import GGUFFile
    from pipeline.job import Steps
    from pipeline.result import Recipe
    from pipeline.store import Store
    from pipeline.toolchain import Tools

REFUSAL = re.compile(r"failed to quantize: (.+)")


def foresee(store: Store, steps: Steps) -> Foreseen:
    """Say what the quants of a model are going to be. Nothing of a weight is fetched, and no file is made.

    Raises `BadInputError` where the model's headers are damaged, or the pinned llama.cpp cannot convert it or make one
    of its quants.
    """
    skeleton = Skeleton(steps.source, steps.toolchain)
    llama = tools(store, steps.toolchain)
    with tempfile.TemporaryDirectory(prefix="llm-quantizer-") as scratch:
        room = Path(scratch)
        skeleton.open(store, room / REFERENCE)
        reference = gguf_file.read(room / REFERENCE)
        _write_imatrix(room / steps.imatrix.file_name, steps.imatrix.text.name)
        with ThreadPoolExecutor(llama.threads) as runners:
            quants = list(runners.map(lambda r: _quant(llama, steps, r, reference), steps.model.recipes))
        reference_size = reference.path.stat().st_size
        reference = replace(reference, path=Path(REFERENCE))
    imatrix_size, imatrix_exact = sizes.importance(reference, steps.imatrix)
    return Foreseen(reference, reference_size, imatrix_size, imatrix_exact, tuple(quants))


def _quant(llama: Tools, steps: Steps, recipe: Recipe, reference: GGUFFile) -> ForeseenQuant:
    """Let llama-quantize say which type each tensor gets, and count."""
    job = steps.model.job(recipe.name)
    matrix = reference.path.with_name(steps.imatrix.file_name) if recipe.imatrix else None
    try:
        said = dry_run(llama, reference.path, recipe, matrix, f"planning {job}")
    except ToolchainError as error:
        if not (refusal := REFUSAL.search(str(error))):
            raise
        raise BadInputError(
            f"{job} cannot be made by the pinned llama.cpp: {refusal[1].rstrip('.')}. Take it out of `quants`, or"
            " change its recipe."
        ) from error
    tensors = {
        name: Tensor.of(name, reference.tensors[name].shape, kind)
        for name, kind in planned(said).items()
        if name in reference.tensors
    }
    if tensors.keys() != reference.tensors.keys():
        raise ToolchainError(
            f"llama-quantize named {len(tensors)} tensors of {len(reference.tensors)} while planning {job}. Its"
            " output has another form than the pinned llama.cpp's: pin that one again in matrix.yml."
        )
    _check(job, tensors, said)
    metadata = header.metadata(reference, FILE_TYPES[recipe.base], imatrix.read(matrix) if matrix else None)
    size = sizes.quant(metadata, tensors.values())
    shards: tuple[int, ...] = ()
    if size > steps.model.max_shard_size:
        shards = sizes.shards(metadata, tensors.values(), steps.model.max_shard_size)
        if not shards:
            raise BadInputError(
                f"{job}: {next(iter(tensors))} alone is larger than `max_shard_size`, and llama-gguf-split cannot begin"
                " with such a tensor. Raise `max_shard_size`."
            )
    return ForeseenQuant(recipe, size, tensors, tuple(fallbacks(said)), shards)


def _check(job: str, tensors: dict[str, Tensor], said: str) -> None:
    """Raise `BadInputError` for what llama-quantize plans and then fails on."""
    for tensor in tensors.values():
        block, _ = gguf_file.SIZES[tensor.type]
        if tensor.shape[0] % block:  # other tensors fall back to a type that fits
            raise BadInputError(
                f"{job}: {tensor.name} has rows of {tensor.shape[0]} weights, which blocks of {tensor.type}, {block}"
                " each, do not fill. Give `token_embedding` or `output` of the recipe another type, such as Q8_0."
            )
    if "will require an imatrix" in said:
        raise BadInputError(
            f"{job} has tensors of a type that llama-quantize writes with an imatrix only. Take `imatrix: false` out of"
            " the recipe."
        )


def _write_imatrix(path: Path, dataset: str) -> None:
    """Write an imatrix with one entry: that there is one decides some types, and what it holds decides none."""
    writer = GGUFWriter(path, "imatrix")
    writer.add_array("imatrix.datasets", [dataset])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", CONTEXT)
    for name in ("in_sum2", "counts"):
        writer.add_tensor(f"blk.0.attn_q.weight.{name}", np.ones(1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
