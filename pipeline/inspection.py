"""Every check that one file's company allows: alone, beside its source, beside its reference."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import gguf_file, job, units, vetting
from pipeline.check import (
    behaviour,
    blocks,
    conversion,
    hyperparameters,
    logits,
    quality,
    quant,
    shards,
    structure,
    vocabulary,
)
from pipeline.check import imatrix as imatrix_check
from pipeline.check import source as source_check
from pipeline.check.verdict import failed, skipped
from pipeline.errors import BadInputError, ToolchainError
from pipeline.gguf_file import DamagedError
from pipeline.matrix.model import EmbeddedText, Gates
from pipeline.measure import LOGITS, NotFiniteError, measure, write_logits
from pipeline.prompt import ANSWERS, write_answers
from pipeline.text import TEXTS, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pipeline.gguf_file import GGUFFile
    from pipeline.result import Answer, Recipe, Verdict
    from pipeline.toolchain import Tools

CHUNKS = 8
"""Of the evaluation text: enough to tell a broken file from a whole one, and too few for a card."""
PROMPT = "What is a Large Language Model?"
MAX_TOKENS = 64
TEXT = Text("evaluation", EmbeddedText())
JOIN = "llama-gguf-split --merge"
COMPANIONS = ("imatrix", "adapter", "mmproj", "clip")
"""The general.type of files that are no models, and the architecture of an mmproj from before there were types."""
QUALITY = "quality"
"""All checks for which a file is run, under one name where it is not."""


@dataclass(frozen=True)
class Inputs:
    """A file and what it is held against; None for what is not at hand."""

    file: Path
    source: Path | None = None
    """A Hugging Face directory."""
    reference: Path | None = None
    """The unquantized GGUF."""
    imatrix: Path | None = None
    recipe: Recipe | None = None
    """How the file was made, by the pinned llama.cpp: then every byte of it is decided."""
    logits: Path | None = None
    """Of the reference, or of the file itself where it is one; computed where they are not there."""


def open_all(inputs: Inputs) -> None:
    """Look at what was given, before any work.

    Raises `BadInputError` or `NoGGUFError` for a file that is not there or of another kind, and for a reference that
    is damaged.
    """
    with _readable(inputs.file), contextlib.suppress(DamagedError):
        gguf_file.parse(inputs.file)
    if inputs.reference is not None:
        with _readable(inputs.reference):
            try:
                reference = gguf_file.read(inputs.reference)
            except DamagedError as error:
                raise BadInputError(str(error)) from error
            if shards.is_shard(reference):
                raise BadInputError(f"{inputs.reference} is a shard. Join it with the others first: {JOIN}.")
    if inputs.source is not None:
        with _readable(inputs.source):
            if not (inputs.source / "config.json").is_file():
                raise BadInputError(
                    f"{inputs.source} holds no config.json. Name the directory of a Hugging Face model."
                )


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise BadInputError(f"{path} is not there. Name a GGUF file.") from error
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}. Name a file that you may read.") from error


def at_once(inputs: Inputs) -> list[Verdict]:
    """Return the verdicts on a file that nothing more can be done with: one that is not whole, or a shard.

    None for any other. Raises as `open_all` does.
    """
    open_all(inputs)
    try:
        file = gguf_file.parse(inputs.file)
    except DamagedError as error:
        return [structure.damaged(error)]
    if shards.is_shard(file):
        return _shards(inputs.file, gguf_file.read(inputs.reference) if inputs.reference else None)
    whole = structure.layout(file)
    return [whole] if whole.outcome == "fail" else []


def examine(inputs: Inputs, llama: Tools | None, say: Callable[[str], None] = lambda _: None) -> list[Verdict]:
    """Run every check that is possible; `llama`: the built tools, without which nothing is run.

    `say` is told why llama.cpp could not run the file. Raises as `open_all` does.
    """
    if found := at_once(inputs):
        return found
    file = gguf_file.parse(inputs.file)
    reference = gguf_file.read(inputs.reference) if inputs.reference else None
    found = quant.verdicts(file, reference, _making(inputs, llama))
    if inputs.source is not None:
        found += _beside_source(inputs, file, inputs.source, llama, say)
    else:
        if (kind := file.metadata.get("general.type", file.architecture)) in COMPANIONS:
            found.append(skipped(vocabulary.CHECK, f"a file beside a model ({kind}) has no vocabulary"))
        else:
            found += source_check.speech(file, None, None, None)
        found.append(skipped(conversion.CHECK, "give --source, the directory of the model, to compare with"))
    if inputs.imatrix is not None and reference is not None:
        found += imatrix_check.verdicts(inputs.imatrix, reference, text=None, chunks=None)
    if reference is None:
        found.append(skipped(QUALITY, "give --reference, the unquantized GGUF, to measure against"))
    elif any(verdict.outcome == "fail" for verdict in found):
        found.append(skipped(QUALITY, "not measured, since the file is broken"))
    elif llama is not None:
        found += _run(inputs, file, reference, llama, say)
    return found


def described(path: Path) -> list[tuple[str, str]]:
    """Return what a file says of itself, in pairs; only its size where its header cannot be read."""
    size = ("size", units.size(path.stat().st_size))
    try:
        file = gguf_file.parse(path)
    except DamagedError:
        return [("file", gguf_file.shown(path.name)), size]
    types = ", ".join(f"{n} {kind}" for kind, n in file.types.items())
    return [
        ("file", gguf_file.shown(path.name)),
        size,
        ("architecture", gguf_file.shown(file.architecture)),
        ("parameters", units.count(file.parameters)),
        ("bits a weight", f"{file.bits_per_weight:.2f}" if file.parameters else "–"),
        ("tensors", types or "none"),
    ]


def _shards(path: Path, reference: GGUFFile | None) -> list[Verdict]:
    """Check the parts of a split file: each of them, and that they are parts of one."""
    found = [shards.shards(path, reference)]
    expected, there = shards.siblings(path)
    for name in filter(there.__contains__, expected):
        try:
            file = gguf_file.parse(there[name])
            whole = structure.layout(file)
            verdicts = [whole, *(blocks.scan(file) if whole.outcome != "fail" else [])]
        except gguf_file.UnreadableError as error:
            verdicts = [structure.damaged(error)]
        found += [v.model_copy(update={"seen": f"{gguf_file.shown(name)}: {v.seen}"}) for v in verdicts]
    return [*found, skipped(QUALITY, f"shards are not run: join them ({JOIN}), and inspect the whole")]


def _making(inputs: Inputs, llama: Tools | None) -> quant.Making | None:
    if inputs.recipe is None or inputs.reference is None or llama is None:
        return None
    matrix = inputs.imatrix if inputs.recipe.imatrix else None
    return vetting.making(llama, inputs.reference, inputs.recipe, matrix, [], inputs.file.name)


def _beside_source(
    inputs: Inputs, file: GGUFFile, source: Path, llama: Tools | None, say: Callable[[str], None]
) -> list[Verdict]:
    places = (llama.directory, llama.converter.parent) if llama else (None, None)
    found = [*hyperparameters.compare(file, source), *source_check.speech(file, source, *places)]
    if source_check.is_quantized(file):
        said = "the file is quantized; inspect the reference with --source to compare values"
        return [*found, skipped(conversion.CHECK, said)]
    found += conversion.tensors(file, source)
    if llama is None or any(verdict.outcome == "fail" for verdict in found):
        return found
    with tempfile.TemporaryDirectory(prefix="llm-quantizer-") as scratch:
        try:
            kept = inputs.logits or _logits(llama, inputs.file, Path(scratch), chunks=2)
        except ToolchainError as error:
            say(f"warning: {error}")
            return [*found, failed(logits.CHECK, "llama-perplexity could not run the file", logits.ADVICE)]
        parity = source_check.parity(file, kept, source)
    return [*found, skipped(logits.CHECK, parity) if isinstance(parity, str) else logits.judge(parity)]


def _run(
    inputs: Inputs, file: GGUFFile, reference: GGUFFile, llama: Tools, say: Callable[[str], None]
) -> list[Verdict]:
    """Let file and reference answer the same prompts, and measure the one against the other."""
    with tempfile.TemporaryDirectory(prefix="llm-quantizer-") as scratch:
        room = Path(scratch)
        try:
            ours = _answers(llama, file.path, room)
        except ToolchainError as error:
            say(f"warning: {error}")
            return behaviour.verdicts(None, ())
        found = behaviour.verdicts(ours, _answers(llama, reference.path, room))
        kept = inputs.logits or _logits(llama, reference.path, room, CHUNKS)
        try:
            quality_ = measure(llama, file.path.absolute(), kept, lambda _: None)
        except NotFiniteError:
            return [*found, quality.finite(None)]
    entry = job.quant_file(file, "", [])
    return [*found, quality.finite(quality_), *quality.gates(quality_, entry, Gates())]


def _answers(llama: Tools, model: Path, room: Path) -> Sequence[Answer]:
    write_answers(llama, model.absolute(), PROMPT, MAX_TOKENS, room)
    return job.REPLIES.validate_json((room / ANSWERS).read_bytes()) or ()


def _logits(llama: Tools, model: Path, room: Path, chunks: int) -> Path:
    doing = f"computing the logits of {model.name}"
    write_logits(llama, model.absolute(), TEXTS / TEXT.name, chunks, room, doing, lambda _: None)
    return room / LOGITS
