"""Are all shards of a split file there, and are they parts of one file: n of N, every tensor once."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline import gguf_file
from pipeline.check import structure
from pipeline.check.verdict import failed, passed, skipped
from pipeline.file_names import NUMBERED
from pipeline.gguf_file import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.gguf_file import GGUFFile
    from pipeline.result import Verdict

# As llama-gguf-split writes them (LLM_KV_SPLIT_*).
NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"
DOWNLOAD = "Download the missing shards, or split the file again."
SPLIT = "Split the whole file again with llama-gguf-split, and publish all of its shards together."
# llama.cpp counts shards in 16 bits, and their names have five digits.
MOST = 65_535
MOST_ROLES = 0.75
"""Share of the roles of a shard's tensors in which no other shard has its types, from which on it is a stranger."""


def shards(path: Path, reference: GGUFFile | None = None) -> Verdict:
    """Check the shards that `path`, any one of them, belongs to, by what lies beside it.

    Only the first shard has the model's metadata, the others have split.* and their tensors, so that shards of two
    builds are told by what cannot be of one file: counts that disagree, a tensor twice, tensors out of the order of
    llama-quantize, a shard with other types than all others. Two builds of one recipe from two models are told by
    their tensors' values alone.
    """
    expected, there = siblings(path)
    if not expected:
        return _unnumbered(path)
    if missing := [name for name in expected if name not in there]:
        seen = f"{len(missing)} of {len(expected)} shards missing: {', '.join(shown(m, 120) for m in missing[:3])}"
        return failed("shards", f"{seen}{' …' if len(missing) > 3 else ''}", DOWNLOAD)
    files = []
    for name in expected:
        try:
            files.append(gguf_file.read(there[name]))
        except gguf_file.UnreadableError as error:
            return failed("shards", f"shard {shown(name, 120)}: {error.fault}", error.advice)
    if fault := _miscounted(files) or _mixed(files):
        return failed("shards", fault, SPLIT)
    if reference is not None and (verdict := structure.tensors(merged(files), reference)).outcome == "fail":
        return failed("shards", f"the shards together: {verdict.seen}", SPLIT)
    total = sum(len(file.tensors) for file in files)
    return passed("shards", f"{len(files)} of {len(files)} shards, {total} tensors, each of them once")


def is_shard(file: GGUFFile) -> bool:
    """Whether it is one by its name, or by what it says of itself."""
    count = file.metadata.get(COUNT)
    return bool(siblings(file.path)[0]) or (isinstance(count, int) and count > 1)


def siblings(path: Path) -> tuple[list[str], Mapping[str, Path]]:
    """Return the names of all shards that a shard's name speaks of, and those that lie in its directory.

    Without any name for a file that is no shard by its name.
    """
    parts = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.gguf", path.name, re.DOTALL)
    if not NUMBERED.fullmatch(path.name) or not parts or not 0 < int(parts[3]) <= MOST:
        return [], {}
    expected = [f"{parts[1]}-{n:05}-of-{parts[3]}.gguf" for n in range(1, int(parts[3]) + 1)]
    names = set(expected)
    return expected, {p.name: p for p in path.absolute().parent.iterdir() if p.name in names}


def merged(files: list[GGUFFile]) -> GGUFFile:
    """Return the file that the shards are parts of, for checks of metadata and of names, shapes and types.

    Its tensors' offsets mean nothing.
    """
    return replace(files[0], tensors={name: tensor for file in files for name, tensor in file.tensors.items()})


def _unnumbered(path: Path) -> Verdict:
    count = gguf_file.parse(path).metadata.get(COUNT, 0)
    if isinstance(count, int) and count > 1:
        seen = f"one of {count} shards ({COUNT}), but its name does not end in -00001-of-{count:05}.gguf"
        return failed("shards", seen, "Give it the name that llama-gguf-split gave it: llama.cpp finds shards by name.")
    return skipped("shards", "the file is no shard")


def _miscounted(files: list[GGUFFile]) -> str:
    """Name the first shard that says another number than its name, or another count than the rest."""
    held: dict[str, str] = {}
    for number, file in enumerate(files):
        name = shown(file.path.name, 120)
        wanted = {NUMBER: number, COUNT: len(files), TENSORS: files[0].metadata.get(TENSORS)}
        for key, value in wanted.items():
            if (found := file.metadata.get(key)) != value or value is None:
                return f"shards of two builds, or renamed: {name} says {key} {_said(found)}, not {_said(value)}"
        for tensor in file.tensors:
            if tensor in held:
                return f"shards of two builds: {shown(tensor)} is in {held[tensor]} and in {name}"
            held[tensor] = name
    if len(held) != files[0].metadata[TENSORS]:
        announced = _said(files[0].metadata[TENSORS])
        return f"missing tensors: the shards hold {len(held)} tensors together and announce {announced} ({TENSORS})"
    return ""


def _mixed(files: list[GGUFFile]) -> str:
    """Name what shards of one file cannot have: metadata twice, tensors out of order, types of another quant type."""
    first = files[0].metadata
    for file in files[1:]:
        name = shown(file.path.name, 120)
        for key in ("general.architecture", "general.name", "general.file_type"):
            if key in file.metadata and file.metadata[key] != first.get(key):
                return (
                    f"shards of two builds: {name} says {key} {_said(file.metadata[key])}, not {_said(first.get(key))}"
                )
    if (strange := _other_types(files)) is not None:
        return f"shards of two builds: none of the types in {shown(strange.path.name, 120)} is in the other shards"
    order = [list(map(structure.sorting, file.tensors)) for file in files]
    within = all(keys == sorted(keys) for keys in order)
    if within and (flat := [key for keys in order for key in keys]) != sorted(flat):
        return "shards of two builds: each has its tensors in order, and one after the other they are not"
    return ""


def _other_types(files: list[GGUFFile]) -> GGUFFile | None:
    """Return a shard that shares no type with the others in most roles that both have (attn_q, ffn_up and so on).

    llama-quantize gives some roles other types in some layers, and never most of them.
    """
    roles = [_roles(file) for file in files]
    of_role = Counter(role for found in roles for role in found)
    of_type = Counter((role, kind) for found in roles for role, kinds in found.items() for kind in kinds)
    for file, found in zip(files, roles, strict=True):
        shared = [role for role in found if of_role[role] > 1]
        strange = [role for role in shared if all(of_type[role, kind] == 1 for kind in found[role])]
        if len(shared) >= 3 and len(strange) >= MOST_ROLES * len(shared):
            return file
    return None


def _roles(file: GGUFFile) -> dict[str, set[str]]:
    roles: dict[str, set[str]] = {}
    for name, tensor in file.tensors.items():
        layer, _, role = name.removeprefix("blk.").partition(".")
        if layer.isdecimal() and len(tensor.shape) > 1:
            roles.setdefault(role, set()).add(tensor.type)
    return roles


def _said(value: Any) -> str:
    return "nothing" if value is None else shown(str(value))
