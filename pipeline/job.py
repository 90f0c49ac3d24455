"""The path of a job, whole: from a model's source to the result of each of its quants.

    source ─ convert ─ check ─┬─ imatrix ─ check ──────────┬─ quantize ─ check ─ answers ─ measure ─ result
                              └─ reference logits ─ check ─│────────────────────────────────┘
                                                           └─ (a recipe may do without)

A check that fails ends the path there: of a reference that is not its source's nothing is made, and what is broken is
not measured.

Each step is a frozen value that knows its inputs, so everything here is known, and named by its digest, before
anything runs. The store runs a step once; what it holds is not made again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from pipeline import gguf_file, imatrix, vetting
from pipeline.check import behaviour, logits, quality, verdict
from pipeline.check import imatrix as imatrix_check
from pipeline.check import shards as shards_check
from pipeline.chunks import CONTEXT
from pipeline.convert import REFERENCE, Reference
from pipeline.imatrix import CHUNKS, Imatrix
from pipeline.measure import LOGITS, QUALITY, Measured, ReferenceLogits, read_chunks
from pipeline.prompt import ANSWERS, PROMPTS, Answered, has_template
from pipeline.quantize import FALLBACKS, QUANT, Quant
from pipeline.result import Answer, Fallback, FileEntry, Provenance, Quality, QuantFile, Result, Speed, TextUse
from pipeline.shards import Shards, shard_name
from pipeline.snapshot import Snapshot
from pipeline.speed import SPEED, Timed
from pipeline.text import Text
from pipeline.toolchain import FLAGS, tools
from pipeline.vetting import Checked, Compared, Vetted

if TYPE_CHECKING:
    from pipeline.artifact import Step
    from pipeline.matrix.model import Model
    from pipeline.quantize import Engine
    from pipeline.result import Recipe, Verdict
    from pipeline.source import Source
    from pipeline.store import Store
    from pipeline.toolchain import Toolchain

# Both are null where the file is broken.
REPLIES: TypeAdapter[tuple[Answer, ...] | None] = TypeAdapter(tuple[Answer, ...] | None)
QUALITIES: TypeAdapter[Quality | None] = TypeAdapter(Quality | None)


@dataclass(frozen=True)
class Steps:
    """Every step of one model, as the matrix wants it made."""

    model: Model
    source: Source
    toolchain: Toolchain
    engine: Engine = "by-tensor"

    @property
    def snapshot(self) -> Snapshot:
        """The download; not there for a source that is given by path."""
        return Snapshot(self.source)

    @cached_property
    def reference(self) -> Reference:
        return Reference(self.source, self.toolchain)

    @cached_property
    def vetted(self) -> Vetted:
        return Vetted(self.reference)

    @cached_property
    def calibration(self) -> Text:
        return Text("calibration", self.model.calibration)

    @cached_property
    def evaluation(self) -> Text:
        return Text("evaluation", self.model.evaluation)

    @cached_property
    def imatrix(self) -> Imatrix:
        model = self.model
        return Imatrix(self.reference, self.calibration, model.calibration_chunks, model.imatrix_format)

    @cached_property
    def logits(self) -> ReferenceLogits:
        model = self.model
        return ReferenceLogits(self.reference, self.evaluation, model.evaluation_chunks, model.prompt, model.max_tokens)

    @cached_property
    def compared(self) -> Compared:
        return Compared(self.logits)

    def quant(self, recipe: Recipe) -> Quant:
        return self._quants[recipe.name]

    @cached_property
    def _quants(self) -> dict[str, Quant]:
        return {recipe.name: Quant(self.reference, self.imatrix, recipe, self.engine) for recipe in self.model.recipes}

    def checked(self, recipe: Recipe) -> Checked:
        return Checked(self.quant(recipe))

    def answered(self, recipe: Recipe) -> Answered:
        return Answered(self.quant(recipe), self.model.prompt, self.model.max_tokens)

    def measured(self, recipe: Recipe) -> Measured:
        return Measured(self.quant(recipe), self.logits)

    def timed(self, recipe: Recipe) -> Timed:
        return Timed(self.measured(recipe))

    def shards(self, recipe: Recipe) -> Shards:
        """The file in parts; made only where it is larger than the matrix allows one to be."""
        return Shards(self.quant(recipe), self.model.max_shard_size)

    @property
    def preparation(self) -> list[Step]:
        """What all quants share, in the order in which it runs."""
        return [self.reference, self.vetted, self.imatrix, self.logits, self.compared]

    def job(self, recipe: Recipe) -> list[Step]:
        """What one quant needs beyond the preparation, in the order in which it runs."""
        checks = [self.quant(recipe), self.checked(recipe)]
        return [*checks, self.answered(recipe), self.measured(recipe), self.timed(recipe)]


def prepare(store: Store, steps: Steps) -> Provenance:
    """Run all that the quants of a model share, and say where it comes from.

    Raises `GateError` where a check of it fails.
    """
    subject = steps.source.id
    if store.bring(steps.reference) is None:
        tools(store, steps.toolchain)  # else the conversion would seem to take as long as the build
    reference = store.get(steps.reference)
    found = list(vetting.verdicts(store, steps.vetted))
    vetting.demand(subject, found)
    file = gguf_file.read(reference.file(REFERENCE))
    matrix = store.get(steps.imatrix)
    matrix_file = matrix.files[steps.imatrix.file_name]
    calibration_chunks = int(matrix.file(CHUNKS).read_text())
    found += imatrix_check.verdicts(
        matrix.file(matrix_file.name), file, text=steps.calibration.name, chunks=calibration_chunks
    )
    vetting.demand(subject, found)
    kept = store.get(steps.logits)
    parity = vetting.parity(store, steps.compared)
    if isinstance(parity, str):
        found.append(verdict.skipped(logits.CHECK, parity))
    else:
        found.append(logits.judge(parity, steps.model.gates.max_logits_nmse))
    vetting.demand(subject, found)
    answer, *answers = REPLIES.validate_json(kept.file(ANSWERS).read_bytes()) or ()
    return Provenance(
        source=steps.source.id,
        revision=steps.source.revision,
        source_digest=steps.source.digest,
        architecture=file.architecture,
        context_length=file.hyperparameter("context_length"),
        llama_cpp=steps.toolchain.source.commit,
        llama_cpp_origin=steps.toolchain.source.origin,
        flags=FLAGS,
        reference=quant_file(file, reference.files[REFERENCE].sha256, []),
        reference_quality=Quality.model_validate_json(kept.file(QUALITY).read_bytes()),
        reference_answer=answer,
        reference_answers=tuple(answers),
        prompt=steps.model.prompt,
        max_tokens=steps.model.max_tokens,
        prompts=PROMPTS,
        chat_template=has_template(file),
        imatrix=FileEntry(name=matrix_file.name, size=matrix_file.size, sha256=matrix_file.sha256),
        imatrix_entries=imatrix.entries(matrix.file(matrix_file.name)),
        calibration=text_use(steps.calibration, calibration_chunks),
        evaluation=text_use(steps.evaluation, read_chunks(kept.file(LOGITS))),
        logits=kept.digest,
        verdicts=tuple(found),
    )


def run(store: Store, steps: Steps, recipe: Recipe, provenance: Provenance) -> Result:
    """Make, check and measure one quant, and decide whether it may be published; `timed` says how fast it is.

    What takes time is kept in the store; what is judged is judged anew, by the gates as they are now.
    """
    artifact = store.get(steps.quant(recipe))
    quant = gguf_file.parse(artifact.file(QUANT))  # a check says so where it ends too early
    announced = [Fallback(**f) for f in json.loads(artifact.file(FALLBACKS).read_bytes())]
    verdicts = list(vetting.verdicts(store, steps.checked(recipe)))
    replies, found = None, None
    if not _failed(verdicts):
        replies = REPLIES.validate_json(store.get(steps.answered(recipe)).file(ANSWERS).read_bytes())
        verdicts += behaviour.verdicts(replies, (provenance.reference_answer, *provenance.reference_answers))
    if replies is not None:
        found = QUALITIES.validate_json(store.get(steps.measured(recipe)).file(QUALITY).read_bytes())
        verdicts.append(quality.finite(found))
    file = quant_file(quant, artifact.files[QUANT].sha256, announced)
    if found is not None:
        verdicts += quality.gates(found, file, steps.model.gates)
    file = file.model_copy(update={"name": steps.model.file_name(recipe.name)})
    shards: tuple[FileEntry, ...] = ()
    if file.size > steps.model.max_shard_size and not _failed(verdicts):
        shards = _split(store, steps.shards(recipe), file)
        verdicts.append(_check_shards(store, steps, recipe))
    result = Result(
        job=steps.model.job(recipe.name),
        recipe=recipe,
        artifact=artifact.digest,
        file=file,
        shards=shards,
        verdicts=tuple(verdicts),
        answer=replies[0] if replies else Answer(text="", stopped=False),
        answers=replies[1:] if replies else (),
        quality=found,
        speed=None,
        seconds=_seconds(store, steps, recipe),
        provenance=provenance,
    )
    if found is None and result.withheld:  # damaged, be it by this machine: whoever runs the job again has another try
        for damaged in [steps.checked(recipe), *steps.quant(recipe).tensors(store), steps.quant(recipe)]:
            store.discard(damaged)
    return result


def timed(store: Store, steps: Steps, result: Result) -> Result:
    """Return the result with the quant's speed, measured while nothing else of this run is at work."""
    if result.quality is None:
        return result
    speed = Speed.model_validate_json(store.get(steps.timed(result.recipe)).file(SPEED).read_bytes())
    return result.model_copy(update={"speed": speed, "seconds": _seconds(store, steps, result.recipe)})


def _seconds(store: Store, steps: Steps, recipe: Recipe) -> float:
    return round(sum(made.seconds for step in steps.job(recipe) if (made := store.find(step))), 1)


def _failed(verdicts: list[Verdict]) -> bool:
    return any(found.outcome == "fail" for found in verdicts)


def _check_shards(store: Store, steps: Steps, recipe: Recipe) -> Verdict:
    parts = store.get(steps.shards(recipe))
    reference = gguf_file.read(store.get(steps.reference).file(REFERENCE))
    return shards_check.shards(parts.file(min(parts.files)), reference)


def _split(store: Store, shards: Shards, file: QuantFile) -> tuple[FileEntry, ...]:
    parts = sorted(store.get(shards).files.values(), key=lambda part: part.name)
    return tuple(part.model_copy(update={"name": shard_name(file.name, part.name)}) for part in parts)


def quant_file(file: gguf_file.GGUFFile, sha256: str, announced: list[Fallback]) -> QuantFile:
    """Describe a GGUF as it is, under the name that it has in the store."""
    return QuantFile(
        name=file.path.name,
        size=file.path.stat().st_size,
        sha256=sha256,
        parameters=file.parameters,
        bits_per_weight=round(file.bits_per_weight, 4),
        types=file.types,
        weights=file.weights,
        fallbacks=tuple(announced),
    )


def text_use(text: Text, chunks: int) -> TextUse:
    return TextUse(name=text.described, sha256=text.sha256, chunks=chunks, context=CONTEXT)


def missing(store: Store, steps: list[Step]) -> list[str]:
    """Return the kinds of the steps that the store does not hold yet.

    The first is what the others are made of: without it none of them is looked for, which counts with thousands.
    """
    if store.find(steps[0]) is None:
        return [step.kind for step in steps]
    return [step.kind for step in steps if store.find(step) is None]
