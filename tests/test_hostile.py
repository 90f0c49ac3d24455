"""Hostile pull requests, by the very commands that check.yml and comment.yml run: each is refused in words."""

# ruff: noqa: E501, ISC004
# Lists of sentences as people read them, which are as long as they are.

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pull_request import CHECK, PREVIEW, PullRequest
from test_matrix import COMMIT, MINIMAL, SHA256
from test_safetensors import GOOD, write

from pipeline import matrix
from pipeline.errors import BadInputError
from pipeline.matrix import located
from pipeline.preview import record

pytestmark = pytest.mark.programs  # git

ROOT = Path(__file__).parent.parent
CONFIG = {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16", "vocab_size": 10}


@pytest.fixture
def pull_request(tmp_path, fake_github, loopback_hub, monkeypatch):
    """Pull request 7, which is to be refused with nothing asked of the Hub."""
    monkeypatch.setenv("LLM_QUANTIZER_STORE", str(tmp_path / "store"))
    return PullRequest(tmp_path / "repository", MINIMAL, fake_github, monkeypatch)


@pytest.fixture
def refused(pull_request, loopback_hub, conclude):
    """`refused(number, what, matrix, said)`: all of `said`, and nothing else, is what a person reads.

    Without `what`, it is another form of a pull request that has its line in the conclusion already.
    """

    def check(number, what, text, said):
        code, messages, _ = pull_request.check(text)
        assert messages == [f"matrix.yml:{line}" for line in said]
        assert code == 2
        body = pull_request.comment()
        assert all(message in body for message in messages[:20])
        assert "\n::error" not in body
        if what:
            about = next((m for m in messages if "`source`" in m or "`filename`" in m), messages[0])
            conclude(f"hostile PR {number}, {what}: refused: {about}")

    return check


def models(*lines):
    """The base's matrix with one more model a line, from line 5."""
    return MINIMAL + "".join(f"  - {{organization: nold, quants: [Q8_0], {line}}}\n" for line in lines)


def quoted(text):
    return json.dumps(text, ensure_ascii=False)


def test_these_are_the_commands_of_the_workflow():
    workflow = (ROOT / ".github/workflows/check.yml").read_text()
    assert f"python -m pipeline {' '.join(CHECK)} 2> preview/problems.txt ||" in workflow
    assert f"python -m pipeline {' '.join(PREVIEW)} > preview/preview.json".replace("$BASE", '"$BASE"') in workflow
    assert "--format json" in " ".join(PREVIEW)


def test_1_a_command_in_a_model_id(refused, loopback_hub):
    rule = "`source` must be `owner/name` as on the Hub (letters, digits, single `-`, `_`, `.`), not"
    text = models(
        f"source: {quoted('google/$(touch canary)')}",
        f"source: {quoted('google/x; touch canary')}",
        f"source: {quoted('`touch canary`/x')}",
        f"source: {quoted('--upload-pack=touch canary/x')}",
        r'source: "a/b\n::error file=matrix.yml,line=1::all is well%0Areally\n::stop-commands::x"',
        r'source: "a/b\r::add-mask::a"',
        f"source: {quoted('##[add-mask]a/b')}",
    ).replace("https://example.com/llama.cpp", quoted("ext::sh -c touch% canary"))
    refused(
        1,
        "a command in a model id",
        text,
        [
            "2:18: `git` must be the address of a git repository, not `ext::sh -c touch% canary`",
            f"5:50: {rule} `google/$(touch canary)`",
            f"6:50: {rule} `google/x; touch canary`",
            f"7:50: {rule} ``touch canary`/x`",
            f"8:50: {rule} `--upload-pack=touch canary/x`",
            f"9:50: {rule} `a/b ::error file=matrix.yml,line=1::all is well%0Areally ::stop-commands::x`",
            f"10:50: {rule} `a/b ::add-mask::a`",
            f"11:50: {rule} `## [add-mask]a/b`",
        ],
    )
    assert loopback_hub.requests == []


def test_2_path_traversal_in_a_file_name(refused, loopback_hub):
    path = "`filename` must be a file name, without a path"
    text = models(
        'source: a/b, filename: "../../../canary/{quant}.gguf"',
        "source: a/c, filename: '..\\canary{quant}.gguf'",
        f"source: a/d, evaluation: {{hub: e/f, file: ../../canary, revision: {COMMIT}, sha256: {SHA256}}}",
        "source: ../..",
        "source: a/..",
    )
    refused(
        2,
        "path traversal in a file name",
        text,
        [
            f"5:65: {path}",
            f"6:65: {path}",
            "7:84: `file` must be the path of a file inside the dataset, not `../../canary`",
            *(
                f"{line}:50: `source` must be `owner/name` as on the Hub (letters, digits, single `-`, `_`, `.`), not"
                f" `{source}`"
                for line, source in ((8, "../.."), (9, "a/.."))
            ),
        ],
    )
    assert loopback_hub.requests == []


@pytest.fixture
def upstream(tmp_path, loopback_hub):
    """`upstream(files)` puts the model evil/model onto the Hub, with `files` as JSON beside its weights."""

    def put(files=None):
        directory = tmp_path / "upstream"
        directory.mkdir()
        write(directory / "model.safetensors", GOOD)
        for name, content in ({"config.json": CONFIG, "tokenizer.json": {}} | (files or {})).items():
            (directory / name).write_text(json.dumps(content))
        loopback_hub.add("evil/model", directory, COMMIT)
        return directory

    return put


def test_2_path_traversal_in_an_index(refused, upstream, loopback_hub):
    elsewhere = "../canary\n::error::all is well\nmatrix.yml:1:1: all is well/model.safetensors"
    upstream({"model.safetensors.index.json": {"weight_map": {"a": elsewhere}}})
    refused(
        2,
        "",
        models("source: evil/model"),
        [
            f"5:5: evil/model at {COMMIT[:12]}: the index names ../canary ::error::all is well matrix.yml:1:1: all is"
            " well/model.safetensors, and shards in other directories cannot be converted. Move them beside it."
        ],
    )
    assert not any("safetensors" in r.path for r in loopback_hub.requests if r.path.endswith(".safetensors"))


def test_3_jinja_in_a_recipe(refused, loopback_hub):
    named = "must have a name of letters, digits, `-` and `_`, 64 at most, that begins with no sign"
    brace = (
        "that C++ refuses: no template is filled in here, and braces hold a number of times, 999 at most; write `\\{` for"
        " the brace itself"
    )
    text = MINIMAL + (
        "recipes:\n"
        '  A: {base: "{{ 7*7 }}"}\n'
        '  "{{x}}": {base: Q8_0}\n'
        "  B: {base: Q4_K_M, tensors: {'{{ config }}': Q8_0}}\n"
        "  C: {base: Q4_K_M, tensors: {'{% include \"/etc/passwd\" %}': Q8_0}}\n"
        "  D: {base: Q4_K_M, output: '{{ self.__init__ }}'}\n"
        "defaults: {filename: '{{quant}}.gguf'}\n"
    )
    refused(
        3,
        "Jinja in a recipe",
        text,
        [
            "6:13: `base` must be a quant type, not `{{ 7*7 }}`",
            f"7:3: the recipe `{{{{x}}}}` {named}",
            f"8:31: `tensors` has a `{{` in `{{{{ config }}}}` {brace}",
            f'9:31: `tensors` has a `{{` in `{{% include "/etc/passwd" %}}` {brace}',
            "10:29: `output` has the unknown tensor type `{{ self.__init__ }}`",
            "11:22: `filename` must be of letters, digits, `_`, `.`, `+`, `-`, {model} and {quant}, and begin with no"
            " sign",
        ],
    )
    assert loopback_hub.requests == []


ALIASES = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
NO_ALIAS = "anchors and aliases (`&`, `*`) are not supported; write the value out"


@pytest.mark.parametrize(
    ("what", "text", "said"),
    [
        ("a YAML bomb", ALIASES, f"1:5: {NO_ALIAS}"),
        ("", MINIMAL + "defaults: &d {card: full}\n<<: [*d, *d]\n", f"5:11: {NO_ALIAS}"),
        ("", "[" * 100_000, "1:34: this is nested too deeply"),
        ("", "{a: " * 50_000, "1:133: this is nested too deeply"),
        ("", MINIMAL + "#" * 300_000, f"1:1: the file is larger than {located.MAX_BYTES} bytes"),
        ("", "? " + "9" * 200_000 + "\n: 1\n", f'1:3: a key must be a string; quote it: "{"9" * 79}…"'),
        ("", MINIMAL + "defaults: !!python/object/apply:os.system [touch canary]\n",
         "5:11: tags (`!`) are not supported; remove it"),
    ],
)  # fmt: skip
def test_4_a_yaml_bomb(refused, loopback_hub, what, text, said):
    refused(4, what, text, [said])
    assert loopback_hub.requests == []


RECIPES = "recipes:\n" + "".join(f"  R{i}: {{base: Q8_0}}\n" for i in range(1001))
ALL = f"[{', '.join(f'R{i}' for i in range(1001))}]"


def test_5_a_huge_matrix_of_mistakes(refused, loopback_hub):
    refused(
        5,
        "",
        MINIMAL.replace("models:", "models:\n" + "  - a\n" * 3_000 + "#"),
        [
            *(f"{line}:5: this model must be a mapping, not `a`" for line in range(4, 104)),
            "104:5: and 2,900 more from here on; mend these first",
        ],
    )


def test_5_a_huge_matrix_of_keys_given_twice(refused, loopback_hub):
    refused(
        5,
        "",
        MINIMAL + "version: 1\n" * 3_000,
        [
            *(f"{line}:1: `version` is given twice, first in line 1" for line in range(5, 105)),
            "105:1: and 2,900 more from here on; mend these first",
        ],
    )


def test_5_a_huge_matrix_of_jobs(refused, loopback_hub):
    made = "".join(f"  - {{source: x/m{i}}}\n" for i in range(2_000))
    defaults = f"defaults: {{organization: c, quants: {ALL}}}\n"
    refused(
        5,
        "a huge matrix",
        RECIPES + defaults + MINIMAL + made,
        ["1073:5: with this model the matrix has more than 65,536 jobs; divide it into several"],
    )
    assert loopback_hub.requests == []


def test_5_a_huge_matrix_of_models(refused, loopback_hub):
    refused(
        5,
        "",
        models(*(f"source: x/m{i}" for i in range(1_500))),
        ["1005:5: this changes 1,500 models, and a preview holds 1,000. Bring them in several pull requests."],
    )
    assert loopback_hub.requests == []


def test_5_a_model_of_a_thousand_quants(refused, loopback_hub):
    refused(
        5,
        "",
        MINIMAL + f"  - {{organization: nold, source: x/m, quants: {ALL}}}\n" + RECIPES,
        ["5:5: x/m has 1,001 quants, and a preview holds 1,000 of a model. Take some out of `quants`."],
    )
    assert loopback_hub.requests == []


def test_8_a_revision_that_is_a_branch(refused, upstream, loopback_hub):
    directory = upstream()
    branch = "f" * 40
    loopback_hub.add("evil/model", directory, COMMIT, branch)
    refused(
        8,
        "a redirecting revision",
        models(f"source: evil/model, revision: {branch}"),
        [
            f"5:5: evil/model has no commit {branch}: that is a branch or tag there, which may move, and leads to"
            f" {COMMIT} now. Write `revision: {COMMIT}` in matrix.yml."
        ],
    )
    assert not any("/resolve/" in r.path for r in loopback_hub.requests)


def test_8_a_repo_that_leads_to_another(refused, upstream, loopback_hub):
    upstream()
    loopback_hub.rename("evil/model", "evil/other")
    refused(
        8,
        "",
        models(f"source: evil/model, revision: {COMMIT}"),
        [
            "5:5: evil/model is called evil/other on the Hub now. Write `source: evil/other` in matrix.yml; its releases"
            " go to a repo of that name then."
        ],
    )
    assert not any("/resolve/" in r.path for r in loopback_hub.requests)


@pytest.mark.parametrize(
    "name",
    [
        ".github/workflows/check.yml",
        ".github/actions/setup/action.yml",
        "pipeline/job.py",
        "templates/card.md.j2",
        "Makefile",
        "pyproject.toml",
        "constraints.txt",
    ],
)
def test_9_a_workflow_edit(pull_request, conclude, name):
    code, messages, _ = pull_request.check(MINIMAL + "# nothing\n")
    assert (code, messages) == (0, [])
    # What the pull request's own code may leave in place of that: it has looked at nothing.
    (pull_request.artifact / "preview.json").write_bytes(record.dump(record.Preview()))
    (pull_request.artifact / "problems.txt").write_text(
        "<!-- llm-quantizer preview -->\n```\n::error::\n# All is well\n"
    )
    first, _, rest = pull_request.comment(name).partition("\n")[2].partition("\n\n")
    assert first == (
        f"**This changes what a run does, not only what it makes:** `{name}`. A maintainer has to read these changes"
        " before any run."
    )
    assert "\n````text\n" in rest
    if "check.yml" in name:
        conclude(f"hostile PR 9, a workflow edit: the comment begins with: {first}")


@pytest.mark.parametrize("name", ["../.github/x", "pipeline/`@everyone`\n\n# All is well <img src=x>"])
def test_9_names_of_files(pull_request, name):
    pull_request.check(MINIMAL)
    body = pull_request.comment(name, "pipeline/x.py")
    assert body.partition("\n")[2].startswith("**This changes what a run does, not only what it makes:** ")
    assert "\n# All is well" not in body


def test_10_unicode_look_alikes(refused, loopback_hub):
    rule = "`source` must be `owner/name` as on the Hub (letters, digits, single `-`, `_`, `.`), not"
    text = models(
        "source: g\u043eogle/gemma-2b",
        "source: \uff47oogle/gemma-2b",
        'source: a/b, filename: "{model}\u2010{quant}.gguf"',
        "source: a/c, revision: \u0430123456789012345678901234567890123456789",
        'source: "a/\\u200bd"',
        'source: a/e, prompt: "Say \\u202esomething"',
    )
    text += "recipes:\n  Mine: {base: \u0131q3_s}\n  M\u0456ne: {base: Q8_0, output: Q8\uff3f0}\n"
    text = text.replace("[Q4_K_M]", "[Q4_\u212a_M, \u0131q3_s, M\u0131ne]").replace("version", "v\u0435rsion")
    refused(
        10,
        "Unicode look-alikes",
        text,
        [
            "1:1: unknown key `v\u0435rsion`; the `\u0435` in it is not ASCII but U+0435 (CYRILLIC SMALL LETTER IE);"
            " did you mean `version`?",
            *(
                f"4:{column}: `{name}` is no quant type, and no recipe of this file; the `{odd}` in it is not ASCII but"
                f" {named}{hint}"
                for column, name, odd, named, hint in (
                    (60, "Q4_\u212a_M", "\u212a", "U+212A (KELVIN SIGN)", "; did you mean `Q4_K_M`?"),
                    (68, "\u0131q3_s", "\u0131", "U+0131 (LATIN SMALL LETTER DOTLESS I)", "; did you mean `IQ3_S`?"),
                    (75, "M\u0131ne", "\u0131", "U+0131 (LATIN SMALL LETTER DOTLESS I)", ""),
                )
            ),
            f"5:50: {rule} `g\u043eogle/gemma-2b`; the `\u043e` in it is not ASCII but U+043E (CYRILLIC SMALL LETTER O)",
            f"6:50: {rule} `\uff47oogle/gemma-2b`; the `\uff47` in it is not ASCII but U+FF47 (FULLWIDTH LATIN SMALL"
            " LETTER G)",
            "7:65: `filename` must be of letters, digits, `_`, `.`, `+`, `-`, {model} and {quant}, and begin with no"
            " sign; the `\u2010` in it is not ASCII but U+2010 (HYPHEN)",
            "8:65: `revision` must be a commit of 40 lower-case hex digits, not `\u0430123456789012345678901234567890123456789`;"
            " the `\u0430` in it is not ASCII but U+0430 (CYRILLIC SMALL LETTER A)",
            f"9:50: {rule} `a/\ufffdd`; it holds U+200B (ZERO WIDTH SPACE)",
            "10:63: `prompt` has the invisible character U+202E (RIGHT-TO-LEFT OVERRIDE) in it; take it out",
            "12:16: `base` must be a quant type, not `\u0131q3_s`; the `\u0131` in it is not ASCII but U+0131 (LATIN SMALL"
            " LETTER DOTLESS I); did you mean `IQ3_S`?",
            "13:3: the recipe `M\u0456ne` must have a name of letters, digits, `-` and `_`, 64 at most, that begins with"
            " no sign; the `\u0456` in it is not ASCII but U+0456 (CYRILLIC SMALL LETTER BYELORUSSIAN-UKRAINIAN I)",
            "13:30: `output` has the unknown tensor type `Q8\uff3f0`; the `\uff3f` in it is not ASCII but U+FF3F"
            " (FULLWIDTH LOW LINE); did you mean `Q8_0`?",
        ],
    )
    assert loopback_hub.requests == []


def test_10_what_no_reviewer_sees(refused, loopback_hub):
    text = (
        models('source: a/b, prompt: "If \u202eadmin\u2066"', "source: a/\u200bc")
        + "# \u2067 } \u2069\nde\u00adfaults: {}\n# \U000e0041\u200d\n"
    )

    def hidden(place, named):
        return f"{place}: the invisible character {named} stands here; take it out, since nobody sees what it does"

    refused(
        10,
        "",
        text,
        [
            hidden("5:67", "U+202E (RIGHT-TO-LEFT OVERRIDE)"),
            hidden("5:73", "U+2066 (LEFT-TO-RIGHT ISOLATE)"),
            hidden("6:52", "U+200B (ZERO WIDTH SPACE)"),
            hidden("7:3", "U+2067 (RIGHT-TO-LEFT ISOLATE)"),
            hidden("7:7", "U+2069 (POP DIRECTIONAL ISOLATE)"),
            hidden("8:3", "U+00AD (SOFT HYPHEN)"),
            hidden("9:3", "U+E0041 (TAG LATIN CAPITAL LETTER A)"),
        ],
    )
    assert loopback_hub.requests == []


@pytest.mark.parametrize(
    "prompt",
    [
        "Was ist ein gro\u00dfes Sprachmodell?",
        "\u0447\u0442\u043e \u044d\u0442\u043e?",
        "\u4ec0\u4e48\u662f\u8bed\u8a00\u6a21\u578b\uff1f",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with the joiner that its spelling wants
        "\u2764\ufe0f\u200d\U0001f525 1\ufe0f\u20e3",
    ],
)
def test_10_every_script_may_ask(prompt):
    text = MINIMAL + "defaults: {prompt: " + json.dumps(prompt, ensure_ascii=False) + "}\n"
    assert matrix.parse(text.encode(), "matrix.yml", Path()).models[0].prompt == prompt
    escaped = MINIMAL + "defaults: {prompt: " + json.dumps(prompt, ensure_ascii=True) + "}\n"
    if "\U0001f525" not in prompt:  # JSON writes it as two halves, which YAML has not
        assert matrix.parse(escaped.encode(), "matrix.yml", Path()).models[0].prompt == prompt


@pytest.mark.parametrize("regex", [r"blk\.\d{1,2}\.ffn_(up|down)", r"a{2}", r"[{]x\{", r"a{2,}?"])
def test_3_a_number_of_times_is_no_jinja(regex):
    text = MINIMAL + f"recipes: {{A: {{base: Q4_K_M, tensors: {{'{regex}': Q8_0}}}}}}\n"
    assert matrix.parse(text.encode(), "matrix.yml", Path())


@pytest.mark.parametrize("regex", ["a{", "a{,3}", "a{1000}", "a{b}", "(a{2}{)", "a" * 201, "a\nb"])
def test_3_what_cpp_would_refuse(regex):
    text = MINIMAL + f"recipes: {{A: {{base: Q4_K_M, tensors: {{{json.dumps(regex)}: Q8_0}}}}}}\n"
    with pytest.raises(BadInputError, match=r"^matrix\.yml:5:\d+: `tensors` (has a `{` in|must have regular)"):
        matrix.parse(text.encode(), "matrix.yml", Path())
