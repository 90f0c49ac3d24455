"""A repo on the Hub as target: staged file by file on a branch, released in one commit on main, read back.

Everything here may be run again at any time. Each call looks at what the Hub has and does what is missing, so that a
lost answer, a killed run and a second run at the same time all come to the same end.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, constants
from huggingface_hub.errors import HfHubHTTPError

from pipeline.check.verdict import passed, skipped
from pipeline.errors import BadInputError, HubError
from pipeline.gguf_file import MAGIC
from pipeline.hub import api, ask, sign_in
from pipeline.publish import access, remote
from pipeline.publish.change import Change
from pipeline.release import RELEASE
from pipeline.source import CARD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pipeline.progress import Display
    from pipeline.publish import Planned
    from pipeline.publish.remote import Remote
    from pipeline.release import Bundle
    from pipeline.result import FileEntry, Release

# After the slash stands the id of the release that is being put together there.
STAGING = "staging/"
TARGET = "target"
# A run of many large models takes days; what was staged longer ago than this nobody comes back for.
STALE = timedelta(days=14)


@dataclass(frozen=True)
class Hub:
    display: Display

    def check(self, planned: Sequence[Planned]) -> None:
        """Make sure that these can be published: signed in, allowed to write, room for the files. Creates the repos.

        A repo with nothing in it yet is gated as the source of its release is.

        Raises `HubError` for each way in which they could not, `BadInputError` where a public repo is to be private, or
        an open one gated.
        """
        sign_in.token()
        for plan in planned:
            ask(plan.repo, partial(access.have_repo, plan))
            ask(plan.repo, partial(api().auth_check, plan.repo, write=True))
            ask(plan.repo, partial(access.gate, plan))
            if (last := self.last(plan.repo)) is None or last.id != plan.release_id:
                ask(plan.repo, partial(access.announce, plan))

    def last(self, repo: str) -> Release | None:
        return ask(repo, lambda: remote.look(repo).release())

    def exists(self, repo: str) -> bool:
        return ask(repo, lambda: remote.look(repo).commit is not None)

    def is_open(self, repo: str) -> bool:
        return ask(repo, partial(access.is_open, repo))

    def holds(self, repo: str, files: Sequence[FileEntry], staged_for: str | None = None) -> bool:
        branches = [remote.MAIN, *([STAGING + staged_for] if staged_for else [])]
        places = ask(repo, lambda: [remote.look(repo, branch) for branch in branches])
        return all(any(place.holds(file) for place in places) for file in files)

    def stage(self, repo: str, release_id: str, files: Sequence[tuple[FileEntry, Path]]) -> None:
        branch = STAGING + release_id
        main, staged = ask(repo, lambda: (remote.look(repo), remote.look(repo, branch)))
        for file, path in files:
            if not (main.holds(file) or staged.holds(file)):
                with self.display.step(f"{repo}: stage {file.name}, {file.size / 1e6:.1f} MB"):
                    ask(repo, partial(_stage, repo, branch, file, path))

    def change(self, bundle: Bundle) -> Change:
        return ask(bundle.release.repo, lambda: _compare(bundle, *_look(bundle)))

    def publish(self, bundle: Bundle) -> Change:
        release = bundle.release
        self.stage(release.repo, release.id, ask(release.repo, lambda: _unstaged(bundle, *_look(bundle))))
        changes: list[Change] = []
        head = ask(release.repo, lambda: _commit(bundle, changes))
        change = next((c for c in changes if not c.empty), changes[-1])
        try:
            wrong = ask(release.repo, lambda: _wrong(bundle, head))
            if not wrong:
                ask(release.repo, lambda: _tidy(release, head))
        except HubError as error:
            self.display.say(
                f"warning: {release.repo} is released, but the Hub no longer answered while it was read back, tagged"
                f" and its staging branch dropped; run again to have that done. {error}"
            )
            return replace(change, verdicts=(skipped(TARGET, "the Hub no longer answered while it was read back"),))
        if wrong:
            raise HubError(
                f"{release.repo} at {head[:12]} does not hold what was released: {', '.join(wrong)}. Run again; if it"
                " stays so, tell the people of the Hub."
            )
        seen = f"{len(bundle.entries)} files at {head[:12]} have the sizes and SHA-256 that were released"
        return replace(change, verdicts=(passed(TARGET, seen),))


def _stage(repo: str, branch: str, file: FileEntry, path: Path) -> None:
    if remote.look(repo, branch).holds(file):  # an answer was lost
        return
    hub = api()
    hub.create_branch(repo, branch=branch, exist_ok=True)
    # One file a commit: a run that is killed has lost no more than the file that it was at.
    add = CommitOperationAdd(file.name, path)
    # A store is shared, and here is a token: what was put in the file's place, such as a link to what only this process
    # may read, goes nowhere.
    if add.upload_info.sha256.hex() != file.sha256:
        raise BadInputError(
            f"{path} is not the file {file.name} that was measured: its SHA-256 is another one. Find out who writes to"
            " this store, remove that artifact, and run its job again."
        )
    hub.create_commit(repo, [add], commit_message=f"Stage {file.name}", revision=branch)


def _look(bundle: Bundle) -> tuple[Remote, Remote]:
    """Return main and the staging branch as they are now."""
    release = bundle.release
    return remote.look(release.repo), remote.look(release.repo, STAGING + release.id)


def _is_kept(bundle: Bundle, main: Remote, file: FileEntry) -> bool:
    content = bundle.contents[file.name]
    return main.holds(file, content if isinstance(content, bytes) else None)


def _unstaged(bundle: Bundle, main: Remote, staged: Remote) -> list[tuple[FileEntry, Path]]:
    """Return the large files that the Hub has neither on main nor staged, and where they are.

    Raises `BadInputError` where that is nowhere.
    """
    found = []
    for file in bundle.entries:
        content = bundle.contents[file.name]
        if isinstance(content, bytes) or main.holds(file) or staged.holds(file):
            continue
        if content is None:
            raise BadInputError(
                f"{file.name} of {bundle.release.repo} is neither staged on the Hub nor in this store. Run its job"
                " again, then `python -m pipeline stage` on the same machine."
            )
        found.append((file, content))
    return found


def _compare(bundle: Bundle, main: Remote, staged: Remote) -> Change:
    """Say what the one commit would be.

    Raises `BadInputError` where it would replace what no release of ours put there.
    """
    last = main.release()
    ours = {RELEASE, *(f.name for f in last.files)} if last else set()
    kept = {f.name for f in bundle.entries if _is_kept(bundle, main, f)}
    new = [f for f in bundle.entries if f.name not in kept]
    if foreign := [f.name for f in new if f.name in main.files and f.name not in ours]:
        raise BadInputError(
            f"{', '.join(foreign)} on {main.repo} was put there by no release of ours, and this one would replace it."
            " Rename or delete it on the Hub, then run again."
        )
    copies = tuple(f for f in new if not isinstance(bundle.contents[f.name], bytes) and staged.holds(f))
    card = bundle.text(CARD)
    return Change(
        place=f"{constants.ENDPOINT}/{main.repo}",
        head=main.commit,
        adds=tuple(f for f in new if f not in copies),
        copies=copies,
        deletes=tuple(sorted((ours - {f.name for f in bundle.entries}) & set(main.files))),
        kept=tuple(sorted(kept)),
        edited=tuple(f.name for f in last.files if f.name not in kept and not main.holds(f)) if last else (),
        card=(card if CARD in kept else main.read(CARD).decode("utf-8", "replace"), card),
    )


def _commit(bundle: Bundle, changes: list[Change]) -> str:
    """Make the one commit, if anything is left to do, and return the head of main.

    What was to be done goes to the end of `changes`: a try whose answer was lost leaves nothing to do for the next.
    """
    main, staged = _look(bundle)
    if main.commit is None:
        raise HubError(f"{bundle.release.repo} is gone from the Hub. Run again to have it created.")
    _unstaged(bundle, main, staged)
    change, release = _compare(bundle, main, staged), bundle.release
    changes.append(change)
    if change.empty:
        return main.commit
    deletes = [CommitOperationDelete(name, is_folder=False) for name in change.deletes]
    copies = [CommitOperationCopy(f.name, f.name, src_revision=staged.commit) for f in change.copies]
    adds = [CommitOperationAdd(f.name, bundle.contents[f.name] or b"") for f in change.adds]
    made = api().create_commit(
        release.repo,
        [*deletes, *copies, *adds],
        commit_message=f"Release {release.id}",
        commit_description=f"{release.base_model} in {', '.join(r.quant for r in release.published)}",
        parent_commit=main.commit,
    )
    return str(made.oid)


def _wrong(bundle: Bundle, commit: str) -> list[str]:
    """Read the tree back and name what is not as released.

    A large file is known by its LFS SHA-256, a small one by git's name for its bytes; of each GGUF the first bytes are
    read, too, as they are served.
    """
    found = remote.at(bundle.release.repo, commit)
    wrong = [f.name for f in bundle.entries if not _is_kept(bundle, found, f)]
    wrong += [
        f.name
        for f in bundle.entries
        if f.name.endswith(".gguf") and f.name not in wrong and found.read(f.name, first=len(MAGIC)) != MAGIC
    ]
    return wrong


def _tidy(release: Release, head: str) -> None:
    """Tag the release, and drop its staging branch and those that nobody came back for."""
    repo, hub, tag = release.repo, api(), f"release-{release.id}"
    refs = hub.list_repo_refs(repo)
    tagged = {ref.name: ref.target_commit for ref in refs.tags}
    if tagged.get(tag) != head:
        if tag in tagged:  # the same weights under a newer card
            with _gone_already():
                hub.delete_tag(repo, tag=tag)
        hub.create_tag(repo, tag=tag, revision=head)
    for branch in refs.branches:
        own = branch.name == STAGING + release.id
        if own or (branch.name.startswith(STAGING) and _is_stale(repo, branch.name)):
            with _gone_already():
                hub.delete_branch(repo, branch=branch.name)


@contextmanager
def _gone_already() -> Iterator[None]:
    """Let another run have deleted it since the refs were listed."""
    try:
        yield
    except HfHubHTTPError as error:
        if error.response.status_code != 404:
            raise


def _is_stale(repo: str, branch: str) -> bool:
    """Whether nobody has staged anything there for long; on a branch that was just begun, main's commit is the last."""
    last = api().list_repo_commits(repo, revision=branch)[0]
    return last.title.startswith("Stage ") and datetime.now(UTC) - last.created_at > STALE
