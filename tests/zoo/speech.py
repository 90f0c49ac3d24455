"""Files that read and write text otherwise than their source: tokenizers and chat templates."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import ggufs

from zoo.draft import edited, shortened
from zoo.specimen import Subject, broken, converted

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.kit import Kit

CONTROL, NORMAL = 3, 1
SURVEY = "ggufdoctor's survey: 26 of 185 repos render another prompt than upstream"
TOOLS = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}
{{- '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
NO_TOOLS = TOOLS[TOOLS.index("{%- for message") :].replace(
    "{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}\n", ""
)


def _with(kit: Kit, **changes: object) -> Subject:
    return converted(kit, kit.write(kit.draft().set(**changes)))


def _templated(kit: Kit, theirs: str, ours: str) -> Subject:
    """SmolLM2 with another chat template in its source, and one in the file."""
    source = templated(kit, theirs)
    return converted(kit, kit.write(kit.draft().set(tokenizer__chat_template=ours)), source)


def templated(kit: Kit, template: str) -> Path:
    """SmolLM2's source with another chat template."""
    directory = kit.directory()
    for path in kit.smol.source.iterdir():
        if path.name not in ("chat_template.jinja", "tokenizer_config.json"):
            (directory / path.name).symlink_to(path)
    config = json.loads((kit.smol.source / "tokenizer_config.json").read_bytes())
    config.pop("chat_template", None)
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").write_text(template)
    return directory


def _template(kit: Kit) -> str:
    return str(kit.draft().file.metadata["tokenizer.chat_template"])


@broken("tokenizer", "llama.cpp#7006, ollama#4126: Llama 3 before it had a pre-tokenizer", r"ggml\.pre is missing")
def pre_tokenizer_missing(kit: Kit) -> Subject:
    return converted(kit, kit.write(kit.draft().drop("tokenizer.ggml.pre")))


@broken("tokenizer", "llama.cpp#8649: converted with the pre-tokenizer left at its default", r"ggml\.pre is 'default'")
def pre_tokenizer_left_at_default(kit: Kit) -> Subject:
    return _with(kit, tokenizer__ggml__pre="default")


@broken(
    "tokenizer",
    "llama.cpp#9927: the pre-tokenizer of another model",
    r"is 'llama-bpe', which splits \w+ otherwise than the source",
)
def pre_tokenizer_of_another_model(kit: Kit) -> Subject:
    return _with(kit, tokenizer__ggml__pre="llama-bpe")


@broken("tokenizer", "llama.cpp#8649: a name that no llama.cpp knows yet", r"'smollm3'.*does not know")
def pre_tokenizer_unknown(kit: Kit) -> Subject:
    return _with(kit, tokenizer__ggml__pre="smollm3")


@broken(
    "tokenizer", "llama.cpp#13298: an end-of-turn token that is not the one the model writes", r"eos is .*endoftext"
)
def end_of_text_id_wrong(kit: Kit) -> Subject:
    return _with(kit, tokenizer__ggml__eos_token_id=0)


@broken("tokenizer", "llama.cpp#7898: a comma as the first token of Qwen2", r"bos is .*\(28\)")
def first_token_id_wrong(kit: Kit) -> Subject:
    return _with(kit, tokenizer__ggml__bos_token_id=28)


@broken("tokenizer", "llama.cpp#13298: an id beyond the vocabulary", r"eos_token_id is '49153', which is no id")
def end_of_text_id_out_of_range(kit: Kit) -> Subject:
    return _with(kit, tokenizer__ggml__eos_token_id=49153)


@broken(
    "tokenizer", "llama.cpp#3966, DeepSeek-Coder-V2#50: a first token that nobody asked for", r"add_bos_token is true"
)
def first_token_added(kit: Kit) -> Subject:
    return _with(kit, tokenizer__ggml__add_bos_token=True)


@broken("tokenizer", "koboldcpp#812: special tokens as text, so that no answer ends", r"typed normal, not control")
def special_tokens_as_text(kit: Kit) -> Subject:
    def normal(types):
        types[types == CONTROL] = NORMAL

    draft = kit.draft()
    key = "tokenizer.ggml.token_type"
    return converted(kit, kit.write(draft.set(tokenizer__ggml__token_type=edited(draft.keys[key], normal))))


@broken("tokenizer", "llama.cpp#9309, #3732: merges that the conversion lost", r"merges, 48900 in the source")
def merges_cut(kit: Kit) -> Subject:
    draft = kit.draft()
    merges = shortened(draft.keys["tokenizer.ggml.merges"], 24_000)
    return converted(kit, kit.write(draft.set(tokenizer__ggml__merges=merges)))


@broken("template", SURVEY, r"chat template .*(differ|other)")
def template_without_a_line_end(kit: Kit) -> Subject:
    return _with(kit, tokenizer__chat_template=_template(kit).replace("'<|im_end|>' + '\n'", "'<|im_end|>'"))


@broken("template", SURVEY, r"chat template .*(differ|other)")
def default_system_prompt_lost(kit: Kit) -> Subject:
    return _with(kit, tokenizer__chat_template=TOOLS)


@broken("template", f"{SURVEY}, most of them where tools are called", r"tool")
def tool_branch_lost(kit: Kit) -> Subject:
    return _templated(kit, TOOLS, NO_TOOLS)


@broken(
    "template",
    "goose#9110: no template in the file, and a generic one guessed",
    r"has a chat template and the file has none",
)
def template_missing(kit: Kit) -> Subject:
    return converted(kit, kit.write(kit.draft().drop("tokenizer.chat_template")))


@broken("template", "CVE-2024-34359: a GGUF's template ran code in llama-cpp-python", r"tries to escape its sandbox")
def template_that_runs_code(kit: Kit) -> Subject:
    hostile = TOOLS + "{{ cycler.__init__.__globals__.os.popen('id').read() }}"
    return _templated(kit, hostile, hostile)


@broken("template", "CVE-2024-34359: what runs code could as well run for ever", r"does not end")
def template_without_end(kit: Kit) -> Subject:
    endless = TOOLS + "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    return _templated(kit, endless, endless)


@broken(
    "template", "llama.cpp#15110: gpt-oss with a prompt that is not its own", r"chat template .*(differ|leaves out)"
)
def template_of_another_model(kit: Kit) -> Subject:
    return _with(kit, tokenizer__chat_template=ggufs.value("{{ bos_token }}[INST] {{ messages[0].role }} [/INST]"))
