"""The program inside the sandbox: renders one untrusted chat template, and is meant to be killed.

`sandbox.py` starts it by its path, alone in a process, with the folders that hold Jinja and MarkupSafe and its limits
as arguments. It imports nothing of ours, gives up what it may do, and only then reads the template.
It reads `{"template": …, "contexts": [{…}, …]}` and prints a JSON line for its start, one for the template's attempts
to get out, and one a context: `{"text": …}` or `{"error": kind, "message": …}`, with the attempts so far.

The environment is that of `transformers` (utils/chat_template_utils.py), with two differences: the clock stands still,
and every attempt to reach what the sandbox forbids is written down, even one that has no effect.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.path += sys.argv[1:3]

# Jinja imports `constants`, `pprint` and `textwrap` when a template first needs them, and by then it is too late.
import contextlib
import json
import os
import pprint  # noqa: F401
import resource
import textwrap  # noqa: F401
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

import jinja2.constants  # noqa: F401
from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment, is_internal_attribute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jinja2.parser import Parser
    from jinja2.runtime import Macro

NOW = datetime(2026, 1, 15, 12, 30)  # noqa: DTZ001 - templates print no zone
MEMORY = 512 << 20
OUTPUT = 4_000_000
"""Characters, over all contexts. As JSON, a character has twelve bytes at most."""
WRITTEN = 64 << 20
# First words of the names of audit events that no rendering causes (Python's "audit events table").
FORBIDDEN = {"open", "os", "subprocess", "socket", "ctypes", "shutil", "tempfile", "pty", "fcntl", "mmap", "signal"}
# Filters whose argument may be the name of an attribute.
BY_ATTRIBUTE = {"attr", "map", "selectattr", "rejectattr", "groupby", "sort", "sum", "unique", "min", "max"}
MESSAGE = 300


class Raised(TemplateError):  # noqa: N818 - a result, not a fault of ours
    """The template's own `raise_exception`."""


class TooMuchOutput(Exception):  # noqa: N818 - likewise
    pass


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks what an assistant says and prints it as it is."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    @staticmethod
    def _said(caller: Macro) -> str:
        return str(caller())


class Environment(ImmutableSandboxedEnvironment):
    """Writes down each name that leads out of the sandbox, whether or not the template goes on to use it."""

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
        self.attempts: list[str] = []
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = NOW.strftime

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if attr.startswith("_") or is_internal_attribute(obj, attr):
            self.attempts.append(attr)
        return super().is_safe_attribute(obj, attr, value)

    def is_safe_callable(self, obj: Any) -> bool:
        safe = super().is_safe_callable(obj)
        if not safe:
            self.attempts.append(getattr(obj, "__name__", "?"))
        return safe

    def scan(self, tree: nodes.Template) -> None:
        """Look for the names of Python's inner attributes in what may never run."""
        self.attempts += [node.name for node in tree.find_all(nodes.Name) if _inner(node.name)]
        self.attempts += [node.attr for node in tree.find_all(nodes.Getattr) if _inner(node.attr)]
        self.attempts += [node.attr for node in tree.find_all(nodes.NSRef) if _inner(node.attr)]
        for item in tree.find_all(nodes.Getitem):
            self._scan_constants([item.arg])
        for filtered in tree.find_all(nodes.Filter):
            if filtered.name in BY_ATTRIBUTE:
                self._scan_constants([*filtered.args, *(pair.value for pair in filtered.kwargs)])

    def _scan_constants(self, expressions: list[nodes.Expr]) -> None:
        for expression in expressions:
            with contextlib.suppress(nodes.Impossible):
                value = expression.as_const()
                if isinstance(value, str):
                    self.attempts += [part for part in value.split(".") if _inner(part)]


def _inner(name: str) -> bool:
    return len(name) > 4 and name.startswith("__") and name.endswith("__")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own, escapes nothing for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise Raised(message)


def renderings(source: str, contexts: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield what `main` prints of a template."""
    environment = Environment()
    try:
        tree = environment.parse(source)
        environment.scan(tree)
        # Before it is compiled, which computes what is constant: that may end this process.
        yield {"attempts": environment.attempts}
        template = environment.from_string(tree)
    except Exception as error:  # noqa: BLE001 - whatever a template makes of the compiler is its result
        yield {"attempts": environment.attempts}
        yield from (_failure(error, environment) for _ in contexts)
        return
    room = OUTPUT
    for context in contexts:
        pieces = []
        try:
            for piece in template.generate(context):
                room -= len(piece)
                if room < 0:
                    raise TooMuchOutput
                pieces.append(piece)
            yield {"text": "".join(pieces), "attempts": environment.attempts}
        except Exception as error:  # noqa: BLE001 - as above
            yield _failure(error, environment)
            if isinstance(error, (TooMuchOutput, MemoryError)):
                return


def _failure(error: Exception, environment: Environment) -> dict[str, Any]:
    message = str(error)[:MESSAGE]
    kind = "error"
    match error:
        case Raised():
            kind = "raised"
        case TemplateSyntaxError():
            kind, message = "syntax", f"line {error.lineno}: {message}"
        case SecurityError() if environment.attempts:
            kind = "escape"
        case MemoryError():
            kind = "memory"
        case TooMuchOutput():
            kind = "output"
        case OverflowError() if message.startswith("Range too big"):
            kind = "range"
        case SecurityError() | TemplateError():
            pass
        case _:
            message = f"{type(error).__name__}: {message}"
    return {"error": kind, "message": message, "attempts": environment.attempts}


def confine(seconds: int) -> None:
    """Give up everything but what is open, some memory, and `seconds` of processor time."""
    for limit, soft, hard in (
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_AS, MEMORY, MEMORY),
        (resource.RLIMIT_FSIZE, WRITTEN, WRITTEN),
        (resource.RLIMIT_NPROC, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, 0, 0),  # no new file, socket or pipe
    ):
        # macOS takes no limit of memory.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (soft, hard))
    sys.addaudithook(_refuse)


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    """Stop a template that got out of Jinja's sandbox before it does anything with that."""
    if event == "import":
        raise ImportError(f"{args[0]} cannot be imported here")
    if event == "open" and args[0] == "<template>":
        raise OSError("Python looks for the source of a template that it cannot compile")
    if event.split(".", 1)[0] in FORBIDDEN:
        _print({"error": "escape", "message": event, "attempts": [event]})
        os._exit(0)


def _print(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({**line, "attempts": list(dict.fromkeys(line["attempts"]))[:8]}) + "\n")
    sys.stdout.flush()


def main() -> None:
    # What a rendering needs is imported, and the exceptions' way through Jinja is known, before nothing can be opened.
    list(renderings("{{ ['é']|tojson(indent=1) }}{{ raise_exception('no') }}", [{}]))
    confine(int(sys.argv[3]))
    _print({"attempts": []})
    asked = json.loads(sys.stdin.buffer.read())
    for line in renderings(asked["template"], asked["contexts"]):
        _print(line)
    os._exit(0)


if __name__ == "__main__":
    main()
