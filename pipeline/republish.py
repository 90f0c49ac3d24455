"""The last release once more, without any job: with its card rendered anew, or without what is taken back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline import __version__, release, source
from pipeline.check import release as check
from pipeline.check.verdict import warned
from pipeline.errors import BadInputError, HubError
from pipeline.result import Withdrawal
from pipeline.snapshot import Papers
from pipeline.source import CARD, LICENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.matrix.model import Model
    from pipeline.release import Bundle, Content
    from pipeline.result import Release
    from pipeline.run import Workshop


def rendered(shop: Workshop, model: Model) -> Bundle:
    """Render the card, the log and the plot anew, with this version of the pipeline.

    Raises `BadInputError` where there is no release, or where the source cannot be read any more, and `GateError` where
    the card does not say what it should.
    """
    last = _last(shop, model)
    draft = last.model_copy(update={"pipeline": __version__})
    made = _bundle(shop, model, draft, strict=True)
    release.hold(shop.store.display, model.repo, [v for v in made.release.verdicts if v.check == check.CARD])
    return made


def without(shop: Workshop, model: Model, quants: Sequence[str], reason: str, date: str) -> Bundle:
    """Take back quants of the release, all of them with none named; `reason` stays on the card, with the `date`.

    Raises `BadInputError` for a quant that is not published.
    """
    last = _last(shop, model)
    known = {result.quant.casefold(): result for result in last.published}
    if unknown := [quant for quant in quants if quant.casefold() not in known]:
        there = ", ".join(result.quant for result in last.published) or "none"
        raise BadInputError(f"{model.repo} has no {', '.join(unknown)}. Published there: {there}.")
    gone = [known[q.casefold()] for q in quants] if quants else list(last.published)
    if not gone:
        raise BadInputError(f"{model.repo} has no published quant that could be withdrawn.")
    taken = tuple(Withdrawal(quant=r.quant, artifact=r.artifact, reason=reason, date=date) for r in gone)
    draft = last.model_copy(
        update={
            "pipeline": __version__,
            "results": tuple(result for result in last.results if result not in gone),
            "withdrawn": (*last.withdrawn, *taken),
        }
    )
    return _bundle(shop, model, draft, strict=False)


def lifted(shop: Workshop, model: Model, quants: Sequence[str]) -> Bundle:
    """Let quants that were withdrawn be made and published again, all of them with none named.

    Raises `BadInputError` for one that was not withdrawn.
    """
    last = _last(shop, model)
    known = {w.quant.casefold() for w in last.withdrawn}
    wanted = {quant.casefold() for quant in quants} or known
    if not wanted or not wanted <= known:
        there = ", ".join(w.quant for w in last.withdrawn) or "none"
        raise BadInputError(
            f"{', '.join(quants) or 'Something'} of {model.repo} is to be lifted, and is not withdrawn."
            f" Withdrawn there: {there}."
        )
    left = tuple(w for w in last.withdrawn if w.quant.casefold() not in wanted)
    draft = last.model_copy(update={"pipeline": __version__, "withdrawn": left})
    return _bundle(shop, model, draft, strict=False)


def _last(shop: Workshop, model: Model) -> Release:
    last = shop.target.last(model.repo)
    if last is None:
        raise BadInputError(
            f"There is no release {model.repo} where --publish-to leads: `hub`, or a folder, which is out/ by default."
            " Check the name, and say where it is."
        )
    return last


def _bundle(shop: Workshop, model: Model, draft: Release, *, strict: bool) -> Bundle:
    """Make the files of the draft. Unless `strict`, a source that is gone from the Hub does not keep it from that."""
    there: dict[str, Content] = {f.name: None for f in draft.files if LICENCE.fullmatch(f.name)}
    try:
        looked = source.look(
            replace(model, revision=draft.provenance.revision or model.revision), sha256=shop.store.remembered.sha256
        )
        papers = shop.store.get(Papers(looked))
    except (BadInputError, HubError) as error:
        if strict:
            raise
        shop.store.display.say(f"warning: the card goes without the source's own: {error}")
        gone = warned(check.BASE, f"{draft.base_model} could not be looked at", "See whether it is still on the Hub.")
        draft = draft.model_copy(update={"verdicts": (gone,)})
        return release.bundle(shop.store, draft, model.card, None, {}, there)
    original = papers.file(CARD).read_bytes().decode("utf-8", "replace") if CARD in papers.files else None
    licences: dict[str, Content] = {name: papers.file(name).read_bytes() for name in looked.licences}
    draft = draft.model_copy(update={"verdicts": (check.base_model(looked, draft.provenance.revision),)})
    return release.bundle(shop.store, draft, model.card, original, {}, licences)
