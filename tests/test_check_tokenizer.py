"""Tokenizers and special tokens that are right, and those of broken files: what is said of each."""

from __future__ import annotations

import io
import json
import re

import models
import pytest
from gguf import GGUFWriter, TokenType

from pipeline import gguf_file
from pipeline.check import pre_tokenizer, special_tokens, tokenizer
from pipeline.check.encode import separators, with_pre
from pipeline.check.vocabulary import Vocabulary
from pipeline.toolchain import tools

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|mark|>")
NAMES = """
    } else if (tokenizer_pre == "default") { pre_type = LLAMA_VOCAB_PRE_TYPE_DEFAULT;
    } else if (tokenizer_pre == "llama3" || tokenizer_pre == "llama-bpe") { pre_type = LLAMA_VOCAB_PRE_TYPE_LLAMA3;
    } else if (tokenizer_pre == "qwen2") { pre_type = LLAMA_VOCAB_PRE_TYPE_QWEN2;
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A directory with the tokenizer of a small byte-level BPE model that splits as Llama 3 does."""
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers import models as kinds

    bpe = Tokenizer(kinds.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA_3), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, letters])
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1200, initial_alphabet=alphabet, special_tokens=[], show_progress=False)
    numbers = " ".join(f"{n} {n * 7919} x{n}y" for n in range(2000))
    bpe.train_from_iterator([*models.TEXT.splitlines(), numbers], trainer)
    bpe.add_special_tokens(list(SPECIAL))
    directory = tmp_path_factory.mktemp("source")
    bpe.save(str(directory / "tokenizer.json"))
    config = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[1], "add_bos_token": True}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture
def write(source, tmp_path):
    """`write(change)` makes the GGUF of the source's tokenizer; `change` gets its keys before they are written."""

    def make(change=lambda _keys: None):
        content = json.loads((source / "tokenizer.json").read_bytes())
        added = {one["content"]: one["id"] for one in content["added_tokens"]}
        pieces = content["model"]["vocab"] | added
        tokens = sorted(pieces, key=pieces.get)
        keys = {
            "model": "gpt2",
            "pre": "llama-bpe",
            "tokens": tokens,
            "types": [TokenType.CONTROL if token in added else TokenType.NORMAL for token in tokens],
            "merges": [" ".join(pair) for pair in content["model"]["merges"]],
            "bos_token_id": added[SPECIAL[0]],
            "eos_token_id": added[SPECIAL[1]],
            "add_bos_token": True,
        }
        change(keys)
        return gguf(tmp_path / "model.gguf", keys)

    return make


def gguf(path, keys):
    writer = GGUFWriter(path, "llama")
    for key, value in keys.items():
        match key:
            case "tokens":
                writer.add_token_list(value)
            case "types":
                writer.add_token_types(value)
            case "scores":
                writer.add_token_scores(value)
            case "merges":
                writer.add_token_merges(value)
            case _ if isinstance(value, bool):
                writer.add_bool(f"tokenizer.ggml.{key}", value)
            case _ if isinstance(value, int):
                writer.add_uint32(f"tokenizer.ggml.{key}", value)
            case _:
                writer.add_string(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.write_bytes(path.read_bytes() + bytes(32))  # gguf_file counts the gap in front of tensors, even of none
    return gguf_file.read(path)


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "llama-vocab.cpp").write_text(NAMES)
    return tmp_path


def put(**changed):
    return lambda keys: keys.update(changed)


def drop(name):
    return lambda keys: keys.pop(name)


def only(verdicts, outcome="fail"):
    (verdict,) = [v for v in verdicts if v.outcome == outcome]
    assert verdict.advice.endswith(".")
    assert not verdict.seen.endswith(".")
    return verdict.seen


def test_the_name_of_the_pre_tokenizer(write, tree):
    assert [v.outcome for v in tokenizer.compare(write(), None, None, tree)] == ["pass"]
    assert "tokenizer.ggml.pre is missing" in only(tokenizer.compare(write(drop("pre")), None, None, tree))
    default = write(put(pre="default"))
    assert "tokenizer.ggml.pre is 'default'" in only(tokenizer.compare(default, None, None, tree))
    unknown = write(put(pre="nosuch\n\x1b[0m" + "x" * 999))
    seen = only(tokenizer.compare(unknown, None, None, tree))
    assert r"tokenizer.ggml.pre is 'nosuch\n\x1b[0mxxx" in seen
    assert "does not know" in seen
    assert len(seen) < 200
    assert tokenizer.compare(unknown, None, None, None)[0].outcome == "pass", "without llama.cpp no name is unknown"


def test_a_sentencepiece_vocabulary_has_no_pre_tokenizer(write, tree):
    spm = write(put(model="llama", pre="default"))
    (verdict,) = tokenizer.compare(spm, None, None, tree)
    assert (verdict.outcome, "needs a source" in verdict.seen) == ("skip", True)


def test_llama_cpps_own_names_are_read(tree):
    assert pre_tokenizer.names(tree) == [["default"], ["llama3", "llama-bpe"], ["qwen2"]]
    assert pre_tokenizer.names(None) == pre_tokenizer.names(tree / "src") == []


def swap(keys, a, b):
    keys["tokens"][a], keys["tokens"][b] = keys["tokens"][b], keys["tokens"][a]


def shift(keys, begin):
    tokens = keys["tokens"]
    tokens[begin:-1] = ["[extra]", *tokens[begin:-2]]


FAULTS = {
    "shifted": (lambda keys: shift(keys, 500), r"shifted by \+1 from id 500"),
    "swapped": (lambda keys: swap(keys, 300, 301), "2 of .* tokens are not the source's: id 300 is "),
    "twice": (lambda keys: keys["tokens"].__setitem__(400, keys["tokens"][399]), "twice in the vocabulary.*id 400"),
    "short": (lambda keys: keys["tokens"].pop(), "1 fewer than the source has: '<.mark.>'"),
    "no merges": (drop("merges"), "tokenizer.ggml.merges is missing"),
    "a merge lost": (lambda keys: keys["merges"].pop(7), "merge 7 is .* in the source"),
    "merges cut": (lambda keys: keys.update(merges=keys["merges"][:10]), "10 merges, .* merge 10 is none, and "),
    "no tokens": (drop("tokens"), "tokenizer.ggml.tokens is missing"),
    "no model": (drop("model"), "tokenizer.ggml.model is missing"),
    "tokens are numbers": (lambda keys: keys.update(types=[1]), "token_type has 1 entries for"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_vocabulary_that_is_not_the_sources(write, source, fault):
    change, message = FAULTS[fault]
    verdicts = tokenizer.compare(write(change), source, None, None)
    assert re.search(message, only(verdicts)), only(verdicts)


def test_a_vocabulary_may_be_padded_and_a_token_too_many_left_out(write, source, tmp_path):
    padded = write(lambda keys: (keys["tokens"].extend(["[PAD1]", "[PAD2]"]), keys["types"].extend([5, 5])))
    assert not any(v.outcome == "fail" for v in tokenizer.compare(padded, source, None, None))
    cut = write(lambda keys: (keys["tokens"].pop(), keys["types"].pop()))
    small = tmp_path / "small"
    small.mkdir()
    for file in source.iterdir():
        (small / file.name).write_bytes(file.read_bytes())
    (small / "config.json").write_text(json.dumps({"vocab_size": len(cut.array("tokenizer.ggml.tokens"))}))
    assert not any(v.outcome == "fail" for v in tokenizer.compare(cut, small, None, None))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"model": 7}', '{"model": {"vocab": {"a": "b"}}}', "[" * 100_000])
def test_a_source_that_cannot_be_read_is_no_fault_of_the_file(write, tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    skipped = only_skip(tokenizer.compare(write(), tmp_path, None, None))
    assert "tokenizer.json" in skipped
    assert "tokenizer.json" in only_skip(special_tokens.compare(write(), tmp_path))


def only_skip(verdicts):
    (verdict,) = [v for v in verdicts if v.outcome == "skip"]
    return verdict.seen


@pytest.fixture(scope="module")
def built(machine_store, toolchain):
    """The directory of llama.cpp's tools, and its source."""
    llama = tools(machine_store, toolchain)
    return llama.path("llama-tokenize").parent, machine_store.get(toolchain.source).file("tree")


@pytest.mark.real
def test_the_sources_tokens(write, source, built):
    verdicts = tokenizer.compare(write(), source, *built)
    assert [v.outcome for v in verdicts] == ["pass", "pass", "pass"], verdicts
    assert "texts of 20 kinds have the source's tokens" in verdicts[-1].seen


@pytest.mark.real
@pytest.mark.parametrize("named", ["qwen2", "gpt-2", "deepseek-llm"])
def test_another_pre_tokenizer_and_the_right_one_are_named(write, source, built, named):
    seen = only(tokenizer.compare(write(put(pre=named)), source, *built))
    assert f"tokenizer.ggml.pre is '{named}', which splits " in seen
    assert "; with 'llama3' 0 of " in seen
    assert "digits" in seen


@pytest.mark.real
def test_a_missing_pre_tokenizer_fails_twice_and_the_right_one_is_named(write, source, built):
    first, _, second = tokenizer.compare(write(drop("pre")), source, *built)
    assert "tokenizer.ggml.pre is missing" in first.seen
    assert "tokenizer.ggml.pre is missing, which splits " in second.seen
    assert "with 'llama3' 0 of" in second.seen


@pytest.mark.real
def test_a_vocabulary_that_llama_cpp_does_not_load(write, source, built):
    verdicts = tokenizer.compare(write(put(pre="nosuch")), source, *built)
    assert "does not know" in verdicts[0].seen
    assert "llama.cpp does not load the vocabulary" in verdicts[-1].seen
    assert "unknown pre-tokenizer type: " in verdicts[-1].seen


@pytest.mark.real
def test_a_special_token_that_is_typed_as_text(write, source, built):
    verdicts = tokenizer.compare(write(lambda keys: keys["types"].__setitem__(-1, 1)), source, *built)
    assert "a special token is read as text: '<|mark|>' has " in only(verdicts)


@pytest.mark.real
def test_a_source_that_cannot_tokenize_is_skipped(write, built, tmp_path):
    assert "no tokenizer.json, no tokenizer.model" in only_skip(tokenizer.compare(write(), tmp_path, *built))


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A directory with a SentencePiece model, and the keys of its GGUF."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(models.TEXT.splitlines()), model_writer=model, model_type="bpe", vocab_size=800,
        byte_fallback=True, split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, unk_id=0, bos_id=1, eos_id=2, num_threads=1, minloglevel=2,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("pieces")
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    made = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    numbers = range(made.vocab_size())
    types = [2 if made.IsUnknown(n) else 3 if made.IsControl(n) else 6 if made.IsByte(n) else 1 for n in numbers]
    keys = {
        "model": "llama",
        "pre": "default",
        "tokens": [made.IdToPiece(n) for n in numbers],
        "scores": [made.GetScore(n) for n in numbers],
        "types": types,
    }
    return directory, keys


@pytest.mark.real
def test_sentencepiece(pieces, built, tmp_path):
    source, keys = pieces
    (good,) = tokenizer.compare(gguf(tmp_path / "good.gguf", keys), source, *built)
    assert (good.outcome, "texts of 19 kinds" in good.seen) == ("pass", True)
    flat = gguf(tmp_path / "flat.gguf", keys | {"scores": [-1000.0] * len(keys["tokens"])})
    assert only(tokenizer.compare(flat, source, *built)).startswith("every token has the same score, -1000")
    unprefixed = gguf(tmp_path / "unprefixed.gguf", keys | {"add_space_prefix": False})
    assert "no space is put before each text" in only(tokenizer.compare(unprefixed, source, *built))


def test_what_stands_between_the_texts():
    def found(*special):
        tokens = ["a", *(token for token, _ in special)]
        return list(separators(Vocabulary("gpt2", tokens, [1, *(kind for _, kind in special)])))

    assert found(("<unk>", 2), ("<|longer|>", 3)) == [1, 2]
    assert found(("<|end|>", 3), ("<|longer|>", 3), ("text", 1), ("<0x0A>", 6)) == [2, 1]
    assert found((" " * 24, 4), ("\n\n\n\n", 4), ("x" * 65, 4), ("\udcff<|>", 3), ("<|", 3)) == []
    assert found(("<s>", 3), ("<s><s>", 3)) == [2], "one within another may be found in its place"


def test_another_pre_tokenizer_is_written_into_a_copy(write, tmp_path):
    file = write()
    with_pre(file, "other", tmp_path / "copy.gguf")
    copy = gguf_file.read(tmp_path / "copy.gguf")
    assert copy.metadata == file.metadata | {"tokenizer.ggml.pre": "other"}
    assert copy.array("tokenizer.ggml.tokens") == file.array("tokenizer.ggml.tokens")


def test_special_tokens_as_the_source_has_them(write, source):
    for given in (source, None):
        (verdict,) = special_tokens.compare(write(), given)
        assert verdict.outcome == "pass"
        assert verdict.seen.startswith("bos '<|begin_of_text|>' (1200), eos '<|end_of_text|>' (1201)")


WRONG = {
    "bos": (put(bos_token_id=1202), r"bos is '<\|mark\|>' \(1202\), and '<\|begin_of_text\|>' \(1200\) in the source"),
    "eos": (put(eos_token_id=1200), r"eos is '<\|begin_of_text\|>' \(1200\), and '<\|end_of_text\|>' \(1201\)"),
    "out of range": (put(eos_token_id=9999), "eos_token_id is '9999', which is no id of the 1203 tokens"),
    "a string": (put(eos_token_id="\x1b[31m"), r"eos_token_id is '\\x1b\[31m', which is no id"),
    "typed normal": (
        lambda keys: keys["types"].__setitem__(1202, 1),
        r"'<\|mark\|>' \(1202\), special in the source, is typed normal, not control",
    ),
    "no types": (drop("types"), "token_type is missing"),
    "flag": (put(add_bos_token=False), "add_bos_token is false, and true in the source"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_special_tokens_that_are_not_the_sources(write, source, fault):
    change, message = WRONG[fault]
    failures = [v for v in special_tokens.compare(write(change), source) if v.outcome == "fail"]
    assert any(re.search(message, v.seen) for v in failures), failures
    assert all(v.advice.endswith(".") and len(v.seen) < 300 for v in failures)


def test_a_special_token_that_is_no_utf8_and_one_that_is_long(write, source):
    def hostile(keys):
        keys["tokens"] = [token.encode() for token in keys["tokens"]] + [b"\xff\xfe<|bad|>", b"<|" + b"x" * 100_000]
        keys["types"] += [3, 3]

    file = write(hostile)
    for verdicts in (tokenizer.compare(file, source, None, None), special_tokens.compare(file, source)):
        assert not any(v.outcome == "fail" for v in verdicts)
        assert all(len(v.seen) < 400 for v in verdicts)


def test_where_generation_ends(write, source, tmp_path):
    chat = tmp_path / "chat"
    chat.mkdir()
    for file in source.iterdir():
        (chat / file.name).write_bytes(file.read_bytes())
    (chat / "generation_config.json").write_text(json.dumps({"eos_token_id": [1201, 1202]}))
    seen = only(special_tokens.compare(write(), chat), "warn")
    assert seen == "'<|mark|>' (1202) ends an answer in generation_config.json, and llama.cpp does not stop at it"
    named = write(put(eot_token_id=1202))
    assert [v.outcome for v in special_tokens.compare(named, chat)] == ["pass"]


def test_a_file_without_an_end(write, source):
    assert "eos_token_id is missing" in only(special_tokens.compare(write(drop("eos_token_id")), None), "warn")

    def unknown_end(keys):
        keys.pop("eos_token_id")
        keys["tokens"][1201] = "<|stop|>"

    assert "no token is one at which llama.cpp stops" in only(special_tokens.compare(write(unknown_end), None))


def test_llama_cpp_mends_the_types_of_ends_that_it_knows(write, source):
    seen = only(special_tokens.compare(write(lambda keys: keys["types"].__setitem__(1201, 1)), None), "warn")
    assert "is typed normal, not control; llama.cpp knows this one by its text" in seen
