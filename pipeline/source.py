"""The model as its authors published it: looked at before any work, at one revision, safetensors only."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import tempfile
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline import safetensors
from pipeline.artifact import canonical, file_sha256
from pipeline.errors import BadInputError, GatedError
from pipeline.result import FileEntry
from pipeline.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.matrix.model import Model
    from pipeline.store import Store

CARD = "README.md"
# What converting needs besides the weights. Nothing that runs: no *.py, no pickles.
COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "tokenizer*.model",
    "*.tiktoken",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "tekken.json",
    "params.json",
    CARD,
)
# Copied into a release, so nothing that could pass for a model there.
LICENCE = re.compile(r"(LICEN[SC]E|NOTICE|USE_POLICY)[\w-]*(\.(txt|md))?", re.IGNORECASE)
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "tekken.json", "vocab.*", "*.tiktoken")
# Everybody, who accepts the terms, or whom the authors let in: as the Hub says it.
Gating = Literal["no", "auto", "manual"]
# Three times the largest tokenizer in use; of cards and licences, which are read as a whole, much less.
MAX_COMPANION_BYTES = 100_000_000
MAX_PAPER_BYTES = 4_000_000
MAX_COMPANIONS_BYTES = 300_000_000
BYTES_PER_WEIGHT = {"float32": 4, "float64": 8, "float8_e4m3fn": 1}


@dataclass(frozen=True)
class Source:
    """What was learnt about a model before its weights were touched."""

    id: str
    """owner/name"""
    revision: str | None
    """Commit on the Hub, 40 hex digits; None for a directory given by path without one."""
    path: Path | None
    """The directory that stands in for a download."""
    files: tuple[FileEntry, ...]
    """Every file that is used. On the Hub the small ones have no sha256 (empty): the revision fixes them."""
    weights: tuple[str, ...]
    config: dict[str, Any]
    """Empty, as are `weights` and `card`, for a gated model that was looked at from outside."""
    card: str
    """What the converter reads of the card; see `essence`."""
    contents: dict[str, str]
    """Names to what tells their contents from others: sha256, on the Hub git's blob id for the small ones."""
    gated: Gating | None
    """Who may download it; None for a directory."""

    @property
    def name(self) -> str:
        return self.id.split("/")[1]

    @property
    def architecture(self) -> str:
        named = self.config.get("architectures")
        first = str(named[0]) if isinstance(named, list) and named else ""
        return first if re.fullmatch(r"\w{1,80}", first) else "model without a readable architecture"

    @property
    def companions(self) -> list[FileEntry]:
        """What is converted besides the weights and the card."""
        return [file for file in self.converted if file.name not in self.weights]

    @property
    def weight_bytes(self) -> int:
        return sum(f.size for f in self.files if f.name in self.weights)

    @property
    def parameters(self) -> int:
        """Number of weights, estimated from the files' sizes and the type that config.json gives."""
        dtype = str(self.config.get("dtype") or self.config.get("torch_dtype") or "bfloat16")
        return self.weight_bytes // BYTES_PER_WEIGHT.get(dtype, 2)

    @property
    def vocabulary(self) -> int:
        text = self.config.get("text_config") or self.config
        return int(text.get("vocab_size") or self.config.get("vocab_size") or 0)

    @property
    def converted(self) -> list[FileEntry]:
        """The files that the converter is given, beside the card."""
        return [f for f in self.files if not _is_paper(f.name)]

    @property
    def paper_files(self) -> list[FileEntry]:
        return [f for f in self.files if _is_paper(f.name)]

    @property
    def licences(self) -> list[str]:
        return sorted(f.name for f in self.files if LICENCE.fullmatch(f.name))

    @cached_property
    def digest(self) -> str:
        """What decides the bytes of everything that is made of the source, and is known of a gated one, too.

        A commit that changes licence files or the prose of the card alone leaves it as it is.
        """
        card = self.card if self.gated in (None, "no") else self.contents.get(CARD)
        return hashlib.sha256(canonical([self.id, self.materials, card])).hexdigest()

    @property
    def materials(self) -> dict[str, str]:
        """The contents of all that is converted; of weights all that there are, since a closed index names none."""
        return {name: content for name, content in self.contents.items() if not _is_paper(name)}

    @property
    def papers(self) -> dict[str, str]:
        """The contents of the card and the licence files."""
        return {name: content for name, content in self.contents.items() if _is_paper(name)}

    def open(self, store: Store) -> Path:
        """Return the directory with the files, downloading them where that is still to be done."""
        return self.path or store.get(Snapshot(self)).path


def look(model: Model, *, from_outside: bool = False, sha256: Callable[[Path], str] = file_sha256) -> Source:
    """Look at a model without touching its weights: from its directory, else from the Hub.

    `from_outside`: a gated model of which nothing but the list of its files can be read will do, for a plan that is
    made where no token is. `sha256`: of a file in the model's directory.

    Raises `BadInputError` where it cannot be quantized (pickles only, shards or tokenizer missing, not there),
    `GatedError` where it may not be read and `HubError` where the Hub cannot be reached.
    """
    if model.path:
        source = _look_at_directory(model, model.path, sha256)
    else:
        source = _look_at_hub(model, from_outside=from_outside)
    check_tokenizer(source)
    return source


def check_tokenizer(source: Source) -> None:
    """Raise `BadInputError` for a model without any file that a tokenizer is made of."""
    if not any(fnmatch.fnmatchcase(file.name, pattern) for file in source.files for pattern in TOKENIZERS):
        raise BadInputError(
            f"{source.id} has no tokenizer ({', '.join(TOKENIZERS)}), so no text can be given to it. Add the files"
            " of the model that it was made from."
        )


def check_architecture(source: Source, known: frozenset[str] | None) -> None:
    """Raise `BadInputError` for an architecture that the pinned converter does not know."""
    if known is not None and source.architecture not in known:
        raise BadInputError(
            f"{source.id} is a {source.architecture}, and the pinned llama.cpp converts no such architecture."
            " Pin a newer llama.cpp in matrix.yml if it was added since, or drop the model."
        )


def _look_at_directory(model: Model, path: Path, sha256: Callable[[Path], str]) -> Source:
    names = {p.name for p in path.iterdir() if p.is_file()}
    where = f"{model.source} in {path}"
    _check_sizes({name: (path / name).stat().st_size for name in names}, where)
    config = _config(path / "config.json", where)
    index = _json(path / safetensors.INDEX, where) if safetensors.INDEX in names else None
    weights = safetensors.weight_files(names, index, where)
    safetensors.check_index(index, {name: safetensors.read_header(path / name) for name in weights}, where)
    contents = {name: sha256(path / name) for name in _deciding(names)}
    files = tuple(
        FileEntry(name=name, size=(path / name).stat().st_size, sha256=contents[name]) for name in _used(names, weights)
    )
    card = essence(path / CARD) if CARD in names else ""
    return Source(model.source, model.revision, path, files, tuple(weights), config, card, contents, None)


def _look_at_hub(model: Model, *, from_outside: bool) -> Source:
    from pipeline.hub import ask, reader

    hub = reader()
    look_up = partial(hub.model_info, model.source, revision=model.revision, files_metadata=True)
    info = ask(model.source, look_up, model.revision)
    revision = str(info.sha)
    _check_answer(model, str(info.id), revision)
    listed = {s.rfilename: s for s in info.siblings or ()}
    where = f"{model.source} at {revision[:12]}"
    if "config.json" not in listed:
        raise BadInputError(f"{where} has no config.json, so its architecture is unknown. Is it a model repo?")
    gating = _gating(info.gated)
    sums = {name: lfs.sha256 if (lfs := listed[name].lfs) else "" for name in listed}
    contents = {name: sums[name] or str(listed[name].blob_id) for name in _deciding(set(listed))}
    _check_sizes({name: sibling.size or 0 for name, sibling in listed.items()}, where)
    with tempfile.TemporaryDirectory() as scratch:

        def fetch(name: str) -> Path:
            download = partial(hub.hf_hub_download, model.source, name, revision=revision, local_dir=scratch)
            return Path(ask(model.source, download, revision))

        try:
            config = _config(fetch("config.json"), where)
            index = _json(fetch(safetensors.INDEX), where) if safetensors.INDEX in listed else None
            card = essence(fetch(CARD)) if CARD in listed else ""
        except GatedError:
            if not from_outside or gating == "no":
                raise
            config, index, card, weights = {}, None, "", []
        else:
            weights = safetensors.weight_files(set(listed), index, where)
    files = tuple(
        FileEntry(name=name, size=listed[name].size or 0, sha256=sums[name]) for name in _used(set(listed), weights)
    )
    return Source(model.source, revision, None, files, tuple(weights), config, card, contents, gating)


def essence(card: Path) -> str:
    """Return what llama.cpp's converter reads of a card: the front matter, and the headings.

    It takes the front matter's values into the GGUF, and knows some models by a heading (conversion/qwen.py). The
    prose is left out, so that a change of it changes no file.
    """
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    end = lines.index("---", 1) if lines[:1] == ["---"] and "---" in lines[1:] else 0
    kept = [*lines[: end + 1], *(line for line in lines[end + 1 :] if line.startswith("#"))]
    return "\n".join(kept) + "\n"


def _gating(said: object) -> Gating:
    return "no" if not said else "auto" if said == "auto" else "manual"


def _check_answer(model: Model, repo: str, revision: str) -> None:
    """Raise `BadInputError` where the Hub speaks of another repo or revision than it was asked for."""
    if repo != model.source:
        raise BadInputError(
            f"{model.source} is called {repo} on the Hub now. Write `source: {repo}` in matrix.yml; its releases go to"
            f" a repo of that name then."
        )
    if model.revision not in {None, revision}:
        raise BadInputError(
            f"{model.source} has no commit {model.revision}: that is a branch or tag there, which may move, and leads"
            f" to {revision} now. Write `revision: {revision}` in matrix.yml."
        )


def _check_sizes(sizes: dict[str, int], where: str) -> None:
    """Raise `BadInputError` for files beside the weights that are too large to be what their names say."""
    small = {n: size for n, size in sizes.items() if n == safetensors.INDEX or _is_companion(n)}
    for name, size in sorted(small.items()):
        limit = MAX_PAPER_BYTES if name == CARD or LICENCE.fullmatch(name) else MAX_COMPANION_BYTES
        if size > limit:
            raise BadInputError(
                f"{where}: {name} has {size} bytes, and more than {limit} are not read. Make it smaller, or drop the"
                " model."
            )
    if (total := sum(small.values())) > MAX_COMPANIONS_BYTES:
        raise BadInputError(
            f"{where} has {total} bytes in {len(small)} files beside its weights, and more than"
            f" {MAX_COMPANIONS_BYTES} are not read. Take out what is not the model's."
        )


def _used(names: set[str], weights: list[str]) -> list[str]:
    index = [safetensors.INDEX] if safetensors.INDEX in names else []
    return sorted({*weights, *index, *(n for n in names if _is_companion(n))})


def _deciding(names: set[str]) -> list[str]:
    """Return the files that a source is known by: those that are used, and any other weights beside them."""
    return sorted(
        n for n in names if _is_companion(n) or (n.endswith((".safetensors", safetensors.INDEX)) and "/" not in n)
    )


def _is_paper(name: str) -> bool:
    return name == CARD or bool(LICENCE.fullmatch(name))


def _is_companion(name: str) -> bool:
    if "/" in name:
        return False
    return bool(LICENCE.fullmatch(name)) or any(fnmatch.fnmatchcase(name, pattern) for pattern in COMPANIONS)


def _config(path: Path, where: str) -> dict[str, Any]:
    if not path.is_file():
        raise BadInputError(f"{where} has no config.json, so its architecture is unknown. Is it a model's directory?")
    return _json(path, where)


def _json(path: Path, where: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{where}: {path.name} is not JSON ({error}). Download it again.") from error
    if not isinstance(value, dict):
        raise BadInputError(f"{where}: {path.name} holds no JSON object. Download it again.")
    return value
