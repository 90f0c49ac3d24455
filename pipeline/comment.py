"""The comment on a pull request: what its check found, taken from an artifact that the pull request's code wrote.

Whoever opens a pull request decides what its check does, so nothing in the artifact is trusted: not its files' kinds,
not their sizes, not their text. Which pull request it is says the event, which GitHub wrote.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ValidationError

from pipeline.card.markdown import closing, code, plain
from pipeline.errors import BadInputError, GitHubError
from pipeline.github import BOT, LONGEST_COMMENT, MAX_PAGES, PAGE
from pipeline.matrix import located
from pipeline.preview import record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.github import ChangedFile, GitHub, Pull
    from pipeline.preview.record import Outlook

MARKER: Final = "<!-- llm-quantizer preview -->"
MATRIX: Final = "matrix.yml"
PIN: Final = "llama_cpp"
PREVIEW: Final = "preview.json"
PROBLEMS: Final = "problems.txt"
MOST_PROBLEM_BYTES: Final = 1 << 14
MOST_PROBLEMS: Final = 50
LONGEST_PROBLEM: Final = 500
MOST_FILES: Final = 10
LONGEST_END: Final = 8_000
"""Characters kept for what ends a page where it is cut."""
LONGEST_NAME: Final = 200
# What decides what a run does, besides the matrix: a merge that changes it is a merge of code.
CODE: Final = (".github/", "pipeline/", "templates/", "Makefile", "pyproject.toml", "constraints.txt")
MENTION: Final = re.compile(r"(?:@|&#0*64;|&#[xX]0*40;|&commat;)(?=[A-Za-z0-9])")


class _Owner(BaseModel):
    login: str


class _Repository(BaseModel):
    full_name: str
    owner: _Owner


class Run(BaseModel):
    """The run of the check, as the event of `workflow_run` has it."""

    event: str
    head_sha: str
    head_branch: str | None
    head_repository: _Repository | None
    """None where the fork is gone."""
    html_url: str

    @staticmethod
    def of_environment() -> Run:
        """Read the event that this job runs for.

        Raises `BadInputError` where it is another one.
        """
        try:
            return _Event.model_validate_json(Path(os.environ.get("GITHUB_EVENT_PATH", "")).read_bytes()).workflow_run
        except (OSError, ValidationError) as error:
            raise BadInputError(
                "GITHUB_EVENT_PATH names no event of `workflow_run`. This command is for a job that is started by one."
            ) from error


class _Event(BaseModel):
    workflow_run: Run


@dataclass(frozen=True)
class Findings:
    """What a check left, as far as it can be read."""

    outlooks: tuple[Outlook, ...]
    problems: tuple[str, ...]


def comment(github: GitHub, run: Run, directory: Path) -> Iterator[str]:
    """Comment on the pull requests that `run` checked, and say in a line each what was done.

    Writes nothing where the pull request has moved on since.
    """
    pulls = _checked(github, run)
    if not pulls:
        yield f"Nothing to comment on: no open pull request is at {run.head_sha[:12]} (any more)."
        return
    findings = read(directory)
    for pull in pulls:
        files = github.changed_files(pull.number)
        warning = _warning(files, toolchain=_toolchain_changed(github, pull, files))
        text = body(findings, warning, run)
        ours = [c for c in github.comments(pull.number) if c.user and c.user.login == BOT and c.body]
        before = next((c for c in ours if (c.body or "").startswith(MARKER)), None)
        if before is None and not (findings.outlooks or findings.problems or warning):
            yield f"Nothing to comment on: pull request {pull.number} changes no model."
        elif before is None:
            yield f"commented: {github.comment(pull.number, text).html_url}"
        elif (before.body or "").replace("\r\n", "\n").strip() == text.strip():
            yield f"is as it was: {before.html_url}"
        else:
            yield f"updated: {github.edit_comment(before.id, text).html_url}"


def _checked(github: GitHub, run: Run) -> list[Pull]:
    """Return the open pull requests that are still at what `run` checked."""
    if run.event != "pull_request" or run.head_repository is None or not run.head_branch:
        return []
    found = github.pulls(run.head_repository.owner.login, run.head_branch)
    return [
        pull
        for pull in found
        if pull.head.sha == run.head_sha
        and pull.head.repo
        and pull.head.repo.full_name == run.head_repository.full_name
    ]


def read(directory: Path) -> Findings:
    """Read what a check left: plain files alone, no more of them than a comment may hold, and nothing by a link.

    What cannot be read is itself among the problems.
    """
    problems: list[str] = []
    outlooks: tuple[Outlook, ...] = ()
    said, seen = b"", None
    try:
        data = _head(directory / PREVIEW, record.MAX_BYTES + 1)
        if data is not None:
            seen = record.parse(data)
            outlooks = seen.outlooks
            problems += seen.problems
    except BadInputError as error:
        problems.append(str(error))
    try:
        said = _head(directory / PROBLEMS, MOST_PROBLEM_BYTES + 1) or b""
    except BadInputError as error:
        problems.append(str(error))
    text = plain(said[:MOST_PROBLEM_BYTES].decode("utf-8", "replace"))
    # What the check prints for GitHub alone says the same once more.
    lines = [line for line in text.split("\n") if line.strip() and not line.startswith("::")]
    problems += [_cut(line, LONGEST_PROBLEM) for line in lines[:MOST_PROBLEMS]]
    if len(lines) > MOST_PROBLEMS or len(said) > MOST_PROBLEM_BYTES:
        problems.append("There is more, in the log of the check.")
    if not problems and seen is None:
        problems.append("The check left nothing to show: it ended early. Its log says why.")
    return Findings(outlooks, tuple(problems))


def body(findings: Findings, warning: str, run: Run) -> str:
    """Render the comment, the warning first.

    What a pull request could have written can mention nobody, and cannot be too long.
    """
    from pipeline.preview.page import page

    head = f"{MARKER}\n{warning}"
    text = MENTION.sub("\\g<0>\N{ZERO WIDTH SPACE}", page(findings.outlooks, findings.problems))
    room = LONGEST_COMMENT - len(head) - LONGEST_END
    if len(text) > room:
        cut = text[: text.rfind("\n", 0, room) + 1] or text[:room]
        end = closing(cut)
        shown = cut + end if end is not None and len(end) < LONGEST_END - 500 else ""
        text = f"{shown}\n\nThis is cut here: a comment has {LONGEST_COMMENT} characters. [All of it]({run.html_url})\n"
    return head + text


def _toolchain_changed(github: GitHub, pull: Pull, files: Sequence[ChangedFile]) -> bool:
    """Whether the matrix names another llama.cpp: code from elsewhere, which a run builds and starts."""
    if all(file.filename != MATRIX for file in files):
        return False
    try:
        found = [github.read(MATRIX, revision) for revision in (pull.base.ref, f"refs/pull/{pull.number}/head")]
    except GitHubError:  # it is no longer there, or too large to be read: what it names is for a person to find out
        return True
    before, after = (located.parse(file.content).value for file in found)
    return not isinstance(before, dict) or not isinstance(after, dict) or before.get(PIN) != after.get(PIN)


def _warning(files: Sequence[ChangedFile], *, toolchain: bool) -> str:
    """What a maintainer must read first: a merge runs it."""
    names = {name for file in files for name in (file.filename, file.previous_filename) if name}
    changed = sorted(name for name in names if name.startswith(CODE))
    changed += [f"{PIN} in {MATRIX}"] if toolchain else []
    if not changed and len(files) >= PAGE * MAX_PAGES:
        return "**This changes more files than GitHub lists.** A maintainer has to read all of them before any run.\n\n"
    if not changed:
        return ""
    listed = ", ".join(code(_cut(name, LONGEST_NAME)) for name in changed[:MOST_FILES])
    more = f" and {len(changed) - MOST_FILES} more" if len(changed) > MOST_FILES else ""
    return (
        f"**This changes what a run does, not only what it makes:** {listed}{more}. A maintainer has to read these"
        " changes before any run.\n\n"
    )


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _head(path: Path, limit: int) -> bytes | None:
    """Return a file's first bytes, None where there is none.

    Raises `BadInputError` for what is no plain file: a link may lead to anything on this machine, a pipe never ends.
    """
    try:
        with open(path, "rb", opener=_opener) as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.read(limit)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInputError(f"{path.name} of the check cannot be read as a plain file, so it is left out.") from error
    raise BadInputError(f"{path.name} of the check is no plain file, so it is left out.")


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
