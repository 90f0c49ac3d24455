"""llama.cpp's own check of a quant: it loads, and its perplexity over two chunks is at most 20 (its ci/run.sh).

That script reads wikitext, which is not here. A text on which SmolLM2 itself is well within the limit stands for it: a
part of our evaluation text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline import shell
from pipeline.errors import ToolchainError
from pipeline.inspection import TEXT
from pipeline.text import TEXTS
from pipeline.toolchain import PATIENT

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.kit import Kit

LIMIT = 20.0
PART = slice(24_000, 32_000)
"""Characters of the evaluation text."""


def fault(kit: Kit, model: Path) -> str:
    """Say what the check finds wrong with a file; empty for nothing."""
    text = kit.room / "upstream.txt"
    text.write_text((TEXTS / TEXT.name).read_text(encoding="utf-8")[PART], encoding="utf-8")
    command = [kit.llama.path("llama-perplexity"), "-m", model, "-f", text, "-c", "512", "--chunks", "2"]
    try:
        printed = shell.run(
            [*command, "--threads", str(kit.llama.threads)], cwd=kit.room, env=PATIENT, doing=f"running {model.name}"
        )
    except ToolchainError:
        return "it does not run"
    found = re.search(r"Final estimate: PPL = (\S+)", printed.stdout + printed.stderr)
    perplexity = float(found[1]) if found else float("nan")
    return "" if perplexity <= LIMIT else f"perplexity {perplexity:.4g}"
