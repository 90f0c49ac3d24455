"""What upstream changed since a revision, classed by what it means for the files that are made of it."""

from __future__ import annotations

import fnmatch
import json
import re
import tempfile
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pipeline import safetensors
from pipeline.errors import HubError
from pipeline.source import CARD, COMPANIONS, LICENCE

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKENIZER_CONFIG: Final = "tokenizer_config.json"
TEMPLATES: Final = "chat_template.*"
CONFIGS: Final = ("config.json", "generation_config.json", "params.json")
MAX_CONFIG_BYTES: Final = 32 << 20
COMMIT: Final = re.compile("[0-9a-f]{40}")


class Kind(Enum):
    """What a change is of, the gravest first."""

    WEIGHTS = "weights"
    TOKENIZER = "tokenizer"
    CONFIG = "config"
    TEMPLATE = "chat template"
    CARD = "card or licence"
    OTHER = "other files"


GRAVITY: Final = list(Kind)


@dataclass(frozen=True)
class State:
    """A model's repo at one revision."""

    revision: str
    files: Mapping[str, str]
    """By name, what tells one content from another: the sha256 of a large file, git's blob id of the others."""
    sizes: Mapping[str, int]
    tokenizer_config: Mapping[str, Any] | None = None
    """What TOKENIZER_CONFIG holds, where that was read and is a JSON object."""


@dataclass(frozen=True)
class FileChange:
    name: str
    how: Literal["added", "changed", "removed"]
    kinds: tuple[Kind, ...]


@dataclass(frozen=True)
class Change:
    kinds: tuple[Kind, ...]
    """The gravest first; `OTHER` alone or not at all, and empty where no file differs."""
    files: tuple[FileChange, ...]
    """The gravest first."""

    @property
    def matters(self) -> bool:
        """Whether a file changed that a release is made of."""
        return bool(self.kinds) and self.kinds != (Kind.OTHER,)

    def __str__(self) -> str:
        """The kinds, as they stand in a title."""
        *first, last = (kind.value for kind in self.kinds) if self.kinds else ("nothing",)
        return f"{', '.join(first)} and {last}" if first else last


def classify(before: State, after: State) -> Change:
    """Say what changed from `before` to `after`.

    TOKENIZER_CONFIG may hold the chat template, too: which of the two changed is known where both were read.
    """
    files = []
    for name in sorted(before.files.keys() | after.files.keys()):
        was, now = before.files.get(name), after.files.get(name)
        if was != now:
            how: Literal["added", "changed", "removed"] = (
                "added" if was is None else "removed" if now is None else "changed"
            )
            kinds = _of_tokenizer_config(before, after) if name == TOKENIZER_CONFIG else (_kind(name),)
            files.append(FileChange(name, how, kinds))
    changed = {kind for file in files for kind in file.kinds}
    if changed != {Kind.OTHER}:
        changed.discard(Kind.OTHER)
    files.sort(key=lambda file: (GRAVITY.index(file.kinds[0]), file.name))
    return Change(tuple(kind for kind in GRAVITY if kind in changed), tuple(files))


def _kind(name: str) -> Kind:
    """Class a file by its name, as `pipeline.source` chooses what it uses: nothing below a folder."""
    if "/" in name:
        return Kind.OTHER
    if name.endswith(".safetensors") or name == safetensors.INDEX:
        return Kind.WEIGHTS
    if name in CONFIGS:
        return Kind.CONFIG
    if fnmatch.fnmatchcase(name, TEMPLATES):
        return Kind.TEMPLATE
    if name == CARD or LICENCE.fullmatch(name):
        return Kind.CARD
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in COMPANIONS):
        return Kind.TOKENIZER
    return Kind.OTHER


def _of_tokenizer_config(before: State, after: State) -> tuple[Kind, ...]:
    was, now = before.tokenizer_config, after.tokenizer_config
    if was is None or now is None:
        return (Kind.TOKENIZER,)
    kinds = []
    if {**was, "chat_template": None} != {**now, "chat_template": None}:
        kinds.append(Kind.TOKENIZER)
    if was.get("chat_template") != now.get("chat_template"):
        kinds.append(Kind.TEMPLATE)
    return tuple(kinds) or (Kind.OTHER,)  # the same, written in another way


def look(source: str, revision: str | None = None) -> State:
    """Ask the Hub for a model's files at a revision, at the newest by default.

    Raises `BadInputError` where there is no such model or revision, `HubError` where the Hub fails.
    """
    from pipeline.hub import ask, reader

    info = ask(source, partial(reader().model_info, source, revision=revision, files_metadata=True), revision)
    listed = info.siblings or ()
    if not COMMIT.fullmatch(str(info.sha)):
        raise HubError(f"The Hub names no commit of {source}. Check HF_ENDPOINT, and run again.")
    files = {s.rfilename: str(s.lfs.sha256 if s.lfs else s.blob_id) for s in listed}
    return State(str(info.sha), files, {s.rfilename: s.size or 0 for s in listed})


def compare(source: str, before: State, after: State) -> Change:
    """Say what changed between two states, reading what their lists of files alone cannot tell."""
    if before.files.get(TOKENIZER_CONFIG) != after.files.get(TOKENIZER_CONFIG):
        before, after = (replace(state, tokenizer_config=_config(source, state)) for state in (before, after))
    return classify(before, after)


def _config(source: str, state: State) -> dict[str, Any] | None:
    """Read TOKENIZER_CONFIG, where there is one of a size that one has; it is somebody else's."""
    from pipeline.hub import ask, reader

    if state.sizes.get(TOKENIZER_CONFIG, MAX_CONFIG_BYTES) >= MAX_CONFIG_BYTES:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        where = {"revision": state.revision, "local_dir": scratch}
        path = ask(source, partial(reader().hf_hub_download, source, TOKENIZER_CONFIG, **where), state.revision)
        try:
            value = json.loads(Path(path).read_bytes())
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None
