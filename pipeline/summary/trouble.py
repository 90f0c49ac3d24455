"""What went wrong, for people: the cause, the last lines that matter, the next action."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline import errors
from pipeline.card.markdown import code, fence, inline

if TYPE_CHECKING:
    from pipeline.actions import Links
    from pipeline.result import Failure

TAIL_LINES = 12
CAUSE_LINES = 10
LONGEST_LINE = 300
LONGEST_CAUSE = 1_000
_BAR = "  | "
_BEFORE = "Its last lines:"
_RAN = "It ran: "


def failure(failed: Failure, links: Links) -> str:
    """Show the cause, the last lines of the program where there are any, and what to do."""
    lines = failed.message.splitlines()
    tail = [line.removeprefix(_BAR)[:LONGEST_LINE] for line in lines if line.startswith(_BAR)][-TAIL_LINES:]
    ran = [f"$ {line.removeprefix(_RAN)[:LONGEST_LINE]}" for line in lines if line.startswith(_RAN)][-1:]
    cause = [line for line in lines if line.strip() and not line.startswith((_BAR, _BEFORE, _RAN))]
    parts = [_cause(cause)]
    if tail:
        parts.append(fence("\n".join([*ran, *tail])))
    parts.append(f"**Next:** {next_action(failed, links)}")
    return "\n\n".join(parts)


def _cause(lines: list[str]) -> str:
    """Give one sentence as a paragraph, several (a mistake a line) as a list."""
    if len(lines) < 2:
        return inline(lines[0], LONGEST_CAUSE) if lines else "It left no message."
    shown = [f"- {inline(line, LONGEST_CAUSE)}" for line in lines[:CAUSE_LINES]]
    return "\n".join(shown + ([f"- and {len(lines) - CAUSE_LINES:,} more"] if len(lines) > CAUSE_LINES else []))


def next_action(failed: Failure, links: Links) -> str:
    """Say what to do, by how the command ended; in Actions with a link to the log."""
    again = (
        "re-run the failed jobs: they go on from what the store has"
        if links.run
        else f"run {code(f'python -m pipeline {failed.command} {failed.subject}')} again: it goes on from what the"
        " store has"
    )
    match failed.exit_code:
        case errors.GateError.exit_code | errors.BadInputError.exit_code:
            action = (
                "correct what the message names (most often a line of matrix.yml); trying again alone helps nothing"
            )
        case errors.HubError.exit_code:
            action = f"if the message names a token or a right, set that first; else wait for the Hub, then {again}"
        case errors.OutOfRoomError.exit_code:
            clear = "the store's clean-up button" if links.run else "`python -m pipeline store gc --max-size …`"
            action = f"make room on the runner ({clear}), or take a larger machine, then {again}"
        case errors.ToolchainError.exit_code:
            action = f"look at the lines before the last ones in the log; if the machine was at fault, {again}"
        case _:
            action = again
    return f"{action[0].upper()}{action[1:]}.{log(links)}"


def log(links: Links) -> str:
    return f" The [run's log]({links.run}) has all of it." if links.run else ""
