import re
import time
from html.parser import HTMLParser

import pytest
from factories import BITS, fallbacks, file, provenance, quality, release, result
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from ruamel.yaml import YAML

from pipeline.card import ladder, render, render_footer, testlog
from pipeline.card.markdown import closing, code, fence, inline
from pipeline.card.original import LONGEST_TEXT, SourceCard
from pipeline.result import Answer, Estimate, Offload, Recipe, Verdict

GEMMA = """\
---
library_name: transformers
extra_gated_heading: Access Gemma on Hugging Face
extra_gated_prompt: >-
  To access Gemma on Hugging Face, you're required to review and agree to
  Google's usage license.
extra_gated_button_content: Acknowledge license
license: gemma
---

# Gemma Model Card

**Model Page**: [Gemma](https://ai.google.dev/gemma/docs)

    {{ this }} is {% no template %}

```python
print("a < b")
```
"""
HOSTILE = {
    "comment": "text\n\n<!-- never closed\n\nmore",
    "comment in a block": "<div>\n<!-- never closed\n\nmore",
    "fence": "```python\nnever closed",
    "long fence": "~~~~~~ x\nnever closed\n~~~\n```",
    "fence in a list": "- a\n\n  ```\n  never closed",
    "details": "<details>\n<summary>a</summary>\n\nnever closed",
    "inline details": "text <details> never closed",
    "script": "<script>\nnever closed",
    "script in a comment": "<script>\n<!-- <script>\nnever closed",
    "style": "<style>\nbody { display: none",
    "script in a heading": "a <script>\n=",
    "textarea": "<div><textarea>\n\nnever closed",
    "attribute": '<div title="never closed\n\nmore',
    "other attribute": "<div title='never closed\n\nmore",
    "tag": "<div hidden\n\nmore",
    "instruction": "<?php\nnever closed",
    "cdata": "<![CDATA[\nnever closed",
    "declaration": "<!DOCTYPE\nnever closed",
    "plaintext": "<plaintext>\n\nnever closed",
    "tables": "<table><tr><td>\n\nnever closed",
    "many": "<div>" * 1000,
    "paragraph": "a last line without an end",
    "declaration in a quote": "> > <!A",
    "comment in a list": "- > - <!--",
    "quote": "> > a\n> ```\n> b",
    "indented": "a\n\n    code",
    "rules": "a\n\n---\n\nb\n---\nc",
    "jinja": "{% raw %}{{ 7 * 7 }}{# x #}{% include 'card.md.j2' %}",
    "crlf": "# a\r\n\r\n```\r\nb\r\n",
    "reference": "[Q4_K_M]: https://elsewhere.example\n[`Q4_K_M`]: https://elsewhere.example",
    "nul": "a\x00b\x0bc",
}
BROKEN = {
    "not YAML": "---\na: [1\nb: }\n---\nbody",
    "list": "---\n- a\n- b\n---\nbody",
    "text": "---\njust text\n---\nbody",
    "python": "---\na: !!python/object/apply:os.system [echo]\n---\nbody",
    "never closed": "---\nlicense: mit\n\nbody",
    "aliases": "---\na: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n---\nbody",
    "merges": "---\na: &a {x: 1}\nb: &b {<<: [*a, *a]}\n---\nbody",
    "deep": "---\na: " + "[" * 5000 + "\n---\nbody",
    "number": "---\na: " + "9" * 10_000 + "\n---\nbody",
    "tab": "---\n\ta: b\n---\nbody",
    "twice": "---\na: 1\na: 2\n---\nbody",
    "date": "---\na: 2024-99-99\n---\nbody",
    "old line ends": "---\rlicense: mit\r---\rbody",
}
FOOTER = "Created using [llm-quantizer](https://github.com/Nold360/llm-quantizer) Pipeline\n"


def front_matter(card):
    found = re.match(r"---\n(.*?\n)---\n", card, re.DOTALL)
    return YAML(typ="safe", pure=True).load(found[1]) if found else None


def body(card):
    return re.sub(r"\A---\n.*?\n---\n", "", card, count=1, flags=re.DOTALL)


class Reader(HTMLParser):
    """What a reader sees: text outside comments and tags, and the elements open where a text stands."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, _attrs):
        if self.open[-1:] == ["p"] and re.fullmatch(r"p|h\d|hr|ul|ol|div|pre|table|details|blockquote", tag):
            self.open.pop()  # as a browser does it
        if tag not in ("br", "hr", "img", "input", "link", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        self.seen.append((data, tuple(self.open)))

    def around(self, text):
        return [elements for data, elements in self.seen if text in data]


def read(markdown):
    reader = Reader()
    reader.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown))
    return reader


@pytest.fixture
def shown():
    return release(
        quants=[
            result("Q2_K", file=file("gemma-2b-Q2_K.gguf", 3.7, fallbacks=fallbacks(18, "Q2_K", "IQ4_NL"))),
            "Q4_K_M",
            "Q8_0",
        ],
        withheld=["IQ1_S"],
    )


def test_golden_card(shown, golden):
    golden("card.md", render(shown, GEMMA, "gemma-2b-quality.svg", ["LICENSE", "USE_POLICY.md"]))


def test_golden_footer(shown, golden):
    golden("footer.md", render_footer(shown, GEMMA))


def test_golden_log(shown, golden):
    golden("test.log", testlog.render(shown))


def test_front_matter_keeps_terms_and_adds_ours(shown):
    source = "---\nlicense: other\nlicense_name: x\nlicense_link: LICENSE\nlanguage: no\ntags: [chat, safetensors, 7]\n"
    source += "library_name: transformers\nbase_model: someone/else\nwidget: [a]\nmodel-index: [b]\n"
    source += "extra_gated_fields: {Company: text, Role: {type: select, options: [a, b]}}\n---\n"
    there = front_matter(render(shown, source, None, ["LICENSE"]))
    assert there == {
        "license": "other",
        "license_name": "x",
        "license_link": "LICENSE",
        "language": ["no"],
        "extra_gated_fields": {"Company": "text", "Role": {"type": "select", "options": ["a", "b"]}},
        "base_model": "google/gemma-2b",
        "base_model_relation": "quantized",
        "quantized_by": "nold",
        "library_name": "gguf",
        "tags": ["chat", "gguf", "imatrix", "llm-quantizer"],
    }
    elsewhere = front_matter(render(shown, source, None, []))["license_link"]
    assert elsewhere == f"https://huggingface.co/google/gemma-2b/blob/{shown.provenance.revision}/LICENSE"


@pytest.mark.parametrize(
    ("front", "line"),
    [
        ("license: gemma", "Gemma is provided under and subject to the Gemma Terms of Use"),
        ("license: llama3.1", "**Built with Llama.** Llama 3.1 is licensed"),
        ("license: other\nlicense_name: llama-3.3-community", "**Built with Llama.** Llama 3.3 is licensed"),
        ("license: llama3", "**Built with Meta Llama 3.**"),
    ],
)
def test_licence_notice(shown, front, line):
    assert line in render(shown, f"---\n{front}\n---\n", None, [])
    assert line not in render(shown, "---\nlicense: apache-2.0\n---\n", None, [])


def test_card_of_nothing():
    empty = release(quants=[], withheld=["IQ1_S"])
    card = render(empty, None, None, [])
    assert "0 of 1 quants published" in card
    assert "The source has none." in card
    assert "IQ1_S" in testlog.render(empty)


def test_unmeasured_file_has_a_row():
    card = render(release(quants=[result("Q4_K_M", quality=None, speed=None)]), None, None, [])
    assert "| [`Q4_K_M`](gemma-2b-Q4_K_M.gguf) |" in card
    assert "No file was measured" in card


def test_within_noise_is_marked(shown):
    rows = {row.split("`")[1]: row for row in render(shown, None, None, []).splitlines() if row.startswith("| [`")}
    assert "≈" in rows["Q8_0"]
    assert "≈" not in rows["Q4_K_M"]


def test_machines_are_told_apart():
    one, two = result("Q4_K_M"), result("Q8_0")
    gpu = two.speed.model_copy(update={"machine": "NVIDIA H100 | 80 GB", "offload": Offload(layers=19, of=19)})
    card = render(release(quants=[one, two.model_copy(update={"speed": gpu})]), None, None, [])
    assert "**Machine (2):** NVIDIA H100 \\| 80 GB; 19 of 19 layers on the GPU." in card


def test_recipes_are_told():
    recipe = Recipe(name="X", base="Q4_K_M", output="Q8_0", tensors={r"ffn_(up|down)": "Q6_K"}, imatrix=False)
    card = render(release(quants=[result("Q4_K_M", recipe=recipe)]), None, None, [])
    line = "type `Q4_K_M`, output `Q8_0`, `ffn_(up|down)` as `Q6_K`, without the imatrix"
    assert line in card
    assert "imatrix" not in front_matter(card)["tags"]


def test_picks_are_the_best_that_fit():
    picks = ladder.picks(release(quants=list(BITS)))
    sizes = [pick.result.file.size for pick in picks]
    assert sizes == sorted(sizes)
    assert all(pick.result.file.size <= pick.memory * 0.8e9 for pick in picks)
    assert picks[-1].result.quant == "Q8_0"


def test_pick_takes_the_smaller_of_two_within_noise():
    same = [
        result(q, quality=quality(mean_kld=Estimate(value=v, error=0))) for q, v in (("Q6_K", 2e-4), ("Q8_0", 1e-4))
    ]
    assert [pick.result.quant for pick in ladder.picks(release(quants=same))] == ["Q6_K"]


def test_tag_resolves_as_llama_cpp_does():
    names = ["m-BF16.gguf", "m-F16.gguf", "m-Q4_K_M.gguf", "mmproj-m-Q8_0.gguf", "m-Q8_0.gguf", "imatrix.gguf"]

    def tag(quant):
        return ladder.tag(result(quant, recipe=Recipe(name=quant, base=quant), file=file(f"m-{quant}.gguf")), names)

    assert (tag("BF16"), tag("F16"), tag("Q4_K_M"), tag("Q8_0")) == ("BF16", None, "Q4_K_M", "Q8_0")


def test_name_that_is_no_tag_is_marked():
    both = [result("F16", file=file("m-F16.gguf")), result("BF16", file=file("m-BF16.gguf"))]
    card = render(release(quants=both), None, None, [])
    assert "[`F16`](m-F16.gguf) † |" in card
    assert "llama-cli -hf nold/gemma-2b-GGUF:BF16" in card


@pytest.mark.parametrize("text", ["```\n</details>\n# out", "a | b\n|c|", "<!-- x", "~~~\n````\n`````", "\x1b[31m\x00"])
def test_hostile_answer_stays_in_its_fence(text):
    verdicts = (Verdict(check="loop", outcome="warn", seen=text, advice="a | b\n\n# c"),)
    card = render(release(quants=[result(answer=Answer(text=text, stopped=True), verdicts=verdicts)]), None, None, [])
    assert read(body(card)).around("How to verify it") == [("h2",)]
    assert "\x1b" not in card
    assert "\x00" not in card


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_swallows_nothing(source, shown):
    card = render(shown, source, "plot.svg", [])
    reader = read(body(card))
    assert reader.around("How to verify it") == [("h2",)]
    assert reader.around("The original card") == [("h2",)]
    footer = render_footer(shown, source)
    assert read(footer).around("Created using") == [("p",)]
    assert footer.endswith(FOOTER)
    if "\x00" not in source:
        assert footer.startswith(source) or source in footer


@pytest.mark.parametrize("source", BROKEN.values(), ids=BROKEN)
def test_front_matter_that_cannot_be_read(source, shown):
    started = time.monotonic()
    card, footer = render(shown, source, None, []), render_footer(shown, source)
    assert time.monotonic() - started < 5
    assert "so that nothing of it could be taken over" in card
    for text in (card, footer):
        assert front_matter(text)["base_model"] == "google/gemma-2b"
    assert read(body(footer)).around("Created using") == [("p",)]


def test_footer_leaves_the_card_as_it_is(shown):
    for source in (GEMMA, GEMMA.replace("\n", "\r\n"), "no front matter\n"):
        assert render_footer(shown, source).startswith(source)
    assert front_matter(render_footer(shown, None))["base_model"] == "google/gemma-2b"


def test_byte_order_mark_is_not_text(shown):
    assert front_matter(render(shown, "\ufeff" + GEMMA, None, []))["license"] == "gemma"


def test_long_card_is_cut(shown):
    source = GEMMA + "a line of it\n" * 200_000
    for card in (render(shown, source, None, []), render_footer(shown, source)):
        assert len(card) < LONGEST_TEXT + 20_000
        assert "README.md" in card


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "> " * 100_000, "`" * 200_000, "<a " * 66_000, "[\n" * 100_000, "*a " * 66_000]
)
def test_no_text_takes_long(text, shown):
    started = time.monotonic()
    render_footer(shown, text)
    render(shown, f"---\n{text}\n---\n{text}", None, [])
    assert time.monotonic() - started < 20


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.text(),
        st.lists(
            st.sampled_from([*HOSTILE.values(), *BROKEN.values(), "---\n", "\n\n", "> ", "- ", "```\n", "-->"])
        ).map(
            "".join,
        ),
        st.dictionaries(st.text(), st.text()).map(
            lambda d: "---\n" + "\n".join(f"{k}: {v}" for k, v in d.items()) + "\n---\n"
        ),
    ),
)
@example("---\n---\n\ntext\n\n---\n")
@example("\ud800")
def test_any_source_card(source):
    shown = release(quants=["Q4_K_M"])
    card, footer = render(shown, source, "plot.svg", ["LICENSE"]), render_footer(shown, source)
    assert front_matter(card)["base_model_relation"] == "quantized"
    reader = read(body(card))
    for heading in ("Which file", "How it was measured", "How to verify it", "The original card"):
        assert ("h2",) in reader.around(heading)
    assert footer.endswith(FOOTER)
    assert ("p",) in read(SourceCard.parse(footer).text).around("Created using")
    card.encode()
    footer.encode()


@given(st.text())
def test_text_shows_itself(text):
    renderer = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    (block,) = [t for t in renderer.parse(f"x {inline(text)}") if t.type == "inline"]
    assert {child.type for child in block.children} <= {"text"}
    tokens = renderer.parse(fence(text))
    assert [token.type for token in tokens] == ["fence"]
    (span,) = [t for t in renderer.parse(f"x {code(text)} y") if t.type == "inline"]
    assert [child.type for child in span.children] in (["text", "code_inline", "text"], ["text"])


def test_closing_adds_nothing_to_what_is_whole():
    assert closing(GEMMA) == ""


def test_log_tells_prompt_and_verdicts(shown):
    log = testlog.render(shown.model_copy(update={"provenance": provenance(chat_template=True, prompt="a\n=== b")}))
    assert "=== prompt: through the model's chat template" in log
    assert "\n    === b\n" in log
    assert "=== IQ1_S: withheld\n" in log


def test_neighbours_that_the_text_does_not_tell_apart_are_named():
    def made(quant, kld):
        return result(quant, quality=quality(mean_kld=Estimate(value=kld, error=0.001)))

    shown = release(quants=[made("Q8_0", 0.01), made("Q6_K", 0.0120), made("Q4_K_M", 0.1), made("Q2_K", 0.102)])
    assert ladder.alike(shown.published, 0.0) == [("Q8_0", "Q6_K"), ("Q4_K_M", "Q2_K")]
    card = render(shown, None, None, [])
    assert "**Not told apart** by their mean KLD: `Q8_0` and `Q6_K`; `Q4_K_M` and `Q2_K`. Over four times" in card
    assert ladder.alike(release().published, 0.0) == []
    assert "Not told apart" not in render(release(), None, None, [])
    twin = made("Q6_K", 0.01)
    same = twin.model_copy(update={"job": "google/gemma-2b:Q5_K"})
    assert ladder.alike([twin, same], 0.0) == []
