"""Chat templates that are the source's, chat templates that are not, and what is said of each."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gguf import GGUFWriter
from models import CHATML

from pipeline import gguf_file
from pipeline.check import sandbox, template, template_files
from pipeline.check.conversations import CONVERSATIONS

# Starts the sandbox, save where nothing is rendered.
pytestmark = pytest.mark.programs
N = len(CONVERSATIONS)

# Shaped as the templates are that call tools.
TOOLS = """\
{{- bos_token }}
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant', 'tool'] %}
        {{- raise_exception('Unknown role') }}{% endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}{{ message.content }}
    {%- else %}{% for part in message.content or [] %}{{ part.text }}{% endfor %}{% endif %}
    {%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"""
ESCAPE = "{{ cycler.__init__.__globals__.os.popen('id').read() }}"


@pytest.fixture
def gguf(tmp_path):
    """`gguf(template or {name: template})` is a GGUF with these, and with `<s>` and `</s>`."""

    def write(templates, tokens=("<s>", "</s>"), **more):
        writer = GGUFWriter(tmp_path / "file.gguf", "llama")
        writer.add_token_list(list(tokens))
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        if isinstance(templates, dict):
            templates = [{"name": name, "template": text} for name, text in templates.items()]
        if templates is not None:
            writer.add_chat_template(templates)
        for key, value in more.items():
            writer.add_uint32(key.replace("__", "."), value)
        writer.add_tensor("a", np.zeros(32, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return gguf_file.read(tmp_path / "file.gguf")

    return write


@pytest.fixture
def source(tmp_path):
    """`source(template, **files)` is a directory with a chat_template.jinja, or none, and JSON files."""

    def write(text=None, config=None, **files):
        directory = tmp_path / "source"
        (directory / "additional_chat_templates").mkdir(parents=True, exist_ok=True)
        settings = {"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>"}, **(config or {})}
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
        if text is not None:
            (directory / "chat_template.jinja").write_text(text)
        for name, content in files.items():
            (directory / "additional_chat_templates" / f"{name}.jinja").write_text(content)
        return directory

    return write


def only(verdicts):
    (verdict,) = verdicts
    assert verdict.check == "chat template"
    assert not verdict.seen.endswith(".")
    assert len(verdict.seen) < 600
    assert bool(verdict.advice) == (verdict.outcome in ("warn", "fail"))
    return verdict.outcome, verdict.seen


def test_the_source_has_templates_where_transformers_looks(source, tmp_path):
    config = {"chat_template": [{"name": "default", "template": "a"}, {"name": "tool-use", "template": "b"}]}
    directory = source(None, config)
    assert template_files.of_source(directory) == {"default": "a", "tool_use": "b"}
    (directory / "chat_template.jinja").write_bytes(b"one\r\nline")
    assert template_files.of_source(directory) == {"default": "one\nline"}
    (directory / "additional_chat_templates" / "rag.jinja").write_text("c")
    assert template_files.of_source(directory) == {"default": "one\nline", "rag": "c"}
    assert template_files.of_config(directory) == {"default": "a", "tool_use": "b"}
    assert template_files.special_tokens_of_source(directory) == {"bos_token": "<s>", "eos_token": "</s>"}
    processor = tmp_path / "processor"
    processor.mkdir()
    (processor / "chat_template.json").write_text('{"chat_template": "d"}')
    assert template_files.of_source(processor) == {"default": "d"}
    assert template_files.special_tokens_of_source(processor) == {}


@pytest.mark.parametrize("own_file", [True, False])
def test_transformers_finds_the_same(source, own_file):
    import tokenizers
    import transformers

    directory = source(CHATML if own_file else None, {"chat_template": TOOLS}, **({"rag": "x"} if own_file else {}))
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).save(str(directory / "tokenizer.json"))
    found = transformers.PreTrainedTokenizerFast.from_pretrained(directory).chat_template
    assert found == ({"default": CHATML, "rag": "x"} if own_file else TOOLS)
    assert template_files.of_source(directory) == (found if own_file else {"default": TOOLS})


def test_the_file_has_templates_where_llama_cpp_looks(gguf):
    file = gguf({"default": "a\0b", "tool_use": "c", "rag": "\0"})
    assert template_files.of_gguf(file) == {"default": "a", "tool_use": "c"}
    assert template_files.special_tokens_of_gguf(file) == {"bos_token": "<s>", "eos_token": "</s>"}
    assert template_files.unlisted(file) == []
    assert template_files.of_gguf(gguf(None)) == {}
    assert template_files.special_tokens_of_gguf(gguf(None, ("<" * 300, "</s>"))) == {"eos_token": "</s>"}
    others = gguf(None, tokenizer__chat_template__default=1, tokenizer__chat_template__=1, tokenizer__chat_template_x=1)
    assert template_files.of_gguf(others) == {}


@pytest.mark.parametrize("text", [CHATML, TOOLS])
def test_the_sources_own_template_passes(gguf, source, text):
    outcome, seen = only(template.compare(gguf(text), source(text)))
    assert outcome == "pass"
    assert seen.startswith("the chat template is the source's, and renders ")


def test_another_wording_that_renders_the_same_passes(gguf, source):
    reworded = "{# our own #}" + TOOLS.replace("message.role", "message['role']")
    assert only(template.compare(gguf(reworded), source(TOOLS))) == (
        "pass",
        f"the chat template is worded otherwise than the source's, and renders {N} conversations as it does",
    )


@pytest.mark.parametrize(
    ("old", "new", "seen"),
    [
        # ggufdoctor's survey: what most often differs is tool calls.
        ("{%- if tools %}", "{%- if false %}", 'leaves out the tools, on "tools offered" and '),
        ("message.tool_calls or []", "[]", 'leaves out the tool call, on "tools and tool results" and '),
        (", 'tool']", "]", """refuses with 'Unknown role', on "tools and tool results" and """),
        ("tool | tojson", "tool | tojson(indent=4)", """<|im_start|>system\\n{' the source's renders '"type": """),
        ("{{ message.content }}", "{{ message.content | trim }}", 'another prompt than the source\'s, on "think tags'),
        ("<|im_start|>assistant\n{%", "{%", """the source's renders '<|im_start|>assistant\\n' and the file's ''"""),
        ("<think></think>", "", """on "thinking off" and 1 more of"""),
        ("part.text", "part", 'on "a structured tool result"'),
        ("{{- bos_token }}", "", "the source's renders '<s><|im_start|>"),
        ("+ message.role +", "+ 'user' +", 'on "system and user"'),
        ("{% for part", "{% for part in", "does not compile, line "),
        ("message.content is string", "now()", """ends with "'now' is undefined", on "system and user"""),
        ("'<|im_end|>\\n' }}", "'<|im_end|>\\n' ~ '\u202e' * 500 }}", "and the file's '\\u202e\\u202e"),
    ],
)  # fmt: skip
def test_a_template_that_drifted_fails(gguf, source, old, new, seen):
    assert old in TOOLS
    outcome, said = only(template.compare(gguf(TOOLS.replace(old, new)), source(TOOLS)))
    assert outcome == "fail"
    assert seen in said
    assert said.isprintable()


def test_an_update_that_the_file_missed_is_named(gguf, source):
    """Llama 3.1's template was changed after release: files made before print no date."""
    updated = TOOLS.replace("{{- bos_token }}", "{{- bos_token }}Today: {{ strftime_now('%d %b %Y') }}\n")
    outcome, seen = only(template.compare(gguf(TOOLS), source(updated)))
    assert outcome == "fail"
    assert 'on "system and user" and ' in seen
    assert "after '<s>' the source's renders 'Today: 15 Jan 2026<|im_start|>" in seen


def test_a_missing_template_fails(gguf, source):
    directory = source(CHATML, tool_use=TOOLS, rag=TOOLS)
    assert only(template.compare(gguf(None), directory)[:1]) == (
        "fail",
        "the source has a chat template and the file has none",
    )
    verdicts = {v.seen: v.outcome for v in template.compare(gguf({"default": CHATML}), directory)}
    assert verdicts["the source has the chat template 'tool_use' and the file has not"] == "fail"
    assert verdicts["the source has the chat template 'rag' and the file has not"] == "warn"
    assert list(verdicts.values()) == ["pass", "warn", "fail"]


def test_each_named_template_is_held_against_its_own(gguf, source):
    directory = source(CHATML, tool_use=TOOLS)
    first, second = template.compare(gguf({"default": CHATML, "tool_use": CHATML}), directory)
    assert first.outcome == "pass"
    assert second.outcome == "fail"
    assert second.seen.startswith("the chat template 'tool_use' leaves out the tools")


def test_a_base_model_that_was_given_a_template_is_warned_about(gguf, source):
    outcome, seen = only(template.compare(gguf(CHATML), source()))
    assert (outcome, seen) == ("warn", "the file has the chat template and the source has none")
    assert only(template.compare(gguf(None), source())) == ("pass", "none, as in the source")


def test_what_only_the_file_renders_is_a_warning(gguf, source):
    patient = TOOLS.replace("{{- raise_exception('Unknown role') }}", "")
    outcome, seen = only(template.compare(gguf(patient), source(TOOLS)))
    assert outcome == "warn"
    assert 'renders what the source\'s does not, on "a developer message" and 2 more' in seen
    assert "that refuses with 'Unknown role'" in seen


def test_the_template_that_the_source_overrides_is_a_warning(gguf, source):
    """llama.cpp's converter takes tokenizer_config.json's template before chat_template.jinja, `transformers` after."""
    outcome, seen = only(template.compare(gguf(CHATML), source(TOOLS, {"chat_template": CHATML})))
    assert outcome == "warn"
    assert "leaves out the tools" in seen
    assert seen.endswith("the file has the one of tokenizer_config.json, which chat_template.jinja overrides")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("{% if %}", "renders no conversation: it does not compile, line 1: Expected an expression"),
        ("{{ absent.x }}", """renders no conversation: it ends with "'absent' is undefined\""""),
        ("{{ raise_exception('call the API') }}", "renders no conversation: it refuses with 'call the API'"),
    ],
)
def test_a_template_that_is_broken_upstream_is_a_warning(gguf, source, text, seen):
    outcome, said = only(template.compare(gguf(text), source(text)))
    assert outcome == "warn"
    assert seen in said


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (ESCAPE, "tries to reach `__globals__`, `__init__`: it tries to escape its sandbox"),
        ("{% if tools|length > 99 %}" + ESCAPE + "{% endif %}" + CHATML, "tries to reach `__globals__`, `__init__`"),
        ("{{ 'a' * 10**10 }}", 'uses up its memory, on "system and user"'),
        (CHATML + "{% if tools %}{% for i in range(90000) %}{{ messages }}{% endfor %}{% endif %}",
         'writes without end, on "tools offered"'),
        ("{% if documents %}{{ range(10**9) }}{% endif %}", 'counts further than a template may, on "documents"'),
    ],
)  # fmt: skip
def test_a_hostile_template_fails_whoever_wrote_it(gguf, source, text, seen):
    outcome, said = only(template.compare(gguf(text), source(text)))
    assert outcome == "fail"
    assert seen in said
    assert only(template.compare(gguf(text), None)) == (outcome, said)


def test_a_template_that_does_not_end_fails(gguf, monkeypatch):
    monkeypatch.setattr(template, "render", lambda text, contexts: sandbox.render(text, contexts, 1))
    text = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    assert only(template.compare(gguf(text), None)) == ("fail", 'the chat template does not end, on "system and user"')


@pytest.mark.parametrize(
    ("text", "outcome", "seen"),
    [
        (None, "skip", "the file has none, and no source was given"),
        (CHATML, "pass", "the chat template renders "),
        (TOOLS, "pass", "the chat template renders "),
        # Of models that see: text comes in parts, and a string is walked letter by letter.
        ("{% for m in messages %}{% for x in m.content %}{{ x.text }}{% endfor %}{% endfor %}", "pass", "renders"),
        # One that wants tools.
        ("{% for t in tools %}{{ t }}{% endfor %}{{ messages|map(attribute='content')|list }}", "pass", "renders"),
        (CHATML.replace("{{ message['content'] }}", ""), "fail", "leaves out the user's text on \"system and user\""),
        ("{% if %}", "fail", "does not compile, line 1"),
        ("{{ absent.x }}", "warn", "renders no conversation"),
    ],
)  # fmt: skip
def test_without_a_source_a_template_stands_alone(gguf, text, outcome, seen):
    verdict = only(template.compare(gguf(text), None))
    assert verdict[0] == outcome
    assert seen in verdict[1]


def test_a_listed_template_that_is_lost_is_a_warning_without_a_source(gguf, monkeypatch):
    monkeypatch.setattr("gguf.constants.Keys.Tokenizer.CHAT_TEMPLATE_N", "tokenizer.chat_template_{name}")
    verdicts = template.compare(gguf({"default": CHATML, "tool_use": TOOLS}), None)
    assert [v.outcome for v in verdicts] == ["pass", "warn"]
    assert "names 'tool_use' and the file has no such template" in verdicts[1].seen


def test_special_tokens_that_would_make_another_prompt_are_a_warning(gguf, source):
    directory = source(TOOLS)
    passed, warned = template.compare(gguf(TOOLS, ("<|end|>", "</s>")), directory)
    assert passed.outcome == "pass"
    assert warned.outcome == "warn"
    assert warned.seen == "it prints bos_token, which is '<s>' in the source and '<|end|>' in the file"
    # Neither the end of the sequence nor, here, its beginning is printed.
    (directory / "chat_template.jinja").write_text(CHATML)
    assert len(template.compare(gguf(CHATML, ("<|end|>", "<|stop|>")), directory)) == 1


def test_what_is_no_template_is_a_sentence(gguf, source):
    file = gguf(None, tokenizer__chat_template=7)
    assert only(template.compare(file, None)) == ("fail", "'tokenizer.chat_template' is no text")
    outcome, seen = only(template.compare(gguf("x" * (1 << 20) + "x"), None))
    assert (outcome, "has 1048577 characters" in seen) == ("fail", True)
    outcome, seen = only(template.compare(gguf({f"n{i}": "x" for i in range(30)}), None))
    assert (outcome, seen) == ("fail", "the file has more than 16 chat templates")


@pytest.mark.parametrize(
    ("name", "content", "seen"),
    [
        ("tokenizer_config.json", b'{"chat_template": ', "of the source, tokenizer_config.json is no JSON"),
        ("tokenizer_config.json", b"[" * 200_000, "of the source, tokenizer_config.json is no JSON"),
        ("chat_template.jinja", b"\xff", "of the source, 'chat_template.jinja' is no UTF-8"),
        ("chat_template.jinja", b"x" * 2_000_000, "of the source, 'chat_template.jinja' is too large to read: 2000000"),
    ],
)
def test_a_source_that_cannot_be_read_is_a_warning(gguf, source, name, content, seen):
    directory = source(CHATML)
    (directory / name).write_bytes(content)
    warned, passed = template.compare(gguf(CHATML), directory)
    assert (warned.outcome, passed.outcome) == ("warn", "pass")
    assert seen in warned.seen


@pytest.mark.parametrize("config", [[], {"chat_template": 3}, {"chat_template": [{"name": 3}, 4]}, {"bos_token": []}])
def test_settings_of_other_shapes_are_no_templates(source, config):
    directory = source()
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    assert template_files.of_source(directory) == template_files.special_tokens_of_source(directory) == {}
