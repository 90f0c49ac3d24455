"""What a run is asked for by options or a button: models, listed or not, some quants, another llama.cpp."""

from __future__ import annotations

import pytest

from pipeline import plan
from pipeline.cli.options import Names
from pipeline.errors import BadInputError
from pipeline.matrix import GitSource, Sdist
from pipeline.request import LLAMA_CPP, Request

MATRIX = """\
version: 1
llama_cpp: {sdist: llama-cpp-python==0.3.36, sha256: %s, commit: "0c1e57098"}
defaults: {organization: me, quants: [Q8_0, Q4_K_M]}
models:
  - source: google/gemma-2b
  - source: tiny/llama
    quants: [Q8_0, Q4_K_M, Q2_K]
""" % ("a" * 64)


@pytest.fixture
def path(tmp_path):
    (tmp_path / "matrix.yml").write_text(MATRIX)
    return tmp_path / "matrix.yml"


def jobs(request, path):
    return [s.model.job(r.name) for s in plan.select(request.matrix(path), request.patterns) for r in s.recipes]


def test_nothing_asked_for_is_everything(path):
    assert len(jobs(Request(), path)) == 5


def test_quants_of_the_models_that_are_named_or_of_all(path):
    assert jobs(Request(only=("tiny/llama",), quants=("Q2_K",)), path) == ["tiny/llama:Q2_K"]
    assert jobs(Request(quants=("q8_0",)), path) == ["google/gemma-2b:Q8_0", "tiny/llama:Q8_0"]
    assert jobs(Request(only=("tiny/*:Q8_0",), quants=("Q2_K",)), path) == ["tiny/llama:Q8_0"]
    with pytest.raises(BadInputError, match=r"Nothing in the matrix is called google/gemma-2b:Q2_K"):
        jobs(Request(only=("google/gemma-2b",), quants=("Q2_K",)), path)


def test_a_model_that_is_not_listed_has_the_defaults_or_the_quants_that_are_named(path):
    assert jobs(Request(only=("new/model",), unlisted=True), path) == ["new/model:Q8_0", "new/model:Q4_K_M"]
    asked = Request(only=("new/model", "tiny/llama"), quants=("Q2_K",), unlisted=True)
    assert jobs(asked, path) == ["tiny/llama:Q2_K", "new/model:Q2_K"]
    with pytest.raises(BadInputError, match="Nothing in the matrix is called new/model"):
        jobs(Request(only=("new/model",)), path)


@pytest.mark.parametrize("name", ["$(touch x)/y", "a/../b", "gооgle/gemma", "a/b; rm -rf /"])
def test_a_name_of_no_repo_is_refused(path, name):
    with pytest.raises(BadInputError, match="must be `owner/name` as on the Hub"):
        jobs(Request(only=(name,), unlisted=True), path)


def test_another_llama_cpp(path):
    assert isinstance(Request().matrix(path).llama_cpp, Sdist)
    assert Request(llama_cpp="b" * 40).matrix(path).llama_cpp == GitSource(LLAMA_CPP, "b" * 40)
    for commit in ("b" * 39, "master", "B" * 40, "--upload-pack=x"):
        with pytest.raises(BadInputError, match=r"is no commit of llama\.cpp"):
            Request(llama_cpp=commit).matrix(path)


@pytest.mark.parametrize(
    ("text", "names"),
    [("", ()), (" ,\n", ()), ("a/b", ("a/b",)), (" a/b, c/*:Q8_0\n d/e ", ("a/b", "c/*:Q8_0", "d/e"))],
)
def test_the_field_of_a_button_holds_several_names(text, names):
    assert Names().convert(text, None, None) == names
