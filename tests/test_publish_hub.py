"""The Hub as target: one commit, whole, with nothing of others touched and nothing uploaded twice."""

from __future__ import annotations

import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import bundles
import pytest
from bundles import IMATRIX, Q4, Q8, REPO, held, sums, wanted
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, close_session, snapshot_download
from test_safetensors import GOOD, write
from test_source import CONFIG, SHA, model

from pipeline import report, source
from pipeline.errors import BadInputError, HubError
from pipeline.hub import client
from pipeline.progress import Display
from pipeline.publish import Planned
from pipeline.publish import hub as publish_hub
from pipeline.publish.change import Change
from pipeline.publish.hub import STAGING, STALE, Hub
from pipeline.release import RELEASE
from pipeline.result import FileEntry
from pipeline.source import CARD

TOKEN = "hf_publisher"


@pytest.fixture
def hub(loopback_hub, monkeypatch):
    loopback_hub.add_token(TOKEN, "me", "write", orgs={"nold": "write"})
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return loopback_hub


@pytest.fixture
def target(hub):
    return Hub(Display(io.StringIO()))


@pytest.fixture
def make(tmp_path):
    """`make(files, …)` gives a bundle whose large files lie on disk."""
    return lambda files, **options: bundles.bundle(tmp_path / "room", files, **options)


@pytest.fixture
def publish(target, make):
    """`publish(files, …)` checks and publishes, as a run does, and gives bundle and change."""

    def publish(files, **options):
        made = make(files, **options)
        target.check([bundles.planned(made)])
        return made, target.publish(made)

    return publish


def titles(hub, revision="main"):
    repo = hub.repos.get("model", REPO)
    return [commit.title for commit in repo.history(repo.commit(revision))]


def refs(hub):
    return hub.repos.get("model", REPO).refs


def names(entries):
    return {entry.name for entry in entries}


def by_hand(*operations):
    return HfApi().create_commit(REPO, operations, commit_message="By hand").oid


def put(name, content):
    return CommitOperationAdd(name, content)


def statuses(hub, method, pattern):
    return [r.status for r in hub.requests if r.method == method and re.search(pattern, r.path)]


class TestOneCommit:
    def test_a_first_release_is_one_commit_with_all_files(self, hub, publish, tmp_path):
        files = bundles.files()
        made, change = publish(files)
        assert titles(hub) == [f"Release {made.release.id}", "initial commit"]
        copy = Path(snapshot_download(REPO, local_dir=tmp_path / "copy"))
        found = {p.name: p.read_bytes() for p in copy.iterdir() if p.is_file() and p.name != ".gitattributes"}
        assert found == files | {RELEASE: made.contents[RELEASE]}
        head = refs(hub)["refs/heads/main"]
        assert refs(hub) == {"refs/heads/main": head, f"refs/tags/release-{made.release.id}": head}
        assert names(change.copies) == {Q4, Q8, IMATRIX}
        assert names(change.adds) == {CARD, "test.log", "quality.svg", RELEASE}
        assert (change.deletes, change.kept, change.edited) == ((), (), ())
        assert change.place == f"{hub.endpoint}/{REPO}"

    def test_its_record_is_read_back(self, target, publish):
        assert target.last(REPO) is None
        assert not target.exists(REPO)
        made, _ = publish(bundles.files())
        assert target.last(REPO) == made.release
        assert target.exists(REPO)

    def test_eight_jobs_stage_at_once(self, hub, target, make, tmp_path, monkeypatch):
        # A hundredth of the waits: with none, eight tries are over before the seven others have committed.
        monkeypatch.setattr("time.sleep", lambda seconds: Event().wait(seconds / 100))
        monkeypatch.setattr(hub, "commit_seconds", 0.02)
        files = {f"gemma-2b-Q{n}_K.gguf": bundles.gguf(f"quant {n}") for n in range(8)}
        made = make(files | {CARD: bundles.card("eight")})
        target.check([bundles.planned(made)])
        with ThreadPoolExecutor(8) as pool:
            jobs = [
                pool.submit(target.stage, REPO, made.release.id, bundles.weights(tmp_path / "room", {name: content}))
                for name, content in files.items()
            ]
        assert [job.result() for job in jobs] == [None] * 8
        assert sorted(statuses(hub, "POST", "/commit/staging"))[:8] == [200] * 8
        assert 409 in statuses(hub, "POST", "/commit/staging")
        assert held(hub) == {}
        change = target.publish(made)
        assert titles(hub) == [f"Release {made.release.id}", "initial commit"]
        assert sums(held(hub)) == wanted(made)
        assert names(change.copies) == set(files)
        assert not [ref for ref in refs(hub) if STAGING in ref]

    def test_two_runs_release_the_same_at_once(self, hub, target, make, monkeypatch):
        monkeypatch.setattr("time.sleep", lambda seconds: Event().wait(seconds / 100))
        monkeypatch.setattr(hub, "commit_seconds", 0.02)
        made = make(bundles.files())
        target.check([bundles.planned(made)])
        with ThreadPoolExecutor(2) as pool:
            runs = [pool.submit(target.publish, made) for _ in range(2)]
        assert [run.exception() for run in runs] == [None, None]
        assert titles(hub) == [f"Release {made.release.id}", "initial commit"]
        assert sums(held(hub)) == wanted(made)

    @pytest.mark.parametrize("ref", ["branch", "tag"])
    def test_a_ref_that_another_run_deletes_meanwhile(self, hub, target, make, publish, monkeypatch, ref):
        first, _ = publish(bundles.files())
        made, refs_of, others = make(bundles.files("new", seed="other")), HfApi.list_repo_refs, [ref]

        def listed(api, repo):
            found = refs_of(api, repo)
            match others and others.pop():
                case "branch":
                    api.delete_branch(repo, branch=STAGING + made.release.id)
                case "tag":
                    api.delete_tag(repo, tag=f"release-{first.release.id}")
            return found

        monkeypatch.setattr(HfApi, "list_repo_refs", listed)
        target.publish(made)
        assert sums(held(hub)) == wanted(made)
        head = refs(hub)["refs/heads/main"]
        assert refs(hub) == {"refs/heads/main": head, f"refs/tags/release-{made.release.id}": head}

    def test_a_commit_that_takes_longer_than_is_waited_for(self, hub, target, make, monkeypatch, tmp_path):
        """It is made after its client has gone, and found by the next try."""
        made = make(bundles.files())
        target.check([bundles.planned(made)])
        target.stage(REPO, made.release.id, bundles.weights(tmp_path / "room", bundles.files()))
        monkeypatch.setattr("time.sleep", lambda seconds: Event().wait(seconds / 20))
        monkeypatch.setattr(client, "SILENCE_LIMIT", 0.2)
        monkeypatch.setattr(hub, "commit_seconds", 0.5)
        close_session()  # the next session gets the new limit
        target.publish(made)
        assert 409 in statuses(hub, "POST", "/commit/main")
        assert titles(hub) == [f"Release {made.release.id}", "initial commit"]
        assert sums(held(hub)) == wanted(made)


class TestFromOtherMachines:
    def test_a_machine_without_weights_releases_what_is_staged(self, hub, target, make, tmp_path):
        files = bundles.files()
        made = make(files, absent=(Q4, Q8, IMATRIX))
        target.check([bundles.planned(made)])
        target.stage(REPO, made.release.id, bundles.weights(tmp_path / "room", files))
        staged = hub.uploaded()
        change = target.publish(made)
        assert sums(held(hub)) == wanted(made)
        assert names(change.copies) == {Q4, Q8, IMATRIX}
        assert not statuses(hub, "PUT", "/lfs/")[3:]
        texts = sum(len(c) for c in made.contents.values() if c)
        assert hub.uploaded() - staged < 2 * texts + 2000  # base64, and a line of JSON a file

    def test_what_is_neither_staged_nor_here_is_named(self, hub, target, make, tmp_path):
        files = bundles.files()
        made = make(files, absent=(Q4, Q8, IMATRIX))
        target.check([bundles.planned(made)])
        target.stage(
            REPO, made.release.id, bundles.weights(tmp_path / "room", {Q8: files[Q8], IMATRIX: files[IMATRIX]})
        )
        with pytest.raises(BadInputError, match=rf"{Q4} .* neither staged .* `python -m pipeline stage`"):
            target.publish(made)
        assert held(hub) == {}

    def test_what_is_staged_is_not_sent_again(self, hub, target, make, tmp_path):
        made, weights = make(bundles.files()), bundles.weights(tmp_path / "room", bundles.files())
        target.check([bundles.planned(made)])
        target.stage(REPO, made.release.id, weights)
        before = hub.uploaded(), titles(hub, STAGING + made.release.id)
        target.stage(REPO, made.release.id, weights)
        assert (hub.uploaded(), titles(hub, STAGING + made.release.id)) == before

    def test_a_link_in_a_files_place_is_not_followed_to_the_hub(self, hub, target, make, tmp_path):
        made, weights = make(bundles.files()), bundles.weights(tmp_path / "room", bundles.files())
        target.check([bundles.planned(made)])
        (tmp_path / "private").write_text("a secret")
        path = weights[0][1]
        path.unlink()
        path.symlink_to(tmp_path / "private")
        before = hub.uploaded()
        with pytest.raises(BadInputError, match=r"is not the file gemma-2b-Q4_K_M.gguf that was measured"):
            target.stage(REPO, made.release.id, weights)
        assert hub.uploaded() == before

    def test_what_was_released_is_not_staged(self, hub, target, publish, tmp_path):
        publish(bundles.files())
        target.stage(REPO, "another", bundles.weights(tmp_path / "room", bundles.files()))
        assert STAGING not in str(refs(hub))


class TestTheNextRelease:
    def test_of_the_same_is_no_commit_and_no_upload(self, hub, target, publish):
        made, _ = publish(bundles.files())
        before = hub.uploaded(), titles(hub), refs(hub)
        assert target.change(made).empty
        _, change = publish(bundles.files())
        assert change.empty
        assert set(change.kept) == set(wanted(made))
        assert (hub.uploaded(), titles(hub), refs(hub)) == before

    def test_of_a_new_card_leaves_the_weights(self, hub, publish):
        publish(bundles.files())
        before = hub.uploaded()
        made, change = publish(bundles.files("Twice upon a time."))
        assert titles(hub)[0] == f"Release {made.release.id}"
        assert len(titles(hub)) == 3
        assert sums(held(hub)) == wanted(made)
        assert names(change.adds) == {CARD, RELEASE}
        assert not change.copies
        assert hub.uploaded() - before < 20_000
        assert len(statuses(hub, "PUT", "/lfs/")) == 3
        head = refs(hub)["refs/heads/main"]
        assert refs(hub) == {"refs/heads/main": head, f"refs/tags/release-{made.release.id}": head}

    def test_of_other_inputs_leaves_the_old_tag(self, hub, publish):
        first, _ = publish(bundles.files())
        old = refs(hub)["refs/heads/main"]
        made, _ = publish(bundles.files(seed="other"), id="f" * 16)
        assert refs(hub)[f"refs/tags/release-{first.release.id}"] == old
        assert refs(hub)[f"refs/tags/release-{made.release.id}"] == refs(hub)["refs/heads/main"] != old

    def test_deletes_a_quant_that_was_withdrawn_and_nothing_of_others(self, hub, publish):
        publish(bundles.files())
        by_hand(put("notes/mine.txt", b"mine"), put("mine.gguf", bundles.gguf("mine")))
        files = bundles.files()
        del files[Q8]
        made, change = publish(files)
        assert change.deletes == (Q8,)
        assert held(hub) == {
            **files,
            RELEASE: made.contents[RELEASE],
            "notes/mine.txt": b"mine",
            "mine.gguf": bundles.gguf("mine"),
        }

    def test_deletes_nothing_that_is_gone_already(self, hub, publish):
        publish(bundles.files())
        by_hand(CommitOperationDelete(Q8))
        files = bundles.files()
        del files[Q8]
        made, change = publish(files)
        assert change.deletes == ()
        assert sums(held(hub)) == wanted(made)

    @pytest.mark.parametrize(
        ("name", "operation"),
        [
            ("test.log", put("test.log", b"all failed\n")),
            (Q4, put(Q4, bundles.gguf("by hand"))),
            (Q4, put(Q4, bundles.gguf("by hand", size=500))),
            (IMATRIX, CommitOperationDelete(IMATRIX)),
            ("quality.svg", CommitOperationDelete("quality.svg")),
        ],
    )
    def test_names_what_was_edited_by_hand_and_puts_it_right(self, hub, target, publish, make, name, operation):
        publish(bundles.files())
        by_hand(operation)
        made = make(bundles.files())
        assert target.change(made).edited == (name,)
        assert target.publish(made).edited == (name,)
        assert sums(held(hub)) == wanted(made)

    @pytest.mark.parametrize("name", ["test.log", Q8])
    def test_never_replaces_what_others_put_there(self, hub, publish, name):
        files = bundles.files()
        kept = files.pop(name)
        publish(files)
        by_hand(put(name, bundles.gguf("mine")))
        before = held(hub), titles(hub)
        with pytest.raises(BadInputError, match=rf"{name} on {REPO} was put there by no release of ours.*Rename"):
            publish({**files, name: kept})
        assert (held(hub), titles(hub)) == before

    def test_takes_over_what_others_put_there_if_it_is_the_same(self, hub, publish):
        files = bundles.files()
        kept = files.pop("test.log")
        publish(files)
        by_hand(put("test.log", kept))
        made, change = publish({**files, "test.log": kept})
        assert "test.log" in change.kept
        assert sums(held(hub)) == wanted(made)

    def test_leaves_gitattributes_to_the_hub(self, hub, publish):
        publish(bundles.files())
        lines = b"*.gguf filter=lfs diff=lfs merge=lfs -text\n# by hand\n"
        by_hand(put(".gitattributes", lines))
        files = bundles.files(seed="other")
        del files[Q8]
        _, change = publish(files)
        assert ".gitattributes" not in {*names(change.adds), *change.deletes, *change.kept, *change.edited}
        file = hub.repos.get("model", REPO).commit("main").files[".gitattributes"]
        assert hub.objects.path(file.sha256).read_bytes() == lines

    @pytest.mark.parametrize("content", [b"{}", b"not JSON", b""])
    def test_refuses_a_record_that_cannot_be_read(self, hub, target, publish, content):
        publish(bundles.files())
        by_hand(put(RELEASE, content or b"\n"))
        before = titles(hub)
        with pytest.raises(BadInputError, match=rf"{RELEASE} on {REPO} cannot be read.*then run again"):
            publish(bundles.files("new"))
        with pytest.raises(BadInputError, match="cannot be read"):
            target.last(REPO)
        assert titles(hub) == before

    def test_looks_again_when_main_has_moved(self, hub, target, make, publish, monkeypatch):
        publish(bundles.files())
        compare, moves = publish_hub._compare, [put("notes.txt", b"mine")]

        def late(*arguments):
            change = compare(*arguments)
            while moves:
                by_hand(moves.pop())
            return change

        monkeypatch.setattr(publish_hub, "_compare", late)
        hub.requests.clear()
        made = make(bundles.files("new", seed="other"))
        target.publish(made)
        assert statuses(hub, "POST", "/commit/main") == [200, 412, 200]
        assert titles(hub)[:2] == [f"Release {made.release.id}", "By hand"]
        assert sums(held(hub)) == wanted(made) | sums({"notes.txt": b"mine"})


def test_says_what_was_done_when_the_answer_to_the_commit_was_lost(hub, target, make, publish):
    publish(bundles.files())
    made = make(bundles.files("new", seed="other"))
    lost = hub.fault("/commit/main", "lose", method="POST")
    change = target.publish(made)
    assert lost.count == 0
    assert {f.name for f in change.copies} == {Q4, Q8, IMATRIX}
    assert titles(hub).count(f"Release {made.release.id}") == 2  # both releases are of the same inputs
    assert len(titles(hub)) == 3


class TestStagingBranches:
    @pytest.fixture
    def aged(self, hub):
        """`aged(branch, days)` lets a branch's last commit be so old."""

        def aged(branch, days):
            repo = hub.repos.get("model", REPO)
            date = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="milliseconds")
            repo.put(replace(repo.commit(branch), date=date.replace("+00:00", "Z")))

        return aged

    def test_old_ones_are_dropped_and_young_ones_of_others_stay(self, hub, target, publish, aged, tmp_path):
        publish(bundles.files())
        for branch, days in (("old", STALE.days + 1), ("young", STALE.days - 1)):
            target.stage(REPO, branch, bundles.weights(tmp_path / "room", {Q4: bundles.gguf(branch)}))
            aged(STAGING + branch, days)
        HfApi().create_branch(REPO, branch="mine", revision=STAGING + "old")
        publish(bundles.files("new"))
        assert {ref for ref in refs(hub) if "tags" not in ref} == {
            "refs/heads/main",
            "refs/heads/mine",
            "refs/heads/staging/young",
        }

    def test_one_that_was_just_begun_on_an_old_main_stays(self, hub, publish, aged):
        """A job that uploads its first file has a branch whose head is main's, however old that is."""
        publish(bundles.files())
        aged("main", STALE.days + 1)
        HfApi().create_branch(REPO, branch=STAGING + "begun")
        publish(bundles.files("new"))
        assert f"refs/heads/{STAGING}begun" in refs(hub)


class TestRepos:
    def test_is_created_public(self, hub, publish):
        publish(bundles.files())
        assert not hub.repos.get("model", REPO).private

    def test_is_created_private_where_that_is_wanted(self, hub, target, make):
        made = make(bundles.files())
        target.check([bundles.planned(made, private=True)])
        assert hub.repos.get("model", REPO).private
        target.publish(made)
        target.check([bundles.planned(made, private=True)])
        assert sums(held(hub)) == wanted(made)

    def test_a_private_one_that_may_be_public_stays_private(self, hub, target, make):
        made = make(bundles.files())
        target.check([bundles.planned(made, private=True)])
        target.check([bundles.planned(made)])
        assert hub.repos.get("model", REPO).private

    def test_a_public_one_is_not_what_was_wanted_private(self, target, publish):
        made, _ = publish(bundles.files())
        with pytest.raises(BadInputError, match=rf"{REPO} is public, and matrix.yml wants it private\..*settings page"):
            target.check([bundles.planned(made, private=True)])

    def test_one_that_is_gone_is_named(self, hub, target, make):
        with pytest.raises((BadInputError, HubError), match=REPO):
            target.publish(make(bundles.files()))
        assert hub.repos.get("model", REPO) is None


class TestReadBack:
    @pytest.fixture
    def damaged(self, monkeypatch):
        """`damaged(how)` lets `how(bundle, commit)` happen between the commit and its reading back."""

        def damaged(how):
            verify = publish_hub._wrong

            def late(bundle, commit):
                how(bundle, commit)
                return verify(bundle, commit)

            monkeypatch.setattr(publish_hub, "_wrong", late)

        return damaged

    def test_a_gguf_that_is_served_with_another_head_is_found(self, hub, publish, damaged):
        def damage(bundle, _commit):
            path = hub.objects.path(wanted(bundle)[Q8])
            path.write_bytes(b"<!do" + path.read_bytes()[4:])

        damaged(damage)
        with pytest.raises(HubError, match=rf"{REPO} at [0-9a-f]{{12}} does not hold what was released: {Q8}\. Run"):
            publish(bundles.files())
        assert STAGING in str(refs(hub))

    @pytest.mark.parametrize("name", [Q4, CARD])
    def test_a_tree_that_is_another_is_found(self, hub, publish, damaged, name):
        def damage(_bundle, commit):
            repo = hub.repos.get("model", REPO)
            made = repo.commit(commit)
            changed = made.files[name]._replace(oid="0" * 40, sha256="0" * 64)
            repo.put(replace(made, files=made.files | {name: changed}))

        damaged(damage)
        with pytest.raises(HubError, match=rf"does not hold what was released: {name}\."):
            publish(bundles.files())

    def test_a_file_that_is_missing_is_found(self, hub, publish, damaged):
        def damage(_bundle, commit):
            repo = hub.repos.get("model", REPO)
            made = repo.commit(commit)
            repo.put(replace(made, files={n: f for n, f in made.files.items() if n != "test.log"}))

        damaged(damage)
        with pytest.raises(HubError, match=r"does not hold what was released: test.log\."):
            publish(bundles.files())


def test_a_dry_run_says_what_would_be_done_and_does_nothing(hub, target, publish, make, tmp_path):
    publish(bundles.files())
    by_hand(put("quality.svg", b"<svg>mine</svg>\n"))
    files = bundles.files("Twice upon a time.")
    del files[Q8]
    files |= {Q4: bundles.gguf("new", 2_500_000), IMATRIX: bundles.gguf("newer", 4000)}
    made = make(files)
    target.stage(REPO, made.release.id, bundles.weights(tmp_path / "room", {Q4: files[Q4]}))
    before, uploaded = refs(hub), hub.uploaded()
    change = target.change(made)
    record = len(made.contents[RELEASE])
    assert report.change(change).splitlines() == [
        f"{hub.endpoint}/{REPO} @ {before['refs/heads/main'][:12]}",
        "add     README.md             67 B",
        "add     imatrix.gguf          4.0 kB",
        "add     quality.svg           7 B",
        f"add     release.json          {record / 1e3:.1f} kB",
        "copy    gemma-2b-Q4_K_M.gguf  2 MB, staged",
        "delete  gemma-2b-Q8_0.gguf    of the last release",
        "edited  quality.svg           by hand since the last release; put right",
        f"{change.upload / 1e3:.1f} kB to upload, 1 of 6 files as they are",
        "--- README.md, now",
        "+++ README.md, then",
        "@@ -7 +7 @@",
        "-Once upon a time.",
        "+Twice upon a time.",
    ]
    assert (refs(hub), hub.uploaded()) == (before, uploaded)


def test_a_dry_run_prints_nothing_that_a_terminal_or_a_workflow_obeys():
    before, after = (
        "one\n  ::add-mask::x\nthree\n",
        "one\n  ::add-mask::x\n::error::\x1b[2Jgone, 5\N{NO-BREAK SPACE}MB\r\n",
    )
    entry = FileEntry(name=CARD, size=1, sha256="")
    change = Change("a place", None, (entry,), (), (), (), (), (before, after))
    card = report.change(change).split("then\n")[1]
    assert card.splitlines() == ["@@ -3 +3 @@", "-three", "+::error::[2Jgone, 5 MB"]


def test_a_dry_run_of_what_is_there(hub, target, publish):
    made, _ = publish(bundles.files())
    said = report.change(target.change(made)).splitlines()
    assert said[1:] == [f"Nothing changes: all {len(wanted(made))} files are there."]


class TestRefusedBeforeAnyWork:
    """Each way in which a release could not be published is a sentence, with nothing sent."""

    @pytest.fixture(autouse=True)
    def _nothing_is_sent(self, hub):
        yield
        assert hub.uploaded() == 0

    @pytest.fixture
    def refused(self, target):
        def refused(match, repo=REPO):
            with pytest.raises(HubError, match=match) as raised:
                target.check([Planned(repo, "an id", private=False, files={Q4: 5_000_000})])
            assert raised.value.exit_code == 4
            assert "\n" not in str(raised.value)
            assert TOKEN not in str(raised.value)

        return refused

    @pytest.mark.parametrize("there", [True, False])
    def test_a_wrong_token(self, refused, monkeypatch, there):
        if there:
            HfApi().create_repo(REPO)
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
        refused(r"does not accept the token .* wrong, expired or revoked: make a new one .* HF_TOKEN")

    @pytest.mark.parametrize("there", [True, False])
    def test_a_token_that_may_only_read(self, hub, refused, monkeypatch, there):
        if there:
            HfApi().create_repo(REPO)
        hub.add_token("hf_reader", "me", "read", orgs={"nold": "write"})
        monkeypatch.setenv("HF_TOKEN", "hf_reader")
        refused(r"role `write`, or fine-grained with write access to nold")

    def test_an_organization_that_there_is_not(self, refused):
        refused(r"The account me is in no organization nobody, .*`organization` in matrix.yml", "nobody/m-GGUF")

    def test_an_organization_where_one_may_only_read(self, hub, refused):
        hub.add_token(TOKEN, "me", "write", orgs={"acme": "read"})
        refused(r"The token may not do this with acme/m-GGUF .* write access to acme", "acme/m-GGUF")

    @pytest.mark.parametrize("there", [True, False])
    def test_a_full_quota(self, hub, refused, there):
        if there:
            HfApi().create_repo(REPO)
        hub.quota["nold"] = 4_000_000
        refused(r"The Hub has no room left for nold/.*storage limit reached.*Delete what is no longer needed in nold")

    def test_a_name_that_a_dataset_has(self, hub, refused):
        HfApi().create_repo(REPO, repo_type="dataset")
        hub.one_type_a_name = True
        refused(rf"{REPO} cannot be created as a model: its name is taken, by a repo of another type.*Rename that one")
        assert hub.repos.get("model", REPO) is None

    def test_a_source_that_is_gated(self, hub, tmp_path):
        directory = tmp_path / "source"
        directory.mkdir()
        write(directory / "model.safetensors", GOOD)
        (directory / "config.json").write_text(json.dumps(CONFIG))
        (directory / "tokenizer.json").write_text("{}")
        hub.add("google/gemma-2b", directory, SHA, gated=True)
        match = r"google/gemma-2b is gated: accept its terms .* token is in HF_TOKEN .*, then run again\."
        with pytest.raises(HubError, match=match) as raised:
            source.look(model())
        assert raised.value.exit_code == 4

    def test_all_repos_are_looked_at(self, hub, target):
        plans = [Planned(repo, "an id", private=False, files={}) for repo in (REPO, "nold/other-GGUF", "nobody/m-GGUF")]
        with pytest.raises(HubError, match="nobody"):
            target.check(plans)
        target.check(plans[:2])
        assert hub.repos.get("model", "nold/other-GGUF") is not None


def test_a_token_that_is_revoked_in_the_middle(hub, target, make):
    made = make(bundles.files())
    target.check([bundles.planned(made)])
    hub.drop_token(TOKEN)
    with pytest.raises(HubError, match=rf"does not accept the token that was sent for {REPO} .*HF_TOKEN\.") as raised:
        target.publish(made)
    assert TOKEN not in str(raised.value)
    assert held(hub) == {}


class TestGatedSource:
    """What is made of a gated model is not open to everyone, unless the matrix says so."""

    @pytest.fixture
    def check(self, target):
        def check(gated="manual", *, private=False):
            target.check([Planned(REPO, "an id", private=private, files={}, gated=gated)])

        return check

    def gating(self, hub):
        return hub.repos.get("model", REPO).gated

    @pytest.mark.parametrize("gated", ["auto", "manual"])
    def test_a_new_repo_is_gated_likewise_before_anything_is_in_it(self, hub, target, check, gated):
        check(gated)
        assert self.gating(hub) == gated
        assert HfApi().model_info(REPO).gated == gated
        assert held(hub) == {}
        assert not target.is_open(REPO)
        check(gated)
        assert statuses(hub, "PUT", "/settings") == [200]

    @pytest.mark.parametrize("gated", [None, "no"])
    def test_that_of_an_open_source_is_not(self, hub, target, check, gated):
        check(gated)
        assert self.gating(hub) is False
        assert target.is_open(REPO)

    def test_a_private_repo_stays_as_it_is(self, hub, target, check):
        check(private=True)
        assert self.gating(hub) is False
        assert not target.is_open(REPO)

    def test_one_that_is_there_and_empty_is_gated(self, hub, check):
        HfApi().create_repo(REPO)
        check()
        assert self.gating(hub) == "manual"

    def test_one_that_is_gated_otherwise_stays_so(self, hub, check):
        HfApi().create_repo(REPO)
        HfApi().update_repo_settings(REPO, gated="auto")
        check()
        assert self.gating(hub) == "auto"

    def test_an_open_one_with_files_is_refused(self, hub, publish, check):
        publish(bundles.files())
        before = len(hub.requests)
        match = rf"{REPO} is open to everyone, and the model .* is gated \(manual\)\. Gate the repo .*`gating: open`"
        with pytest.raises(BadInputError, match=match):
            check()
        assert {r.method for r in hub.requests[before:]} == {"GET"}
        check(None)

    def test_a_token_that_may_not_gate(self, hub, check):
        hub.fault("/settings$", "status", method="PUT", status=403, error="You need the role admin")
        with pytest.raises(HubError, match=r"must be gated .* this token may not do that \(.*role admin\)\. Gate"):
            check()
        assert held(hub) == {}

    def test_a_hub_that_is_busy_is_asked_again(self, hub, check):
        hub.fault("/settings$", "status", method="PUT", status=503)
        hub.fault("/settings$", "lose", method="PUT")
        check()
        assert self.gating(hub) == "manual"


class TestVerdictOnTheTarget:
    def test_what_was_read_back_is_a_verdict(self, hub, publish):
        made, change = publish(bundles.files())
        (verdict,) = change.verdicts
        head = refs(hub)["refs/heads/main"]
        assert (verdict.check, verdict.outcome) == ("target", "pass")
        assert verdict.seen == f"{len(made.entries)} files at {head[:12]} have the sizes and SHA-256 that were released"

    def test_where_the_hub_fell_silent_it_was_not_read_back(self, target, make, monkeypatch):
        made = make(bundles.files())
        target.check([bundles.planned(made)])

        def silent(*_):
            raise HubError("The Hub is silent.")

        monkeypatch.setattr(publish_hub, "_wrong", silent)
        (verdict,) = target.publish(made).verdicts
        assert (verdict.check, verdict.outcome) == ("target", "skip")
