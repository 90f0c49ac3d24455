"""Whatever goes wrong at whichever endpoint: the release is made, or main is as it was and the next run makes it."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import bundles
import huggingface_hub
import pytest
from bundles import IMATRIX, Q4, REPO
from hub import LoopbackHub
from huggingface_hub import CommitOperationAdd, HfApi, constants

from pipeline.errors import BadInputError, HubError
from pipeline.hub import client
from pipeline.progress import Display
from pipeline.publish import hub as publish_hub
from pipeline.publish.hub import STAGING, Hub
from pipeline.source import CARD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hub.faults import Fault

    from pipeline.release import Bundle

TOKEN = "hf_fault_matrix"
# What to do stands in each sentence.
FIX = re.compile(r"\b[Rr]un again|run it again|HF_TOKEN|Rename ")
OTHER = STAGING + "other"
# Seconds: how long an answer takes that nobody is to wait for.
DELAY = 2


@dataclass(frozen=True)
class Endpoint:
    method: str
    path: str
    """A regular expression, searched in the raw path."""
    skip: int = 0
    new: bool = False
    """With a repo that is not there yet."""
    parts: bool = False
    """With a large file that is sent in parts."""
    after: bool = False
    """Once the commit on main is made, not before."""


API = f"^/api/models/{REPO}"
ENDPOINTS = {
    "whoami": Endpoint("GET", "^/api/whoami-v2", new=True),
    "repo": Endpoint("GET", f"{API}$"),
    "create repo": Endpoint("POST", "^/api/repos/create", new=True),
    "auth-check": Endpoint("GET", f"{API}/auth-check/write"),
    "announce": Endpoint("POST", f"{API}/preupload/main"),
    "head of main": Endpoint("GET", f"{API}/revision/main"),
    "head of staging": Endpoint("GET", f"{API}/revision/staging"),
    "tree": Endpoint("GET", f"{API}/tree/"),
    "create branch": Endpoint("POST", f"{API}/branch/staging"),
    "preupload to staging": Endpoint("POST", f"{API}/preupload/staging"),
    "LFS batch": Endpoint("POST", "info/lfs/objects/batch"),
    "LFS upload": Endpoint("PUT", "^/lfs/[0-9a-f]+$"),
    "LFS part": Endpoint("PUT", "^/lfs/[0-9a-f]+/2$", parts=True),
    "LFS complete": Endpoint("POST", "^/lfs/[0-9a-f]+/complete", parts=True),
    "LFS verify": Endpoint("POST", "info/lfs/verify"),
    "commit on staging": Endpoint("POST", f"{API}/commit/staging"),
    "release.json": Endpoint("GET", "/resolve/.*/release.json"),
    "card": Endpoint("GET", f"/resolve/.*/{CARD}"),
    "validate-yaml": Endpoint("POST", "^/api/validate-yaml"),
    "preupload to main": Endpoint("POST", f"{API}/preupload/main", skip=1),
    "paths-info": Endpoint("POST", f"{API}/paths-info/"),
    "commit on main": Endpoint("POST", f"{API}/commit/main"),
    "tree, read back": Endpoint("GET", f"{API}/tree/", after=True),
    "GGUF, read back": Endpoint("GET", "/resolve/.*gguf", after=True),
    "CDN, read back": Endpoint("GET", "^/cdn/", after=True),
    "refs": Endpoint("GET", f"{API}/refs", after=True),
    "delete tag": Endpoint("DELETE", f"{API}/tag/", after=True),
    "create tag": Endpoint("POST", f"{API}/tag/", after=True),
    "delete branch": Endpoint("DELETE", f"{API}/branch/", after=True),
    "commits": Endpoint("GET", f"{API}/commits/", after=True),
}
FAULTS = ("refused", "reset", "429", "500", "503", "409", "412", "timeout", "lost")
TIMES = {"once": 1, "for ever": 10_000}
CASES = [*((fault, "once") for fault in FAULTS), ("503", "for ever"), ("lost", "for ever")]
# One that the Hub means: it is not asked again.
MEANT = ("create repo", "409")


@dataclass
class Count:
    """What became of the cases, in a line under the test run."""

    released: int = 0
    stopped: int = 0
    warned: int = 0

    def __str__(self) -> str:
        total = self.released + self.stopped + self.warned
        return (
            f"fault matrix: {total} cases, {self.released} released in spite of the fault, {self.warned} released with"
            f" a warning that the Hub fell silent after the commit, {self.stopped} stopped with a sentence and main as"
            " it was; all that was left undone, the next run did"
        )


@pytest.fixture(scope="module")
def count(conclude) -> Iterator[Count]:
    counted = Count()
    yield counted
    conclude(str(counted))


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Iterator[LoopbackHub]:
    """One for all cases: to start one takes as long as a release."""
    with pytest.MonkeyPatch.context() as patch, LoopbackHub(tmp_path_factory.mktemp("hub")) as hub:
        patch.setattr("time.sleep", lambda _seconds: None)
        patch.setattr(constants, "ENDPOINT", hub.endpoint)
        url = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", TOKEN)
        patch.delenv("HF_OIDC_RESOURCE", raising=False)
        hub.add_token(TOKEN, "me", "write", orgs={"nold": "write"})
        yield hub
        huggingface_hub.close_session()


FIRST = {name: content for name, content in bundles.files().items() if name in (Q4, IMATRIX, CARD, "test.log")}
# New weights and a new card, a text that goes, and an imatrix that stays.
NEXT = {Q4: bundles.gguf("next"), IMATRIX: FIRST[IMATRIX], CARD: bundles.card("And then?")}


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return tmp_path_factory.mktemp("room")


@pytest.fixture(scope="module")
def earlier(hub, room):
    """Commits and refs before each case: a release, a file put there by hand, and what another release has staged."""
    first = bundles.bundle(room, FIRST)
    target = Hub(Display(io.StringIO()))
    target.check([bundles.planned(first)])
    target.publish(first)
    notes = CommitOperationAdd("notes.txt", b"by hand")
    HfApi().create_commit(REPO, [notes], commit_message="Notes", parent_commit=None)
    HfApi().create_branch(REPO, branch=OTHER)
    repo = hub.repos.get("model", REPO)
    return repo.history(repo.commit("main")), dict(repo.refs)


def reset(hub, earlier, *, new: bool) -> None:
    """Make the repo what it was before, or take it away."""
    hub.faults.clear()
    hub.requests.clear()
    if repo := hub.repos.get("model", REPO):
        hub.repos.delete(repo)
    for content in NEXT.values() if new else [NEXT[Q4]]:
        hub.objects.path(bundles.entry("", content).sha256).unlink(missing_ok=True)
    if new:
        return
    repo, (commits, refs) = hub.repos.create("model", REPO), earlier
    for commit in commits:
        repo.put(commit)
    for ref, commit_id in refs.items():
        repo.point(ref, commit_id)


def run(bundle: Bundle, room) -> str:
    """What a run does with its target, from the first question to the release; returns what it said."""
    said = io.StringIO()
    target = Hub(Display(said))
    # As of another release than the last one: else nobody would ask whether there is room for it.
    target.check([replace(bundles.planned(bundle), release_id="another")])
    target.stage(REPO, bundle.release.id, bundles.weights(room, NEXT))
    target.publish(bundle)
    return said.getvalue()


def on_main(hub) -> tuple[dict[str, str], list[str]]:
    """The sha256 of each file, and the titles of all commits but the one that every repo starts with."""
    repo = hub.repos.get("model", REPO)
    if repo is None:
        return {}, []
    titles = [commit.title for commit in repo.history(repo.commit("main"))]
    return bundles.sums(bundles.held(hub)), titles[:-1]


def order(hub, spot: Endpoint, fault: str, times: int) -> Fault:
    common = {"method": spot.method, "skip": spot.skip, "count": times}
    match fault:
        case "reset":  # in the midst of what is sent, or of what is answered
            action = "reset" if spot.method in ("POST", "PUT") else "cut"
            return hub.fault(spot.path, action, after_bytes=1, **common)
        case "timeout":
            return hub.fault(spot.path, "delay", seconds=DELAY, **common)
        case "refused" | "lost":
            return hub.fault(spot.path, {"refused": "refuse", "lost": "lose"}[fault], **common)
        case _:
            headers = {"Retry-After": "1"} if fault == "429" else {}
            return hub.fault(spot.path, status=int(fault), headers=headers, **common)


def hold_back(fault: Fault, patch: pytest.MonkeyPatch) -> None:
    """Let a fault strike once the commit on main is made, which is when it is read back."""
    verify, times = publish_hub._wrong, [fault.count]
    fault.count = 0

    def late(*arguments) -> list[str]:
        if times:
            fault.count = times.pop()
        return verify(*arguments)

    patch.setattr(publish_hub, "_wrong", late)


@pytest.mark.parametrize(("fault", "times"), CASES)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_fault(endpoint, fault, times, hub, earlier, room, monkeypatch, count):
    spot, bundle = ENDPOINTS[endpoint], bundles.bundle(room, NEXT)
    reset(hub, earlier, new=spot.new)
    before, history = on_main(hub)
    released = (
        bundles.wanted(bundle) | {name: sha256 for name, sha256 in before.items() if name == "notes.txt"},
        [f"Release {bundle.release.id}", *history],
    )
    ordered, stopped, warned = order(hub, spot, fault, TIMES[times]), None, False
    with monkeypatch.context() as patch:
        patch.setattr(hub, "part_size", 2000 if spot.parts else 1 << 20)
        if spot.after:
            hold_back(ordered, patch)
        if fault == "timeout":
            patch.setattr(client, "SILENCE_LIMIT", 0.2 if times == "once" else 0.1)
            patch.setattr(sys.modules["pipeline.hub.ask"], "ATTEMPTS", 2)  # by its name, pipeline.hub has a function
            huggingface_hub.close_session()  # the next session gets the new limit
        try:
            said = run(bundle, room)
        except (BadInputError, HubError) as error:
            stopped = error
    if fault == "timeout":
        huggingface_hub.close_session()
    assert ordered.count < TIMES[times], "the fault never struck"
    if fault == "timeout":
        struck = [r.status for r in hub.requests if r.method == spot.method and re.search(spot.path, r.path)]
        assert 0 in struck, "the answer was waited for"
    if stopped is not None:
        assert times == "for ever" or (endpoint, fault) == MEANT, f"one {fault} stopped it: {stopped}"
        assert FIX.search(str(stopped))
        assert TOKEN not in str(stopped)
        assert on_main(hub) == (before, history)
        hub.faults.clear()
        run(bundle, room)
    elif warned := "is released, but the Hub no longer answered" in said:
        assert spot.after
        assert times == "for ever"
        hub.faults.clear()
        assert "warning" not in run(bundle, room)
    assert on_main(hub) == released
    refs = hub.repos.get("model", REPO).refs
    others = {} if spot.new else {f"refs/heads/{OTHER}": earlier[1][f"refs/heads/{OTHER}"]}
    head = refs["refs/heads/main"]
    assert refs == {"refs/heads/main": head, f"refs/tags/release-{bundle.release.id}": head} | others
    count.released += stopped is None and not warned
    count.warned += warned
    count.stopped += stopped is not None
