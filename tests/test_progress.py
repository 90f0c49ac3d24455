"""Steps as they are shown on a terminal, in Actions and in a plain log."""

from __future__ import annotations

import io

import pytest

from pipeline import progress
from pipeline.progress import Display


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _outside_of_actions(monkeypatch):
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)


def test_plain_lines(monkeypatch):
    stream = io.StringIO()
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Display(stream).step("convert") as task:
        task.advance(0.25)
        task.advance(0.5, "half")
        task.advance(0.75)
    assert stream.getvalue() == "convert …\nconvert: 50% half\nconvert: done in 50.0 s\n"


def test_lines_of_several_threads_do_not_mix():
    written = []
    stream = io.StringIO()
    stream.write = written.append
    Display(stream).say("convert: done in 50.0 s")
    assert [text for text in written if text] == ["convert: done in 50.0 s\n"]


def test_groups_in_actions(monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    stream = Terminal()
    with pytest.raises(KeyError), Display(stream).step("convert"):
        raise KeyError
    assert stream.getvalue() == "::group::convert\n::endgroup::\n"


def test_a_step_that_waits_for_another_shows_both_bars():
    stream = Terminal()
    display = Display(stream)
    with display.step("convert") as outer:
        with display.step("build [llama.cpp]") as inner:
            inner.advance(0.5, "78 of 157")
            display.say("a [word] between")
        outer.advance(1.0)
    shown = stream.getvalue()
    for text in ("build [llama.cpp]: done in", "convert: done in", "a [word] between"):
        assert text in shown
    with display.step("again"):
        pass
    assert "again: done in" in stream.getvalue()
