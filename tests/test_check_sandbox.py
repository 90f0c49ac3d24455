"""Templates that want more than their conversation: each is stopped, and called what it is."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.check import sandbox
from pipeline.check.conversations import CONVERSATIONS
from pipeline.check.sandbox import Failure, render
from pipeline.errors import ToolchainError

pytestmark = pytest.mark.programs
CONTEXT = {"messages": [{"role": "user", "content": "Hi <b>é</b>"}], "tools": None, "bos_token": "<s>"}

# What chat templates use of Jinja, so that a difference from `transformers` shows.
EVERYTHING = """\
{%- set ns = namespace(first=true, system='') -%}
{{- bos_token }}
{% for message in messages %}
    {%- if message.role == 'system' %}{% set ns.system = message.content %}{% continue %}{% endif %}
    {%- if message['role'] == 'narrator' %}{{ raise_exception('no narrators, ' + message.role) }}{% endif %}
    {%- if ns.first and ns.system is string %}{{ ns.system | trim }}{% set ns.first = false %}{% endif %}
    {% generation %}{{ message.role | upper }}: {{ message.content }}{% endgeneration %}

    {%- if message.tool_calls is defined and message.tool_calls is not none %}
        {%- for call in message.tool_calls %}{{ call.function | tojson }}{% endfor %}
    {%- endif %}
    {%- if loop.index0 > 3 %}{% break %}{% endif %}
{% endfor %}
{%- macro shown(tool, depth=0) %}{{ tool.function.name }}:{{ tool | tojson(indent=2) }}{% endmacro %}
{%- if tools %}{% for tool in tools %}{{ shown(tool) }}{% endfor %}{% endif %}
{{- dict(a=[1, 2.5, none, true]) | tojson(separators=(',', ':'), sort_keys=true) }}{{ 'x<y>&"' }}
{%- for key, value in (tools or [{}])[0] | items %}{{ key }}{% endfor %}
{{- 'and ' + reasoning_effort | default('no') ~ missing ~ messages | length }}
{{- messages[-1:] | map(attribute='role') | list }}
{{- ' go' if add_generation_prompt }}
"""


# CVE-2024-34359: llama-cpp-python rendered the template of any GGUF without a sandbox.
LLAMA_DRAMA = (
    "{% for x in ().__class__.__base__.__subclasses__() %}{% if 'warning' in x.__name__ %}"
    "{{ x()._module.__builtins__['__import__']('os').popen('touch /tmp/out') }}{% endif %}{% endfor %}"
)
UNAUDITED = """\
worker.sys = type('', (), {'addaudithook': staticmethod(print)})
worker.confine(5)
for act in (lambda: os.open('/etc/hostname', 0), os.pipe, lambda: bytearray(1 << 30)):
    try:
        act()
        print('free')
    except (OSError, MemoryError) as error:
        print(type(error).__name__)
"""


def test_renders_as_transformers_does():
    from transformers.utils.chat_template_utils import render_jinja_template

    contexts = [conversation.context({"bos_token": "<s>"}) for conversation in CONVERSATIONS]
    rendering = render(EVERYTHING, contexts)
    assert rendering.attempts == ()
    texts = 0
    for context, outcome in zip(contexts, rendering.outcomes, strict=True):
        others = {name: value for name, value in context.items() if name != "messages"}
        try:
            (wanted,), _ = render_jinja_template([context["messages"]], chat_template=EVERYTHING, **others)
        except Exception as error:  # noqa: BLE001 - compared with ours
            wanted = f"{type(error).__name__}: {error}"
            assert getattr(outcome, "message", outcome) in wanted
        else:
            assert outcome == wanted
            texts += 1
    assert texts > len(CONVERSATIONS) / 2


def test_the_clock_stands_still():
    assert render("{{ strftime_now('%d %b %Y') }}", [{}, {}]).outcomes == ("15 Jan 2026",) * 2


@pytest.mark.parametrize(
    ("template", "kind", "message"),
    [
        ("{{ raise_exception('no ' + bos_token) }}", "raised", "no <s>"),
        ("one\n{% if %}", "syntax", "line 2: Expected an expression"),
        ("{{ 1 | nothing }}", "syntax", "No filter named 'nothing'"),
        ("{{ missing.attribute }}", "error", "'missing' is undefined"),
        ("{{ 'a' + 1 }}", "error", "TypeError"),
        ("{% break %}", "error", "outside loop"),
        ("{% include 'other.jinja' %}", "error", "loader"),
        ("{{ messages.append(1) }}", "error", "'append'"),
        ("{{ '\\ud800' | list | tojson(ensure_ascii=true) }}{{ 'é'.encode('idna') }}", "error", "encoding"),
        ("{{ " + "(" * 4000 + "1" + ")" * 4000 + " }}", "error", "RecursionError"),
        ("{{ range(10**9) }}", "range", "Range too big"),
        ("{{ 'a' * 10**10 }}", "memory", ""),
        ("{% for i in range(90000) %}{{ bos_token * 100 }}{% endfor %}", "output", ""),
        ("{% set n = namespace(a='a') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}", "memory", ""),
    ],
)  # fmt: skip
def test_says_why_there_is_no_text(template, kind, message):
    rendering = render(template, [CONTEXT, CONTEXT])
    assert {outcome.kind for outcome in rendering.outcomes} == {kind}
    assert message in rendering.outcomes[1].message
    assert rendering.attempts == ()


@pytest.mark.parametrize(
    "template",
    [
        "{{ tools }}{% for i in range(9999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        # One step of Python's, which no signal handler interrupts.
        "{{ tools }}{% set x = 10 ** (10 ** (bos_token|length + 6)) %}",
    ],
)  # fmt: skip
def test_stops_what_does_not_end(template):
    rendering = render(f"{{% if tools %}}{template}{{% endif %}}fine", [CONTEXT, {**CONTEXT, "tools": [1]}, CONTEXT], 1)
    assert rendering.outcomes == ("fine", Failure("time"), Failure("time"))


@pytest.mark.parametrize(
    ("template", "reached"),
    [
        (LLAMA_DRAMA, "__builtins__"),
        # CVE-2024-56326: a reference to str.format, called by something else.
        ("{% set f = '{0.__class__.__init__}'.format %}{{ [f] | map('string') }}{{ f(cycler) }}", "__class__"),
        # CVE-2025-27516: |attr reached str.format past the sandbox.
        ("{{ ('{0.__class__.__init__.__globals__}' | attr('format'))(joiner) }}", "__class__"),
        ("{{ '{a.__globals__}'.format_map({'a': raise_exception}) }}", "__globals__"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "__globals__"),
        ("{{ lipsum | attr('__glo' ~ 'bals__') }}", "__globals__"),
        ("{{ [raise_exception] | map(attribute='__code__.co_code') | list }}", "__code__"),
        ("{{ self._TemplateReference__context }}", "_TemplateReference__context"),
        ("{{ dict.mro() }}", "mro"),
        ("{{ __import__('os').system('id') }}", "__import__"),
        # None of these is used, or ever runs.
        ("{% if ''.__class__ %}{% endif %}fine", "__class__"),
        ("{% set name = '__cla' %}{% set x = bos_token[name ~ 'ss__'] %}fine", "__class__"),
        ("{% if tools %}{{ ''['__cla' 'ss__'] }}{% endif %}fine", "__class__"),
        ("{% if tools %}{{ [] | map(attribute='__class__.__mro__') }}{% endif %}fine", "__mro__"),
        ("{% if tools %}{% set ns = namespace() %}{% set ns.__class__ = 1 %}{% endif %}fine", "__class__"),
    ],
)  # fmt: skip
def test_names_what_a_template_reaches_for(template, reached):
    assert reached in render(template, [CONTEXT]).attempts


def test_a_conversation_that_speaks_of_python_is_no_attempt():
    said = "Why is ''.__class__.__mro__ a tuple? {{ x.__globals__ }} {0.__class__}"
    template = (
        "{{ messages[0]['content'] }}{{ messages[0].get('__class__', '__none__') }} __init__(self) {{ '__init__' }}"
    )
    rendering = render(template, [{"messages": [{"content": said}]}])
    assert rendering.outcomes == (said + "__none__ __init__(self) __init__",)
    assert rendering.attempts == ()


def confined(code, path):
    """Run `code` with the program in the sandbox as `worker`, and with `path` as its second argument."""
    begin = "import os, socket, subprocess, sys; sys.path.insert(0, sys.argv[1]); import template_worker as worker\n"
    command = [sys.executable, "-c", begin + code, str(sandbox.WORKER.parent), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("code", "event"),
    [
        ("os.system('touch ' + sys.argv[2])", "os.system"),
        ("open(sys.argv[2], 'w')", "open"),
        ("os.kill(os.getppid(), 15)", "os.kill"),
        ("os.listdir('/')", "os.listdir"),
        ("socket.socket().connect(('127.0.0.1', 1))", "socket"),
        ("subprocess.run(['id'])", "subprocess.Popen"),
    ],
)
def test_out_of_jinja_there_is_nothing_to_do(code, event, tmp_path):
    """Were there a way out of Jinja's sandbox, this is where it would lead."""
    ended = confined(f"worker.confine(5); {code}; print('free')", tmp_path / "made")
    assert json.loads(ended.stdout)["error"] == "escape"
    assert json.loads(ended.stdout)["message"].startswith(event)
    assert not (tmp_path / "made").exists()


def test_the_limits_hold_without_python(tmp_path):
    """What the kernel refuses when even the audit hook is out of the way."""
    ended = confined(UNAUDITED, tmp_path)
    assert ended.stdout.splitlines()[1:] == ["OSError", "OSError", "MemoryError"]


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """`worker(code)` is in the place of the program in the sandbox; the first line of its output is in order."""

    def put(code, first='{"attempts": []}'):
        path = tmp_path / "worker.py"
        path.write_text(f"import json, os, sys, time\nprint({first!r}, flush=True)\n{code}\n")
        monkeypatch.setattr(sandbox, "WORKER", path)

    return put


def test_the_program_sees_no_secret_and_nothing_of_ours(worker, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    worker(
        "seen = [dict(os.environ), os.getcwd(), 'pipeline' in sys.modules, os.listdir('/proc/self/fd')]\n"
        "print(json.dumps({'attempts': [], 'text': json.dumps(seen)}))"
    )
    environment, folder, imported, files = json.loads(render("", [{}]).outcomes[0])
    assert set(environment) <= {"LC_CTYPE", "LD_LIBRARY_PATH"}
    assert (folder, imported, len(files)) == ("/", False, 4)  # the fourth is the listing itself


def test_a_program_that_hangs_is_killed_with_its_children(worker, monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox, "PATIENCE", 0.5)
    worker(f"child = os.fork()\nif child: open({str(tmp_path / 'child')!r}, 'w').write(str(child))\ntime.sleep(60)")
    assert render("", [{}, {}]).outcomes == (Failure("time"), Failure("time"))
    child = int((tmp_path / "child").read_text())
    for _ in range(200):  # killed, it may still have to be told on a loaded machine
        if not is_alive(child):
            break
        time.sleep(0.05)
    assert not is_alive(child)


def is_alive(process):
    """Whether it is there, and not only not yet buried by the machine's init."""
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("os.kill(os.getpid(), 9)", Failure("memory")),
        ("os.kill(os.getpid(), 11)", Failure("error", "the renderer ended with -11")),
        ('print(\'{"attempts": [], "te\')', Failure("error", "the renderer ended with 0")),
        ("print('[]'); print('{}')", Failure("error", "the renderer ended with 0")),
        ('print(\'{"attempts": [], "error": "?", "message": 3}\')', Failure("error", "3")),
    ],
)
def test_a_program_that_dies_is_an_outcome(worker, code, outcome):
    worker(code)
    assert render("", [{}]).outcomes == (outcome,)


def test_a_sandbox_that_does_not_start_is_no_fault_of_the_template(worker):
    worker("", first="Cannot start.")
    with pytest.raises(ToolchainError, match="did not start"):
        render("", [{}])
