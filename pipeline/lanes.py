"""Work of several quants side by side, each in a lane of its own with its share of the cores.

One quant at a time leaves cores idle: while a program loads its file, while its threads wait for the slowest of them,
while a check reads in one thread. Several with fewer cores each fill that; how many there may be is `count`.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import psutil

from pipeline import shell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MOST: Final = 4
CORES: Final = 4
"""Cores that one of more than two lanes has at least."""
BESIDE: Final = 2_000_000_000
"""Bytes of memory that a lane takes beside the file that it is at: a program's buffers, logits, a check's arrays."""
PATIENCE: Final = 5.0
"""Seconds that an interrupted run waits for its lanes."""

One = TypeVar("One")


def count(largest: int, cores: int, asked: int | None = None) -> int:
    """Return how many quants may be worked on at once, the largest of them of so many bytes; `asked` where given.

    Two, or as many as have `CORES` each, and no more than the free memory holds.
    """
    if asked is not None:
        return asked
    fitting = int(psutil.virtual_memory().available) // (largest + BESIDE)
    return max(1, min(MOST, max(2, cores // CORES), cores, fitting))


def sharing() -> int:
    """Return among how many lanes the cores are shared where this is called; 1 outside of any lane."""
    lanes = _LANES.get()
    return lanes.working if lanes else 1


@contextmanager
def turn(*, gpu: bool) -> Iterator[None]:
    """Wait until a step may begin: one at a time has the GPU, whose memory is the scarcest."""
    with _GPU if gpu else nullcontext():
        yield


def side_by_side(lanes: int, work: Callable[[One], None], many: Sequence[One]) -> None:
    """Do `work` for each of `many`, beginning in their order, in so many lanes.

    Raises the first failure, when the programs that ran in the other lanes have been ended; likewise what interrupts
    it.
    """
    if lanes == 1 or len(many) < 2:
        for one in many:
            work(one)
        return
    running = _Lanes(min(lanes, len(many)), work, many)
    # Daemons, so that nobody who interrupts a run waits for a check to read a large file to its end.
    threads = [threading.Thread(target=running.go, daemon=True) for _ in range(running.working)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        running.end()
        for thread in threads:
            thread.join(PATIENCE)
        raise
    if running.failure is not None:
        raise running.failure


class _Lanes(Generic[One]):
    def __init__(self, lanes: int, work: Callable[[One], None], many: Sequence[One]) -> None:
        self.working = lanes
        self.failure: BaseException | None = None
        self._work = work
        self._left: Iterator[One] = iter(many)
        self._lock = threading.Lock()
        self._programs = shell.Programs()

    def go(self) -> None:
        """Be one lane."""
        _LANES.set(self)
        shell.PROGRAMS.set(self._programs)
        try:
            for one in iter(self._next, None):
                self._work(one)
        except BaseException as failure:  # noqa: BLE001 - whatever it is, whoever waits for the lanes is told
            with self._lock:
                self.failure = self.failure or failure
            self.end()
        finally:
            with self._lock:
                self.working -= 1  # the others have its cores from their next step on

    def end(self) -> None:
        """Begin nothing more, and end the programs that run."""
        with self._lock:
            self._left = iter(())
        self._programs.end()

    def _next(self) -> One | None:
        with self._lock:
            return next(self._left, None)


_GPU = threading.RLock()
_LANES: ContextVar[_Lanes[Any] | None] = ContextVar("lanes", default=None)
