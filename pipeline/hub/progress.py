"""The client's progress, handed on: it knows of bytes, the display knows how to show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable


def bar(report: Callable[[int], None]) -> type[tqdm]:
    """Return a bar for the client to make that shows nothing, and tells `report` how many bytes have come."""

    class Silent(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"disable": True})

        def update(self, n: float | None = 1) -> None:
            report(int(n or 0))

    return Silent
