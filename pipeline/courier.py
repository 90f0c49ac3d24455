"""Brings finished files to the target while others are made: one after the other, in a thread of its own."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class Courier:
    """As a context manager it is done with all that it took when it is left; at once where an exception leaves it."""

    def __init__(self) -> None:
        self._errands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._left = False
        # A daemon: an upload of hours does not hold up whoever interrupts the run, and goes on where it was next time.
        self._thread = threading.Thread(target=self._go, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._left = kind is not None
        self._errands.put(None)
        if kind is None:
            self._thread.join()
            self._complain()

    def take(self, errand: Callable[[], None]) -> None:
        """Raises what an earlier errand failed with: with a target that takes nothing, nothing more need be made."""
        self._complain()
        self._errands.put(errand)

    def _go(self) -> None:
        for errand in iter(self._errands.get, None):
            if self._left:
                return
            try:
                errand()
            except BaseException as failure:  # noqa: BLE001 - whatever it is, it is raised where the run is
                self._failure = failure
                return

    def _complain(self) -> None:
        if self._failure is not None:
            raise self._failure
