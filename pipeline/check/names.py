"""Does every file name of a release lead to its own file, for llama.cpp, the Hub, Ollama and LM Studio.

llama.cpp's rule is that of common/download.cpp. The Hub labels a file by its name; Ollama's tags (`hf.co/repo:TAG`)
are looked up among these labels, in any case (huggingface.co/docs/hub/ollama). LM Studio's (`repo@TAG`) are compared
with what its own service calls a file, in any case (lms, subcommands/get.ts); that service is taken to read names as
the Hub does.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from pipeline import file_names
from pipeline.check.verdict import failed, passed, warned
from pipeline.recipe import QUANT_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.result import Verdict

CHECK = "names"
_RENAME = "Rename the recipe, or change `filename` in matrix.yml."
_FILENAME = "Change `filename` in matrix.yml, so that no file name holds the model's name, or rename the recipe."
_MOST_TOLD = 3


def names(quants: Mapping[str, Sequence[str]], others: Sequence[str] = ()) -> list[Verdict]:
    """Judge the names of a release's files: `quants` to the files of each (several where it is in shards), `others`.

    A name that no system can keep, or under which another quant's file would be served, is a fail. One that is no tag,
    or that the Hub labels otherwise, is a warning: the file is still to be had by its name. One verdict a fault, or a
    pass.
    """
    files = {name: quant for quant, parts in quants.items() for name in parts}
    found = [*_unfit(quants, others), *_tags(quants, files, others), *_labels(quants)]
    return found or [passed(CHECK, f"the name of each of {len(quants)} quants leads to its own file")]


def _unfit(quants: Mapping[str, Sequence[str]], others: Sequence[str]) -> Iterator[Verdict]:
    """Names that a disk does not take, that stand for two files, or that say shard of what is whole."""
    count = Counter([*(name for parts in quants.values() for name in parts), *others])
    seen: dict[str, str] = {}
    for name in count:
        if why := file_names.trouble(name):
            yield failed(CHECK, f"{_shown(name)} {why}", _RENAME)
        if count[name] > 1:
            yield failed(CHECK, f"{_shown(name)} is the name of two files of the release", _RENAME)
        if (other := seen.setdefault(name.casefold(), name)) != name:
            both = f"{_shown(other)} and {_shown(name)} differ in case only, and are one file on Windows and macOS"
            yield failed(CHECK, both, _RENAME)
    for quant, parts in quants.items():
        if len(parts) == 1 and file_names.NUMBERED.fullmatch(parts[0]):
            yield failed(
                CHECK, f"{_shown(parts[0])} of {quant} is whole, and is named like one of several shards", _FILENAME
            )


def _tags(quants: Mapping[str, Sequence[str]], files: Mapping[str, str], others: Sequence[str]) -> Iterator[Verdict]:
    """Where `-hf repo:QUANT` leads."""
    types = [name for name in QUANT_TYPES if name not in quants]
    taken = file_names.taken([*quants, *types], [*files, *others])
    lost = []
    for quant, parts in quants.items():
        first = taken.get(quant)
        if first is None:
            lost.append(quant)
        elif first != min(parts):
            seen = f"`-hf repo:{quant}` leads to {_shown(first)}, not to {_shown(min(parts))}"
            yield failed(CHECK, seen, _way_out(quant, files.get(first)))
    if lost:
        seen = f"`-hf repo:{lost[0]}` leads to no file, and so for {len(lost)} of {len(quants)} quants: llama.cpp"
        why = "takes names with mmproj, imatrix or mtp- in them for no models, and wants `.` or `-` behind the quant"
        yield warned(CHECK, f"{seen} {why} ({_shown(min(quants[lost[0]]))})", _FILENAME)
    # What is asked for and is not there: by a name that is in the model's own.
    for kind in types:
        first = taken.get(kind)
        if first and first in files and kind.casefold() not in files[first].casefold():
            seen = f"`-hf repo:{kind}`, which is no quant of this release, leads to {_shown(first)}"
            yield warned(CHECK, seen, _FILENAME)


def _way_out(quant: str, other: str | None) -> str:
    """How two quants come apart: by another `filename` where the model's name is to blame, else only by leaving one."""
    if other and quant.casefold() in other.casefold():
        return f"Take {quant} or {other} out of `quants` in matrix.yml, or give one of them another name by a recipe."
    return _FILENAME


def _labels(quants: Mapping[str, Sequence[str]]) -> Iterator[Verdict]:
    """Which files the Hub, Ollama and LM Studio find under the name of a quant."""
    labelled: dict[str, list[str]] = defaultdict(list)
    bare, wrong = [], []
    for quant, parts in quants.items():
        label = file_names.label(min(parts))
        if label is None:
            bare.append(quant)
            continue
        labelled[label].append(quant)
        if label != quant.upper():
            wrong.append((quant, label))
    clashing = {label for label, those in labelled.items() if label in {q.upper() for q in those} and len(those) > 1}
    for label in sorted(clashing):
        others = [quant for quant in labelled[label] if quant.upper() != label]
        seen = (
            f"the Hub labels {_list(others)} {label} too ({_shown(min(quants[others[0]]))}), so that `{label}` means"
            f" {len(labelled[label])} files to Ollama and LM Studio"
        )
        yield failed(CHECK, seen, _RENAME)
    if mild := [(quant, label) for quant, label in wrong if label not in clashing]:
        quant, label = mild[0]
        more = f"; {len(mild) - 1} more are labelled otherwise" if len(mild) > 1 else ""
        seen = f"the Hub labels {_shown(min(quants[quant]))} {label}, not {quant}{more}"
        yield warned(CHECK, seen, "Ollama and LM Studio go by that label. To change it, rename the recipe.")
    if bare:
        seen = f"the Hub reads no quant in {_shown(min(quants[bare[0]]))}, so Ollama may have no tag for {_list(bare)}"
        yield warned(CHECK, seen, "Ollama takes a whole file name for a tag, too: `hf.co/<repo>:<file>`.")


def _list(quants: Sequence[str]) -> str:
    more = f" and {len(quants) - _MOST_TOLD} more" if len(quants) > _MOST_TOLD else ""
    return ", ".join(quants[:_MOST_TOLD]) + more


def _shown(name: str) -> str:
    shown = name if name.isprintable() else repr(name)[1:-1]
    return shown if len(shown) <= 120 else f"{shown[:60]}…{shown[-55:]}"
