"""The results of one model, turned into the files of one commit."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import __version__, card
from pipeline.card import testlog
from pipeline.quantize import QUANT
from pipeline.result import FileEntry, Release
from pipeline.shards import shard_name
from pipeline.source import CARD, Papers
from pipeline.store import canonical, digest_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.job import Steps
    from pipeline.result import Result
    from pipeline.store import Store

RELEASE = "release.json"
LOG = "test.log"
PLOT = "quality.svg"

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
        return tuple(sorted([*self.release.files, _entry(RELEASE, self.contents[RELEASE])], key=lambda f: f.name))

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
    ]
    return hashlib.sha256(canonical(inputs)).hexdigest()[:16]


def assemble(store: Store, steps: Steps, results: Sequence[Result]) -> Bundle:
    """Put together what goes onto the target: the quants that passed, the card and all that belongs to it.

    `results` are in the order of the matrix and share their provenance.
    """
    papers = store.get(Papers(steps.source))
    provenance = results[0].provenance
    entries = {f.name: f for f in weights_of(results)}
    weights: dict[str, Content] = {name: path for r in results for name, path in kept(store, steps, r).items()}
    weights = {name: weights.get(name) for name in entries}
    if matrix := store.find(steps.imatrix):
        weights[provenance.imatrix.name] = matrix.file(provenance.imatrix.name)
    draft = Release(
        id=release_id(steps),
        repo=steps.model.repo,
        base_model=steps.source.id,
        pipeline=__version__,
        provenance=provenance,
        results=tuple(results),
        files=(),
    )
    texts: dict[str, Content] = {name: papers.file(name).read_bytes() for name in steps.source.licences}
    texts |= _pages(draft, steps, papers.file(CARD))
    contents = weights | texts
    files = tuple(entries.get(name) or _entry(name, contents[name]) for name in sorted(contents))
    release = draft.model_copy(update={"files": files})
    contents[RELEASE] = (release.model_dump_json(indent=1) + "\n").encode()
    return Bundle(release, contents)


def weights_of(results: Sequence[Result]) -> list[FileEntry]:
    """Return the large files of a release: what passed, and the imatrix."""
    return [f for r in results if not r.withheld for f in r.files] + [results[0].provenance.imatrix]


def kept(store: Store, steps: Steps, result: Result) -> dict[str, Path]:
    """Return where the store has the files of a quant, by the names that they are published by."""
    if not result.shards:
        quant = store.find(steps.quant(result.recipe))
        return {result.file.name: quant.file(QUANT)} if quant else {}
    shards = store.find(steps.shards(result.recipe))
    return {shard_name(result.file.name, name): shards.file(name) for name in shards.files} if shards else {}


def _pages(release: Release, steps: Steps, source_card: Path) -> dict[str, Content]:
    """Render card, log and plot. The original style has no plot: its card is the source's and a footer."""
    original = source_card.read_bytes().decode("utf-8", "replace") if source_card.is_file() else None
    log = testlog.render(release).encode()
    if steps.model.card == "footer":
        return {CARD: card.render_footer(release, original).encode(), LOG: log}
    from pipeline.card import plot  # here, for the half second that matplotlib takes to load

    picture = {PLOT: plot.draw(release).encode()} if release.published else {}
    page = card.render(release, original, PLOT if picture else None, steps.source.licences)
    return {CARD: page.encode(), LOG: log, **picture}


def _entry(name: str, content: Content) -> FileEntry:
    assert isinstance(content, bytes), "files on disk come with their entry"
    return FileEntry(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
