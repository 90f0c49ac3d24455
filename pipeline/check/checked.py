"""The check step: what is seen in a quant and how it answers, kept apart from what the gates make of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline import gguf_file, prompt
from pipeline.check import structure
from pipeline.convert import REFERENCE
from pipeline.errors import ToolchainError
from pipeline.quantize import FALLBACKS, QUANT
from pipeline.result import Answer, Fallback, QuantFile, Record, Verdict
from pipeline.store import digest_of
from pipeline.toolchain import tools

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.measure import ReferenceLogits
    from pipeline.progress import Task
    from pipeline.quantize import Quant
    from pipeline.store import Store

SEEN = "seen.json"


class Seen(Record):
    file: QuantFile
    """`name` is the store's; the release gives it its own."""
    verdicts: tuple[Verdict, ...]
    answer: Answer


@dataclass(frozen=True)
class Checked:
    """`seen.json`: the file read back, verdicts on its structure, its answer to the test prompt."""

    quant: Quant
    logits: ReferenceLogits
    kind: ClassVar[str] = "check"
    resumable: ClassVar[bool] = False

    @property
    def label(self) -> str:
        return f"{self.quant.job}: check"

    def inputs(self) -> dict[str, Any]:
        # Of the logits step only the prompt matters here.
        return {"quant": digest_of(self.quant), "prompt": [self.logits.prompt, self.logits.max_tokens]}

    def make(self, room: Path, store: Store, task: Task) -> None:
        reference = gguf_file.read(store.get(self.quant.reference).file(REFERENCE))
        artifact = store.get(self.quant)
        announced = [Fallback(**f) for f in json.loads(artifact.file(FALLBACKS).read_bytes())]
        quant = gguf_file.read(artifact.file(QUANT))
        verdicts = [structure.tensors(quant, reference), structure.fallbacks(quant, announced)]
        task.advance(0.3, "test prompt")
        chat = "tokenizer.chat_template" in reference.metadata
        llama = tools(store, self.quant.reference.toolchain)
        question = prompt.Prompt(self.logits.prompt, self.logits.max_tokens, chat)
        try:
            reply = prompt.answer(llama, quant.path, question, room)
        except ToolchainError as error:
            advice = "The file is broken. Quantize again; if it stays so, leave this type out."
            verdicts.append(Verdict(check="opens", outcome="fail", seen=str(error), advice=advice))
            reply = Answer(text="", stopped=False)
        file = quant_file(quant, artifact.files[QUANT].sha256, announced)
        seen = Seen(file=file, verdicts=tuple(verdicts), answer=reply)
        (room / SEEN).write_text(seen.model_dump_json(indent=1))


def quant_file(file: gguf_file.GGUFFile, sha256: str, announced: list[Fallback]) -> QuantFile:
    """Describe a GGUF as it is."""
    return QuantFile(
        name=file.path.name,
        size=file.path.stat().st_size,
        sha256=sha256,
        parameters=file.parameters,
        bits_per_weight=round(file.bits_per_weight, 4),
        types=file.types,
        fallbacks=tuple(announced),
    )
