"""Going over a text in chunks, as llama-imatrix and llama-perplexity do: how far they are, and how many there were."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.errors import BadInputError, ToolchainError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.progress import Task
    from pipeline.shell import Completed
    from pipeline.text import Text

# Tokens a chunk: what the field measures with, so that figures can be set side by side.
CONTEXT = 512


def chunk_watch(task: Task, begin: float = 0.0, end: float = 1.0) -> Callable[[str], None]:
    """Return a watcher for the part of a task from `begin` to `end`.

    It follows the `[1]39.8,[2]41.1` that llama.cpp prints, a number a finished chunk.
    """
    state = {"total": 0, "done": 0}

    def watch(text: str) -> None:
        if total := re.search(r"over (\d+) chunks", text):
            state["total"] = int(total[1])
        state["done"] += len(re.findall(r"\[\d+\]\d|^ +\d+ +\d", text, re.MULTILINE))
        if state["total"]:
            part = min(1.0, state["done"] / state["total"])
            task.advance(begin + part * (end - begin), f"{state['done']} of {state['total']} chunks")

    return watch


def chunk_count(printed: Completed, text: Text, doing: str) -> int:
    """Return over how many chunks llama.cpp says that it computed.

    Raises `BadInputError` where the text is too short for the two that llama.cpp wants.
    """
    found = re.search(r"over (\d+) chunks", printed.stderr + printed.stdout)
    if found is None:
        if re.search(r"you need at least \d+ tokens", printed.stderr + printed.stdout):
            raise BadInputError(
                f"{text.described} is too short for {doing}: llama.cpp wants at least {2 * CONTEXT} tokens."
                " Name a longer text in matrix.yml."
            )
        raise ToolchainError(f"llama.cpp did not say over how many chunks it went while {doing}.")
    return int(found[1])
