"""Records of a run: written whole, read from a directory or a tree of artifacts; what a command that fails leaves."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import click
import factories
import pytest

from pipeline import errors, records
from pipeline.result import Failure, Released

JOB = "google/gemma-2b:Q8_0"
FAILURE = Failure(command="job", subject="google/gemma-2b:Q2_K", exit_code=3, message="It broke.")
RELEASED = Released(
    source="google/gemma-2b",
    repo="me/gemma-2b-GGUF",
    release="0" * 16,
    place="out/gemma-2b-GGUF",
    published=("Q8_0",),
    changed=True,
    uploaded=1,
)


def leave(directory):
    records.save(directory, factories.result("Q8_0"))
    records.save_failure(directory, FAILURE)
    records.save_released(directory, RELEASED)


def files(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_each_kind_has_its_place(tmp_path):
    leave(tmp_path)
    assert files(tmp_path) == [
        "failures/google--gemma-2b--Q2_K.job.json",
        "google--gemma-2b--Q8_0.json",
        "releases/google--gemma-2b.json",
    ]
    assert records.load([records.result_path(tmp_path, JOB)]) == [factories.result("Q8_0")]


def test_a_tree_of_artifacts_is_read_like_one_directory(tmp_path):
    expected = records.Records((factories.result("Q8_0"),), (FAILURE,), (RELEASED,))
    leave(tmp_path / "flat")
    assert records.gather(tmp_path / "flat") == expected
    records.save(tmp_path / "tree/job-1", factories.result("Q8_0"))
    records.save_failure(tmp_path / "tree/job-2/results", FAILURE)
    # An upload of this file alone, which loses its directory, and artifacts that are no records.
    records.save_released(tmp_path, RELEASED)
    (tmp_path / "releases").rename(tmp_path / "tree/release-1")
    (tmp_path / "tree/plan").mkdir()
    (tmp_path / "tree/plan/plan.json").write_text("{}")
    (tmp_path / "tree/release-1/release.json").write_text("[]")
    assert records.gather(tmp_path / "tree") == expected
    assert records.gather(tmp_path / "nowhere") == records.Records((), (), ())


def test_what_is_no_record_is_refused(tmp_path):
    records.save(tmp_path, factories.result("Q8_0"))
    path = records.result_path(tmp_path, JOB)
    for content in (b'{"version": 2}', b"\xff", b"", json.dumps({"version": 1, "job": JOB}).encode()):
        path.write_bytes(content)
        with pytest.raises(errors.BadInputError, match="is no result of this version"):
            records.load([path])
        with pytest.raises(errors.BadInputError, match="is no record of this version"):
            records.gather(tmp_path)


def test_nothing_is_half_written(tmp_path, monkeypatch):
    leave(tmp_path)
    before = records.gather(tmp_path)
    whole = Path.write_text

    def full(self, text, **options):
        whole(self, text[: len(text) // 2], **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    for save, record in (
        (records.save, factories.result("Q8_0", seconds=9)),
        (records.save_failure, FAILURE.model_copy(update={"exit_code": 4})),
        (records.save_released, RELEASED.model_copy(update={"uploaded": 2})),
    ):
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path, record)
    assert records.gather(tmp_path) == before


@pytest.mark.parametrize("subject", ["../../evil", "/etc/passwd", "a/../../b:../c", "gemma", ""])
def test_no_subject_leads_out_of_the_directory(subject, tmp_path):
    records.save_failure(tmp_path / "in/results", FAILURE.model_copy(update={"subject": subject}))
    (written,) = files(tmp_path)
    assert written.startswith("in/results/failures/")
    (found,) = records.gather(tmp_path).failures
    assert found.subject == subject


@pytest.mark.parametrize(
    ("raised", "exit_code", "message"),
    [
        (errors.HubError("The Hub is away."), 4, "The Hub is away."),
        (KeyboardInterrupt(), 130, "Interrupted. What was finished is kept"),
        (OSError(errno.ENOSPC, "No space left on device"), 5, "The disk is full"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 3, "The package torch is missing"),
    ],
)
def test_a_command_that_ends_in_a_sentence_leaves_it(raised, exit_code, message, tmp_path):
    records.save(tmp_path, factories.result("Q8_0"))
    with pytest.raises((type(raised), errors.OutOfRoomError)), records.failing(tmp_path, "job", JOB):
        raise raised
    found = records.gather(tmp_path)
    (failure,) = found.failures
    assert (failure.command, failure.subject, failure.exit_code) == ("job", JOB, exit_code)
    assert failure.message.startswith(message)
    assert not found.results, "the result of an earlier run would say that all went well"


@pytest.mark.parametrize("raised", [click.exceptions.Exit(1), ValueError("a bug")])
def test_what_is_no_failure_leaves_none(raised, tmp_path):
    records.save(tmp_path, factories.result("Q8_0"))
    with pytest.raises(type(raised)), records.failing(tmp_path, "job", JOB):
        raise raised
    assert records.gather(tmp_path).results
    assert not records.gather(tmp_path).failures


def test_what_goes_well_takes_an_older_failure_away(tmp_path):
    records.save_failure(tmp_path, FAILURE)
    with records.failing(tmp_path, "stage", FAILURE.subject):
        pass
    assert records.gather(tmp_path).failures == (FAILURE,), "that was another command"
    with records.failing(tmp_path, "job", FAILURE.subject):
        assert not records.gather(tmp_path).failures
    assert not records.gather(tmp_path).failures


def test_a_record_that_cannot_be_written_hides_nothing(tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(errors.HubError, match="away"), records.failing(tmp_path / "results", "release", "a/b"):
        raise errors.HubError("The Hub is away.")
    with pytest.raises(errors.HubError, match="away"), records.failing(tmp_path, "job", "x" * 5_000):
        raise errors.HubError("The Hub is away.")


def test_what_a_job_left(tmp_path):
    leave(tmp_path)
    staged = Failure(command="stage", subject=JOB, exit_code=4, message="The Hub is away.")
    records.save_failure(tmp_path, staged)
    records.save_failure(tmp_path, staged.model_copy(update={"command": "job"}))
    found = records.gather(tmp_path)
    assert found.of(JOB) == [factories.result("Q8_0"), staged]
    assert found.of(FAILURE.subject) == [FAILURE]
    assert found.of("a/b:Q8_0") == []
