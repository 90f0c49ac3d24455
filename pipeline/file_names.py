"""File names as others read them: which file a tag leads to, which label the Hub gives, what a disk can carry."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

NUMBERED: Final = re.compile(r"(.*)-(\d{5}-of-\d{5})\.gguf")
"""A shard, as llama-gguf-split and everything that reads shards count them."""

_NOT_MODELS: Final = ("mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-")
# Those that the Hub knows; one that goes on with `_` and letters is found with them. MXFP4_MOE stands before MXFP4.
_LABELS: Final = (
    *("F32", "F16", "BF16", "MXFP4_MOE", "MXFP4", "NVFP4", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0"),
    *("Q4_0", "Q4_1", "Q4_2", "Q4_3", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q6_K", "Q8_K_XL"),
    *("Q3_K_S", "Q3_K_M", "Q3_K_L", "Q3_K_XL", "Q4_K_S", "Q4_K_M", "Q4_K_XL", "Q5_K_S", "Q5_K_M", "Q5_K_XL"),
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M"),
    *("IQ4_NL", "IQ4_XS"),
)
_LABEL: Final = re.compile(rf"(?:UD-)?(?:{'|'.join(_LABELS)})(?:_[A-Z]+)?")
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_DEVICE: Final = re.compile(r"(CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(\..*)?", re.IGNORECASE | re.DOTALL)
_LONGEST: Final = 255
"""Bytes, on the usual file systems."""


def is_model(name: str) -> bool:
    """Whether llama.cpp takes a file for a model (common/download.cpp:gguf_filename_is_model)."""
    return name.endswith(".gguf") and not any(part in name for part in _NOT_MODELS)


def taken(tags: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """Return the file that `llama-cli -hf repo:tag` takes of all `names` in a repo; a tag that finds none is left out.

    As common/download.cpp:find_best_model does it: the first model, in the Hub's order, whose name holds the tag in
    any case before a dot or a hyphen, whatever stands to its left.
    """
    wanted = {tag.lower(): tag for tag in tags}
    lengths = sorted({len(tag) for tag in wanted})
    found: dict[str, str] = {}
    for name in sorted(filter(is_model, names)):
        lower = name.lower()
        for end in (at for at, sign in enumerate(lower) if sign in ".-"):
            for length in lengths:
                if length <= end and (tag := lower[end - length : end]) in wanted:
                    found.setdefault(wanted[tag], name)
    return found


def label(name: str) -> str | None:
    """Return the quant that the Hub reads in the name of a file, None where it reads none.

    The Hub's page sorts files by it, and its button and Ollama's tags go by it: `parseGGUFQuantLabel` of the npm
    package @huggingface/tasks 0.21.54. The last one in the name counts.
    """
    found = _LABEL.findall(name.upper())
    return found[-1] if found else None


def trouble(name: str) -> str | None:
    """Say why a checkout on some system cannot have a file of this name, as the end of a sentence."""
    if bad := re.search(r'[<>:"/\\|?*\x00-\x1f\x7f]', name):
        return f"holds {bad[0]!r}, which no file may on Windows"
    if _DEVICE.fullmatch(name):
        return "is the name of a device on Windows"
    if not name or name[-1] in ". ":
        return "ends in a dot or a blank, which Windows drops"
    if len(name.encode("utf-8", "replace")) > _LONGEST:
        return f"is longer than {_LONGEST} bytes"
    return None
