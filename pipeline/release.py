"""The results of one model, turned into the files of one commit."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline import __version__, card
from pipeline.artifact import canonical, digest_of
from pipeline.card import plot, testlog
from pipeline.card.plot import PLOT
from pipeline.check import names, quality
from pipeline.check import release as check
from pipeline.errors import GateError
from pipeline.quantize import QUANT
from pipeline.result import FileEntry, Release
from pipeline.shards import shard_name
from pipeline.snapshot import Papers
from pipeline.source import CARD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.job import Steps
    from pipeline.matrix import Gates
    from pipeline.progress import Display
    from pipeline.result import Provenance, Result, Verdict
    from pipeline.store import Store

RELEASE = "release.json"
LOG = "test.log"

Content = Path | bytes | None
"""A file of a release: where it lies, what is in it, or None for a large one that is not in this store."""


@dataclass(frozen=True)
class Bundle:
    """A release and its files, `release.json` among them; nothing of it is published yet."""

    release: Release
    contents: dict[str, Content]

    @cached_property
    def entries(self) -> tuple[FileEntry, ...]:
        """Every file, `release.json` too, by name."""
        record = self.contents[RELEASE]
        assert isinstance(record, bytes), "it is made here"
        return tuple(sorted([*self.release.files, _entry(RELEASE, record)], key=lambda f: f.name))

    def text(self, name: str) -> str:
        content = self.contents.get(name)
        return content.decode() if isinstance(content, bytes) else ""


def release_id(steps: Steps) -> str:
    """Name the release that these steps lead to: 16 hex digits, known before the first step runs."""
    model = steps.model
    inputs = [
        model.repo,
        [(model.file_name(r.name), digest_of(steps.quant(r))) for r in model.recipes],
        digest_of(steps.logits),
        model.card,
        asdict(model.gates),
        steps.source.papers,
    ]
    return hashlib.sha256(canonical(inputs)).hexdigest()[:16]


def still_valid(steps: Steps, last: Release | None) -> dict[str, Result]:
    """Return, by quant, the results of the last release that hold for these steps, too.

    Made of the same inputs, measured against the same logits, and published under the same names; judged anew by the
    gates as they are now.
    """
    if last is None or last.provenance.logits != digest_of(steps.logits):
        return {}
    recipes = {recipe.name: recipe for recipe in steps.model.recipes}
    return {
        result.quant: _judged_anew(result, steps.model.gates)
        for result in last.results
        if result.quant in recipes
        and result.artifact == digest_of(steps.quant(recipes[result.quant]))
        and result.file.name == steps.model.file_name(result.quant)
        and _fits(result, steps.model.max_shard_size)
    }


def provenance_of(steps: Steps, last: Release) -> Provenance:
    """Return where a release comes from whose results all are the last one's."""
    now = {"revision": steps.source.revision, "source_digest": steps.source.digest}
    return last.provenance.model_copy(update=now)


def _judged_anew(result: Result, gates: Gates) -> Result:
    if result.quality is None:
        return result
    others = tuple(v for v in result.verdicts if v.check not in quality.CHECKS)
    return result.model_copy(update={"verdicts": (*others, *quality.gates(result.quality, result.file, gates))})


def _fits(result: Result, limit: int) -> bool:
    """Whether a quant is split as a limit of so many bytes wants it."""
    split = bool(result.shards)
    return split == (result.file.size > limit) and all(file.size <= limit for file in result.files)


def assemble(
    store: Store, steps: Steps, results: Sequence[Result], last: Release | None = None, missing: Sequence[str] = ()
) -> Bundle:
    """Put together what goes onto the target: the quants that passed, the card and all that belongs to it.

    `results` are in the order of the matrix and share their provenance, `missing` are quants that came to none.
    """
    papers = store.get(Papers(steps.source))
    places = {name: path for r in results for name, path in kept(store, steps, r).items()}
    if matrix := store.find(steps.imatrix):
        name = results[0].provenance.imatrix.name
        places[name] = matrix.file(name)
    draft = Release(
        id=release_id(steps),
        repo=steps.model.repo,
        base_model=steps.source.id,
        pipeline=__version__,
        provenance=results[0].provenance,
        results=_ranked(results),
        files=(),
        missing=tuple(missing),
        withdrawn=last.withdrawn if last else (),
        verdicts=(check.base_model(steps.source, results[0].provenance.revision),),
    )
    licences: dict[str, Content] = {name: papers.file(name).read_bytes() for name in steps.source.licences}
    original = papers.file(CARD).read_bytes().decode("utf-8", "replace") if CARD in papers.files else None
    return bundle(store, draft, steps.model.card, original, places, licences)


def _ranked(results: Sequence[Result]) -> tuple[Result, ...]:
    """Say of each file that is published whether a smaller one beside it is better."""
    worse = quality.dominated([result for result in results if not result.withheld])
    ranked = []
    for result in results:
        others = tuple(v for v in result.verdicts if v.check != quality.DOMINATED)
        own = (worse[result.quant],) if result.quant in worse else ()
        ranked.append(result.model_copy(update={"verdicts": (*others, *own)}))
    return tuple(ranked)


def bundle(
    store: Store,
    draft: Release,
    style: Literal["full", "footer"],
    original: str | None,
    places: Mapping[str, Path],
    licences: Mapping[str, Content],
) -> Bundle:
    """Make the files of a release that has none yet.

    `original`: the source's card. `places`: where the large files lie, those that are here. `licences`: None for one
    that the target has; then the draft's `files` say what it is. Of the draft's verdicts that on the base model stays;
    those on names and card are made here.
    """
    quants = {r.quant: [f.name for f in r.files] for r in draft.published}
    others = [*([draft.provenance.imatrix.name] if quants else []), LOG, PLOT, RELEASE, CARD, *licences]
    judged = (*names.names(quants, others), *(v for v in draft.verdicts if v.check == check.BASE))
    draft = draft.model_copy(update={"verdicts": judged})
    known = {f.name: f for f in [*draft.files, *weights_of(draft)]}
    weights: dict[str, Content] = {f.name: places.get(f.name) for f in weights_of(draft)}
    contents = weights | dict(licences) | _pages(store, draft, style, original, list(licences))
    files = [_entry(name, c) if isinstance(c := contents[name], bytes) else known[name] for name in sorted(contents)]
    release = draft.model_copy(update={"files": tuple(files)})
    page = contents[CARD]
    assert isinstance(page, bytes), "it is made here"
    judged += tuple(check.card(page.decode(), release, style, original, licences))
    release = release.model_copy(update={"verdicts": judged})
    contents[RELEASE] = (release.model_dump_json(indent=1) + "\n").encode()
    return Bundle(release, contents)


def hold(display: Display, repo: str, verdicts: Sequence[Verdict]) -> None:
    """Say what was found out about a release, before it is published.

    Raises `GateError`, a line a fault, where it may not be.
    """
    for verdict in verdicts:
        if verdict.outcome == "warn":
            display.say(f"warning: {repo}, {verdict.check}: {verdict.seen}. {verdict.advice}")
    if failures := [verdict for verdict in verdicts if verdict.outcome == "fail"]:
        raise GateError("\n".join(f"{repo} is not released: {v.seen}. {v.advice}" for v in failures))


def weights_of(release: Release) -> list[FileEntry]:
    """Return the large files of a release: what passed, and, if anything did, the imatrix."""
    files = [f for r in release.published for f in r.files]
    return [*files, release.provenance.imatrix] if files else []


def kept(store: Store, steps: Steps, result: Result) -> dict[str, Path]:
    """Return where the store has the files of a quant, by the names that they are published by."""
    if not result.shards:
        quant = store.find(steps.quant(result.recipe))
        return {result.file.name: quant.file(QUANT)} if quant else {}
    shards = store.find(steps.shards(result.recipe))
    return {shard_name(result.file.name, name): shards.file(name) for name in shards.files} if shards else {}


def _pages(
    store: Store, release: Release, style: Literal["full", "footer"], original: str | None, licences: Sequence[str]
) -> dict[str, Content]:
    """Render card, log and plot. The original style has no plot: its card is the source's and a footer."""
    log = testlog.render(release).encode()
    if style == "footer":
        return {CARD: card.render_footer(release, original).encode(), LOG: log}
    picture = {PLOT: store.get(plot.of(release)).file(PLOT).read_bytes()} if release.published else {}
    page = card.render(release, original, PLOT if picture else None, licences)
    return {CARD: page.encode(), LOG: log, **picture}


def _entry(name: str, content: bytes) -> FileEntry:
    return FileEntry(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
