"""One pull request a pin: what it says, and how it is opened, brought up to date, or left alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from pipeline.card.markdown import code
from pipeline.matrix import edit
from pipeline.matrix.model import GitSource, Sdist
from pipeline.template import fill
from pipeline.watch import pin
from pipeline.watch.upstream import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.github import GitHub, Pull
    from pipeline.watch.pin import Newer
    from pipeline.watch.upstream import Change, State

MOST_FILES: Final = 50
LONGEST_NAME: Final = 200
FOLLOWS: Final = {
    Kind.WEIGHTS: "Every file is made anew from the new weights, and uploaded.",
    Kind.TOKENIZER: "The tokenizer stands in every file, and decides what the imatrix and the figures are measured on:"
    " every file is made anew.",
    Kind.CONFIG: "The converter reads the config, so every file is made anew. Where the bytes come out as they were,"
    " nothing of a file is uploaded.",
    Kind.TEMPLATE: "The chat template stands in the header of every file, so every file is made anew. The weights come"
    " out as they were: over Xet only the chunks that differ are sent.",
    Kind.CARD: "The release gets the new card and licence, and no weight is uploaded: the files come out as they were."
    " Unless the YAML at the card's head or one of its headings changed: the converter reads those, so that every file"
    " is made anew.",
    Kind.OTHER: "Nothing that a release is made of changed: the revision moves, and no file with it.",
}


@dataclass(frozen=True)
class Proposal:
    """A change of matrix.yml that somebody is to look at."""

    branch: str
    pin: str
    """What it sets. A proposal of the same pin on the same branch is the same proposal."""
    title: str
    text: str
    edit: Callable[[bytes], bytes]

    @property
    def marker(self) -> str:
        return f"<!-- llm-quantizer watch: {self.pin} -->"

    @property
    def body(self) -> str:
        return f"{self.marker}\n{self.text}"

    def made_as(self, pull: Pull) -> bool:
        """Whether `pull` is this proposal. Its first line says so: what follows may quote names of anybody."""
        return (pull.body or "").partition("\n")[0].strip() == self.marker


class Outcome(NamedTuple):
    """What became of a proposal; `url`: of its pull request, empty where there is none."""

    words: str
    url: str = ""

    def __str__(self) -> str:
        return f"{self.words}: {self.url}" if self.url else self.words


def of_revision(source: str, before: State, after: State, change: Change) -> Proposal:
    """Propose another revision of a model."""
    from huggingface_hub import constants

    text = fill(
        "upstream.md.j2",
        what=f"{_capital(str(change))} changed",
        source=source,
        page=f"{constants.ENDPOINT}/{source}",
        pinned=before.revision,
        head=after.revision,
        follows=FOLLOWS[change.kinds[0]],
        files=[
            {"how": file.how, "name": _name(file.name), "kinds": ", ".join(kind.value for kind in file.kinds)}
            for file in change.files[:MOST_FILES]
        ],
        more=len(change.files[MOST_FILES:]),
    )
    return Proposal(
        branch=f"watch/{source.replace('/', '--')}",
        pin=after.revision,
        title=f"{source}: {change} changed",
        text=text,
        edit=partial(edit.set_revision, source=source, revision=after.revision),
    )


def of_llama_cpp(pinned: Sdist | GitSource, newer: Newer) -> Proposal:
    """Propose another llama.cpp."""
    commit = newer.commit or pin.UNKNOWN
    rows = [("commit", code(pinned.commit), code(commit))]
    title, compare = f"llama.cpp: {commit[:12]}", ""
    if isinstance(pinned, Sdist) and isinstance(newer.pin, Sdist):
        rows.insert(0, ("source distribution", code(f"{pinned.name}=={pinned.version}"), code(newer.version)))
        rows.append(("sha256", code(pinned.sha256), code(newer.pin.sha256)))
        title, compare = f"llama.cpp: {newer.version}", pin.UPSTREAM
    elif isinstance(newer.pin, GitSource) and newer.pin.url.startswith("https://github.com/"):
        compare = newer.pin.url.removesuffix("/").removesuffix(".git")
    text = fill(
        "toolchain.md.j2",
        rows=rows,
        commit=newer.commit,
        unknown=pin.UNKNOWN,
        project=newer.pin.name if isinstance(newer.pin, Sdist) else "",
        compare=f"{compare}/compare/{pinned.commit}...{commit}" if compare else "",
    )
    return Proposal(
        branch="watch/llama.cpp",
        pin=newer.version,
        title=title,
        text=text,
        edit=partial(edit.set_toolchain, pin=newer.pin),
    )


def propose(github: GitHub, path: str, proposal: Proposal) -> Outcome:
    """Have exactly one pull request that makes the proposal, and say what became of it.

    `path`: of the matrix in the repository. Somebody's own commits on the branch stay; one that a person closed is not
    opened again.

    Raises `GitHubError`, or `BadInputError` where the matrix there cannot be changed.
    """
    pulls = github.pulls(github.owner, proposal.branch, "all")
    found = next((pull for pull in pulls if pull.state == "open"), None)
    if found is not None and proposal.made_as(found):
        return Outcome("is open", found.html_url)
    if found is None and (closed := next((pull for pull in pulls if proposal.made_as(pull)), None)):
        return Outcome("was closed", closed.html_url)
    base = github.default_branch()
    if found is None:
        commit = github.head(base)
        assert commit, "a repository's default branch is there"
        github.set_branch(proposal.branch, commit)
    before = github.read(path, proposal.branch)
    content = proposal.edit(before.content)
    if content != before.content:
        github.write(path, before, content, proposal.branch, proposal.title)
    elif found is None:
        return Outcome(f"none: {base} has it already")
    if found is not None:
        return Outcome("updated", github.edit_pull(found.number, proposal.title, proposal.body).html_url)
    return Outcome("opened", github.open_pull(proposal.branch, base, proposal.title, proposal.body).html_url)


def _name(name: str) -> str:
    """A file's name of anybody's choice: in a code span it mentions nobody and is no Markdown."""
    return code(name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
