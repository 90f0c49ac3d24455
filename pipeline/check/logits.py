"""Does the reference predict what transformers predicts from the source, over the same tokens.

The reference's predictions are there already: the file of reference logits holds the tokens of the evaluation text and
the reference's log-probabilities (llama.cpp, tools/perplexity/perplexity.cpp). So llama.cpp need not run again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.check.huggingface import quiet, reasonable
from pipeline.check.verdict import failed, passed, warned
from pipeline.errors import BadInputError
from pipeline.measure import HEADER
from pipeline.result import Record
from pipeline.weights import open_source, read_json

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.result import Verdict

CHECK = "logits"
ADVICE = (
    "The reference computes something else than the source: look at the checks of conversion and hyperparameters, and"
    " at llama.cpp's issues for this architecture."
)
# Rounding of activations to bf16 leaves 1e-5 to 2e-4, and up to 0.009 where experts are chosen; a Q8_0 in place of the
# reference 0.0035, the wrong rope base 0.1, two swapped tensors 0.13 and more.
MAX_NMSE = 0.01
SUSPECT = 0.2
"""The part of the limit from which it is worth a warning, where no experts are chosen."""
ROUTED = 10
"""How many times the limit a model may read that chooses among experts: rounding alone makes it choose others."""
# Memory beside the weights in 32 bits: torch, transformers, a chunk's activations and logits.
ROOM = 1.2e9


class Parity(Record):
    """The reference's predictions against those of transformers, over `positions` of the first chunk.

    `nmse`: mean square of the difference of log-probabilities over their variance in transformers, as llama.cpp's
    examples/model-conversion counts it. `mean_kld` in nats a token, `same_top` in percent.
    """

    nmse: float
    mean_kld: float
    same_top: float
    positions: int
    routed: bool = False
    """Whether experts are chosen a token: there rounding alone may choose another one, and changes much."""


def parity(logits: Path, source: Path, *, add_bos: int | None, available_bytes: int | None) -> Parity | str:
    """Run the source in 32 bits on the CPU over the first chunk of `logits`, or say why it cannot be run.

    `add_bos` is the token that llama.cpp puts in the first place of each chunk, `tokenizer.ggml.bos_token_id` where
    the vocabulary adds it, else None. `available_bytes` of memory may be used; None: as much as there is.
    """
    try:
        weights = open_source(source)
        config = read_json(source / "config.json")
    except (BadInputError, OSError) as error:
        return f"the source cannot be read: {str(error)[:200]}"
    if config.get("quantization_config"):
        return "the source is quantized"
    if not reasonable(config):
        return "config.json counts more layers, heads or experts than any model has"
    parameters = sum(w.array.size for w in weights.values() if w.array is not None)
    needed = 1.2 * 4 * parameters + ROOM
    if available_bytes is None:
        import psutil

        available_bytes = int(psutil.virtual_memory().available)
    if needed > available_bytes:
        return (
            f"transformers needs about {needed / 1e9:.1f} GB of memory for it, and {available_bytes / 1e9:.1f} are free"
        )
    try:
        tokens, reference = read_chunk(logits)
    except (OSError, ValueError) as error:
        return f"the reference logits cannot be read: {str(error)[:200]}"
    if add_bos is not None:
        tokens[0] = add_bos
    try:
        predicted = _run(source, tokens, tokens.size // 2, 2 * parameters)
    except Exception as error:  # noqa: BLE001 - transformers raises anything over a model that it does not know
        return f"transformers cannot run it: {type(error).__name__}: {_one_line(error)}"
    routed = any(_number(config, key) > 1 for key in ("num_local_experts", "num_experts", "n_routed_experts"))
    return measure(predicted[: reference.shape[0]], reference, routed=routed)


def read_chunk(logits: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the first chunk's tokens, and the log-probabilities of its second half, a position a row.

    After a header and the tokens of all chunks (int32) there is for each position a scale and a smallest
    log-probability (f32), then the vocabulary in 16 bits, padded to an even number. ValueError for anything else.
    """
    with logits.open("rb") as file:
        magic, context, vocabulary, chunks = HEADER.unpack(file.read(HEADER.size).ljust(HEADER.size, b"\0"))
        if magic != b"_logits_" or not 4 <= context <= 1 << 20 or not 0 < vocabulary <= 1 << 22 or not chunks:
            raise ValueError("it does not begin as one")
        tokens = np.frombuffer(file.read(4 * context), np.int32).astype(np.int64)
        file.seek(HEADER.size + 4 * context * chunks)
        width, positions = 2 * ((vocabulary + 1) // 2) + 4, context - context // 2 - 1
        data = np.frombuffer(file.read(2 * width * positions), np.uint16)
    if tokens.size != context or data.size != width * positions:
        raise ValueError("it is cut short")
    if tokens.min() < 0 or tokens.max() >= vocabulary:
        raise ValueError("it holds tokens that are none of the vocabulary's")
    rows = data.reshape(positions, width)
    scales = np.ascontiguousarray(rows[:, :4]).view(np.float32)
    return tokens, rows[:, 4 : 4 + vocabulary].astype(np.float32) * scales[:, :1] + scales[:, 1:]


def _run(source: Path, tokens: NDArray[np.int64], first: int, most: int) -> NDArray[np.float32]:
    """Return the log-probabilities that transformers predicts from position `first` on.

    ValueError for a config.json that asks for more than `most` parameters.
    """
    import torch
    import transformers

    models: Any = transformers.AutoModelForCausalLM  # partly untyped
    with quiet(), torch.inference_mode():
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            sketch = models.from_config(config, trust_remote_code=False)
        if sum(p.numel() for p in sketch.parameters()) > most:
            raise ValueError("config.json asks for a larger model than the weights are")
        model = models.from_pretrained(
            source,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="eager",
        )
        model.eval()
        output = model(torch.from_numpy(tokens)[None], use_cache=False).logits[0, first:]
        return np.asarray(torch.log_softmax(output, dim=-1).numpy())


def measure(predicted: NDArray[np.float32], reference: NDArray[np.float32], *, routed: bool = False) -> Parity | str:
    """Compare log-probabilities, a position a row.

    The file holds none below the largest less 16, so neither side counts them. Both are cut to the smaller
    vocabulary: an embedding may be padded.
    """
    if not np.isfinite(predicted).all():
        return "transformers itself predicts no finite numbers from the source"
    width = min(predicted.shape[1], reference.shape[1])
    error = spread = kld = same = 0.0
    for ours, theirs in zip(reference[:, :width], predicted[:, :width], strict=True):
        floor = theirs.max() - 16
        ours, theirs = np.maximum(ours, floor), np.maximum(theirs, floor)  # noqa: PLW2901 - a row at a time
        error += float(np.square(ours - theirs).mean())
        spread += float(theirs.var())
        kld += float(np.exp(theirs) @ (theirs - ours))
        same += ours.argmax() == theirs.argmax()
    count = reference.shape[0]
    nmse = error / spread if spread else float("inf")
    return Parity(nmse=nmse, mean_kld=kld / count, same_top=100 * same / count, positions=count, routed=routed)


def judge(found: Parity, max_nmse: float | None = MAX_NMSE) -> Verdict:
    """Hold the NMSE against its limit; None for no limit."""
    error = f"normalized mean square error (NMSE) {found.nmse:.2g}"
    figures = f"{error}, KL divergence {found.mean_kld:.2g}, same top token {found.same_top:.1f} %"
    seen = f"{figures}, over {found.positions} positions against transformers in 32 bits"
    if max_nmse is None:
        return passed(CHECK, seen)
    usual, limit = (max_nmse, ROUTED * max_nmse) if found.routed else (SUSPECT * max_nmse, max_nmse)
    if not found.nmse <= limit:
        return failed(CHECK, f"{seen}; an NMSE of at most {limit:g} is allowed", ADVICE)
    if found.nmse > usual:
        return warned(CHECK, f"{seen}; rounding explains less than {usual:g}", ADVICE)
    return passed(CHECK, seen)


def _number(config: dict[str, Any], key: str) -> float:
    nested = config.get("text_config")
    value = (nested if isinstance(nested, dict) else config).get(key)
    return value if isinstance(value, int | float) else 0


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
