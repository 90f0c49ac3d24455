"""Single values of matrix.yml, changed in place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BadInputError
from pipeline.matrix import GitSource, Sdist, edit, load, located, parse

ROOT = Path(__file__).parents[1]
OLD, NEW = "0" * 39 + "a", "b" * 40
HEAD = f"version: 1\nllama_cpp: {{git: https://example.com/llama.cpp, commit: {OLD}}}\n"
HEAD += "defaults: {organization: nold, quants: [Q8_0]}\n"

blank = st.sampled_from(["", "\n", "# ü: {not: yaml}\n", "\n# a\n\n"])
comment = st.sampled_from(["", " # why: 'it' {is} \N{GREEK SMALL LETTER KAPPA}", "  #"])
quote = st.sampled_from(["", "'", '"'])
prompt = st.sampled_from(["", "Größe? 漢字 😀", "'it''s'", '"a # b, {c}: d"', "'two\n\n      lines'"])


@st.composite
def models(draw, indent):
    """A model in either style, with what may stand around its values. `@` marks where the revision stands or comes."""
    number, q, r = draw(st.integers(0, 10**6)), draw(quote), draw(quote)
    pairs = [f"source: {q}owner/m{number}{q}"]
    pinned = draw(st.sampled_from([OLD, None, "~", "null", ""]))
    if pinned is not None:
        written = f"{r}{pinned}{r}" if pinned == OLD else pinned
        pairs.insert(draw(st.integers(0, 1)), f"revision: {written}")  # `{revision:, …}` is a key `revision:`
    if text := draw(prompt):
        pairs.insert(draw(st.integers(0, len(pairs))), f"prompt: {text}")
    if draw(st.booleans()):
        gap = draw(st.sampled_from(["", " ", "\n      "]))
        return f"owner/m{number}", f"{indent}- {{{gap}{f',{gap or chr(32)}'.join(pairs)}{gap}}}{draw(comment)}\n"
    lines = [f"{pair}{draw(comment)}\n" for pair in pairs]
    return f"owner/m{number}", f"{indent}- " + f"{indent}  ".join(lines)


@st.composite
def matrices(draw):
    """The bytes of a matrix, and the names of its models."""
    indent = draw(st.sampled_from(["", "  ", "    "]))
    made = draw(st.lists(models(indent), min_size=1, max_size=4, unique_by=lambda model: model[0]))
    text = HEAD + draw(blank) + "models:\n" + "".join(draw(blank) + model for _, model in made) + draw(blank)
    if draw(st.booleans()):
        text = text.rstrip("\n")
    if draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    return (edit.BOM if draw(st.booleans()) else b"") + text.encode(), [name for name, _ in made]


@settings(deadline=None)
@given(matrices(), st.data())
def test_a_revision_changes_and_nothing_else(matrix, data):
    before, names = matrix
    name = data.draw(st.sampled_from(names))
    after = edit.set_revision(before, name, NEW)
    was, now = (parse(content, "matrix.yml", ROOT).models for content in (before, after))
    assert [m.revision for m in now] == [NEW if m.source == name else m.revision for m in was]
    assert [(m.source, m.prompt) for m in now] == [(m.source, m.prompt) for m in was]
    # What stood before the one place still stands there, and what stood after it, byte for byte.
    start, end = after.index(NEW.encode()), after.index(NEW.encode()) + len(NEW)
    tail = after[end:]
    assert before.endswith(tail)
    middle = after[:start]
    new = before[: len(before) - len(tail)]
    if (pinned := next(m.revision for m in was if m.source == name)) is not None:
        assert new == middle + pinned.encode()
    else:
        same = len(new.removesuffix(b"~").removesuffix(b"null").rstrip(b" "))
        assert middle[:same] == new[:same]
        assert middle[same:].strip(b" \r\n,") in (b"", b"revision:")
    # Again, and back: the same bytes.
    assert edit.set_revision(after, name, NEW) == after
    if pinned:
        assert edit.set_revision(after, name, pinned) == before


@settings(deadline=None)
@given(
    st.sampled_from(
        [
            "llama_cpp: {{sdist: {0}{1}{0}, sha256: {2}, commit: {0}{3}{0}}}  # ü",
            "llama_cpp:  # ü\n  commit: {0}{3}{0} # in quotes\n  sha256:   {2}\n\n  sdist: {0}{1}{0}",
        ]
    ),
    quote,
    st.booleans(),
)
def test_a_newer_source_distribution(form, quotes, carriage):
    def written(*values):
        text = "# é\nversion: 1\n" + form.format(quotes, *values) + "\nmodels:\n- {source: a/b}\n"
        return text.replace("\n", "\r\n" if carriage else "\n").encode()

    before = written("llama-cpp-python==0.3.36", "1a" * 32, "abcdef123")
    after = edit.set_toolchain(before, Sdist("llama-cpp-python", "0.3.37rc1", "2b" * 32, "fedcba321"))
    assert after == written("llama-cpp-python==0.3.37rc1", "2b" * 32, "fedcba321")


def test_the_shipped_matrix_keeps_every_line_but_one(tmp_path):
    before = (ROOT / "matrix.yml").read_bytes()
    after = edit.set_revision(before, "google/gemma-2b", NEW)
    lines = after.decode().splitlines(keepends=True)
    assert [line for line in lines if NEW in line] == [f"    revision: {NEW}\n"]
    lines.remove(f"    revision: {NEW}\n")
    assert "".join(lines).encode() == before
    pin = Sdist("llama-cpp-python", "0.3.37", "3c" * 32, "1e57098" + "0" * 33)
    path = tmp_path / "matrix.yml"
    path.write_bytes(edit.set_toolchain(before, pin))
    assert load(path).llama_cpp == pin
    assert f'commit: "{pin.commit}" # in quotes' in path.read_text()


def test_a_commit_of_a_git_repository():
    after = edit.set_toolchain(HEAD.encode(), GitSource("https://example.com/llama.cpp", NEW))
    assert after.decode() == HEAD.replace(OLD, NEW)


@pytest.mark.parametrize("revision", ["1" * 40, "1" * 10 + "e" + "1" * 29])
def test_what_yaml_reads_as_a_number_gets_quotes(revision):
    after = edit.set_revision(b"models:\n- source: a/b", "a/b", revision)
    assert after.decode() == f'models:\n- source: a/b\n  revision: "{revision}"'


@pytest.mark.parametrize(
    "text",
    [
        "models: [source: a/b]\n",
        "models:\n- revision: >-\n    abc\n  # why\n  source: a/b\n",
        "models:\n- ? source\n  : a/b\n  organization: x\n",
        "models:\n- {revision, source: a/b}\n",
    ],
)
def test_what_takes_a_person_is_left_alone(text):
    assert not located.parse(text.encode()).problems
    with pytest.raises(BadInputError, match=r"matrix\.yml:\d+:\d+: .* only a person should change"):
        edit.set_revision(text.encode(), "a/b", NEW)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: {source: a/b}", "lists no model a/b"),
        ("- a/b", "lists no model a/b"),
        ("models: [{source: A/B}]", "lists no model a/b"),
        ("models: [{source: a/b", "matrix.yml:1:"),
        ("models: [{source: a/b, source: a/b}]", "is given twice"),
    ],
)
def test_a_matrix_without_the_model(text, said):
    with pytest.raises(BadInputError, match=said):
        edit.set_revision(text.encode(), "a/b", NEW)


@pytest.mark.parametrize(
    "text", ["llama_cpp: {path: ../llama.cpp}", "llama_cpp: {sdist: a==1, commit: abcdef0}", "llama_cpp:", "[]"]
)
def test_another_form_of_toolchain(text):
    with pytest.raises(BadInputError, match="to change, or is of another form"):
        edit.set_toolchain(text.encode(), Sdist("a", "2", "0a" * 32, "abcdef1"))
    with pytest.raises(BadInputError, match="to change, or is of another form"):
        edit.set_toolchain(text.encode(), GitSource("https://example.com", NEW))


@pytest.mark.parametrize("value", ["main\nquants: [Q2_K]", "a b", "", "'", "x # y", "x: y"])
def test_nothing_but_pins_is_written(value):
    with pytest.raises(ValueError, match="is nothing that is pinned"):
        edit.set_revision(b"models: [{source: a/b}]", "a/b", value)
