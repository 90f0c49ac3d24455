"""Shards that are not of one file, and releases whose parts contradict each other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import factories

from pipeline import recipe, shell
from pipeline.card import render
from pipeline.check import release
from pipeline.check.names import names
from pipeline.inspection import Inputs, examine
from zoo.specimen import Subject, broken

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.kit import Kit

NAME = "SmolLM2-135M-Instruct"
SOURCE = "---\nlicense: gemma\nlanguage: [en]\nextra_gated_heading: Access Gemma\n---\n# A model\n"


def split(kit: Kit, quant: str) -> list[Path]:
    """A quant of SmolLM2 in three parts."""
    directory = kit.directory()
    whole = kit.smol.quant(recipe.builtin(quant))
    command = [kit.llama.path("llama-gguf-split"), "--split", "--split-max-tensors", "100", whole, f"{NAME}-{quant}"]
    shell.run(command, cwd=directory, doing=f"splitting a {quant} for the zoo")
    return sorted(directory.iterdir())


def _parts(kit: Kit, first: Path) -> Subject:
    inputs = Inputs(first, reference=kit.smol.reference)
    return Subject(lambda: examine(inputs, kit.llama), lambda: first)


@broken("shards", "llama.cpp#15164, mradermacher's repos: a shard that is not there", r"1 of 3 shards missing: .*00002")
def shard_missing(kit: Kit) -> Subject:
    first, second, _ = split(kit, "Q4_K_M")
    second.unlink()
    return _parts(kit, first)


@broken("shards", "uploads resumed after a change: shards of two builds", r"shards of two builds")
def shards_of_two_builds(kit: Kit) -> Subject:
    first, second, _ = split(kit, "Q4_K_M")
    second.write_bytes(split(kit, "Q8_0")[1].read_bytes())
    return _parts(kit, first)


@broken("shards", "llama.cpp#9613: shards put together with cat", r"one of 3 shards|trailing bytes")
def shards_joined_with_cat(kit: Kit) -> Subject:
    parts = split(kit, "Q4_K_M")
    whole = kit.directory() / f"{NAME}-Q4_K_M.gguf"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    return _parts(kit, whole)


@broken("shards", "moly-ai#328: one of them cut short", r"shard .*00002.*cut short")
def shard_cut_short(kit: Kit) -> Subject:
    first, second, _ = split(kit, "Q4_K_M")
    second.write_bytes(second.read_bytes()[:-5_000_000])
    return _parts(kit, first)


def _card(change: tuple[str, str]) -> Subject:
    """A card in which a line stands for another."""
    of = factories.release()
    text = render(of, SOURCE, None, ())
    changed = re.sub(*change, text, count=1)
    assert changed != text
    return Subject(lambda: release.card(changed, of, "full", SOURCE, ()), None)


@broken("release", "71 repos without a base model, by facts gathered on the Hub", r"base_model")
def base_model_lost(kit: Kit) -> Subject:
    return _card((r"base_model: .*", "base_model: someone/else"))


@broken("release", "repos that publish Gemma under another licence", r"license is 'gemma' in the source's card")
def licence_changed(kit: Kit) -> Subject:
    return _card((r"license: gemma", "license: mit"))


@broken("release", "a card written by hand beside files that were replaced", r"as the SHA-256 of")
def checksum_of_an_older_file(kit: Kit) -> Subject:
    return _card((factories.digest("gemma-2b-Q4_K_M.gguf"), factories.digest("before")))


@broken("release", "copies of gated models that are open to everyone", r"gated \(manual\), and its release is open")
def gated_source_released_openly(kit: Kit) -> Subject:
    return Subject(lambda: release.gating("google/gemma-2b", "manual", "inherit", is_open=True), None)


@broken("release", "llama.cpp#27201: a tag that leads to another file", r"`-hf repo:Q4_K_M` leads to")
def tag_that_leads_elsewhere(kit: Kit) -> Subject:
    files = {"Q4_K_M": ["gemma-2b-it-Q4_K_M.gguf"], "IQ4_XS": ["a-Q4_K_M-gemma-2b-it-IQ4_XS.gguf"]}
    return Subject(lambda: names(files), None)
