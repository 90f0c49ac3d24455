"""The prompts: what the model answers, greedily, so that a quant's answers can be set beside the reference's.

The test prompt comes from matrix.yml and its answer stands on the card. The others are the same for every model, short
in their answers, and there for the checks: a fact, a list, some code, another language, and a row that ends.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pipeline import gguf_file, shell
from pipeline.artifact import Step, digest_of
from pipeline.errors import ToolchainError
from pipeline.quantize import QUANT
from pipeline.result import Answer
from pipeline.toolchain import PATIENT, tools

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.progress import Task
    from pipeline.quantize import Quant
    from pipeline.store import Store
    from pipeline.toolchain import Tools

SEED = 1
END = " [end of text]"
ANSWERS = "answers.json"
PROMPTS: Final = (
    "What is the capital of France? Answer in one short sentence.",
    "Name five fruits, one a line, and nothing else.",
    "Write a Python function that returns the larger of two numbers.",
    "Wie viele Tage hat eine Woche? Antworte in einem kurzen Satz.",
    "Count from one to ten in words: one, two, three, four, five,",
)
SHORT: Final = 48
"""Tokens, the longest answer to each of `PROMPTS`."""


@dataclass(frozen=True)
class Answered(Step):
    """`answers.json`: a quant's answers, to the test prompt first; `null` where the file could not be run."""

    quant: Quant
    prompt: str
    max_tokens: int
    kind: ClassVar[str] = "answer"

    @property
    def label(self) -> str:
        return f"{self.quant.job}: test prompts"

    @property
    def on_gpu(self) -> bool:
        return self.quant.reference.toolchain.cuda

    def inputs(self) -> dict[str, Any]:
        return {"quant": digest_of(self.quant), "prompt": [self.prompt, self.max_tokens, *PROMPTS]}

    def make(self, room: Path, store: Store, task: Task) -> None:  # noqa: ARG002
        model = store.get(self.quant).file(QUANT)
        llama = tools(store, self.quant.reference.toolchain)
        try:
            write_answers(llama, model, self.prompt, self.max_tokens, room)
        except ToolchainError as error:
            store.display.say(f"warning: {error}")
            (room / ANSWERS).write_text("null")


def has_template(model: gguf_file.GGUFFile) -> bool:
    """Whether the model has a chat template, through which the prompts go."""
    return "tokenizer.chat_template" in model.metadata


def write_answers(llama: Tools, model: Path, prompt: str, max_tokens: int, room: Path) -> None:
    """Put the answers to the test prompt and to `PROMPTS`, in that order, into the room's `answers.json`."""
    asked = [(prompt, max_tokens), *((other, SHORT) for other in PROMPTS)]
    replies = [answer(llama, model, text, limit, room).model_dump() for text, limit in asked]
    (room / ANSWERS).write_text(json.dumps(replies))


def answer(llama: Tools, model: Path, prompt: str, max_tokens: int, room: Path) -> Answer:
    """Let `model` answer, at temperature 0 and with a fixed seed, through its chat template where it has one.

    `room` is a scratch directory. The model "stopped" when it ended its answer before the token limit.
    """
    file = room / "prompt.txt"
    file.write_text(prompt, encoding="utf-8")
    mode = ["--jinja", "-cnv"] if has_template(gguf_file.read(model)) else ["-no-cnv"]
    # A byte is at most a token; the rest is room for the template.
    context = len(prompt.encode()) + max_tokens + 1024
    command = [llama.path("llama-completion"), "-m", model, *mode, "--single-turn", "--file", file.name, "--no-escape"]
    sampling = ["-n", str(max_tokens), "--temp", "0", "--seed", str(SEED), "-c", str(context)]
    doing = f"letting {model.name} answer a prompt"
    printed = shell.run(
        [*command, *sampling, "--no-display-prompt", "--threads", str(llama.threads)],
        cwd=room,
        env=PATIENT,
        doing=doing,
    )
    file.unlink()
    runs = re.search(r"\beval time = .*/ +(\d+) runs", printed.stderr)
    if runs is None:
        raise ToolchainError(f"llama-completion did not say how many tokens it made while {doing}.")
    # The first token comes out of the prompt's evaluation, so n tokens take n - 1 runs.
    stopped = int(runs[1]) + 1 < max_tokens or printed.stdout.rstrip().endswith(END.strip())
    return Answer(text=printed.stdout.rstrip().removesuffix(END.strip()).strip(), stopped=stopped)
