"""Markdown made of text that nobody vouches for: cards, answers, names."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ESCAPED = re.compile(r"([\\`*_\[\]<>~&$#!|])")
_HTML = re.compile(r"<[A-Za-z!?/]")
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9-]*)")
_NEVER_CLOSED = frozenset(
    (
        *("area", "base", "br", "col", "embed", "hr", "img", "input"),
        *("link", "meta", "p", "param", "source", "track", "wbr"),
    ),
)
_MOST_OPEN = 200
# One line that ends whatever HTML is still open before it, and shows nothing where nothing is: to a browser
# it is one comment, unless it stands inside a tag, a quoted attribute or another comment, which it ends.
_HTML_STOP = """<!-- ?> <!-- ]]> <!-- "> <!-- '> <!-- -->"""
# The ends of what a browser reads as bare text, which may have swallowed the ends of Markdown's own elements.
_TEXT_ENDS = "</script></script></style></pre></textarea></title></xmp></iframe></noembed></noframes></noscript>"
_MARKDOWN_ENDS = "</table></a></em></strong></s></code></h1></h2></h3></h4></h5></h6>"
_SENTINEL = "what follows is ours"


def plain(text: str) -> str:
    """The text with unix line ends, and without control characters or anything UTF-8 cannot hold."""
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return text.encode("utf-8", "replace").decode("utf-8")


def visible(text: str) -> str:
    """The text without what no one sees and a terminal or a reader obeys: colours, turns of direction."""
    return "".join(c for c in text.replace("\N{NO-BREAK SPACE}", " ") if c.isprintable() or c in "\t\n")


def inline(text: str, limit: int = 300) -> str:
    """The text as one line that shows itself and nothing else, cut after `limit` characters."""
    line = " ".join(plain(text).split())
    if len(line) > limit:
        line = line[: limit - 1] + "…"
    return _ESCAPED.sub(r"\\\1", line)


def code(text: str) -> str:
    """A code span, whatever backticks the text holds."""
    line = " ".join(plain(text).split())
    ticks = "`" * (_longest_run(line) + 1)
    pad = " " if not line or "`" in (line[0], line[-1]) else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def fence(text: str, language: str = "text") -> str:
    """A code block, whatever fences the text holds."""
    ticks = "`" * max(3, _longest_run(text) + 1)
    return f"{ticks}{language}\n{plain(text).rstrip()}\n{ticks}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A table of cells that are Markdown already; the first `left` columns are set left, the others right."""
    rule = [":--" if column < left else "--:" for column in range(len(head))]
    cells = ([cell.replace("|", "\\|") for cell in row] for row in (head, rule, *rows))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def closing(text: str) -> str | None:
    """What to put after `text` so that what follows is read as Markdown of its own.

    Empty where nothing is open; None where nothing helps, and `text` is best shown as a code block.
    """
    blocks = _parser().parse(text)
    html = "\n".join(block.content for block in blocks if block.type in ("html_block", "inline"))
    opened: Counter[str] = Counter()
    for slash, name in _TAG.findall(html):
        opened[name.lower()] = max(0, opened[name.lower()] + (-1 if slash else 1))
    names = [name for name in reversed(opened) if name not in _NEVER_CLOSED for _ in range(opened[name])]
    if "plaintext" in opened or len(names) > _MOST_OPEN:
        return None
    end = ""
    if blocks and blocks[-1].type == "fence" and not _ends(text):
        end += f"\n\n{blocks[-1].markup}\n"
    if _HTML.search(html):
        depth = max(block.level for block in blocks if block.type in ("html_block", "inline"))
        containers = "</li></ul></ol></blockquote>" * depth  # a tag left open may have swallowed their ends
        named = "".join(f"</{name}>" for name in names)
        end += f"\n\n{_HTML_STOP}{_TEXT_ENDS}{named}{_MARKDOWN_ENDS}{containers}\n"
    return end if _ends(text + end) else None


def sections(text: str) -> dict[str, str]:
    """The text under each heading of the second level, by the heading: without code blocks and HTML, unread as it is.

    Of two headings that are the same the first counts.
    """
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    blocks = _parser().parse(text)
    for before, block in pairwise(blocks):
        if before.type == "heading_open" and before.level == 0 and before.tag in ("h1", "h2"):
            lines = []
            found.setdefault(block.content, lines)
        elif block.type == "inline":
            lines.append(block.content)
    return {heading: "\n".join(content) for heading, content in found.items()}


def unescaped(text: str) -> str:
    """What `inline` was given, where it was one line and not cut."""
    return re.sub(r"\\([\\`*_\[\]<>~&$#!|])", r"\1", text)


def _ends(text: str) -> bool:
    """Whether a paragraph put after the text is a paragraph of the document."""
    blocks = _parser().parse(f"{text}\n\n{_SENTINEL}")
    return len(blocks) >= 3 and blocks[-3].level == 0 and blocks[-2].content == _SENTINEL


def _parser() -> MarkdownIt:
    """CommonMark's blocks alone: enough to know what is open, and quick on any input."""
    parser = MarkdownIt("commonmark").disable("reference")
    parser.core.ruler.disable(["inline", "text_join"])
    return parser


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
