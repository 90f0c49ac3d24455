"""The folder target: replaced as a whole, never more deleted than the last release owned."""

from __future__ import annotations

import hashlib
from pathlib import Path

import factories
import pytest

from pipeline.errors import BadInputError
from pipeline.publish.folder import Folder
from pipeline.release import RELEASE, Bundle
from pipeline.result import FileEntry


def bundle(files: dict[str, bytes], **options) -> Bundle:
    entries = tuple(
        FileEntry(name=n, size=len(c), sha256=hashlib.sha256(c).hexdigest()) for n, c in sorted(files.items())
    )
    release = factories.release(quants=["Q4_K_M"], **options).model_copy(update={"files": entries})
    return Bundle(release, {**files, RELEASE: release.model_dump_json().encode()})


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "out")


def held(folder, made):
    directory = folder.directory(made.release.repo)
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


FIRST = {"m-Q4_K_M.gguf": b"weights", "README.md": b"card", "imatrix.dat": b"matrix"}


def test_a_first_release(folder, tmp_path):
    weights = tmp_path / "quant.gguf"
    weights.write_bytes(b"weights")
    made = bundle(FIRST)
    made.contents["m-Q4_K_M.gguf"] = weights
    assert {f.name for f in folder.change(made).adds} == {*FIRST, RELEASE}
    change = folder.publish(made)
    assert Path(change.place).name == made.release.repo.split("/")[1]
    files = held(folder, made)
    assert files.pop(".gitattributes").decode().splitlines()[-2:] == [
        "imatrix.dat filter=lfs diff=lfs merge=lfs -text",
        "m-Q4_K_M.gguf filter=lfs diff=lfs merge=lfs -text",
    ]
    assert files == FIRST | {RELEASE: made.contents[RELEASE]}
    assert folder.last(made.release.repo) == made.release
    assert folder.exists(made.release.repo)
    assert [p.name for p in folder.root.iterdir()] == [Path(change.place).name]


def test_the_next_release_deletes_only_what_the_last_one_owned(folder):
    made = bundle(FIRST)
    directory = Path(folder.publish(made).place)
    (directory / "notes").mkdir()
    (directory / "notes" / "mine.txt").write_text("by hand")
    (directory / "own.gguf").write_bytes(b"by hand, too")
    (directory / "link").symlink_to("own.gguf")
    second = bundle({"m-Q8_0.gguf": b"other", "README.md": b"new card"})
    folder.publish(second)
    files = held(folder, second)
    assert "m-Q4_K_M.gguf" not in files
    assert "imatrix.dat" not in files
    assert files["README.md"] == b"new card"
    assert files["notes/mine.txt"] == b"by hand"
    assert files["own.gguf"] == b"by hand, too"
    assert (directory / "link").readlink() == Path("own.gguf")


def test_a_place_that_cannot_be_a_folder_is_refused_early(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(BadInputError, match="--publish-to"):
            Folder(place).check(())


def test_the_same_release_again_touches_nothing(folder):
    made = bundle(FIRST)
    directory = Path(folder.publish(made).place)
    before = {p.name: p.stat().st_mtime_ns for p in directory.iterdir()}, directory.stat().st_ino
    folder.publish(made)
    assert ({p.name: p.stat().st_mtime_ns for p in directory.iterdir()}, directory.stat().st_ino) == before


def test_a_damaged_release_is_mended(folder):
    made = bundle(FIRST)
    directory = Path(folder.publish(made).place)
    (directory / "m-Q4_K_M.gguf").write_bytes(b"weighty")
    folder.publish(made)
    assert held(folder, made)["m-Q4_K_M.gguf"] == b"weights"


def test_what_somebody_else_wrote_is_never_replaced(folder):
    made = bundle(FIRST)
    directory = folder.directory(made.release.repo)
    directory.mkdir(parents=True)
    (directory / "README.md").write_text("mine")
    with pytest.raises(BadInputError, match=r"README.md was not written by a release of ours"):
        folder.publish(made)
    assert held(folder, made) == {"README.md": b"mine"}


def test_gitattributes_that_were_changed_by_hand_stay(folder):
    made = bundle(FIRST)
    directory = Path(folder.publish(made).place)
    (directory / ".gitattributes").write_text("* text\n")
    folder.publish(bundle({"m-Q8_0.gguf": b"other"}))
    assert (directory / ".gitattributes").read_text() == "* text\n"


def test_an_unreadable_record_stops_the_release(folder):
    made = bundle(FIRST)
    directory = Path(folder.publish(made).place)
    (directory / RELEASE).write_text("{}")
    with pytest.raises(BadInputError, match="cannot be read as the record of a release"):
        folder.publish(made)


def test_a_crash_before_the_swap_leaves_the_old_release(folder, monkeypatch):
    made = bundle(FIRST)
    folder.publish(made)
    before = held(folder, made)
    monkeypatch.setattr("pipeline.publish.folder._exchange", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        folder.publish(bundle({"m-Q8_0.gguf": b"other"}))
    assert held(folder, made) == before
    monkeypatch.undo()
    folder.publish(bundle({"m-Q8_0.gguf": b"other"}))
    assert len(list(folder.root.iterdir())) == 1


def test_swap_without_the_system_call(folder, monkeypatch):
    monkeypatch.setattr("pipeline.publish.folder.sys.platform", "other")
    folder.publish(bundle(FIRST))
    second = bundle({"m-Q8_0.gguf": b"other"})
    folder.publish(second)
    assert sorted(held(folder, second)) == [".gitattributes", "m-Q8_0.gguf", RELEASE]
    assert len(list(folder.root.iterdir())) == 1
