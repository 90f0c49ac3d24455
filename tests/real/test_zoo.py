"""Every broken file of the zoo is stopped, and told by what is wrong with it. `make zoo` shows the good ones, too."""

from __future__ import annotations

import pytest
from zoo import imatrices, quants, releases, speech, weights  # noqa: F401 - they register specimens
from zoo.kit import open_kit
from zoo.specimen import SPECIMENS, named


@pytest.fixture(scope="module")
def kit(machine_store, toolchain, tmp_path_factory):
    return open_kit(machine_store, toolchain, tmp_path_factory.mktemp("zoo"))


@pytest.mark.parametrize("specimen", SPECIMENS, ids=lambda specimen: specimen.name)
def test_a_broken_file_is_told_by_what_is_wrong_with_it(kit, specimen):
    found = specimen.make(kit).gate()
    kit.clear()
    assert named(specimen, [verdict for verdict in found if verdict.outcome == "fail"]), found
