"""What upstream did since the matrix was pinned, and the pull requests that follow it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.card.markdown import inline, table
from pipeline.errors import PipelineError
from pipeline.matrix.model import PathSource
from pipeline.watch import pin, proposal, upstream
from pipeline.watch.proposal import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.github import GitHub
    from pipeline.matrix.model import Model, Toolchain
    from pipeline.watch.proposal import Proposal

HEAD = ("of", "pinned", "newest", "changed", "pull request")


@dataclass(frozen=True)
class Sighting:
    """What was seen of one pin; what is not known, or not there, is empty."""

    name: str
    pinned: str = ""
    newest: str = ""
    changed: str = ""
    pull: Outcome = Outcome("")  # noqa: RUF009 - it is as frozen as a text
    failure: str = ""
    """The sentence for what went wrong."""

    @property
    def row(self) -> tuple[str, ...]:
        return (self.name, self.pinned, self.newest, "failed" if self.failure else self.changed, str(self.pull))


def models(listed: Sequence[Model], repository: GitHub | None, path: str, *, asked: bool) -> Iterator[Sighting]:
    """Look at each model, and see to its pull request; one that fails does not keep the others from it.

    `path`: of the matrix in the repository; without a repository nothing is opened. `asked`: the models were named, so
    that a change of what no release is made of gets a pull request, too.
    """
    for model in listed:
        if model.revision is None:
            yield Sighting(model.source, changed="no revision is pinned: each run takes the newest")
        elif model.path is not None:
            yield Sighting(model.source, model.revision[:12], changed="a directory stands in for it")
        else:
            try:
                yield _model(model.source, model.revision, repository, path, asked=asked)
            except PipelineError as error:
                yield Sighting(model.source, model.revision[:12], failure=str(error))


def llama_cpp(pinned: Toolchain, repository: GitHub | None, path: str) -> Sighting:
    """Look for a newer llama.cpp, and see to its pull request."""
    if isinstance(pinned, PathSource):
        return Sighting("llama.cpp", changed="a directory is built as it is")
    name, commit = "llama.cpp", pinned.commit[:12]
    try:
        newer = pin.look(pinned)
        if newer is None:
            return Sighting(name, commit, commit, "nothing")
        proposed = proposal.of_llama_cpp(pinned, newer)
        pull = _see_to(repository, path, proposed)
    except PipelineError as error:
        return Sighting(name, commit, failure=str(error))
    return Sighting(name, commit, newer.pin.commit[:12], proposed.title.removeprefix("llama.cpp: "), pull)


def markdown(sightings: Sequence[Sighting]) -> str:
    """Lay out what was seen for a job's summary."""
    rows = [[*(inline(cell) for cell in s.row[:-1]), _linked(s.pull)] for s in sightings]
    text = "### Upstream\n\n" + table(HEAD, rows, left=len(HEAD))
    failures = [f"- {inline(s.name)}: {inline(s.failure, 1000)}" for s in sightings if s.failure]
    return text + "\n" + ("\n### Failed\n\n" + "\n".join(failures) + "\n" if failures else "")


def _model(source: str, pinned: str, repository: GitHub | None, path: str, *, asked: bool) -> Sighting:
    after = upstream.look(source)
    head = after.revision
    if head == pinned:
        return Sighting(source, pinned[:12], head[:12], "nothing")
    before = upstream.look(source, pinned)
    change = upstream.compare(source, before, after)
    if not change.kinds:
        return Sighting(source, pinned[:12], head[:12], "no file", Outcome("none"))
    if not change.matters and not asked:
        none = Outcome("none: no release is made of them; --only opens one")
        return Sighting(source, pinned[:12], head[:12], str(change), none)
    pull = _see_to(repository, path, proposal.of_revision(source, before, after, change))
    return Sighting(source, pinned[:12], head[:12], str(change), pull)


def _see_to(repository: GitHub | None, path: str, proposed: Proposal) -> Outcome:
    return proposal.propose(repository, path, proposed) if repository else Outcome("none: this is a dry run")


def _linked(outcome: Outcome) -> str:
    return f"[{inline(outcome.words)}]({outcome.url})" if outcome.url else inline(outcome.words)
