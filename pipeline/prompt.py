"""The test prompt: what the model answers, greedily, so that a quant's answer can be set beside the reference's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline import shell
from pipeline.errors import ToolchainError
from pipeline.result import Answer

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.toolchain import Tools

SEED = 1
END = " [end of text]"


@dataclass(frozen=True)
class Prompt:
    text: str
    max_tokens: int
    chat: bool
    """Whether it goes through the model's chat template."""


def answer(llama: Tools, model: Path, prompt: Prompt, room: Path) -> Answer:
    """Let `model` answer, at temperature 0 and with a fixed seed.

    `room` is a scratch directory. The model "stopped" when it ended its answer before the token limit.
    """
    file = room / "prompt.txt"
    file.write_text(prompt.text, encoding="utf-8")
    mode = ["--jinja", "-cnv"] if prompt.chat else ["-no-cnv"]
    # A byte is at most a token; the rest is room for the template.
    context = len(prompt.text.encode()) + prompt.max_tokens + 1024
    command = [llama.path("llama-completion"), "-m", model, *mode, "--single-turn", "--file", file.name, "--no-escape"]
    sampling = ["-n", str(prompt.max_tokens), "--temp", "0", "--seed", str(SEED), "-c", str(context)]
    doing = f"letting {model.name} answer the test prompt"
    printed = shell.run(
        [*command, *sampling, "--no-display-prompt", "--threads", str(llama.threads)], cwd=room, doing=doing
    )
    file.unlink()
    runs = re.search(r"\beval time = .*/ +(\d+) runs", printed.stderr)
    if runs is None:
        raise ToolchainError(f"llama-completion did not say how many tokens it made while {doing}.")
    # The first token comes out of the prompt's evaluation, so n tokens take n - 1 runs.
    stopped = int(runs[1]) + 1 < prompt.max_tokens or printed.stdout.rstrip().endswith(END.strip())
    return Answer(text=printed.stdout.rstrip().removesuffix(END.strip()).strip(), stopped=stopped)
