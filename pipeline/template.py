"""The templates under `templates/`, filled: what a missing value is, and how white space is kept, is said once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent.parent / "templates"


@cache
def _environment() -> Environment:
    return Environment(  # noqa: S701 - this is Markdown: card/markdown.py escapes what needs it
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def fill(name: str, **values: Any) -> str:
    """Render a template; a value that it wants and does not get is an error."""
    return _environment().get_template(name).render(values)
