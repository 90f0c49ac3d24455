"""What each job of the workflows costs: seconds, bytes, requests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

from pipeline import disk, prompt, speed
from pipeline.check.logits import ROOM
from pipeline.chunks import CONTEXT
from pipeline.measure import logits_bytes
from pipeline.recipe import QUANT_TYPES

from . import rates

if TYPE_CHECKING:
    from .catalogue import Shape
    from .rates import Machine, Requests

CHUNKS = disk.USUAL_CHUNKS
ANSWERED = 128 + len(prompt.PROMPTS) * prompt.SHORT  # `max_tokens` as it is by default
TIMED = speed.REPETITIONS + 1  # one to warm up
# What the system and a program of llama.cpp take of a runner's memory, and what the GPU does of its own.
TAKEN = 8e9
MAX_SHARD = 45e9
# Beside the weights: config, generation_config, index, tokenizer, tokenizer_config, a template.
COMPANIONS = 6
# Requests that the Hub's free tier allows in five minutes, by its documentation.
API_LIMIT, FILE_LIMIT, WINDOW = 1_000, 5_000, 300.0


@dataclass(frozen=True)
class Work:
    parts: tuple[tuple[str, float], ...]
    """What it spends its seconds on."""
    requests: Requests
    down: float = 0.0
    up: float = 0.0
    moved: float = 0.0
    """Bytes between the runner and the store that all runners share."""

    @cached_property
    def seconds(self) -> float:
        return sum(seconds for _, seconds in self.parts)


def logits(shape: Shape) -> float:
    return logits_bytes(shape.vocabulary, CHUNKS)


@cache
def plan(count: int) -> Work:
    """Plan so many models: eight are asked for at once, and the Hub slows down who asks too often."""
    requests = (rates.LOOK + rates.FIRST_LAST) * count
    asking = (requests.api + requests.files) * rates.ASK.value / 8
    return Work((("begin", rates.HOSTED.value), ("ask", max(asking, waited(requests)))), requests)


def waited(requests: Requests) -> float:
    """Seconds that so many requests take at the rates that the Hub allows."""
    return max((requests.api - 1) // API_LIMIT, (requests.files - 1) // FILE_LIMIT) * WINDOW


@cache
def prepare(shape: Shape, machine: Machine) -> Work:
    reference, kept = shape.reference, logits(shape)
    parts = (
        ("begin", rates.RUNNER.value),
        ("download", reference / rates.DOWN.value),
        ("hash", (2 * reference + kept) / rates.HASH.value),  # the source as it came and when it is kept; the logits
        ("convert", reference / rates.CONVERT.value),  # and hash
        ("check", reference / rates.VET.value + _compared(shape, machine)),
        ("run", 3 * _met(shape, CHUNKS * CONTEXT, reference, machine)),  # imatrix, logits, the reference against itself
        ("generate", _generated(shape, ANSWERED, reference, machine)),
    )
    # The source in and out, the reference in, and out again for the checks and the runs; the logits likewise.
    asked = rates.LOOK + rates.Requests(0, 2 * (shape.shards + COMPANIONS))
    return Work(parts, asked, down=reference, moved=5 * reference + 2 * kept)


@cache
def job(shape: Shape, quant: str, machine: Machine) -> Work:
    made, reference = shape.size(quant), shape.reference
    split = made if made > MAX_SHARD else 0.0
    parts = (
        ("begin", rates.RUNNER.value),
        ("quantize", max(quantizing(shape.weights, quant) / machine.cores, reference / rates.STORE.value)),
        ("hash", (made + split) / rates.HASH.value),
        ("check", made / rates.CHECK.value),
        ("run", _met(shape, CHUNKS * CONTEXT + TIMED * speed.PROMPT_TOKENS, made, machine)),
        ("generate", _generated(shape, ANSWERED + TIMED * speed.GENERATED_TOKENS, made, machine)),
        ("split", split / rates.STORE.value),
    )
    return Work(parts, rates.LOOK, moved=reference + 2 * made + 2 * split + logits(shape))


def quantizing(weights: float, quant: str) -> float:
    """Seconds of one core."""
    return weights / rates.QUANTIZE.get(QUANT_TYPES[quant].tensor_type, rates.SLOW)


@cache
def stage(shape: Shape, quant: str) -> Work:
    made = shape.size(quant)
    parts = (("begin", rates.RUNNER.value), ("hash", made / rates.HASH.value), ("upload", made / rates.UP.value))
    return Work(parts, rates.LOOK + rates.TARGET + rates.STAGE, up=made, moved=made)


@cache
def release(quants: int) -> Work:
    read_back = rates.Requests(0, quants + 1)
    asked = rates.LOOK + rates.FIRST_LAST * 2 + rates.HOLDS * quants + rates.TARGET + rates.IS_OPEN
    asked += rates.PUBLISH + read_back
    return Work((("begin", rates.HOSTED.value), ("ask", (asked.api + asked.files) * rates.ASK.value)), asked)


# They make a matrix of a plan, and a page of results.
LEGS = REPORT = Work((("begin", rates.HOSTED.value),), rates.Requests(0))


def _compared(shape: Shape, machine: Machine) -> float:
    """Seconds for the comparison with transformers, which is left out where 32 bits a weight do not fit."""
    fits = 1.2 * 4 * shape.weights + ROOM <= machine.memory - TAKEN  # as `pipeline.check.logits` has it
    return shape.reference / rates.COMPARE.value if fits else 0.0


def _met(shape: Shape, tokens: int, size: float, machine: Machine) -> float:
    """Seconds for so many tokens of a text, in a file of `size` bytes."""
    on_gpu = _share(size, machine)
    a_weight = on_gpu / rates.GPU_MEET.value + (1 - on_gpu) / (rates.MEET.value * machine.cores)
    # llama.cpp takes four chunks at a time, and for each four it reads again what no memory holds.
    read = size + tokens / (4 * CONTEXT) * excess(size, machine)
    return tokens * shape.met * a_weight + read / rates.STORE.value


def _generated(shape: Shape, tokens: int, size: float, machine: Machine) -> float:
    """Seconds for so many tokens one after the other."""
    met, on_gpu = shape.met / shape.weights, _share(size, machine)
    read = size * (on_gpu / rates.GPU_READ.value + (1 - on_gpu) / rates.READ.value)
    return tokens * met * (read + excess(size, machine) / rates.STORE.value)


def _share(size: float, machine: Machine) -> float:
    """What part of a file is on the GPU."""
    return min(1.0, max(0.0, machine.gpu_memory - TAKEN) / size)


def excess(size: float, machine: Machine) -> float:
    """Bytes of a file that neither memory holds."""
    return max(0.0, size - (machine.memory - TAKEN) - max(0.0, machine.gpu_memory - TAKEN))
