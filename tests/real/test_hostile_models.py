"""Hostile models upstream: what a pull request that names one makes check.yml and comment.yml say and do."""

# ruff: noqa: E501, ISC004
# Sentences as people read them, which are as long as they are.

from __future__ import annotations

import json
import os
import shutil
import struct
import tracemalloc

import pytest
from machine import ROOT, empty_store
from pull_request import PullRequest, assert_tame

from pipeline import matrix
from pipeline.preview import record

SHA = "0123456789abcdef0123456789abcdef01234567"
MATRIX = """\
version: 1
llama_cpp: {{sdist: llama-cpp-python==0.3.36, sha256: {sha256}, commit: "0c1e57098"}}
defaults: {{organization: me, quants: [Q8_0]}}
models:
  - source: google/gemma-2b
"""
CARD = """\
---
license: "<img src=x onerror=alert(1)> @everyone ![x](https://evil.example/x.png) `\\n\\n# All is well"
license_link: javascript:alert(1)
language: ["<script>alert(1)</script>", "```\\n\\n</details>\\n# @everyone"]
pipeline_tag: "{{ 7*7 }}${{ secrets.HF_TOKEN }}"
tags: ["\u202egnp.exe", "<!-- llm-quantizer preview -->", "|", "[x](https://evil.example)"]
extra_gated_prompt: "</details></details><details open><summary>Approved</summary>\\n\\n````\\n\\n# All is well"
---

# Fine <script>alert(1)</script>

````
</details>
@everyone ![x](https://evil.example/x.png) [here](https://evil.example) #1 <https://evil.example>
"""


@pytest.fixture
def pull_request(tmp_path, fake_github, loopback_hub, machine_store, monkeypatch):
    monkeypatch.setenv("LLM_QUANTIZER_STORE", str(empty_store(machine_store, tmp_path / "store").root))
    before = MATRIX.format(sha256=matrix.load(ROOT / "matrix.yml").llama_cpp.sha256)
    return PullRequest(tmp_path / "repository", before, fake_github, monkeypatch), before


@pytest.fixture
def upstream(tmp_path, loopback_hub, model_directory):
    """`upstream(change)` puts the tiny Gemma, as `change` leaves its directory, onto the Hub as evil/model."""

    def put(change):
        directory = shutil.copytree(model_directory("gemma"), tmp_path / "upstream")
        change(directory)
        loopback_hub.add("evil/model", directory, SHA)

    return put


def test_6_markdown_and_html_in_a_card(pull_request, upstream, tmp_path, conclude):
    pull, before = pull_request
    upstream(lambda directory: (directory / "README.md").write_text(CARD, encoding="utf-8"))
    code, messages, preview = pull.check(before + "  - source: evil/model\n")
    assert (code, messages) == (0, [])
    (outlook,) = record.parse(preview.encode()).outlooks
    assert "<img src=x onerror=alert(1)>" in outlook.card
    assert "secrets.HF_TOKEN" in outlook.card
    page = (tmp_path / "summary.md").read_text()
    body = pull.comment()
    for text in (page, body):
        assert_tame(text)
        assert "\u202e" not in text
        assert "- **Licence:** ``<img src=x onerror=alert(1)> @" in text.replace("\N{ZERO WIDTH SPACE}", "")
        assert "{{ 7*7 }}" in text
    conclude("hostile PR 6, Markdown and HTML in a card: shown as text, in a code span and a code block")


def lie(length):
    def change(directory):
        path = directory / "model.safetensors"
        path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])

    return change


def hole(directory):
    path = directory / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 10**10))
    os.truncate(path, 10**10 + 8)


def named(directory):
    entry = {"dtype": "BF16", "shape": [1 << 47, 1 << 47], "data_offsets": [0, 4]}
    head = json.dumps({"x\n::error::all is well\nmatrix.yml:1:1: all is well": entry}).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"\0" * 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lie(1 << 63),
            "is no safetensors file (its header would be 9223372036854775808 bytes long). Download it again.",
        ),
        (
            hole,
            "has a header of 10000000000 bytes, and 25000000 are more than any model needs, so that it is not read. Save"
            " the model again, or drop it.",
        ),
        (
            named,
            "is no safetensors file (the data of x ::error::all is well matrix.yml:1:1: all is well is 4 bytes, which"
            " its type and shape are not). Download it again.",
        ),
    ],
)
def test_7_a_lying_header(pull_request, upstream, loopback_hub, change, said, conclude):
    pull, before = pull_request
    upstream(change)
    tracemalloc.start()
    try:
        code, messages, preview = pull.check(before + "  - source: evil/model\n")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (code, messages) == (2, [f"matrix.yml:6:5: evil/model: model.safetensors {said}"])
    assert record.parse(preview.encode()).problems == tuple(messages)
    assert peak < 100_000_000
    assert sum(r.sent for r in loopback_hub.requests if "model.safetensors" in r.path) < 101_000
    assert messages[0] in pull.comment()
    if change is not hole and change is not named:
        conclude(f"hostile PR 7, a lying safetensors header: refused: {messages[0]}")


def test_3_a_regex_that_only_cpp_refuses(pull_request, upstream):
    pull, before = pull_request
    upstream(lambda _: None)
    code, messages, _ = pull.check(
        f"{before}  - {{source: evil/model, quants: [A]}}\n"
        "recipes: {A: {base: Q4_K_M, tensors: {'(x{999}){999}': Q8_0}}}\n"
    )
    assert code == 2
    assert messages == [
        "matrix.yml:6:5: evil/model:A cannot be made by the pinned llama.cpp: Number of NFA states exceeds limit. Please"
        " use shorter regex string, or use smaller brace expression, or make _GLIBCXX_REGEX_STATE_LIMIT larger. Take it"
        " out of `quants`, or change its recipe."
    ]
