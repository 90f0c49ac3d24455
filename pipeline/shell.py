"""The one place that starts programs: streams what they print, and keeps the tail for the error."""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.errors import CrashedError, KilledError, OutOfRoomError, PipelineError, ToolchainError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

TAIL_LINES = 12
# Names of variables that may hold a secret. No program that we start needs one: only publishing does,
# and publishing starts no program.
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|PRIVATE_KEY|ACCESS_KEY|OIDC", re.IGNORECASE)
# What a program that failed for lack of disk may have left free.
FULL_DISK_BYTES = 8 << 20
PR_SET_PDEATHSIG = 1
# What programs are ended with from outside: by us, by people, by a system that goes down.
FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}


@dataclass(frozen=True)
class Completed:
    stdout: str
    stderr: str


class Programs:
    """Programs that are ended together, those among them that are still to be started."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False
        self._lock = threading.Lock()

    def add(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.add(process)
            if self._ended:
                _kill_group(process)

    def remove(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._running.discard(process)

    def end(self) -> None:
        with self._lock:
            self._ended = True
            for process in self._running:
                _kill_group(process)


PROGRAMS: ContextVar[Programs | None] = ContextVar("programs", default=None)
"""What the programs belong to that are started here."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return our environment without anything that may be a secret, plus `extra`."""
    return {k: v for k, v in os.environ.items() if not SECRET.search(k)} | dict(extra or {})


def run(
    command: Sequence[object],
    *,
    cwd: Path,
    doing: str,
    env: Mapping[str, str] | None = None,
    watch: Callable[[str], None] | None = None,
    failure: type[PipelineError] = ToolchainError,
) -> Completed:
    """Run `command`, strings and paths, to its end and return what it printed.

    `doing` finishes the sentence "… failed while …". `watch` is given each piece of text (stdout or stderr)
    as it comes. The program dies with us, however we die.

    Raises `failure` with the command's last lines (where that is `ToolchainError` and the program crashed, its
    `CrashedError`), `KilledError` where it was ended from outside, or `OutOfRoomError` where the disk filled up or the
    kernel killed the program for its memory.
    """
    words = [str(word) for word in command]
    name = Path(words[0]).name
    echo = shlex.join([name, *words[1:]])
    if watch is not None:
        watch(f"$ {echo}\n")
    kills_before = _oom_kills()
    try:
        # preexec_fn may deadlock where it takes a lock that another thread holds; ours makes one system call.
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
        )
    except FileNotFoundError as error:
        raise failure(f"{name} was not found, needed for {doing}. Install it and run again.") from error
    if programs := PROGRAMS.get():
        programs.add(process)
    try:
        completed = _read(process, watch)
    except BaseException:
        _kill_group(process)
        raise
    finally:
        if programs:
            programs.remove(process)
    if process.returncode == 0:
        return completed
    # What a program prints may come from a model: behind a bar, no line of it is a command to GitHub Actions.
    last = (completed.stdout + completed.stderr).strip().splitlines()[-TAIL_LINES:]
    tail = "\n".join(f"  | {line}" for line in last)
    if shutil.disk_usage(cwd).free < FULL_DISK_BYTES or "No space left on device" in tail:
        raise OutOfRoomError(
            f"The disk with {cwd} is full: {name} stopped while {doing}. Free some space, run"
            " `python -m pipeline store gc --max-size …`, or point --store at a larger disk."
        )
    if process.returncode == -signal.SIGKILL and _oom_kills() > kills_before:
        raise OutOfRoomError(
            f"Not enough memory: the kernel killed {name} while {doing}. Close other programs, or use a"
            " machine with more memory."
        )
    kind = _kind(process.returncode, failure)
    raise kind(f"{name} {_ending(process.returncode)} while {doing}.\nIts last lines:\n{tail}\nIt ran: {echo}")


def _kind(code: int, failure: type[PipelineError]) -> type[PipelineError]:
    if code in FROM_OUTSIDE:
        return KilledError
    return CrashedError if code < 0 and failure is ToolchainError else failure


def _read(process: subprocess.Popen[bytes], watch: Callable[[str], None] | None) -> Completed:
    """Drain both pipes at once, so that neither can fill up and stop the program."""
    texts: dict[str, list[str]] = {"stdout": [], "stderr": []}

    def drain(pipe: IO[bytes], into: list[str]) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while piece := os.read(pipe.fileno(), 1 << 16):
            text = decoder.decode(piece)
            into.append(text)
            if watch is not None:
                watch(text)

    assert process.stdout is not None
    assert process.stderr is not None
    reader = threading.Thread(target=drain, args=(process.stderr, texts["stderr"]), daemon=True)
    reader.start()
    drain(process.stdout, texts["stdout"])
    process.wait()
    reader.join()
    process.stdout.close()
    process.stderr.close()
    return Completed("".join(texts["stdout"]), "".join(texts["stderr"]))


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:  # else its number may be another's by now
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _die_with_parent() -> None:
    """Ask the kernel to kill this child when its parent dies, even by SIGKILL (prctl(2), Linux only)."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


_LIBC = ctypes.CDLL(None, use_errno=True)


def _oom_kills() -> int:
    """Return how many processes the kernel has killed for memory since boot (0 where it does not say)."""
    try:
        counters = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    match = re.search(r"^oom_kill (\d+)$", counters, re.MULTILINE)
    return int(match[1]) if match else 0


def _ending(returncode: int) -> str:
    if returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"failed with exit code {returncode}"
