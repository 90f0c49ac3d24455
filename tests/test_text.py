"""Texts for calibration and evaluation: the two that ship, and others."""

from __future__ import annotations

import hashlib
import io
import json
import re

import pytest

from pipeline.errors import BadInputError
from pipeline.matrix import EmbeddedText, HubText, PathText
from pipeline.progress import Display
from pipeline.store import Store
from pipeline.text import TEXTS, Text

SHA = "0123456789abcdef0123456789abcdef01234567"
WORDS = b"Some words to measure on.\n"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", Display(io.StringIO()))


def test_the_texts_that_ship_are_long_and_share_no_line():
    texts = [Text(use, EmbeddedText()).open(None).read_text() for use in ("calibration", "evaluation")]
    assert all(len(text.encode()) >= 60_000 for text in texts)
    lines = [{line.strip() for line in text.splitlines() if len(line.strip()) > 45} for text in texts]
    assert not lines[0] & lines[1]


@pytest.mark.parametrize("use", ["calibration", "evaluation"])
def test_the_texts_that_ship_have_many_scripts(use):
    text = (TEXTS / f"{use}.txt").read_text()
    scripts = ["[a-z]", "[а-я]", "[؀-ۿ]", "[ऀ-ॿ]", "[一-鿿]", "[ぁ-ん]", "[가-힣]"]
    assert all(len(re.findall(script, text)) > 200 for script in scripts)


def test_a_file_is_known_by_its_bytes(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes(WORDS)
    text = Text("evaluation", PathText(path))
    assert (text.name, text.sha256, text.open(None)) == ("mine.txt", hashlib.sha256(WORDS).hexdigest(), path)


def test_a_file_of_a_dataset_is_fetched_at_its_revision(store, loopback_hub, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "wiki.raw").write_bytes(WORDS)
    (tmp_path / "data" / "info.json").write_text(json.dumps({}))
    loopback_hub.add("owner/texts", tmp_path / "data", SHA, repo_type="dataset")
    right = HubText("owner/texts", "wiki.raw", SHA, hashlib.sha256(WORDS).hexdigest())
    assert Text("evaluation", right).open(store).read_bytes() == WORDS
    wrong = HubText("owner/texts", "wiki.raw", SHA, "0" * 64)
    with pytest.raises(BadInputError, match="Correct `sha256` or `revision`"):
        Text("evaluation", wrong).open(store)
