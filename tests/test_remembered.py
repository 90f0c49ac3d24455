"""SHA-256 that is remembered: read once, and again whenever the file may be another."""

from __future__ import annotations

import hashlib
import os

import pytest

from pipeline import remembered
from pipeline.remembered import SMALL, Remembered


class Desk:
    def __init__(self, root):
        self.said, self.read = [], 0
        (root / "memory").mkdir()
        self.memory = Remembered(root / "memory", self.said.append)
        self.file = root / "file"

    def write(self, byte, *, size=SMALL):
        self.file.write_bytes(byte * size)

    def right(self):
        return self.memory.sha256(self.file) == hashlib.sha256(self.file.read_bytes()).hexdigest()


@pytest.fixture
def desk(tmp_path, monkeypatch):
    made, real = Desk(tmp_path), remembered.file_sha256

    def counted(path):
        made.read += 1
        return real(path)

    monkeypatch.setattr(remembered, "file_sha256", counted)
    monkeypatch.setattr(remembered, "SETTLED", -1.0)
    return made


def test_is_read_once(desk):
    desk.write(b"a")
    assert [desk.right(), desk.right(), desk.read] == [True, True, 1]
    other = Remembered(desk.file.parent / "memory", print)
    assert other.sha256(desk.file) == desk.memory.sha256(desk.file)
    assert desk.read == 1


def test_other_content_of_the_same_size_and_time_is_read(desk):
    desk.write(b"a")
    assert desk.right()
    times = desk.file.stat()
    desk.write(b"b")
    os.utime(desk.file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert desk.right()
    other = desk.file.with_name("other")
    other.write_bytes(b"c" * SMALL)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(desk.file)
    assert desk.right()
    assert desk.read == 3


def test_what_changed_just_now_is_not_remembered(desk, monkeypatch):
    monkeypatch.setattr(remembered, "SETTLED", 3600.0)
    desk.write(b"a")
    assert [desk.right(), desk.right(), desk.read] == [True, True, 2]


def test_what_changes_while_it_is_read_is_not_remembered(desk, monkeypatch):
    real = remembered.file_sha256

    def slow(path):
        digest = real(path)
        if desk.read == 1:
            desk.write(b"b")
        return digest

    monkeypatch.setattr(remembered, "file_sha256", slow)
    desk.write(b"a")
    desk.memory.sha256(desk.file)
    assert desk.right()


def test_a_broken_memory_is_none(desk):
    desk.write(b"a")
    assert desk.right()
    (memory,) = (desk.file.parent / "memory").iterdir()
    memory.write_text("[")
    assert desk.right()
    assert desk.right()
    assert desk.read == 2


def test_small_files_are_read_and_long_ones_announced(desk, monkeypatch):
    desk.write(b"a", size=SMALL - 1)
    assert [desk.right(), desk.right(), desk.read] == [True, True, 2]
    monkeypatch.setattr(remembered, "LONG", SMALL)
    desk.write(b"a", size=SMALL + 1)
    assert desk.right()
    assert desk.right()
    assert len(desk.said) == 1
    assert str(desk.file) in desk.said[0]
