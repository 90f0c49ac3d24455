"""Verdicts on files that are right and on files that are not."""

from __future__ import annotations

import pytest

from pipeline import disk
from pipeline.errors import OutOfRoomError


def test_too_little_disk_is_refused_before_any_work(monkeypatch, tmp_path):
    class Full:
        free = 10_000_000

    class Steps:
        toolchain = source = None

    class NoStore:
        root = tmp_path

        def find(self, _step):
            return None

    monkeypatch.setattr(disk, "needed", lambda *_: (5_000_000_000, 3_000_000_000))
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Full)
    with pytest.raises(OutOfRoomError, match=r"needs about 9\.2 GB \(estimated\).* 0\.0 GB are free"):
        disk.check(NoStore(), [(Steps(), ())], tmp_path / "out" / "deep")
