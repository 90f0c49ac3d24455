"""The tables of quant types against the source of the pinned llama.cpp."""

from __future__ import annotations

import re

from pipeline import recipe


def test_tables_are_those_of_the_pinned_source(store, toolchain):
    source = store.get(toolchain.source).file("tree")
    text = (source / "tools/quantize/quantize.cpp").read_text(encoding="utf-8")
    table = text.partition("QUANT_OPTIONS = {")[2].partition("\n};")[0]
    names = set(re.findall(r'\{ "(\w+)"', table))
    assert names == {*recipe.QUANT_TYPES, *recipe.ALIASES, "COPY"}
    aliases = dict(re.findall(r'\{ "(\w+)".*"alias for (\w+)"', table))
    assert aliases == recipe.ALIASES

    text = (source / "ggml/src/ggml.c").read_text(encoding="utf-8")
    chunk = text.partition("size_t ggml_quantize_chunk(")[2].partition("default:")[0]
    assert set(re.findall(r"case GGML_TYPE_(\w+):", chunk)) == set(recipe.TENSOR_TYPES)

    text = (source / "src/llama-quant.cpp").read_text(encoding="utf-8")
    refused = text.partition("static bool tensor_requires_imatrix(")[2].partition("return true;")[0]
    assert set(re.findall(r"case GGML_TYPE_(\w+):", refused)) == recipe.NEED_IMATRIX
