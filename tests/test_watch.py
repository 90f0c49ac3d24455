"""What upstream did, and the pull requests that follow: on the loopback Hub and a stand-in for GitHub."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from click.testing import CliRunner
from github.repository import Pull
from markdown_it import MarkdownIt

from pipeline import cli, endings, source
from pipeline.errors import BadInputError, HubError
from pipeline.watch import proposal, upstream
from pipeline.watch.upstream import Kind, State, classify

MODEL, OTHER = "owner/model", "owner/other"
FIRST, SECOND, THIRD = "1" * 39 + "a", "2" * 39 + "b", "3" * 39 + "c"
LLAMA = "4" * 39 + "d"
TOKENIZER = {"add_bos_token": True, "chat_template": "{{ messages }}"}


def matrix_of(*models):
    return (
        "# ours\nversion: 1\nllama_cpp: {path: .}\n"
        "defaults: {organization: nold, quants: [Q8_0]}\nmodels:\n" + "".join(f"  - {model}\n" for model in models)
    )


# --- classes ---


def change(before, after):
    def named(files):
        return State("0" * 40, files, {})

    return classify(named(before), named(after))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.safetensors", Kind.WEIGHTS),
        ("model-00001-of-00002.safetensors", Kind.WEIGHTS),
        ("model.safetensors.index.json", Kind.WEIGHTS),
        ("tokenizer.json", Kind.TOKENIZER),
        ("tokenizer.model", Kind.TOKENIZER),
        ("tokenizer_config.json", Kind.TOKENIZER),
        ("special_tokens_map.json", Kind.TOKENIZER),
        ("merges.txt", Kind.TOKENIZER),
        ("vocab.json", Kind.TOKENIZER),
        ("config.json", Kind.CONFIG),
        ("generation_config.json", Kind.CONFIG),
        ("chat_template.jinja", Kind.TEMPLATE),
        ("chat_template.json", Kind.TEMPLATE),
        ("README.md", Kind.CARD),
        ("LICENSE", Kind.CARD),
        ("NOTICE.txt", Kind.CARD),
        (".gitattributes", Kind.OTHER),
        ("pytorch_model.bin", Kind.OTHER),
        ("modeling_gemma.py", Kind.OTHER),
        ("onnx/model.safetensors", Kind.OTHER),
        ("original/README.md", Kind.OTHER),
    ],
)
@pytest.mark.parametrize("how", ["added", "changed", "removed"])
def test_a_file_has_a_class(name, kind, how):
    before, after = {"added": ({}, {name: "2"}), "changed": ({name: "1"}, {name: "2"}), "removed": ({name: "1"}, {})}[
        how
    ]
    made = change(before | {"same": "1"}, after | {"same": "1"})
    assert made.kinds == (kind,)
    assert [(file.name, file.how, file.kinds) for file in made.files] == [(name, how, (kind,))]
    assert made.matters == (kind is not Kind.OTHER)


def test_everything_that_a_source_uses_has_a_class_of_its_own():
    """`source.COMPANIONS` may grow: what a conversion reads must not pass for nothing."""
    for pattern in source.COMPANIONS:
        name = pattern.replace("*", "x")
        assert change({}, {name: "1"}).matters, name


def test_several_at_once_are_named_the_gravest_first():
    made = change(
        {}, dict.fromkeys(["README.md", "chat_template.jinja", "a.py", "model.safetensors", "config.json"], "1")
    )
    assert str(made) == "weights, config, chat template and card or licence"
    assert [file.name for file in made.files] == [
        "model.safetensors",
        "config.json",
        "chat_template.jinja",
        "README.md",
        "a.py",
    ]


def test_no_difference():
    made = change({"README.md": "1"}, {"README.md": "1"})
    assert (made.kinds, made.files, made.matters) == ((), (), False)


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        (TOKENIZER, TOKENIZER | {"chat_template": "new"}, (Kind.TEMPLATE,)),
        (TOKENIZER, {"add_bos_token": True}, (Kind.TEMPLATE,)),
        (TOKENIZER, TOKENIZER | {"add_bos_token": False}, (Kind.TOKENIZER,)),
        (TOKENIZER, {"chat_template": "new"}, (Kind.TOKENIZER, Kind.TEMPLATE)),
        (TOKENIZER, dict(reversed(TOKENIZER.items())), (Kind.OTHER,)),
        (TOKENIZER, None, (Kind.TOKENIZER,)),
        (None, TOKENIZER, (Kind.TOKENIZER,)),
    ],
)
def test_the_template_in_the_tokenizers_config(before, after, kinds):
    was = State("0" * 40, {"tokenizer_config.json": "1"}, {}, before)
    now = State("0" * 40, {"tokenizer_config.json": "2"}, {}, after)
    assert classify(was, now).kinds == kinds


# --- asking the Hub ---


@pytest.fixture
def hub(loopback_hub, tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(b"\0weights")
    (directory / "config.json").write_text("{}")
    (directory / "README.md").write_text("# A model\n")
    (directory / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    for model in (MODEL, OTHER):
        loopback_hub.add(model, directory, FIRST)
    loopback_hub.directory = directory
    return loopback_hub


def commit(hub, revision, model=MODEL, **files):
    """Commit to a model; a file's name is written with `__` for `.`."""
    for name, content in files.items():
        path = hub.directory / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    hub.add(model, hub.directory, revision)


def compared(model=MODEL):
    return upstream.compare(model, upstream.look(model, FIRST), upstream.look(model))


def test_a_template_alone_is_told_from_the_tokenizer(hub):
    commit(hub, SECOND, tokenizer_config__json=json.dumps(TOKENIZER | {"chat_template": "new"}))
    assert str(compared()) == "chat template"
    assert not [r for r in hub.requests if "safetensors" in r.path]


def test_a_large_file_is_told_by_its_sha256(hub):
    commit(hub, SECOND, model__safetensors=b"\0WEIGHTS")
    assert str(compared()) == "weights"
    assert not [r for r in hub.requests if "/resolve/" in r.path]  # the list of files says it all


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a": ', b"\xff\xfe", b"[1]", b'"text"'])
def test_a_hostile_tokenizer_config_counts_as_the_tokenizer(hub, content):
    commit(hub, SECOND, tokenizer_config__json=content)
    assert str(compared()) == "tokenizer"


def test_a_huge_tokenizer_config_is_not_fetched(hub, monkeypatch):
    monkeypatch.setattr(upstream, "MAX_CONFIG_BYTES", 1000)
    commit(hub, SECOND, tokenizer_config__json=json.dumps(TOKENIZER | {"chat_template": "x" * 1000}))
    assert str(compared()) == "tokenizer"
    assert len([r for r in hub.requests if "/resolve/" in r.path and r.method == "GET"]) == 1


def test_upstream_that_is_gone(hub):
    with pytest.raises(BadInputError, match="no repo owner/gone"):
        upstream.look("owner/gone")
    with pytest.raises(BadInputError, match="no revision 3333"):
        upstream.look(MODEL, THIRD)


def test_a_hub_that_names_no_commit(hub, monkeypatch):
    hub.repos.get("model", MODEL).refs["refs/heads/main"] = "main"
    hub.repos.get("model", MODEL)._commits["main"] = (
        hub.repos.get("model", MODEL).commit(FIRST).__class__("main", [], "", "", "", "", {})
    )
    with pytest.raises(HubError, match="names no commit of owner/model"):
        upstream.look(MODEL)


# --- the command ---


@pytest.fixture
def at(tmp_path, monkeypatch, fake_github):
    """`at(text)` puts a matrix into this directory and on the main branch."""
    root = tmp_path / "checkout"
    root.mkdir()
    monkeypatch.chdir(root)

    def put(text):
        (root / "matrix.yml").write_text(text, newline="")
        fake_github.repository.commit("main", {"matrix.yml": text.encode()}, "Matrix")
        return fake_github.repository

    return put


def watch(*arguments):
    """Run the command as `main` does; returns exit code, stdout, stderr."""
    runner = CliRunner()
    with runner.isolation() as (out, err, _):
        code = endings.guarded(lambda: cli.cli.main(["watch", *arguments], standalone_mode=False))
        return code, out.getvalue().decode(), err.getvalue().decode()


def test_a_new_template_opens_one_pull_request(hub, at, fake_github, golden):
    text = matrix_of(f"{{source: {MODEL}, revision: {FIRST}}} # mine", f"source: {OTHER}\n    revision: {FIRST}")
    repository = at(text)
    commit(hub, SECOND, tokenizer_config__json=json.dumps(TOKENIZER | {"chat_template": "new"}))
    code, out, err = watch()
    assert (code, err) == (0, "")
    (pull,) = repository.pulls
    assert (pull.title, pull.branch, pull.base) == ("owner/model: chat template changed", "watch/owner--model", "main")
    assert repository.files(pull.branch)["matrix.yml"].decode() == text.replace(FIRST, SECOND, 1)
    assert repository.files("main")["matrix.yml"].decode() == text
    golden("watch-pull.md", pull.body.replace(hub.endpoint, "https://hub"))
    rows = [re.split(r"  +", line) for line in out.splitlines()]
    assert rows[1][:4] == ["owner/model", FIRST[:12], SECOND[:12], "chat template"]
    assert rows[1][4].startswith("opened: https://github.example/me/quants/pull/1")
    assert rows[2][:4] == ["owner/other", FIRST[:12], FIRST[:12], "nothing"]
    assert rows[3] == ["llama.cpp", "a directory is built as it is"]


def test_the_same_head_again_does_nothing(hub, at, fake_github):
    at(matrix_of(f"{{source: {MODEL}, revision: {FIRST}}}"))
    commit(hub, SECOND, README__md="new")
    watch()
    before = (fake_github.changes(), fake_github.repository.branches.copy())
    code, out, _ = watch()
    assert code == 0
    assert "is open: https://github.example/me/quants/pull/1" in out
    assert (fake_github.changes(), fake_github.repository.branches) == before


def test_a_newer_head_updates_branch_and_body(hub, at, fake_github):
    repository = at(matrix_of(f"{{source: {MODEL}, revision: {FIRST}}}"))
    commit(hub, SECOND, README__md="new")
    watch()
    (pull,) = repository.pulls
    assert pull.title == "owner/model: card or licence changed"
    assert "no weight is uploaded" in pull.body
    # What a person added to the branch stays.
    repository.commit(pull.branch, {"matrix.yml": repository.files(pull.branch)["matrix.yml"] + b"# kept\n"}, "Mine")
    commit(hub, THIRD, model__safetensors=b"\0other")
    code, out, _ = watch()
    assert "updated: https://github.example/me/quants/pull/1" in out
    assert (code, repository.pulls) == (0, [pull])
    assert pull.title == "owner/model: weights and card or licence changed"
    assert THIRD in pull.body
    assert SECOND not in pull.body
    content = repository.files(pull.branch)["matrix.yml"].decode()
    assert content.endswith("# kept\n")
    assert f"revision: {THIRD}" in content


def test_a_closed_one_is_opened_again_only_for_a_newer_head(hub, at):
    repository = at(matrix_of(f"{{source: {MODEL}, revision: {FIRST}}}"))
    commit(hub, SECOND, README__md="new")
    watch()
    repository.pulls[0].state = "closed"
    assert "was closed: https://github.example/me/quants/pull/1" in watch()[1]
    commit(hub, THIRD, README__md="newer")
    assert "opened: https://github.example/me/quants/pull/2" in watch()[1]
    # The branch began anew: nothing of the first is in it.
    assert repository.files("watch/owner--model")["matrix.yml"].decode().count(THIRD) == 1


@pytest.mark.parametrize("broken", ["POST /git/refs", "PUT /contents", "POST /pulls"])
def test_what_broke_off_goes_on(hub, at, fake_github, broken):
    repository = at(matrix_of(f"{{source: {MODEL}, revision: {FIRST}}}"))
    commit(hub, SECOND, README__md="new")
    fake_github.fault(broken, 500, "oops", count=4)
    code, _, err = watch()
    assert code == 4
    assert "error: owner/model: GitHub failed while" in err
    assert watch()[0] == 0
    (pull,) = repository.pulls
    assert SECOND in repository.files(pull.branch)["matrix.yml"].decode()


def test_an_update_that_broke_off_goes_on(hub, at, fake_github):
    repository = at(matrix_of(f"{{source: {MODEL}, revision: {FIRST}}}"))
    commit(hub, SECOND, README__md="new")
    watch()
    commit(hub, THIRD, README__md="newer")
    fake_github.fault("PATCH /pulls", 500, "oops", count=4)
    assert watch()[0] == 4
    assert watch()[0] == 0
    assert THIRD in repository.pulls[0].body


def test_one_that_fails_does_not_stop_the_others(hub, at, fake_github, tmp_path, monkeypatch):
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    repository = at(
        matrix_of(
            f"{{source: owner/gone, revision: {FIRST}}}",
            f"{{source: {OTHER}, revision: {THIRD}}}",
            "{source: owner/unpinned}",
            f"{{source: owner/local, revision: {FIRST}, path: .}}",
            f"{{source: {MODEL}, revision: {FIRST}}}",
        )
    )
    commit(hub, SECOND, config__json='{"a": 1}')
    code, out, err = watch()
    assert code == 4
    assert [pull.title for pull in repository.pulls] == ["owner/model: config changed"]
    assert re.search(r"^owner/gone +1{12} +failed$", out, re.MULTILINE)
    assert re.search(r"^owner/unpinned +no revision is pinned: each run takes the newest$", out, re.MULTILINE)
    assert re.search(r"^owner/local +1{12} +a directory stands in for it$", out, re.MULTILINE)
    errors = err.splitlines()
    assert errors[0].startswith("error: owner/gone: The Hub has no repo owner/gone")
    assert errors[1].startswith(f"error: owner/other: owner/other has no revision {THIRD}")
    text = summary.read_text()
    assert "| owner/gone | 111111111111 |  | failed |  |" in text
    assert "| config | [opened](https://github.example/me/quants/pull/1) |" in text
    assert "- owner/gone: The Hub has no repo owner/gone" in text


def test_a_gated_model_says_what_to_do(hub, at):
    at(matrix_of(f"{{source: {MODEL}, revision: {FIRST}}}"))
    commit(hub, SECOND, tokenizer_config__json="{}")
    hub.repos.get("model", MODEL).gated = "manual"
    code, _, err = watch()
    assert code == 4
    assert "error: owner/model: owner/model is gated: accept its terms" in err


def test_a_hub_that_is_down(hub, at):
    at(matrix_of(f"{{source: {MODEL}, revision: {FIRST}}}"))
    hub.fault("/api/models", status=503, count=99)
    code, _, err = watch()
    assert code == 4
    assert "error: owner/model: The Hub failed on owner/model" in err


def test_other_files_alone_open_one_only_where_the_model_was_named(hub, at):
    repository = at(matrix_of(f"{{source: {MODEL}, revision: {FIRST}}}"))
    commit(hub, SECOND, extra__py="print()")
    code, out, _ = watch()
    assert code == 0
    assert re.search("other files +none: no release is made of them; --only opens one", out)
    assert repository.pulls == []
    watch("--only", MODEL)
    (pull,) = repository.pulls
    assert pull.title == "owner/model: other files changed"
    assert "Nothing that a release is made of changed" in pull.body


def test_a_dry_run_needs_no_github_and_opens_nothing(hub, at, fake_github, monkeypatch):
    at(matrix_of(f"{{source: {MODEL}, revision: {FIRST}}}"))
    monkeypatch.delenv("GITHUB_TOKEN")
    commit(hub, SECOND, README__md="new")
    code, out, _ = watch("--dry-run")
    assert code == 0
    assert re.search("card or licence +none: this is a dry run", out)
    assert fake_github.requests == []
    code, _, err = watch()
    assert code == 2
    assert "env: GITHUB_TOKEN: ${{ github.token }}" in err


def test_main_that_has_it_already(hub, at, fake_github):
    at(matrix_of(f"{{source: {MODEL}, revision: {FIRST}}}"))
    fake_github.repository.commit(
        "main", {"matrix.yml": matrix_of(f"{{source: {MODEL}, revision: {SECOND}}}").encode()}, "By hand"
    )
    commit(hub, SECOND, README__md="new")
    assert "none: main has it already" in watch()[1]
    assert fake_github.repository.pulls == []


def test_a_matrix_outside_of_the_repository(at, tmp_path, fake_github):
    at(matrix_of(f"{{source: {MODEL}, revision: {FIRST}}}"))
    shutil.copyfile("matrix.yml", tmp_path / "matrix.yml")
    code, _, err = watch("--matrix", str(tmp_path / "matrix.yml"))
    assert code == 2
    assert "Run this in the repository's root" in err


def test_actions_that_may_not_open_pull_requests(hub, at, fake_github):
    at(matrix_of(f"{{source: {MODEL}, revision: {FIRST}}}"))
    commit(hub, SECOND, README__md="new")
    fake_github.fault("POST /pulls", 403, "GitHub Actions is not permitted to create or approve pull requests.")
    code, _, err = watch()
    assert code == 4
    assert "Allow GitHub Actions to create and approve pull requests" in err


# --- hostile names ---

HOSTILE = [
    "@everyone.safetensors",
    "a`b``c.safetensors",
    "x](https://evil.example).safetensors",
    "<img src=x onerror=alert(1)>.safetensors",
    "line\n# Heading\n\n@everyone #1.safetensors",
    f"<!-- llm-quantizer watch: {SECOND} -->.safetensors",
    "| table | \\|.safetensors",
    "y" * 5000 + ".safetensors",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp\x07.safetensors",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_name_is_nothing_but_a_name(name):
    before, after = State(FIRST, {}, {}), State(SECOND, {name: "1"}, {})
    made = proposal.of_revision(MODEL, before, after, classify(before, after))
    assert made.title == f"owner/model: {'other files' if '/' in name else 'weights'} changed"
    tokens = MarkdownIt("commonmark").enable("table").parse(made.body)
    assert sum(token.type == "heading_open" for token in tokens) == 2
    assert [token.content for token in tokens if token.type == "html_block"] == [made.marker + "\n"]
    (line,) = (t for t in tokens if t.type == "inline" and t.content.startswith("added "))
    kinds = [child.type for child in line.children]
    assert kinds == ["text", "code_inline", "text"]
    assert "@" not in "".join(child.content for child in line.children if child.type == "text")
    assert len(line.content) < 300


def test_thousands_of_files_are_counted():
    before = State(FIRST, {}, {})
    after = State(SECOND, {f"model-{i:05}.safetensors": "1" for i in range(5000)}, {})
    made = proposal.of_revision(MODEL, before, after, classify(before, after))
    assert "- and 4950 more" in made.body
    assert len(made.body) < 10_000


def test_a_quoted_marker_is_no_marker():
    before, after = State(FIRST, {}, {}), State(SECOND, {f"<!-- llm-quantizer watch: {THIRD} -->": "1"}, {})
    body = proposal.of_revision(MODEL, before, after, classify(before, after)).body
    later = proposal.of_revision(MODEL, before, State(THIRD, {"a": "1"}, {}), classify(before, after))
    assert THIRD in body
    assert not later.made_as(Pull(1, "", body, "me", "x", "main"))
    assert later.made_as(Pull(1, "", later.body.replace("\n", "\r\n"), "me", "x", "main"))
