"""How far a file's predictions are from the reference's: KL divergence, perplexity ratio, same top token.

llama-perplexity goes over the evaluation text in chunks of 512 tokens and scores the second half of each. The
reference's log-probabilities are kept in a file (16 bits a token of the vocabulary), and every quant is compared
with them position by position. Definitions: llama.cpp, tools/perplexity/README.md.
"""

from __future__ import annotations

import errno
import math
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline import gguf_file, shell
from pipeline.artifact import Step, digest_of
from pipeline.chunks import CONTEXT, chunk_count, chunk_watch
from pipeline.convert import REFERENCE
from pipeline.errors import ToolchainError
from pipeline.prompt import PROMPTS, write_answers
from pipeline.quantize import QUANT
from pipeline.result import Estimate, Offload, Quality
from pipeline.toolchain import PATIENT, tools

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.convert import Reference
    from pipeline.progress import Task
    from pipeline.quantize import Quant
    from pipeline.store import Store
    from pipeline.text import Text
    from pipeline.toolchain import Tools

LOGITS = "reference.kld"
QUALITY = "quality.json"
SCORED = CONTEXT - CONTEXT // 2 - 1
# What a file of reference logits begins with: a magic word, then context, vocabulary and chunks.
HEADER = struct.Struct("<8sIII")
NUMBER = r"(-?\d+\.\d+|-?nan|-?inf)"


class NotFiniteError(ToolchainError):
    """The model predicts no probabilities: it is broken."""


@dataclass(frozen=True)
class ReferenceLogits(Step):
    """The reference's log-probabilities over the evaluation text, and its answers to the prompts.

    `quality.json` is the reference compared with itself: what every measurement reads when nothing differs.
    """

    reference: Reference
    text: Text
    chunks: int | None
    prompt: str
    max_tokens: int
    kind: ClassVar[str] = "logits"

    @property
    def label(self) -> str:
        return f"{self.reference.source.id}: reference logits"

    def inputs(self) -> dict[str, Any]:
        return {
            "reference": digest_of(self.reference),
            "text": self.text.sha256,
            "chunks": self.chunks,
            "context": CONTEXT,
            "prompt": [self.prompt, self.max_tokens, *PROMPTS],
        }

    def make(self, room: Path, store: Store, task: Task) -> None:
        model = store.get(self.reference).file(REFERENCE)
        llama = tools(store, self.reference.toolchain)
        text = self.text.open(store)
        doing = f"computing the reference logits of {self.reference.source.id}"
        printed = write_logits(llama, model, text, self.chunks, room, doing, chunk_watch(task, 0.0, 0.5))
        _check_logits(room / LOGITS, chunk_count(printed, self.text, doing))
        write_answers(llama, model, self.prompt, self.max_tokens, room)
        (room / QUALITY).write_text(measure(llama, model, room / LOGITS, chunk_watch(task, 0.5, 1.0)).model_dump_json())


@dataclass(frozen=True)
class Measured(Step):
    """`quality.json` of a quant; `null` where its predictions are not finite."""

    quant: Quant
    logits: ReferenceLogits
    kind: ClassVar[str] = "quality"

    @property
    def label(self) -> str:
        return f"{self.quant.job}: measure"

    @property
    def on_gpu(self) -> bool:
        return self.quant.reference.toolchain.cuda

    def inputs(self) -> dict[str, Any]:
        return {"quant": digest_of(self.quant), "logits": digest_of(self.logits)}

    def make(self, room: Path, store: Store, task: Task) -> None:
        logits = store.get(self.logits).file(LOGITS)
        model = store.get(self.quant).file(QUANT)
        llama = tools(store, self.quant.reference.toolchain)
        try:
            quality = measure(llama, model, logits, chunk_watch(task)).model_dump_json()
        except NotFiniteError:
            quality = "null"
        (room / QUALITY).write_text(quality)


def write_logits(
    llama: Tools, model: Path, text: Path, chunks: int | None, room: Path, doing: str, watch: Callable[[str], None]
) -> shell.Completed:
    """Put the log-probabilities of `model` over so many chunks of a text, None for all, into the room's `LOGITS`."""
    command = [*_perplexity(llama, model, room / LOGITS), "-f", text]
    limit = ["--chunks", str(chunks)] if chunks else []
    return shell.run([*command, *limit], cwd=room, env=PATIENT, doing=doing, watch=watch)


def measure(llama: Tools, model: Path, logits: Path, watch: Callable[[str], None]) -> Quality:
    """Compare `model` with the reference's `logits`.

    Raises `ToolchainError` where llama-perplexity fails or prints something else than it used to.
    """
    doing = f"measuring {model.name}"
    command = [*_perplexity(llama, model, logits), "--kl-divergence"]
    printed = shell.run(command, cwd=model.parent, env=PATIENT, doing=doing, watch=watch)
    layers = gguf_file.read(model).layers
    return parse(printed.stdout, read_chunks(logits), offload(printed.stderr, layers))


def parse(printed: str, chunks: int, offloaded: Offload) -> Quality:
    """Read llama-perplexity's statistics.

    Raises `NotFiniteError` for nan or inf, `ToolchainError` for a missing number.
    """

    def single(name: str) -> float:
        found = re.search(rf"^{name}\s*:\s*{NUMBER}", printed, re.MULTILINE)
        if found is None:
            raise _unexpected(name)
        if not math.isfinite(float(found[1])):
            raise NotFiniteError(f"llama-perplexity reads {found[0]!r}: the predictions are not finite numbers.")
        return float(found[1])

    def estimate(name: str) -> Estimate:
        value = single(name)
        # The error is the root of a difference that rounding can take below zero where nothing varies, as when
        # the reference meets itself: then llama.cpp prints nan for what is zero.
        error = re.search(rf"^{name}\s*:\s*{NUMBER} ±\s*{NUMBER}", printed, re.MULTILINE)
        if error is None:
            raise _unexpected(name)
        spread = float(error[2])
        return Estimate(value=value, error=spread if math.isfinite(spread) else 0.0)

    return Quality(
        mean_kld=estimate(r"Mean\s+KLD"),
        median_kld=single(r"Median\s+KLD"),
        p999_kld=single(r"99\.9%\s+KLD"),
        max_kld=single(r"Maximum\s+KLD"),
        ppl_ratio=estimate(r"Mean PPL\(Q\)/PPL\(base\)"),
        same_top=estimate(r"Same top p"),
        ppl=estimate(r"Mean PPL\(Q\)"),
        chunks=chunks,
        context=CONTEXT,
        offload=offloaded,
    )


def offload(log: str, layers: int) -> Offload:
    """Read how many of the model's `layers` went to the GPU; a build without GPU says nothing, so none did."""
    found = re.search(r"offloaded (\d+)/(\d+) layers to GPU", log)
    return Offload(layers=int(found[1]), of=int(found[2])) if found else Offload(layers=0, of=layers)


def read_chunks(logits: Path) -> int:
    """Return the number of chunks in a file of reference logits."""
    with logits.open("rb") as file:
        return int(HEADER.unpack(file.read(HEADER.size))[3])


def logits_bytes(vocabulary: int, chunks: int) -> int:
    """Return how large a file of reference logits is (llama.cpp, tools/perplexity/perplexity.cpp).

    A header of 20 bytes, the tokens (int32), then for each scored position the vocabulary in 16 bits, padded to
    an even number, with two floats before it.
    """
    return HEADER.size + chunks * CONTEXT * 4 + chunks * SCORED * 2 * (2 * ((vocabulary + 1) // 2) + 4)


def _perplexity(llama: Tools, model: Path, logits: Path) -> list[object]:
    command = [llama.path("llama-perplexity"), "-m", model, "-c", str(CONTEXT), "--kl-divergence-base", logits]
    # Level 4 is the first at which llama.cpp says how many layers it put on the GPU.
    return [*command, "--threads", str(llama.threads), "--log-verbosity", "4"]


def _check_logits(logits: Path, chunks: int) -> None:
    """Refuse a file that is cut short: llama-perplexity does not notice a full disk and ends well."""
    with logits.open("rb") as file:
        header = file.read(HEADER.size)
    found = logits.stat().st_size
    if len(header) < HEADER.size or found != logits_bytes(HEADER.unpack(header)[2], chunks):
        raise OSError(errno.ENOSPC, f"the reference logits were cut after {found} bytes")


def _unexpected(name: str) -> ToolchainError:
    return ToolchainError(f"llama-perplexity printed no line like {name!r}; is llama.cpp pinned to another age?")
