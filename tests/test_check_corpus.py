"""The ten thousand texts: enough of each kind, and the same everywhere."""

from __future__ import annotations

import hashlib

from pipeline.check import corpus


def test_ten_thousand_distinct_texts_of_every_kind():
    samples = corpus.strings()
    texts = [sample.text for sample in samples]
    assert len(texts) == len(set(texts)) >= 10_000
    assert all(text and text.encode() for text in texts)  # UTF-8 takes no lone surrogate
    kinds = {sample.kind for sample in samples}
    assert kinds == set(corpus.KINDS) - {corpus.SPECIAL, corpus.NEAR}
    assert sum(sample.ordinary for sample in samples) >= 5_000
    assert max(map(len, texts)) > 3_000
    assert sum(map(len, texts)) < 1_000_000


def test_the_same_texts_on_every_python():
    written = "\0\0".join(sample.text for sample in corpus.strings(["<|end|>"])).encode()
    assert hashlib.sha256(written).hexdigest() == "9bee856dec2b796b8118b5d6d5e66dd5cba72e45cf406e21c4a3b111d65dba01"


def test_the_models_own_special_tokens_alone_within_text_and_nearly():
    samples = corpus.strings(["<|end|>", "<s>"])
    special = [sample.text for sample in samples if sample.kind == corpus.SPECIAL]
    assert {"<|end|>", "a<|end|>b", "a <s> b", "<s><s>", "\n<s>\n"} <= set(special)
    near = [sample.text for sample in samples if sample.kind == corpus.NEAR]
    assert {"<|end|", "|end|>", "<|END|>", "< s>", "<s"} <= set(near)
    assert not any(text in ("<|end|>", "<s>") for text in near)
    assert not any(sample.ordinary for sample in samples if sample.kind in (corpus.SPECIAL, corpus.NEAR))


def test_each_kind_walks_through_what_it_is_of():
    texts = {kind: [s.text for s in corpus.strings() if s.kind == kind] for kind in corpus.KINDS}
    assert {len(text) for text in texts["digits"] if text.isdigit()} >= set(range(1, 21))
    assert any("'LL" in text or "'RE" in text for text in texts["words"])
    assert any("\r\n" in text for text in texts["whitespace"])
    for sign, kind in (("\u200d", "emoji sequences"), ("\u3000", "other spaces"), ("\u202e", "bidirectional")):
        assert any(sign in text for text in texts[kind])
    assert any("\0" in text for text in texts["control characters"])
    assert any("\ufffd" in text for text in texts["control characters"])
