"""matrix.yml: what it becomes, and what its author is told."""

# ruff: noqa: E501, SIM905
# A mistake and its sentence stand on one line; token_embedding is no password; names read better as words.

from __future__ import annotations

import itertools
import json
import re
import textwrap
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import matrix
from pipeline.errors import BadInputError
from pipeline.matrix import (
    EmbeddedText,
    Gates,
    GitSource,
    HubText,
    Limit,
    PathSource,
    PathText,
    Sdist,
    load,
    located,
    parse,
    schema,
)
from pipeline.matrix.forms import Settings
from pipeline.result import Recipe

ROOT = Path(__file__).parents[1]
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

MINIMAL = f"""\
version: 1
llama_cpp: {{git: https://example.com/llama.cpp, commit: {COMMIT}}}
models:
  - {{source: google/gemma-2b, organization: nold, quants: [Q4_K_M]}}
"""


def read(text, folder=Path("/nowhere")):
    return parse(textwrap.dedent(text).encode(), "matrix.yml", folder)


def lines(text, folder=Path("/nowhere")):
    """What is wrong with a matrix, without the name of the file."""
    with pytest.raises(BadInputError) as caught:
        read(text, folder)
    found = str(caught.value).split("\n")
    assert all(line.startswith("matrix.yml:") for line in found)
    return [line.removeprefix("matrix.yml:") for line in found]


def line(text, folder=Path("/nowhere")):
    (only,) = lines(text, folder)
    return only


def model(**settings):
    """One model in the minimal matrix, on line 4 from column 5, with the settings given as YAML."""
    given = {"source": "google/gemma-2b", "organization": "nold", "quants": "[Q4_K_M]"} | settings
    body = "\n    ".join(f"{key}: {value}" for key, value in given.items() if value is not None)
    return MINIMAL[: MINIMAL.index("  - ")] + f"  - {body}\n"


def recipes(**given):
    """The minimal matrix with recipes from line 6."""
    return MINIMAL + "recipes:\n" + "".join(f"  {name}: {value}\n" for name, value in given.items())


# --- what ships ---


def test_the_shipped_matrix_loads():
    shipped = load(ROOT / "matrix.yml")
    assert shipped.llama_cpp == Sdist("llama-cpp-python", "0.3.36", SHA256, "0c1e57098")
    small, gemma = shipped.models
    assert small.repo == "nold/SmolLM2-135M-Instruct-GGUF"
    assert [r.name for r in small.recipes] == "Q8_0 Q6_K Q5_K_M Q4_K_M IQ4_XS Q3_K_M Q2_K".split()
    # The files that the original pipeline published; see seed/gemma-2b-GGUF.md of the design.
    assert [gemma.file_name(r.name) for r in gemma.recipes] == [
        f"gemma-2b_{quant}.gguf" for quant in "IQ3_S IQ4_NL Q2_K Q3_K_M Q4_K_M Q5_K_M Q6_K Q8_0".split()
    ]
    assert (gemma.imatrix_format, gemma.card, gemma.max_tokens) == ("dat", "footer", 512)
    assert gemma.prompt == "What is a Large Language Model?"


def test_the_shipped_matrix_names_its_schema():
    first = (ROOT / "matrix.yml").read_text(encoding="utf-8").partition("\n")[0]
    assert first == "# yaml-language-server: $schema=./matrix.schema.json"


def test_the_shipped_schema_is_fresh():
    shipped = (ROOT / "matrix.schema.json").read_text(encoding="utf-8")
    assert json.loads(shipped) == schema(), "run: python -m pipeline.matrix > matrix.schema.json"
    assert shipped == json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def test_schema():
    made = schema()
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    forms = [made, *made["$defs"].values()]
    assert all(form["additionalProperties"] is False for form in forms)
    quants = made["$defs"]["ModelForm"]["properties"]["quants"]["anyOf"][0]["items"]
    assert "Q4_K_M" in quants["anyOf"][0]["enum"]
    assert "pattern" in quants["anyOf"][1]
    # What stands in `defaults` can stand in a model too, and means the same.
    assert made["$defs"]["Settings"]["properties"].items() <= made["$defs"]["ModelForm"]["properties"].items()


# --- what a matrix becomes ---


def test_the_gates_that_the_shipped_matrix_shows_are_the_defaults():
    lines = (ROOT / "matrix.yml").read_text(encoding="utf-8").split("\n")
    start = lines.index("  # gates:")
    block = "\n".join(line.replace("  # ", "  ", 1) for line in itertools.takewhile(str.strip, lines[start:]))
    assert parse((MINIMAL + "defaults:\n" + block).encode(), "matrix.yml", ROOT).models[0].gates == Gates()


def test_defaults_of_defaults():
    read_ = read(MINIMAL)
    assert read_.version == 1
    assert read_.llama_cpp == GitSource("https://example.com/llama.cpp", COMMIT)
    (made,) = read_.models
    assert made == matrix.Model(
        source="google/gemma-2b",
        revision=None,
        path=None,
        organization="nold",
        filename="{model}-{quant}.gguf",
        recipes=(Recipe(name="Q4_K_M", base="Q4_K_M"),),
        prompt="What is a Large Language Model?",
        max_tokens=128,
        calibration=EmbeddedText(),
        calibration_chunks=None,
        evaluation=EmbeddedText(),
        evaluation_chunks=None,
        imatrix_format="gguf",
        card="full",
        private=False,
        gating="inherit",
        max_shard_size=45_000_000_000,
        gates=Gates(),
        line=4,
        column=5,
    )
    assert made.name == "gemma-2b"
    assert made.repo == "nold/gemma-2b-GGUF"
    assert made.job("Q4_K_M") == "google/gemma-2b:Q4_K_M"
    assert made.file_name("Q4_K_M") == "gemma-2b-Q4_K_M.gguf"
    with pytest.raises(FrozenInstanceError):
        made.prompt = "?"


SETTINGS = {
    "organization": ("me", "me"),
    "filename": ('"{quant}.gguf"', "{quant}.gguf"),
    "prompt": ("Why?", "Why?"),
    "max_tokens": ("7", 7),
    "calibration": ("{path: a.txt}", PathText(Path("a.txt"))),
    "calibration_chunks": ("3", 3),
    "evaluation": ("{path: b.txt}", PathText(Path("b.txt"))),
    "evaluation_chunks": ("4", 4),
    "imatrix_format": ("dat", "dat"),
    "card": ("footer", "footer"),
    "private": ("true", True),
    "gating": ("open", "open"),
    "max_shard_size": ("500M", 500_000_000),
    "gates": (
        "{max_mean_kld: 1, max_p999_kld: null, min_same_top: {8: 99.5, '2.5': 60}, max_logits_nmse: null}",
        Gates(Limit.of(1), None, Limit.of({8: 99.5, 2.5: 60}), max_logits_nmse=None),
    ),
}


@pytest.mark.parametrize("key", SETTINGS)
@pytest.mark.parametrize("place", ["defaults", "model", "model over defaults"])
def test_every_setting_in_every_place(tmp_path, key, place):
    written, value = SETTINGS[key]
    if isinstance(value, PathText):
        (tmp_path / value.path).write_text("text")
        value = PathText((tmp_path / value.path).resolve())
    first, second = {
        "defaults": (f"defaults: {{{key}: {written}}}\n", ""),
        "model": ("", f", {key}: {written}"),
        "model over defaults": (f"defaults: {{{key}: {_OTHER.get(key, written)}}}\n", f", {key}: {written}"),
    }[place]
    organization = "" if key == "organization" else ", organization: nold"
    text = first + MINIMAL.replace(", organization: nold", organization).replace("}\n", f"{second}}}\n").replace(
        f"{COMMIT}{second}", COMMIT
    )
    (made,) = read(text, tmp_path).models
    assert getattr(made, key) == value


_OTHER = {"organization": "other", "prompt": "Who?", "max_tokens": "9", "card": "full", "gates": "{min_same_top: 1}"}


def test_null_takes_a_default_back():
    text = "defaults: {calibration_chunks: 5}\n" + model(calibration_chunks="null")
    assert read(text).models[0].calibration_chunks is None


def test_quants_keep_their_order_and_lose_their_aliases():
    text = recipes(Q4_K_L="{base: q4_k, token_embedding: q8_0, output: Q8_0}", Plain="{base: IQ4_NL, imatrix: false}")
    made = read(text.replace("[Q4_K_M]", "[Q8_0, q3_k, Q4_K_L, plain, bf16]")).models[0].recipes
    assert made == (
        Recipe(name="Q8_0", base="Q8_0"),
        Recipe(name="Q3_K_M", base="Q3_K_M"),
        Recipe(name="Q4_K_L", base="Q4_K_M", token_embedding="Q8_0", output="Q8_0"),
        Recipe(name="Plain", base="IQ4_NL", imatrix=False),
        Recipe(name="BF16", base="BF16"),
    )


def test_tensors_keep_their_order():
    text = recipes(X="{base: Q4_K_M, pure: true, tensors: {ffn_down: q6_k, 'blk\\.[0-3]\\.': Q8_0}}")
    (made,) = read(text.replace("[Q4_K_M]", "[X]")).models[0].recipes
    assert list(made.tensors.items()) == [("ffn_down", "Q6_K"), (r"blk\.[0-3]\.", "Q8_0")]
    assert made.pure


def test_toolchains(tmp_path):
    (tmp_path / "llama.cpp").mkdir()
    by_path = MINIMAL.replace(f"{{git: https://example.com/llama.cpp, commit: {COMMIT}}}", "{path: ./llama.cpp}")
    assert read(by_path, tmp_path).llama_cpp == PathSource((tmp_path / "llama.cpp").resolve())


def test_texts_and_paths(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "text.txt").write_text("text")
    text = model(
        path="model",
        revision=COMMIT,
        calibration=f"{{hub: a/b, file: raw/c.txt, revision: {COMMIT}, sha256: {SHA256}}}",
        evaluation="{path: text.txt}",
    )
    (made,) = read(text, tmp_path).models
    assert made.path == (tmp_path / "model").resolve()
    assert made.revision == COMMIT
    assert made.calibration == HubText("a/b", "raw/c.txt", COMMIT, SHA256)
    assert made.evaluation == PathText((tmp_path / "text.txt").resolve())


def test_paths_start_at_the_file(tmp_path, monkeypatch):
    (tmp_path / "deep" / "model").mkdir(parents=True)
    (tmp_path / "deep" / "matrix.yml").write_text(model(path="model"))
    monkeypatch.chdir(tmp_path)
    assert load(Path("deep/matrix.yml")).models[0].path == (tmp_path / "deep" / "model").resolve()


def test_lines_of_models_and_a_byte_order_mark():
    text = "\ufeff# a comment\n\n" + MINIMAL + "  -\n    source: a/b\n    organization: c\n    quants: [F16]\n"
    assert [m.line for m in read(text).models] == [6, 8]


def test_one_name_with_two_organizations_is_two_releases():
    text = MINIMAL + "  - {source: other/gemma-2b, organization: other, quants: [Q4_K_M]}\n"
    assert [m.repo for m in read(text).models] == ["nold/gemma-2b-GGUF", "other/gemma-2b-GGUF"]


# --- what its author is told ---


def test_eight_mistakes_are_eight_lines():
    text = f"""\
        version: 1
        llama_cpp: {{sdist: llama-cpp-python==0.3.36, sha256: {SHA256}, commit: 1e57098}}
        defaults:
          organization: nold
          quants: [Q4_K_M, Q5_KM]
          promt: Hello?
        recipes:
          Small: {{base: IQ1_S, imatrix: false}}
        models:
          - source: google/gemma-2b
            revision: main
            max_tokens: 0
          - source: google/gemma-2b
            quants: [Q4_K, Small, q4_k_m]
        """
    assert lines(text) == [
        '2:128: `commit` must be a string, not `1e57098`, which YAML reads as a number; quote it: "1e57098"',
        "5:20: `Q5_KM` is no quant type, and no recipe of this file; did you mean `Q5_K_M`?",
        "6:3: unknown key `promt`; did you mean `prompt`?",
        "8:33: `imatrix` must be `true`: llama-quantize refuses these types without an imatrix",
        "11:15: `revision` must be a commit of 40 lower-case hex digits; `main` looks like a branch or a tag, and those move",
        "12:17: `max_tokens` must be 1 or more, not `0`",
        "13:13: `google/gemma-2b` is listed already, in line 10",
        "14:27: `q4_k_m`, which is Q4_K_M, is in this list already",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1:1: the file is empty"),
        ("# nothing\n", "1:1: the file is empty"),
        ("---\n", "1:1: the file is empty"),
        ("~", "1:1: the file is empty"),
        ("hello", "1:1: the file must be a mapping, not `hello`"),
        ("- a", "1:1: the file must be a mapping, not a list"),
        ("a:\n\tb: 1\n", "2:1: a tab stands here; YAML is indented with spaces only"),
        ("a: @b", "1:4: plain text cannot start with this character; quote the value"),
        ("a: b: c", "1:5: a `:` too many, or wrong indentation; quote text with `: `"),
        ("a: 'b\nc: d\n", "1:4: the quote that opens here is never closed"),
        ("a: [b, c\nd: e\n", "1:4: the list that opens here is not closed, or misses a comma"),
        ("a: {b: c\n", "1:4: the mapping that opens here is not closed, or misses a comma"),
        ("a: b\nc\nd: e\n", "2:1: a key without its `: value`"),
        ("a:\n  - b\n c: d\n", "3:2: the indentation does not fit the lines above"),
        ("a: b\n---\nc: d\n", "2:1: a second YAML document starts here; the file may hold one only"),
        ("a: &x b", "1:4: anchors and aliases (`&`, `*`) are not supported; write the value out"),
        ("a: *x", "1:4: anchors and aliases (`&`, `*`) are not supported; write the value out"),
        ("<<: *x", "1:5: anchors and aliases (`&`, `*`) are not supported; write the value out"),
        ("a: !!python/object:os.system b", "1:4: tags (`!`) are not supported; remove it"),
        ("? [a]\n: b", "1:3: a key must be plain text"),
        ("1: b", '1:1: a key must be a string; quote it: "1"'),
        ('a: "\\ud83d\\udc4d"', "1:4: half a character (a surrogate) stands here; write the character itself"),
        ("a: \x01", "1:4: the character U+0001 may not stand in YAML"),
        ("[" * 40, "1:34: this is nested too deeply"),
        ("a: |\tb", "1:5: a tab stands here; YAML is indented with spaces only"),
        ("[a]\nb: c", "2:1: this belongs to nothing above; check the indentation"),
        ("%YAML a\n---\nb", "1:7: this is no YAML: expected a digit, but found 'a'"),
    ],
)
def test_what_is_no_yaml(text, said):
    assert line(text) == said


def test_bytes_that_are_not_text():
    with pytest.raises(BadInputError, match=r"^m\.yml:2:4: this byte is not UTF-8; save the file as UTF-8$"):
        parse(b"a: b\nc: \xe4\n", "m.yml", Path())


def test_a_parser_that_fails(monkeypatch):
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(located.YAML, "parse", fail)
    assert line(MINIMAL) == "1:1: this is no YAML (AssertionError in the parser)"


def test_a_billion_laughs():
    text = "a0: &a0 [lol]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    assert line(text) == "1:5: anchors and aliases (`&`, `*`) are not supported; write the value out"


def test_a_file_of_senseless_size():
    assert line("# " + "x" * located.MAX_BYTES) == f"1:1: the file is larger than {located.MAX_BYTES} bytes"


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BadInputError, match=r"gone\.yml: there is no such file; name one with --matrix$"):
        load(tmp_path / "gone.yml")
    with pytest.raises(BadInputError, match=r"the file cannot be read: Is a directory$"):
        load(tmp_path)
    with pytest.raises(BadInputError, match=r"the file cannot be read: embedded null byte$"):
        load(Path("a\0b"))


def test_the_file_is_named_as_it_was_given(tmp_path, monkeypatch):
    (tmp_path / "my.yml").write_text("a: [")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match=r"^my\.yml:1:5: a value is missing here"):
        load(Path("my.yml"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + "version: 1\n", "5:1: `version` is given twice, first in line 1"),
        (MINIMAL.replace("version: 1\n", ""), "1:1: the file needs `version`"),
        (MINIMAL.replace("version: 1", "version: 2"), "1:10: `version` must be 1, the format that this program reads, not 2"),
        (MINIMAL.replace("version: 1", 'version: "1"'), "1:10: `version` must be a whole number, not `1`, which is a string"),
        (MINIMAL.replace("version: 1", "version: true"), "1:10: `version` must be a whole number, not `true`"),
        (MINIMAL.replace("version: 1", "version: 1.0"), "1:10: `version` must be a whole number, not `1.0`"),
        (MINIMAL.replace("models:", "model:"), "3:1: unknown key `model`; did you mean `models`?"),
        (MINIMAL.partition("  - ")[0], "3:1: `models` must be a list of models, but is empty"),
        (MINIMAL.partition("models")[0] + "models: []\n", "3:9: `models` must not be empty"),
        (MINIMAL.partition("models")[0] + "models: {}\n", "3:9: `models` must be a list of models, not a mapping"),
        (MINIMAL.partition("models")[0] + "models: [a/b]\n", "3:10: this model must be a mapping, not `a/b`"),
        (MINIMAL + "recipes: [a]\n", "5:10: `recipes` must be a mapping of names to recipes, not a list"),
        (MINIMAL + "defaults:\n", "5:1: `defaults` must be a mapping of settings, but is empty"),
        (
            MINIMAL + "zebra: 1\n",
            "5:1: unknown key `zebra`; known here: version, llama_cpp, defaults, recipes, models",
        ),
    ],
)  # fmt: skip
def test_the_frame(text, said):
    assert line(text) == said


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"source": None}, "4:5: this model needs `source`"),
        ({"organization": None}, "4:5: this model needs `organization`, here or under `defaults`"),
        ({"quants": None}, "4:5: this model needs `quants`, here or under `defaults`"),
        ({"quants": "[]"}, "6:13: `quants` must not be empty"),
        ({"quants": "Q4_K_M"}, "6:13: `quants` must be a list of quant types, not `Q4_K_M`"),
        ({"quants": "[Q4_K_M, 4]"}, '6:22: an entry of `quants` must be a string, not `4`, which YAML reads as a number; quote it: "4"'),
        ({"quants": "[Q4_K_M, COPY]"}, "6:22: `COPY` quantizes nothing; leave it out"),
        ({"quants": "[Q4_K_M, banana]"}, "6:22: `banana` is no quant type, and no recipe of this file"),
        ({"quants": "[Q4_K_M, Q4_K]"}, "6:22: `Q4_K`, which is Q4_K_M, is in this list already"),
        ({"quants": "[Q4_K_M, Q4_K_M]"}, "6:22: `Q4_K_M` is in this list already"),
        ({"revision": COMMIT[:8]}, '7:15: `revision` must be a string, not `01234567`, which YAML reads as a number; quote it: "01234567"'),
        ({"revision": COMMIT[:12]}, "7:15: `revision` must be a commit of 40 lower-case hex digits; `0123456789ab` has 12"),
        ({"revision": COMMIT.upper()}, f"7:15: `revision` must be a commit of 40 lower-case hex digits; did you mean `{COMMIT}`?"),
        ({"revision": "v1.0"}, "7:15: `revision` must be a commit of 40 lower-case hex digits; `v1.0` looks like a branch or a tag, and those move"),
        ({"path": "gone"}, "7:11: `path` must be a directory; there is none at `/nowhere/gone`"),
        ({"path": "x" * 5000}, None),
        ({"path": '"a\\0b"'}, "7:11: `path` must be a directory; there is none at `/nowhere/a�b`"),
        ({"filename": '"{model}.gguf"'}, "7:15: `filename` must have {quant} in it; without it all quants have one name"),
        ({"filename": '"{quant}.bin"'}, "7:15: `filename` must end in `.gguf`"),
        ({"filename": '"{model}{model}{quant}.gguf"'}, "7:15: `filename` is too long: a long model's files would have names that no disk takes"),
        ({"filename": '"x/{quant}.gguf"'}, "7:15: `filename` must be a file name, without a path"),
        ({"filename": "'x\\{quant}.gguf'"}, "7:15: `filename` must be a file name, without a path"),
        ({"filename": '"{quants}.gguf"'}, "7:15: `filename` has the unknown placeholder `{quants}`; known: {model}, {quant}; did you mean `quant`?"),
        ({"filename": '"-{quant}.gguf"'}, "7:15: `filename` must be of letters, digits, `_`, `.`, `+`, `-`, {model} and {quant}, and begin with no sign"),
        ({"filename": '"{quant}}.gguf"'}, "7:15: `filename` must be of letters, digits, `_`, `.`, `+`, `-`, {model} and {quant}, and begin with no sign"),
        ({"prompt": '" "'}, "7:13: `prompt` must not be empty"),
        ({"prompt": "true"}, '7:13: `prompt` must be a string, not `true`, which YAML reads as a truth value; quote it: "true"'),
        ({"prompt": ""}, "7:5: `prompt` must be a string, but is empty"),
        ({"prompt": "[a]"}, "7:13: `prompt` must be a string, not a list"),
        ({"max_tokens": "-1"}, "7:17: `max_tokens` must be 1 or more, not `-1`"),
        ({"max_tokens": "1.5"}, "7:17: `max_tokens` must be a whole number, not `1.5`"),
        ({"max_tokens": "many"}, "7:17: `max_tokens` must be a whole number, not `many`, which is a string"),
        ({"calibration_chunks": "0"}, "7:25: `calibration_chunks` must be 1 or more, not `0`"),
        ({"evaluation_chunks": "0"}, "7:24: `evaluation_chunks` must be 1 or more, not `0`"),
        ({"imatrix_format": "gugf"}, "7:21: `imatrix_format` must be `gguf` or `dat`, not `gugf`; did you mean `gguf`?"),
        ({"card": "none"}, "7:11: `card` must be `full` or `footer`, not `none`"),
        ({"card": "1"}, "7:11: `card` must be `full` or `footer`, not `1`"),
        ({"gates": "{max_mean_kld: -1}"}, "7:27: `max_mean_kld` must be 0 or more, not `-1`"),
        ({"gates": "{max_mean_kld: 1e999}"}, "7:27: `max_mean_kld` must be a finite number, not `1e999`"),
        ({"gates": "{max_mean_kld: .nan}"}, "7:27: `max_mean_kld` must be a number, not `.nan`, which is a string"),
        ({"gates": "{min_same_top: 101}"}, "7:27: `min_same_top` must be 100 or less, not `101`"),
        ({"gates": "{max_mean_kld: {8: -1}}"}, "7:31: `8` in `max_mean_kld` must be 0 or more, not `-1`"),
        ({"gates": "{min_same_top: {8.5: 101}}"}, "7:33: `8.5` in `min_same_top` must be 100 or less, not `101`"),
        ({"gates": "{max_mean_kld: {8: many}}"}, "7:31: `8` in `max_mean_kld` must be a number, not `many`, which is a string"),
        ({"gates": "{max_mean_kld: {8: }}"}, "7:28: `8` in `max_mean_kld` must be a number, but is empty"),
        ({"gates": "{max_mean_kld: {Q8_0: 1}}"}, "7:28: `Q8_0` in `max_mean_kld` must be a number of bits per weight, from 0 to 32"),
        ({"gates": "{max_mean_kld: {-1: 1}}"}, "7:28: `-1` in `max_mean_kld` must be a number of bits per weight, from 0 to 32"),
        ({"gates": "{max_mean_kld: {40: 1}}"}, "7:28: `40` in `max_mean_kld` must be a number of bits per weight, from 0 to 32"),
        ({"gates": "{max_mean_kld: {8: 1, 8.0: 2}}"}, "7:27: `max_mean_kld` gives the same bits per weight twice"),
        ({"gates": "{max_mean_kld: {8: 1, 8: 2}}"}, "7:34: `8` is given twice, first in line 7"),
        ({"gates": "{max_mean_kld: {}}"}, "7:27: `max_mean_kld` must be a number, or a mapping of bits per weight to numbers, not a mapping"),
        ({"gates": "{max_mean_kld: [1]}"}, "7:27: `max_mean_kld` must be a number, or a mapping of bits per weight to numbers, not a list"),
        ({"gates": "{max_mean_kld: true}"}, "7:27: `max_mean_kld` must be a number, or a mapping of bits per weight to numbers, not `true`"),
        ({"gates": "{max_logits_nmse: {8: 1}}"}, "7:30: `max_logits_nmse` must be a number, not a mapping"),
        ({"gates": "{8: 1}"}, '7:13: a key must be a string; quote it: "8"'),
        ({"gates": "{min_top: 1}"}, "7:13: unknown key `min_top`; did you mean `min_same_top`?"),
        ({"gates": "5"}, "7:12: `gates` must be a mapping, not `5`"),
        ({"organization": "a/b"}, "5:19: `organization` must be a user or an organization of the Hub, not `a/b`"),
        ({"source": "gemma-2b"}, "4:13: `source` must be `owner/name` as on the Hub (letters, digits, single `-`, `_`, `.`), not `gemma-2b`"),
        ({"source": "google/gemma--2b"}, "4:13: `source` must be `owner/name` as on the Hub (letters, digits, single `-`, `_`, `.`), not `google/gemma--2b`"),
        ({"source": "https://huggingface.co/google/gemma-2b/"}, "4:13: `source` must be `owner/name` as on the Hub, without more; did you mean `google/gemma-2b`?"),
        ({"source": "google/" + "x" * 92}, f"4:13: the name of `google/{'x' * 92}` leaves no room for `-GGUF`: 91 characters at most"),
        ({"calibration": "embeded"}, "7:18: `calibration` must be `embedded`, a mapping with `hub`, `file`, `revision` and `sha256`, or a mapping with `path`, not `embeded`; did you mean `embedded`?"),
        ({"calibration": "{}"}, "7:18: `calibration` must be `embedded`, a mapping with `hub`, `file`, `revision` and `sha256`, or a mapping with `path`, not a mapping"),
        ({"calibration": "7"}, "7:18: `calibration` must be `embedded`, a mapping with `hub`, `file`, `revision` and `sha256`, or a mapping with `path`, not `7`"),
        ({"evaluation": "{path: gone.txt}"}, "7:24: `path` must be a file; there is none at `/nowhere/gone.txt`"),
        ({"evaluation": f"{{hub: a/b, file: ../c, revision: {COMMIT}, sha256: {SHA256}}}"}, "7:34: `file` must be the path of a file inside the dataset, not `../c`"),
        ({"evaluation": f"{{hub: a/b, file: c, revision: {COMMIT}}}"}, "7:17: `evaluation` needs `sha256`"),
        ({"evaluation": f"{{hub: a/b, file: c, revision: {COMMIT}, sha: {SHA256}}}"}, "7:89: unknown key `sha`; did you mean `sha256`?"),
    ],
)  # fmt: skip
def test_models(settings, said):
    found = lines(model(**settings))
    if said is None:
        assert len(found) == 1
    else:
        assert found[0] == said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{}", "2:12: `llama_cpp` must be a mapping with `sdist`, `git` or `path`, not a mapping"),
        ("latest", "2:12: `llama_cpp` must be a mapping with `sdist`, `git` or `path`, not `latest`"),
        ("", "2:1: `llama_cpp` must be a mapping with `sdist`, `git` or `path`, but is empty"),
        ("{git: https://a.b/c}", "2:12: `llama_cpp` needs `commit`"),
        ("{git: https://a.b/c, commit: master}", "2:41: `commit` must be a commit of 40 lower-case hex digits; `master` looks like a branch or a tag, and those move"),
        (f"{{git: --upload-pack=x, commit: {COMMIT}}}", "2:18: `git` must be the address of a git repository, not `--upload-pack=x`"),
        ("{path: gone}", "2:19: `path` must be a directory; there is none at `/nowhere/gone`"),
        ("{path: ., commit: 1}", "2:22: unknown key `commit`; known here: path"),
        (f"{{sdist: 3.10, sha256: {SHA256}, commit: abcdef0}}", '2:20: `sdist` must be a string, not `3.10`, which YAML reads as a number; quote it: "3.10"'),
        (f"{{sdist: llama-cpp-python>=0.3, sha256: {SHA256}, commit: abcdef0}}", "2:20: `sdist` must be `name==version`, not `llama-cpp-python>=0.3`"),
        (f"{{sdst: a==1, sha256: {SHA256}, commit: abcdef0}}", "2:13: unknown key `sdst`; did you mean `sdist`?"),
        ("{sdist: a==1, sha256: abc, commit: abcdef0}", "2:34: `sha256` must be 64 lower-case hex digits, not `abc`"),
        (f"{{sdist: a==1, sha256: {SHA256.upper()}, commit: abcdef0}}", f"2:34: `sha256` must be 64 lower-case hex digits, not `{SHA256.upper()}`; did you mean `{SHA256}`?"),
    ],
)  # fmt: skip
def test_toolchain_mistakes(given, said):
    text = MINIMAL.replace(f"{{git: https://example.com/llama.cpp, commit: {COMMIT}}}", given)
    assert said in lines(text)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("X", "{}", "6:6: the recipe `X` needs `base`"),
        ("X", "", "6:3: the recipe `X` must be a mapping, but is empty"),
        ("X", "{base: Q4_KM}", "6:13: `base` must be a quant type, not `Q4_KM`; did you mean `Q4_K_M`?"),
        ("X", "{base: Q4_K_M, output: Q4_K_M}", "6:29: `output` has the unknown tensor type `Q4_K_M`; did you mean `Q4_K`?"),
        ("X", "{base: Q4_K_M, output: IQ2_XS}", "6:29: `output` cannot be IQ2_XS: it needs an imatrix, and there is none for this tensor"),
        ("X", "{base: Q4_K_M, embedding: Q8_0}", "6:21: unknown key `embedding`; did you mean `token_embedding`?"),
        ("X", "{base: Q4_K_M, pure: yes}", "6:27: `pure` must be `true` or `false`, not `yes`, which is a string"),
        ("X", "{base: Q4_K_M, tensors: [a]}", "6:30: `tensors` must be a mapping of regular expressions to types, not a list"),
        ("X", "{base: Q4_K_M, tensors: {ffn: Q9_9}}", "6:36: `tensors` has the unknown tensor type `Q9_9`"),
        ("X", "{base: Q4_K_M, tensors: {ffn: 8}}", '6:36: `tensors` must be a string, not `8`, which YAML reads as a number; quote it: "8"'),
        ("X", "{base: Q4_K_M, tensors: {'ffn[': Q8_0}}", "6:31: `tensors` has the bad regular expression `ffn[`: unterminated character set at position 3"),
        ("X", "{base: Q4_K_M, tensors: {'[[a]': Q8_0}}", "6:31: `tensors` has the bad regular expression `[[a]`: Possible nested set at position 1"),
        ("X", "{base: Q4_K_M, tensors: {'a=b': Q8_0}}", "6:31: `tensors` has a `=` in `a=b`, where llama-quantize would cut it"),
        ("X", "{base: Q4_K_M, tensors: {'\\S': Q8_0}}", "6:31: `tensors` has capitals in `\\S`, which llama-quantize would make small"),
        ("X", "{base: Q4_K_M, tensors: {'(?i)a': Q8_0}}", "6:31: `tensors` has a group in `(?i)a` that C++ does not know; use `(?:`, `(?=` or `(?!`"),
        ("X", "{base: F16, tensors: {ffn: Q8_0}}", "6:27: `tensors` has no effect on F16: llama-quantize reads it for quantized types only"),
        ("X", "{base: Q2_K_S, imatrix: false}", "6:30: `imatrix` must be `true`: llama-quantize refuses these types without an imatrix"),
        ("X", "{base: Q4_K_M, tensors: {ffn: IQ2_S}, imatrix: false}", "6:53: `imatrix` must be `true`: llama-quantize refuses these types without an imatrix"),
        ("q4_k_m", "{base: Q4_K_M}", "6:3: the recipe `q4_k_m` has the name of a quant type; give it another one"),
        ("COPY", "{base: Q4_K_M}", "6:3: the recipe `COPY` has the name of a quant type; give it another one"),
        ("a/b", "{base: Q4_K_M}", "6:3: the recipe `a/b` must have a name of letters, digits, `-` and `_`, 64 at most, that begins with no sign"),
        ("<sdist>", "{base: Q4_K_M}", None),
    ],
)  # fmt: skip
def test_recipe_mistakes(name, given, said):
    found = line(recipes(**{name: given}))
    assert said is None or found == said


def test_recipes_whose_names_differ_in_case_only():
    text = recipes(Mine="{base: Q4_K_M}", mine="{base: Q8_0}")
    assert line(text) == "7:3: `mine` differs from another recipe in case only"


def test_a_recipe_listed_twice():
    text = recipes(Mine="{base: Q4_K_M}").replace("[Q4_K_M]", "[Mine, MINE]")
    assert line(text) == "4:66: `MINE` is in this list already"


def test_a_name_that_was_meant_may_be_a_recipe():
    text = recipes(Precious="{base: Q4_K_M}").replace("[Q4_K_M]", "[Presious]")
    assert line(text).endswith("; did you mean `Precious`?")


def test_a_wrong_recipe_may_be_named():
    text = recipes(Mine="{base: Q9}").replace("[Q4_K_M]", "[Mine]")
    assert line(text) == "6:16: `base` must be a quant type, not `Q9`"


def test_models_that_are_one():
    text = MINIMAL + "  - {source: Google/Gemma-2b, organization: other, quants: [Q8_0]}\n"
    assert line(text) == "5:14: `Google/Gemma-2b` is listed already, in line 4"


def test_releases_that_would_replace_each_other():
    text = MINIMAL + "  - {source: other/gemma-2b, organization: Nold, quants: [Q8_0]}\n"
    assert line(text) == (
        "5:14: `Nold/gemma-2b-GGUF` is already the release of the model in line 4;"
        " give one of them another `organization`"
    )


def test_a_wrong_organization_makes_no_second_complaint():
    text = (
        "defaults: {organization: nold}\n" + MINIMAL + "  - {source: other/gemma-2b, organization: 5, quants: [Q8_0]}\n"
    )
    assert line(text).startswith("6:44: `organization` must be a string")


@pytest.mark.parametrize("place", ["model", "defaults"])
def test_evaluation_is_never_the_calibration_text(tmp_path, place):
    (tmp_path / "a.txt").write_text("text")
    pair = {"calibration": "{path: a.txt}", "evaluation": "{path: ./a.txt}"}
    said = "`evaluation` must be another text than `calibration`"
    if place == "model":
        assert line(model(**pair), tmp_path) == f"8:17: {said}"
    else:
        # Two models inherit it, and it is said once.
        text = f"defaults: {{{', '.join(f'{key}: {value}' for key, value in pair.items())}}}\n"
        text += MINIMAL + "  - {source: a/b, organization: nold, quants: [Q8_0]}\n"
        assert line(text, tmp_path) == f"1:52: {said}"


def test_one_file_of_the_hub_is_one_text():
    hub = "{{hub: a/b, file: {}, revision: {}, sha256: {}}}"
    text = model(calibration=hub.format("c", COMMIT, SHA256), evaluation=hub.format("d", COMMIT, SHA256))
    assert line(text) == "8:17: `evaluation` must be another text than `calibration`"


def test_quants_of_defaults_are_checked_once():
    text = "defaults: {quants: [Q4_K_M, Q8]}\n" + MINIMAL + "  - {source: a/b, organization: nold}\n"
    assert line(text).startswith("1:29: `Q8` is no quant type")


def test_a_line_stays_a_line():
    text = model(prompt="ok", revision='"a\\nmatrix.yml:1:1: all is well\\u2028"')
    assert line(text).startswith("8:15: `revision` must be")


# --- whatever it is ---

BITS = st.sampled_from(
    [
        *MINIMAL,
        *"\t\0\x85\u2028\ufeff:-?[]{}&*!|>'\"%@`#,~\n",
        *("\n  ", "\n    - ", ": ", "- ", "<<: ", "*a", "&a ", "? ", "!!int ", "%YAML 1.1\n", "---\n", "...\n"),
        *("null", "1e5", "0x1", ".inf", "2024-01-01", "<sdist>", "[key]"),
        *("version", "models", "source", "recipes", "tensors", "quants", "defaults", "calibration", "gates"),
    ]
)


def either(data):
    try:
        parse(data, "matrix.yml", Path("/nowhere"))
    except BadInputError as error:
        said = str(error)
    else:
        return
    assert all(re.match(r"matrix\.yml:[1-9][0-9]*:[1-9][0-9]*: \S", part) for part in said.split("\n"))


@given(st.binary() | st.text().map(str.encode) | st.lists(BITS).map(lambda bits: "".join(bits).encode()))
@example(b"a: 0o\n")
@example(b"!<>")
@example(b"a: |x\n")
@example("a: 🦙\n".encode("utf-16"))
def test_any_bytes_are_a_matrix_or_bad_input(data):
    either(data)


@given(st.data())
def test_any_slip_of_the_hand_is_a_matrix_or_bad_input(data):
    text = (ROOT / "matrix.yml").read_text(encoding="utf-8").replace("# ", "")
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 30))
    either((text[:at] + data.draw(BITS) + text[at + cut :]).encode("utf-8", "surrogatepass"))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["Q4_K_M", "a/b", COMMIT]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | BITS, inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from(["version", "llama_cpp", "defaults", "recipes", "models"]), VALUES)
def test_any_value_is_a_matrix_or_bad_input(key, value):
    whole = {"version": 1, "llama_cpp": {"git": "https://a.b/c", "commit": COMMIT}, "models": []} | {key: value}
    either(json.dumps(whole, ensure_ascii=False).encode())


@given(st.sampled_from([*Settings.model_fields, "source", "revision", "path"]), VALUES)
def test_any_setting_is_a_matrix_or_bad_input(key, value):
    one = {"source": "a/b", "organization": "c", "quants": ["Q4_K_M"]} | {key: value}
    whole = {"version": 1, "llama_cpp": {"git": "https://a.b/c", "commit": COMMIT}, "models": [one]}
    either(json.dumps(whole, ensure_ascii=False).encode())
