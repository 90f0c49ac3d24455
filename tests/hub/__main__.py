"""`python -m tests.hub --port 0 --data DIR` prints the endpoint on one line and serves until it is told to stop."""

from __future__ import annotations

import argparse
import hashlib
import signal
import threading
from pathlib import Path

from .server import LoopbackHub


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.hub", description="A Hugging Face Hub on this machine.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--data", type=Path, help="where all is kept; without it, all is gone in the end")
    parser.add_argument("--model", action="append", default=[], metavar="OWNER/NAME=DIRECTORY")
    parser.add_argument("--token", action="append", default=[], metavar="TOKEN=NAME[:ROLE[:ORG,ORG]]")
    options = parser.parse_args()
    hub = LoopbackHub(options.data, options.port)
    for model in options.model:
        repo_id, _, directory = model.partition("=")
        if not Path(directory).is_dir():
            parser.error(f"{directory} is no directory: --model wants OWNER/NAME=DIRECTORY")
        hub.add(repo_id, Path(directory), _revision(Path(directory)))
    for entry in options.token:
        token, _, rest = entry.partition("=")
        name, _, rest = rest.partition(":")
        role, _, orgs = (rest or "read").partition(":")
        hub.add_token(token, name, role, {org: role for org in orgs.split(",") if org})
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with hub:
        print(hub.endpoint, flush=True)
        stop.wait()


def _revision(directory: Path) -> str:
    """A commit id that follows the content: the same directory is served as the same commit."""
    digest = hashlib.sha1(usedforsecurity=False)
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(directory).as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


main()
