"""What a person sees while steps run: bars on a terminal, groups in Actions, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pipeline import lanes

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAIN_EVERY_SECONDS = 20.0


class Task:
    """One step that runs. `advance` takes the part that is done, 0 to 1, and what is being done."""

    def advance(self, fraction: float, note: str = "") -> None:
        raise NotImplementedError


class Display:
    """Where steps are shown; everything goes to stderr, since stdout is for data."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._actions = os.environ.get("GITHUB_ACTIONS") == "true"
        self._said: set[str] = set()
        self._bars: Progress | None = None
        if self._stream.isatty() and not self._actions:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )
            self._bars = Progress(*columns, TimeElapsedColumn(), console=Console(file=self._stream), transient=True)
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            # In one write, so that a line of another thread does not come before its end.
            print(f"{text}\n", end="", file=self._stream, flush=True)

    def say_once(self, text: str) -> None:
        """Say what would be said of every quant in the same words."""
        with self._lock:
            said = text in self._said
            self._said.add(text)
        if not said:
            self.say(text)

    @contextmanager
    def step(self, label: str) -> Iterator[Task]:
        """Show that the step `label` runs, and how long it took. A step may run others that it waits for."""
        began = time.monotonic()
        shown = self._bar(self._bars, label) if self._bars is not None else self._lines(label)
        with shown as task:
            yield task
        self.say(f"{label}: done in {time.monotonic() - began:.1f} s")

    @contextmanager
    def _bar(self, bars: Progress, label: str) -> Iterator[Task]:
        with self._lock:  # against a step of another lane that ends just now
            bar = bars.add_task(label, total=None, note="")
            bars.start()
        try:
            yield _BarTask(bars, bar)
        finally:
            with self._lock:
                bars.remove_task(bar)
                if not bars.tasks:
                    bars.stop()

    @contextmanager
    def _lines(self, label: str) -> Iterator[Task]:
        grouped = self._actions and lanes.sharing() == 1  # groups of steps side by side would close each other
        self.say(f"::group::{label}" if grouped else f"{label} …")
        try:
            yield _PlainTask(self, label)
        finally:
            if grouped:
                self.say("::endgroup::")


class _BarTask(Task):
    def __init__(self, bars: Progress, bar: TaskID) -> None:
        self._bars = bars
        self._bar = bar

    def advance(self, fraction: float, note: str = "") -> None:
        self._bars.update(self._bar, total=1.0, completed=fraction, note=note)


class _PlainTask(Task):
    """Prints at most one line every `PLAIN_EVERY_SECONDS`, so that logs stay readable."""

    def __init__(self, display: Display, label: str) -> None:
        self._display = display
        self._label = label
        self._last = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, fraction: float, note: str = "") -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._last < PLAIN_EVERY_SECONDS:
                return
            self._last = now
        self._display.say(f"{self._label}: {fraction:.0%} {note}".rstrip())
