"""What of this machine the tests with the real llama.cpp share: the toolchain, built once, and tiny models."""

from __future__ import annotations

import io
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import models
import platformdirs
import pytest

from pipeline import matrix, run
from pipeline.progress import Display
from pipeline.store import Store
from pipeline.toolchain import tools

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.toolchain import Toolchain

ROOT = Path(__file__).parent.parent
BUILT = ("toolchain", "llama.cpp")
SHARED = (*BUILT, "kernels", "proof")


def pinned() -> Toolchain:
    return run.toolchain_of(matrix.load(ROOT / "matrix.yml"), cuda=False)


@contextmanager
def opened(toolchain: Toolchain) -> Iterator[Store]:
    """The store that this machine's runs use, with the toolchain in it."""
    root = os.environ.get("LLM_QUANTIZER_STORE") or platformdirs.user_cache_dir("llm-quantizer")
    store = Store(Path(root).absolute(), Display())
    with store.in_use():
        tools(store, toolchain)
        yield store


@pytest.fixture(scope="session")
def toolchain():
    return pinned()


@pytest.fixture(scope="session")
def machine_store(toolchain):
    with opened(toolchain) as store:
        yield store


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory):
    """`model_directory(kind)` is the directory of a tiny model."""
    root = tmp_path_factory.mktemp("models")
    return lambda kind: (root / kind) if (root / kind).exists() else models.build(kind, root / kind)


def empty_store(machine_store: Store, root: Path, shared: tuple[str, ...] = SHARED) -> Store:
    """A store with the toolchain, and what is proven of kernels, and no more."""
    root.mkdir()
    for kind in shared:
        (machine_store.root / kind).mkdir(exist_ok=True)
        (root / kind).symlink_to(machine_store.root / kind)
    return Store(root, Display(io.StringIO()))
