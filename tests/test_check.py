"""Verdicts on files that are right and on files that are not."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from pipeline import disk
from pipeline.errors import OutOfRoomError
from pipeline.progress import Display


class Steps:
    toolchain = source = None


class EmptyStore:
    def __init__(self, root):
        self.root, self.display = root, Display(io.StringIO())

    def find(self, _step):
        return None

    @property
    def said(self):
        return self.display._stream.getvalue().replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture
def check(monkeypatch, tmp_path):
    """`check(free, folder)`: a run of two models, each of 5 GB, 2 GB lean, 3 GB in a folder; and a toolchain of 1.2."""

    def run(free, folder):
        store = EmptyStore(tmp_path)
        monkeypatch.setattr(disk, "needed", lambda *_: disk.Needs(5_000_000_000, 2_000_000_000, 3_000_000_000))
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: SimpleNamespace(free=int(free * 1e9)))
        return disk.check(store, [(Steps(), ()), (Steps(), ())], folder), store.said

    return run


def test_the_peak_of_a_run_is_said_before_it(check, tmp_path):
    lean, said = check(20, tmp_path / "out" / "deep")
    assert not lean
    assert (
        said == f"The run takes up to 17.20 GB (estimated) of the 20.00 GB that are free on the disk of {tmp_path}.\n"
    )


def test_too_little_disk_is_refused_before_any_work(check, tmp_path):
    with pytest.raises(OutOfRoomError, match=r"needs about 17\.20.GB \(estimated\).* 17\.00.GB are free"):
        check(17, tmp_path / "out" / "deep")
    with pytest.raises(OutOfRoomError, match=r"needs about 11\.20.GB \(estimated\).* 5\.00.GB are free"):
        check(5, None)


def test_what_fits_one_quant_at_a_time_runs_so_where_a_hub_takes_each(check):
    lean, said = check(6, None)
    assert lean
    assert said.endswith(
        "So one quant is made at a time, and dropped when the Hub has it: at most 5.20 GB (estimated).\n"
    )
