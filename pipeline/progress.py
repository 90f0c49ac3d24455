"""What a person sees while steps run: a bar on a terminal, groups in Actions, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

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
        self._console = Console(file=self._stream) if self._stream.isatty() and not self._actions else None

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    @contextmanager
    def step(self, label: str) -> Iterator[Task]:
        """Show that the step `label` runs, and how long it took."""
        if self._console is not None:
            with self._bar(label) as task:
                yield task
            return
        began = time.monotonic()
        self.say(f"::group::{label}" if self._actions else f"{label} …")
        try:
            yield _PlainTask(self, label)
        finally:
            if self._actions:
                self.say("::endgroup::")
        self.say(f"{label}: done in {time.monotonic() - began:.1f} s")

    @contextmanager
    def _bar(self, label: str) -> Iterator[Task]:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
        began = time.monotonic()
        with Progress(*columns, TimeElapsedColumn(), console=self._console, transient=True) as progress:
            yield _BarTask(progress, label)
        self.say(f"✓ {label} ({time.monotonic() - began:.1f} s)")


class _BarTask(Task):
    def __init__(self, progress: Progress, label: str) -> None:
        self._progress = progress
        self._id = progress.add_task(label, total=None, note="")

    def advance(self, fraction: float, note: str = "") -> None:
        self._progress.update(self._id, total=1.0, completed=fraction, note=note)


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
