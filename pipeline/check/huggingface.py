"""What every check that asks transformers has in common."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


# Layers, heads, experts: more of them than any model has. transformers makes lists as long as these say.
MOST = 1 << 16


def reasonable(config: dict[str, Any], depth: int = 0) -> bool:
    """Whether no count in a config.json is so large that building from it would fill the memory."""
    for key, value in config.items():
        if isinstance(value, dict) and (depth > 3 or not reasonable(value, depth + 1)):
            return False
        counts = any(word in key for word in ("layer", "head", "expert", "block", "num_", "n_"))
        if counts and isinstance(value, int) and abs(value) > MOST and "position" not in key:
            return False
    return True


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own warnings and bars, which quote the model's files, from the terminal."""
    from transformers.utils import logging as module

    logging: Any = module  # parts of it are untyped
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(50)  # only what is critical
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
