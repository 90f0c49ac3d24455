"""`python -m tests.github --port 0` prints the endpoint on one line and serves until it is told to stop."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from .server import TOKEN, FakeGitHub


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.github", description="A stand-in for GitHub's API.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--repository", default="me/quants", metavar="OWNER/NAME")
    parser.add_argument("--token", default=TOKEN, help="the one that is accepted")
    parser.add_argument("--file", action="append", default=[], metavar="PATH=FILE", help="what main holds")
    options = parser.parse_args()
    fake = FakeGitHub(options.repository, options.token, options.port)
    files = {name: Path(path).read_bytes() for name, _, path in (entry.partition("=") for entry in options.file)}
    fake.repository.commit("main", files, "Files")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with fake:
        print(fake.endpoint, flush=True)
        stop.wait()


main()
