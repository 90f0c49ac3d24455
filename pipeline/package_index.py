"""Files from the package index, fetched by pip, which knows the machine's index, and held against a sha256."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

from pipeline import shell

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.errors import PipelineError


def fetch(
    requirement: str, sha256: str, form: Literal["sdist", "wheel"], room: Path, failure: type[PipelineError]
) -> Path:
    """Download `name==version` into `room` and return the file; `failure` where it cannot be had with this sha256."""
    requirements = room / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    name = requirement.partition("==")[0]
    only = ["--no-binary", name] if form == "sdist" else ["--only-binary", ":all:"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", *only]
    doing = f"downloading {requirement} with sha256 {sha256}"
    shell.run([*pip, "--dest", room, "--requirement", requirements], cwd=room, doing=doing, failure=failure)
    requirements.unlink()
    (archive,) = room.glob("*.tar.gz" if form == "sdist" else "*.whl")
    return archive
