"""Small releases with their files, for targets: large files lie on disk, as in the store, and texts in memory."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import factories

from pipeline.gguf_file import MAGIC
from pipeline.publish import Planned
from pipeline.release import RELEASE, Bundle
from pipeline.result import FileEntry
from pipeline.source import CARD

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from hub import LoopbackHub

    from pipeline.release import Content

REPO = "nold/gemma-2b-GGUF"
Q4, Q8, IMATRIX = "gemma-2b-Q4_K_M.gguf", "gemma-2b-Q8_0.gguf", "imatrix.gguf"


def gguf(seed: str, size: int = 3000) -> bytes:
    """`size` bytes that begin as a GGUF does; the same ones for the same `seed`."""
    return MAGIC + random.Random(seed).randbytes(size - len(MAGIC))


def card(text: str) -> bytes:
    return f"---\nlicense: gemma\ntags: [gguf]\n---\n# gemma-2b\n\n{text}\n".encode()


def files(text: str = "Once upon a time.", seed: str = "") -> dict[str, bytes]:
    """What a release of two quants holds but for release.json; `seed` makes other weights."""
    weights = {name: gguf(name + seed) for name in (Q4, Q8, IMATRIX)}
    return weights | {CARD: card(text), "test.log": b"all passed\n", "quality.svg": b"<svg/>\n"}


def is_large(name: str) -> bool:
    return name.endswith(".gguf")


def entry(name: str, content: bytes) -> FileEntry:
    return FileEntry(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def weights(room: Path, files: Mapping[str, bytes]) -> list[tuple[FileEntry, Path]]:
    """The large ones of `files`, laid under `room`, as `stage` takes them."""
    return [(entry(name, content), _lay(room, content)) for name, content in files.items() if is_large(name)]


def bundle(room: Path, files: Mapping[str, bytes], absent: Iterable[str] = (), **overrides: object) -> Bundle:
    """A release of `files`; the large ones lie under `room`, but for those that are `absent` from this machine."""
    entries = tuple(entry(name, content) for name, content in sorted(files.items()))
    release = factories.release(quants=["Q4_K_M", "Q8_0"], **overrides).model_copy(update={"files": entries})
    contents: dict[str, Content] = {
        name: None if name in absent else _lay(room, content) if is_large(name) else content
        for name, content in files.items()
    }
    return Bundle(release, contents | {RELEASE: release.model_dump_json().encode()})


def planned(bundle: Bundle, *, private: bool = False) -> Planned:
    return Planned(
        bundle.release.repo,
        bundle.release.id,
        private,
        {f.name: f.size for f in bundle.release.files if is_large(f.name)},
    )


def wanted(bundle: Bundle) -> dict[str, str]:
    """The sha256 of every file that a target is to hold after this release."""
    return {f.name: f.sha256 for f in bundle.entries}


def held(hub: LoopbackHub, repo: str = REPO, revision: str = "main") -> dict[str, bytes]:
    """What the Hub's disk has for a revision, its own .gitattributes left out."""
    found = hub.repos.get("model", repo).commit(revision).files
    return {name: hub.objects.path(f.sha256).read_bytes() for name, f in found.items() if name != ".gitattributes"}


def sums(contents: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def _lay(room: Path, content: bytes) -> Path:
    room.mkdir(exist_ok=True)
    path = room / hashlib.sha256(content).hexdigest()
    path.write_bytes(content)
    return path
