"""What becomes of one model and of the target, from what was foreseen of it: a pure function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pipeline import card, disk
from pipeline.artifact import digest_of
from pipeline.card.notice import licence, notice
from pipeline.card.original import SourceCard
from pipeline.card.plot import PLOT
from pipeline.preview import memory
from pipeline.preview.minutes import CORES, minutes
from pipeline.preview.record import CARD_LENGTH, MOST, Memory, Outlook, QuantOutlook
from pipeline.release import LOG
from pipeline.shards import shard_name
from pipeline.source import CARD

if TYPE_CHECKING:
    from collections.abc import Collection

    from pipeline.job import Steps
    from pipeline.preview.foreseen import Foreseen, ForeseenQuant
    from pipeline.result import Release


def outlook(steps: Steps, foreseen: Foreseen, card_text: str | None, last: Release | None, *, exists: bool) -> Outlook:
    """Say what becomes of a model.

    `card_text` is the source's card, `last` the last release on the target, and `exists` whether the target has the
    repo at all.
    """
    source = SourceCard.parse(card_text or "")
    reference = foreseen.reference
    quants = tuple(_quant(steps, foreseen, quant, last) for quant in foreseen.quants)
    sent = [quant.size for quant in quants if quant.change != "unchanged"]
    stays = any(
        made.change == "unchanged" and quant.recipe.imatrix for made, quant in zip(quants, foreseen.quants, strict=True)
    )
    return Outlook(
        source=steps.source.id,
        revision=steps.source.revision,
        repo=steps.model.repo,
        exists=exists,
        private=steps.model.private,
        architecture=reference.architecture,
        parameters=reference.parameters,
        context=reference.hyperparameter("context_length"),
        licence=(licence(source.metadata) or "")[:200] or None,
        notice=notice(source.metadata) is not None,
        licence_files=tuple(steps.source.licences)[:MOST],
        gated=steps.source.gated,
        quants=quants,
        cores=CORES,
        deletes=_deletes(last, _names(steps, foreseen))[:MOST],
        # The imatrix is one of the inputs that an unchanged file was made from, so it is there with it.
        upload=sum(sent) + (0 if stays else foreseen.imatrix_size),
        disk=disk.peak(
            steps,
            foreseen.reference_size + foreseen.imatrix_size + foreseen.tensors_size,
            [q.size for q in foreseen.quants],
        ),
        card=_head(steps, foreseen, source)[:CARD_LENGTH],
    )


def _quant(steps: Steps, foreseen: Foreseen, quant: ForeseenQuant, last: Release | None) -> QuantOutlook:
    reference = foreseen.reference
    known = [(length, memory.cache_bytes(reference, length)) for length in memory.contexts(reference)]
    return QuantOutlook(
        quant=quant.recipe.name,
        file=steps.model.file_name(quant.recipe.name),
        size=quant.size,
        shards=len(quant.files),
        bits_per_weight=round(quant.bits_per_weight, 4),
        fallbacks=len(quant.fallbacks),
        tensors=len(quant.tensors),
        memory=tuple(Memory(context=length, size=quant.size + cache) for length, cache in known if cache is not None),
        minutes=round(minutes(reference, quant, disk.chunks(steps), steps.model.max_tokens), 2),
        change=_change(steps, quant, last),
    )


def _change(steps: Steps, quant: ForeseenQuant, last: Release | None) -> Literal["new", "replaced", "unchanged"]:
    """Compare with what is there: the same file made from the same inputs is the same bytes."""
    names = _published_as(steps, quant)
    there = {file.name for file in last.files} if last else set()
    if not there & set(names):
        return "new"
    made = {r.artifact: {f.name for f in r.files} for r in last.published} if last else {}
    return "unchanged" if made.get(digest_of(steps.quant(quant.recipe))) == set(names) else "replaced"


def _published_as(steps: Steps, quant: ForeseenQuant) -> list[str]:
    name, count = steps.model.file_name(quant.recipe.name), len(quant.shards)
    if not count:
        return [name]
    return [shard_name(name, f"quant-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]


def _names(steps: Steps, foreseen: Foreseen) -> set[str]:
    """Every file that the release is going to have, if nothing is withheld."""
    quants = {name for quant in foreseen.quants for name in _published_as(steps, quant)}
    pages = {CARD, LOG} if steps.model.card == "footer" else {CARD, LOG, PLOT}
    return {steps.imatrix.file_name, *steps.source.licences, *quants, *pages}


def _deletes(last: Release | None, names: Collection[str]) -> tuple[str, ...]:
    return tuple(sorted({file.name for file in last.files} - set(names))) if last else ()


def _head(steps: Steps, foreseen: Foreseen, source: SourceCard) -> str:
    reference = foreseen.reference
    subject = card.Subject(
        repo=steps.model.repo,
        source=steps.source.id,
        revision=steps.source.revision,
        architecture=reference.architecture,
        parameters=reference.parameters,
        context=reference.hyperparameter("context_length"),
        imatrix=any(quant.recipe.imatrix for quant in foreseen.quants),
        licence_files=steps.source.licences,
    )
    if steps.model.card == "footer":
        return card.front_matter_of_footer(subject, source)
    return card.head(subject, source)
