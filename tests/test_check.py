"""Verdicts on files that are right and on files that are not."""

from __future__ import annotations

import factories
import pytest

from pipeline import disk
from pipeline.check import behaviour, quality
from pipeline.errors import OutOfRoomError
from pipeline.matrix import Gates
from pipeline.result import Answer, Estimate


def test_answers_are_judged_against_the_references():
    said, babble = Answer(text="It is a model", stopped=True), Answer(text="ha ha ha", stopped=False)
    silent = Answer(text="", stopped=True)
    assert behaviour.answer(babble, babble).seen == "the same answer, at temperature 0"
    assert behaviour.answer(Answer(text="It is small", stopped=True), said).seen.startswith("the first 2 of")
    assert behaviour.answer(silent, said).outcome == "fail"
    assert behaviour.answer(None, said).outcome == "fail"
    assert behaviour.answer(silent, silent).outcome == "pass"


def test_gates():
    measured = factories.quality(mean_kld=Estimate(value=0.1, error=0.001), same_top=Estimate(value=90, error=0.2))
    assert quality.gates(measured, Gates()) == []
    passed = quality.gates(measured, Gates(max_mean_kld=0.1, min_same_top=90))
    assert [v.outcome for v in passed] == ["pass", "pass"]
    failed = quality.gates(measured, Gates(max_mean_kld=0.09, min_same_top=91))
    assert [v.outcome for v in failed] == ["fail", "fail"]
    assert all(v.advice for v in failed)
    assert quality.finite(None).outcome == "fail"


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
