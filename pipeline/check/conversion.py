"""Does the converted GGUF hold the values of the safetensors that it is made from, each in its place."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.check.arrangement import Layout, Rules, layouts, name_finder, targets
from pipeline.check.pieces import (
    count_differences,
    expected_at,
    first_difference,
    layout_counts,
    pieces,
    same,
    value_at,
    value_counts,
)
from pipeline.check.verdict import failed, passed, skipped, warned
from pipeline.errors import BadInputError
from pipeline.weights import ARRAYS, not_finite, open_source, read_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.gguf_file import GGUFFile, Tensor
    from pipeline.result import Verdict
    from pipeline.weights import Weight

CHECK = "conversion"
AGAIN = "Convert the source again, with the llama.cpp that matrix.yml pins."
OTHER_REVISION = "Convert again from the revision that matrix.yml names: this reference is made from other weights."
BROKEN_SOURCE = "The source is broken. Take another revision of it."
# The converter leaves these alone in every architecture, apart from Gemma's norms.
PLAIN = re.compile(r"^(token_embd|output)\.weight$|norm\.weight$")
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
# Names that are shown of a list, and tensors for whose values the rest of the source is searched.
SHOWN, SEARCHED = 3, 24


@dataclass
class _Found:
    """What became of one tensor."""

    tensor: str
    layout: str | None = None
    """How it holds its source, None where it does not."""
    fault: str = ""
    foreign: bool = False
    """Whether it holds wholly other values."""
    nans: int = 0
    infs: int = 0


@dataclass
class _Matched:
    parts: dict[str, list[Weight]] = field(default_factory=dict)
    quantized: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def tensors(reference: GGUFFile, source: Path, threads: int = 2) -> list[Verdict]:
    """Compare every tensor of the reference with the tensors of `source`, a Hugging Face model directory.

    Exactly, after the conversion to the GGUF's type and whatever the converter does to this architecture.
    """
    try:
        config = read_json(source / "config.json")
        weights = open_source(source)
    except (BadInputError, OSError) as error:
        return [skipped(CHECK, f"the source cannot be read: {str(error)[:200]}")]
    find = name_finder(reference.architecture, _blocks(reference))
    if find is None:
        return [skipped(CHECK, f"the gguf package does not know the architecture {reference.architecture[:40]!r}")]
    rules = Rules.of(config.get("architectures"), reference)
    matched = _match(reference, weights, find)
    data = np.memmap(reference.path, np.uint8, "r")

    def look(name: str) -> _Found:
        return _compare(reference, data, reference.tensors[name], matched.parts[name], rules)

    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(look, matched.parts))
    wrong = [f for f in found if f.layout is None]
    for each in wrong[:SEARCHED]:
        _explain(each, reference, data, matched, rules)
    return list(_judge(reference, found, matched, rules, _dropped(matched, weights, config, rules)))


def _blocks(reference: GGUFFile) -> int:
    count = reference.metadata.get(f"{reference.architecture}.block_count")
    return count if type(count) is int else 0


def _match(reference: GGUFFile, weights: dict[str, Weight], find: Any) -> _Matched:
    matched = _Matched()
    meant: set[str] = set()
    for name, weight in weights.items():
        wanted = targets(name, find)
        if wanted is None:
            continue
        meant.update(wanted)
        there = [target for target in wanted if target in reference.tensors]
        if not weight.shape:
            continue
        if weight.array is None or re.search(r"(_scale(_inv|_2)?|\.scales|_zero_point)$", name):
            matched.quantized.append(name)
            continue
        if not there:
            (matched.dropped if wanted else matched.unknown).append(name)
        for target in there:
            if reference.tensors[target].type in ("F32", "F16", "BF16"):
                matched.parts.setdefault(target, []).append(weight)
    if OUTPUT in reference.tensors and OUTPUT not in meant and EMBEDDING in matched.parts:
        matched.parts[OUTPUT] = matched.parts[EMBEDDING]  # one matrix for both: where it is written out, it is that
    for parts in matched.parts.values():
        parts.sort(key=lambda weight: [int(number) for number in re.findall(r"\d+", weight.name)])
    return matched


def _compare(reference: GGUFFile, data: NDArray[np.uint8], tensor: Tensor, parts: list[Weight], rules: Rules) -> _Found:
    held = _held(reference, data, tensor)
    found = _Found(tensor.name)
    for layout in layouts(tensor, parts, rules):
        if first_difference(layout, held, tensor.type) is None:
            found.layout = layout.name
            break
    for part in parts:
        if part.array is not None:
            for piece in pieces(part.array):
                nans, infs = not_finite(piece, part.dtype)
                found.nans += nans
                found.infs += infs
    return found


def _held(reference: GGUFFile, data: NDArray[np.uint8], tensor: Tensor) -> NDArray[Any]:
    begin = reference.data_begin + tensor.offset
    return np.asarray(data[begin : begin + tensor.size]).view(ARRAYS[tensor.type])


def _explain(found: _Found, reference: GGUFFile, data: NDArray[np.uint8], matched: _Matched, rules: Rules) -> None:
    """Say what is wrong with a tensor: where its values come from, or how many of them differ."""
    tensor = reference.tensors[found.tensor]
    held = _held(reference, data, tensor)
    parts = matched.parts[found.tensor]
    stored = next((layout for layout in layouts(tensor, parts, rules)), None)
    if stored is None:
        shapes = ", ".join(str(part.shape) for part in parts[:SHOWN])
        found.fault = f"has the shape {tensor.shape[::-1]}, and the source's is {shapes}"
        return
    for fault, layout in _mistakes(tensor, parts, rules, stored):
        if layout.size == held.size and first_difference(layout, held, tensor.type) is None:
            found.fault = fault
            return
    for other, its_parts in matched.parts.items():
        if other == found.tensor or reference.tensors[other].shape != tensor.shape:
            continue
        alike = layouts(reference.tensors[other], its_parts, rules)
        if any(first_difference(layout, held, tensor.type) is None for layout in alike):
            found.fault = f"holds the weights of {other}"
            return
    different, first = count_differences(stored, held, tensor.type)
    if different * 2 > held.size:
        if layout_counts(stored, tensor.type) == value_counts([held]):
            found.fault = "holds the source's values in another order"
            return
        if (factor := _factor(held, stored, tensor.type)) is not None:
            found.fault = f"holds {factor:.3g} times the source's values"
            return
        found.foreign = True
        found.fault = "holds wholly other values than the source"
        return
    row, column = divmod(first, tensor.shape[0])
    values = (
        f"{value_at(held, first, tensor.type):.6g}, and {expected_at(stored, first, tensor.type):.6g} in the source"
    )
    found.fault = f"differs in {different} of {held.size} values, first in row {row}, column {column}: {values}"


def _mistakes(tensor: Tensor, parts: list[Weight], rules: Rules, stored: Layout) -> Iterator[tuple[str, Layout]]:
    """Yield the layouts that a tensor may have by mistake, each with its name."""
    arrays = [part.array for part in parts if part.array is not None]
    plain = Layout("", arrays, stored.dtype)
    if stored.name == "permuted rows":
        yield "holds its rows in the source's order, and this architecture needs them permuted for rope", plain
    elif rules.heads and re.search(r"attn_[qk]\.weight$", tensor.name) and len(parts) == 1:
        loose = Rules(False, None, None, rules.heads, rules.kv_heads)
        for layout in layouts(tensor, parts, loose):
            if layout.name == "permuted rows":
                yield "holds its rows permuted for rope, and this architecture needs them in the source's order", layout
    if stored.change == "plus one":
        yield "holds the norm as the source has it, without the one that this architecture adds", plain
    elif not stored.change:
        yield "holds the source's norm plus one", Layout("", stored.pieces, stored.dtype, "plus one")
    for array in arrays if len(arrays) == 1 else ():
        if array.ndim > 1:
            yield "is transposed", Layout("", [np.swapaxes(array, -1, -2)], stored.dtype)
            yield "holds its rows in reverse", Layout("", [array[::-1]], stored.dtype)
    if len(arrays) > 1:
        yield "holds its experts in reverse", Layout("", arrays[::-1], stored.dtype)


def _dropped(matched: _Matched, weights: dict[str, Weight], config: dict[str, Any], rules: Rules) -> list[str]:
    """Return the source's weights that should be in the reference and are not."""
    nested = config.get("text_config")
    settings = nested if isinstance(nested, dict) else config
    layers = settings.get("num_hidden_layers", settings.get("n_layer"))
    gone = []
    for name in matched.dropped:
        number = re.search(r"layers\.(\d+)\.", name)
        if number and isinstance(layers, int) and int(number[1]) >= layers:
            continue  # layers that predict further tokens, which the converter leaves out
        if name.endswith("lm_head.weight"):
            embedding = matched.parts.get("token_embd.weight")
            tied = embedding is not None and same(weights[name], embedding[0])
            if tied or settings.get("tie_word_embeddings", config.get("tie_word_embeddings")) is True:
                continue
        elif not rules.known:
            continue
        gone.append(name)
    return gone


def _factor(held: NDArray[Any], stored: Layout, type_: str) -> float | None:
    """Return by what the source's values are multiplied, as far as some of them say; None for by nothing."""
    places = np.linspace(0, held.size - 1, 64, dtype=np.int64).tolist()
    pairs = [(value_at(held, place, type_), expected_at(stored, place, type_)) for place in places]
    ratios = sorted(ours / theirs for ours, theirs in pairs if theirs)
    if not ratios or ratios[-1] - ratios[0] > 0.02 * abs(ratios[0]):  # twice what rounding to bf16 leaves, and more
        return None
    return ratios[len(ratios) // 2]


def _judge(
    reference: GGUFFile, found: list[_Found], matched: _Matched, rules: Rules, dropped: list[str]
) -> Iterator[Verdict]:
    total = len(reference.tensors)
    equal = [f for f in found if f.layout is not None]
    wrong = [f for f in found if f.layout is None and _is_fault(f, rules)]
    bad = [f for f in found if f.nans]
    if bad:
        seen = f"the source of {bad[0].tensor} holds {bad[0].nans} NaN; {len(bad)} such tensors"
        yield failed(CHECK, seen, BROKEN_SOURCE)
    if infs := [f for f in found if f.infs]:
        yield warned(CHECK, f"the source of {infs[0].tensor} holds {infs[0].infs} Inf", BROKEN_SOURCE)
    if dropped:
        names = ", ".join(repr(name[:80]) for name in dropped[:SHOWN])
        count = f"{len(dropped)} weights of the source are" if len(dropped) > 1 else "1 weight of the source is"
        yield failed(CHECK, f"{count} not in the reference: {names}", AGAIN)
    foreign = [f for f in wrong if f.foreign or not f.fault]
    if wrong and len(foreign) * 2 > len(found):
        seen = f"{len(wrong)} of {len(found)} tensors hold other values than the source, {wrong[0].tensor} among them"
        yield failed(CHECK, f"{seen}: the reference is made from another revision or model", OTHER_REVISION)
    elif wrong:
        shown = "; ".join(f"{f.tensor} {f.fault}" for f in wrong[:SHOWN])
        more = f"; and {len(wrong) - SHOWN} more tensors" if len(wrong) > SHOWN else ""
        yield failed(CHECK, shown + more, AGAIN)
    if matched.quantized:
        seen = f"{len(matched.quantized)} tensors of the source are quantized or no floats, and are not compared"
        yield skipped(CHECK, f"{seen}: {matched.quantized[0][:80]!r} for one")
    if not found:
        if not matched.quantized:
            yield skipped(CHECK, "no tensor of the reference has a source that could be compared")
    elif not (wrong or dropped or bad):
        permuted = sum(f.layout in ("permuted rows", "transposed") for f in equal)
        how = f", {permuted} of them in llama.cpp's own order" if permuted else ""
        rest = total - len(equal)
        left = f"; {rest} not compared" if rest else ""
        yield passed(CHECK, f"{len(equal)} of {total} tensors hold the source's values{how}{left}")


def _is_fault(found: _Found, rules: Rules) -> bool:
    """Whether a tensor that does not hold its source's values is wrong; the converter may change it, unknown to us."""
    return rules.known or PLAIN.search(found.tensor) is not None or found.fault.startswith("holds the weights of")
