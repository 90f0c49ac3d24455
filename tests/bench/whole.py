"""`python -m tests.bench.whole`: the whole job, from the download to the release, and a shell script that does it.

The model is the demo's, on a Hub on this machine's loopback interface; llama.cpp is built before. Ours is `python -m
pipeline run` with an empty store, its checks included; theirs is `whole.sh` beside this file: the same calls of
llama.cpp with all cores, one after the other, then `upload_folder`, and no checks. They run by turns. Memory is looked
at ten times a second: the RSS of a side's programs, summed (so pages of a file that two of them map count twice). Disk
every three seconds: what lies in the directory of a side, of which ours has two thousand files, so that it takes 25 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import psutil
from hub import LoopbackHub

from pipeline import demo, matrix
from pipeline.prompt import PROMPTS
from pipeline.text import TEXTS
from pipeline.toolchain import threads, tools
from tests.bench import bars
from tests.bench.ladder import LADDER
from tests.machine import ROOT, SHARED, opened, pinned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pipeline.matrix.model import Model
    from pipeline.toolchain import Tools

TOKEN, REVISION = "hf_aTokenOfTheBenchmark", "5" * 40
REPEATS = 3
DISK_EVERY = 30
"""Looks at memory for one at the disk."""
MATRIX = """\
version: 1
llama_cpp: {{sdist: {pin.name}=={pin.version}, sha256: {pin.sha256}, commit: "{pin.commit}"}}
defaults: {{organization: me, quants: [{types}], calibration_chunks: {chunks}, evaluation_chunks: {chunks}}}
models:
  - source: {source}
"""
# What the pipeline's steps are called in its log, and what the picture calls them.
STEPS = {
    "download": "download",
    "convert": "convert",
    "check the reference": "check",
    "imatrix": "imatrix",
    "reference logits": "reference logits",
    "compare with transformers": "check",
    "quantize": "quantize",
    "check": "check",
    "test prompts": "answer",
    "measure": "measure",
    "time": "time",
}
REST = "release"


@dataclass(frozen=True)
class Side:
    seconds: float
    steps: dict[str, float]
    """Of these seconds, those of each step; where several run at once, a second is shared evenly among them."""
    cpu: float
    """Seconds of CPU time of its programs."""
    disk: int
    memory: int
    """Bytes at most, both."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", nargs="+", metavar="TYPE", help="else those of matrix.yml")
    parser.add_argument("--ladder", action="store_const", dest="types", const=LADDER, help="those of the ladder")
    parser.add_argument("--chunks", type=int, default=demo.CHUNKS, help="of each text")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--picture", type=Path, help="where to draw where the time goes, as SVG")
    options = parser.parse_args()
    types = options.types or [recipe.name for recipe in matrix.load(ROOT / "matrix.yml").models[0].recipes]
    with opened(pinned()) as store:
        model, llama = replace(demo.model(store), organization="me"), tools(store, pinned())
        print(f"{model.source} in {', '.join(types)}; {options.chunks} chunks of each text; {threads()} cores")
        runs = []
        for _ in range(options.repeats):
            runs.append((ours(store.root, model, types, options.chunks), theirs(llama, model, types, options.chunks)))
            print(*(f"{side.seconds:.0f} s" for side in runs[-1]), flush=True)
    report(runs)
    if options.picture:
        middle = [sorted(sides, key=lambda side: side.seconds)[len(sides) // 2] for sides in zip(*runs, strict=True)]
        options.picture.write_text(bars.draw({"llm-quantizer": middle[0].steps, "shell script": middle[1].steps}))


def report(runs: list[tuple[Side, Side]]) -> None:
    print(f"\n{'':20} {'pipeline':>9} {'script':>9}  ratio")
    sides = list(zip(*runs, strict=True))
    for step in dict.fromkeys([*STEPS.values(), REST]):
        mine, other = (median([side.steps.get(step, 0) for side in s]) for s in sides)
        print(f"{step:20} {mine:7.1f} s {other:7.1f} s" + (f"  {mine / other:5.2f}" if other else ""))
    for label, of, unit in (
        ("whole job", lambda s: s.seconds, "s"),
        ("CPU time", lambda s: s.cpu, "s"),
        ("peak disk", lambda s: s.disk / 1e9, "GB"),
        ("peak memory", lambda s: s.memory / 1e9, "GB"),
    ):
        mine, other = (median([of(side) for side in s]) for s in sides)
        print(f"{label:20} {mine:6.{1 if unit == 's' else 2}f} {unit} {other:6.{1 if unit == 's' else 2}f} {unit}"
              f"  {mine / other:5.2f}")  # fmt: skip
    # A step of the script has the machine to itself, so quantizing took at most its seconds on every core.
    rest = median([script.cpu / threads() - script.steps["quantize"] for script in sides[1]])
    part = rest / median([script.seconds for script in sides[1]])
    print(f"The script without quantizing, no core ever idle: at least {rest:.1f} s, {part:.2f} of its time")


def ours(machine: Path, model: Model, types: list[str], chunks: int) -> Side:
    with room(model) as (hub, directory, environment):
        store = directory / "store"
        store.mkdir()
        for kind in SHARED:
            (store / kind).symlink_to(machine / kind)
        text = MATRIX.format(
            pin=matrix.load(ROOT / "matrix.yml").llama_cpp, types=", ".join(types), chunks=chunks, source=model.source
        )
        (directory / "matrix.yml").write_text(text)
        command = [sys.executable, "-m", "pipeline", "run", "--matrix", directory / "matrix.yml", "--store", store]
        places = ["--results", directory / "results", "--publish-to", "hub"]
        side = watched([*command, *places], environment, directory, _pipeline_events, end="stderr")
        check(hub, model, types)
        return side


def theirs(llama: Tools, model: Model, types: list[str], chunks: int) -> Side:
    with room(model) as (hub, directory, environment):
        (directory / "prompts").write_text("".join(f"{prompt}\n" for prompt in (model.prompt, *PROMPTS)))
        variables = {
            "ROOM": directory,
            "BIN": Path(sys.executable).parent,
            "MODEL": model.source,
            "NAME": model.name,
            "REPO": model.repo,
            "TYPES": " ".join(types),
            "CHUNKS": chunks,
            "THREADS": llama.threads,
            "PROMPTS": directory / "prompts",
            "TOOLS": llama.directory,
            "LLAMA": llama.converter.parent,
            "CALIBRATION": TEXTS / "calibration.txt",
            "EVALUATION": TEXTS / "evaluation.txt",
        }
        environment |= {name: str(value) for name, value in variables.items()}
        side = watched(["sh", Path(__file__).with_suffix(".sh")], environment, directory, _script_events, end="stdout")
        check(hub, model, types)
        return side


@contextlib.contextmanager
def room(model: Model) -> Iterator[tuple[LoopbackHub, Path, dict[str, str]]]:
    """A directory for one side, a Hub with the model outside of it, and the environment that leads there."""
    with tempfile.TemporaryDirectory(prefix="llm-quantizer-") as scratch, LoopbackHub() as hub:
        hub.add(model.source, model.path, REVISION)
        hub.add_token(TOKEN, "me", "write")
        keys = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HOME": f"{scratch}/hf-home"}
        yield hub, Path(scratch), os.environ | keys


def check(hub: LoopbackHub, model: Model, types: list[str]) -> None:
    files = hub.repos.get("model", model.repo).commit("main").files
    missing = [name for name in types if model.file_name(name) not in files]
    assert not missing, f"not released: {missing}"


def watched(command: list[object], environment: dict[str, str], directory: Path, events, *, end: str) -> Side:
    """Run to its end; the steps come from what it prints on `end`, a line at a time."""
    peaks, done = {"disk": 0, "memory": 0}, threading.Event()
    began, before = time.monotonic(), os.times()
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=ROOT,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | {end: subprocess.PIPE},
    )
    watcher = threading.Thread(target=_look, args=(process.pid, directory, peaks, done))
    watcher.start()
    lines = []
    try:
        lines.extend((time.monotonic() - began, line.rstrip()) for line in getattr(process, end))
        process.wait()
    finally:
        done.set()
        watcher.join()
    seconds, after = time.monotonic() - began, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    if process.returncode:
        sys.exit("\n".join(line for _, line in lines[-20:]) + f"\n{command[0]} ended with {process.returncode}")
    return Side(seconds, shares(list(events(lines, seconds)), seconds), cpu, peaks["disk"], peaks["memory"])


def _look(pid: int, directory: Path, peaks: dict[str, int], done: threading.Event) -> None:
    for turn in itertools.count():
        if done.wait(0.1):
            return
        with contextlib.suppress(OSError, psutil.Error):
            top = psutil.Process(pid)
            peaks["memory"] = max(
                peaks["memory"], sum(process.memory_info().rss for process in [top, *top.children(recursive=True)])
            )
        if turn % DISK_EVERY == 0:
            with contextlib.suppress(OSError):
                peaks["disk"] = max(peaks["disk"], _used(str(directory)))


def _used(directory: str) -> int:
    """Bytes on disk, without what links lead to."""
    used = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                used += _used(entry.path)
            else:
                used += entry.stat(follow_symlinks=False).st_blocks * 512
    return used


def _pipeline_events(lines: Iterable[tuple[float, str]], end: float) -> Iterator[tuple[str, float, float]]:
    """A step prints `label …` when it begins, and `label: done in 1.2 s`."""
    running = {}
    for when, line in lines:
        if line.endswith(" …"):
            running[line.removesuffix(" …")] = when
        elif (found := re.match(r"(.*): done in [\d.]+ s$", line)) and found[1] in running:
            name = re.sub(r"^.*: |^(download) .*", r"\1", found[1])
            yield STEPS.get(name, REST), running.pop(found[1]), when
    yield REST, 0.0, end  # what no step takes


def _script_events(lines: Iterable[tuple[float, str]], end: float) -> Iterator[tuple[str, float, float]]:
    marks = [(when, line.removeprefix("@ ")) for when, line in lines if line.startswith("@ ")]
    for (begin, name), (until, _) in zip(marks, [*marks[1:], (end, "")], strict=True):
        yield name, begin, until


def shares(events: list[tuple[str, float, float]], end: float) -> dict[str, float]:
    """Divide the time from 0 to `end` among the steps that run: a moment of several belongs to them in equal parts.

    What is left, and no step's, is the release's: looking at the Hub, staging, the card, the commit.
    """
    found: dict[str, float] = defaultdict(float)
    times = sorted({0.0, end, *(time for _, begin, until in events for time in (begin, until))})
    for begin, until in itertools.pairwise(times):
        running = [name for name, first, last in events if first <= begin and until <= last]
        named = [name for name in running if name != REST] or [REST]
        for name in named:
            found[name] += (until - begin) / len(named)
    return dict(found)


if __name__ == "__main__":
    main()
