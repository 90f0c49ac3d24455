"""Which transformers decides the bytes of a reference, where it is installed and where it is not."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

import pytest

from pipeline import convert
from pipeline.errors import ToolchainError


@pytest.fixture
def without(monkeypatch):
    """A machine without transformers, such as one that plans or releases."""

    def absent(name):
        raise PackageNotFoundError(name)

    convert.transformers_version.cache_clear()
    monkeypatch.setattr(convert, "version", absent)
    yield
    convert.transformers_version.cache_clear()


def test_where_it_is_not_installed_the_pinned_one_counts(without):
    pinned = re.search(r"^transformers==(\S+)$", convert.CONSTRAINTS.read_text(), re.MULTILINE)
    assert convert.transformers_version() == pinned[1]


def test_the_pinned_one_is_what_is_installed_here():
    convert.transformers_version.cache_clear()
    assert convert.transformers_version() == version("transformers")
    assert f"transformers=={version('transformers')}\n" in convert.CONSTRAINTS.read_text()


def test_with_neither_it_says_what_to_install(without, monkeypatch, tmp_path):
    monkeypatch.setattr(convert, "CONSTRAINTS", tmp_path / "nowhere")
    with pytest.raises(ToolchainError, match="Run `make setup`"):
        convert.transformers_version()
