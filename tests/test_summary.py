"""The pages of a run and of a job: goldens for what they say, and that no text and no number of jobs breaks them."""

from __future__ import annotations

import re

import pytest
from factories import BITS, fallbacks, file, provenance, release, result
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline import summary
from pipeline.actions import SUMMARY_BYTES, Links
from pipeline.card import testlog
from pipeline.plan import Job, ModelPlan, Plan
from pipeline.result import Answer, Failure, Released, Verdict
from pipeline.summary.chart import MOST_BARS, chart
from pipeline.summary.standing import standing

GEMMA = "google/gemma-2b"
LINKS = Links("https://github.com/me/quants/actions/runs/17")
QUANTS = ("Q8_0", "Q6_K", "Q4_K_M", "Q2_K")
FAILED = """\
llama-quantize failed with exit code 1 while quantizing google/gemma-2b:Q6_K.
Its last lines:
  | [ 151/ 164] blk.16.ffn_down.weight - [16384, 2048, 1, 1], type = bf16, converting to q6_K ..
  | ```
  | llama_model_quantize: failed to quantize: basic_ios::clear: iostream error
It ran: llama-quantize --imatrix imatrix.gguf reference.gguf quant.gguf Q6_K 16"""
MISTAKES = """\
matrix.yml:9:3: unknown key `promt`; did you mean `prompt`?
matrix.yml:12:15: `revision` must be a commit of 40 lower-case hex digits"""
EVIL = "</details>|[a](https://evil.example)![b](x)<img src=x onerror=1>`</code>```\n# head\n\n| a |\n|--|\n<!--"


def plan(quants=QUANTS, source=GEMMA, action="run"):
    name = source.partition("/")[2]
    jobs = tuple(Job(f"{source}:{q}", f"{name}-{q}.gguf", action, "not made yet") for q in quants)
    return ModelPlan(source, "f" * 40, f"nold/{name}-GGUF", "0123456789abcdef", jobs, due=True)


def plans(*models):
    return Plan(models or (plan(),))


def made(*quants, withheld=(), source=GEMMA, **overrides):
    return [result(q, withheld=q in withheld, **{"job": f"{source}:{q}", "seconds": 187.4} | overrides) for q in quants]


def released(*quants, source=GEMMA, **overrides):
    repo = f"nold/{source.partition('/')[2]}-GGUF"
    return Released(
        **{
            "source": source,
            "repo": repo,
            "release": "0123456789abcdef",
            "place": f"https://huggingface.co/{repo}",
            "published": quants,
            "changed": True,
            "uploaded": 2_123_456,
        }
        | overrides
    )


def failed(subject=f"{GEMMA}:Q6_K", command="job", exit_code=3, message=FAILED):
    return Failure(command=command, subject=subject, exit_code=exit_code, message=message)


def head(page):
    return page.splitlines()[0]


def states(*records):
    return {job.quant: job.state for model in standing(*records) for job in model.jobs}


def parsed(page):
    return MarkdownIt("commonmark", {"html": True}).enable("table").parse(page)


def inlines(page):
    return [child for token in parsed(page) if token.type == "inline" for child in token.children]


def written(page):
    """Every link, picture and piece of HTML that a reader of Markdown finds in a page."""
    links = [c.attrs.get("href") or c.attrs.get("src") for c in inlines(page) if c.type in ("link_open", "image")]
    html = [c.content for c in inlines(page) if c.type == "html_inline"]
    return links, html + [token.content for token in parsed(page) if token.type == "html_block"]


def test_all_published(golden):
    page = summary.run_page(plans(), made(*QUANTS), [], [released(*QUANTS)], LINKS)
    assert head(page) == "## ✅ 4 of 4 published, 0 withheld, 0 failed"
    assert "https://huggingface.co/nold/gemma-2b-GGUF/blob/main/gemma-2b-Q8_0.gguf" in page
    golden("summary/published.md", page)


def test_one_withheld_one_failed_one_lost(golden):
    page = summary.run_page(plans(), made("Q8_0", "Q2_K", withheld=["Q2_K"]), [failed()], [released("Q8_0")], LINKS)
    assert head(page) == "## ❌ 1 of 4 published, 1 withheld, 1 failed, 1 lost"
    for told in ("Take a larger type, or loosen the gate.", "iostream error", "the runner probably went away"):
        assert told in page
    golden("summary/trouble.md", page)


def test_dry_run(golden):
    page = summary.run_page(plans(), made(*QUANTS, withheld=["Q2_K"]), [], [], LINKS)
    assert head(page) == "## ⚠️ 3 of 4 passed, 1 withheld, 0 failed; nothing is published: dry run"
    assert page.count("passed, not published: dry run") == 3
    golden("summary/dry-run.md", page)


def test_nothing_to_do(golden):
    page = summary.run_page(plans(plan(action="published")), [], [], [], LINKS)
    assert head(page) == "## ✅ Nothing to do: everything that matrix.yml names is published."
    assert summary.run_page(Plan(()), [], [], [], LINKS) == head(page) + "\n"
    made_already = summary.run_page(plans(plan(action="reuse")), [], [], [], LINKS)
    assert head(made_already).endswith("published or made and in the store.")
    golden("summary/nothing.md", page)


def held(quant, action):
    """A model with one quant published, and one that the plan leaves alone."""
    jobs = (
        Job(f"{GEMMA}:Q8_0", "gemma-2b-Q8_0.gguf", "published", "release 0123 has it"),
        Job(f"{GEMMA}:{quant}", f"gemma-2b-{quant}.gguf", action, "in release 0123: same top token 50 %"),
    )
    return ModelPlan(GEMMA, "f" * 40, "nold/gemma-2b-GGUF", "0123456789abcdef", jobs, due=True)


@pytest.mark.parametrize("action", ["withheld", "withdrawn"])
def test_what_was_withheld_before_is_as_visible_as_what_is_now(action):
    page = summary.run_page(plans(held("Q2_K", action)), [], [], [], LINKS)
    assert head(page).endswith("is published, but for what was withheld or withdrawn before.")
    assert f"- ⛔ **`google/gemma-2b:Q2_K`**, {action} in release 0123: same top token 50 %" in page
    page = summary.run_page(plans(held("Q2_K", action)), [], [], [released("Q8_0")], LINKS)
    assert f"⛔\N{NO-BREAK SPACE}{action}" in page
    assert f"- ⛔ **`google/gemma-2b:Q2_K`**, {action} in release 0123" in page


def test_a_job_that_passed(golden):
    swapped = file("gemma-2b-Q4_K_M.gguf", 5.2, fallbacks=fallbacks(3))
    page = summary.job_page(made("Q4_K_M", file=swapped)[0], LINKS)
    assert head(page) == "## ✅ `google/gemma-2b:Q4_K_M`: passed"
    assert "3 of 164 tensors (3 of Q4\\_K as Q5\\_0)" in page
    golden("summary/job.md", page)


def test_a_job_that_is_withheld_and_one_that_failed(golden):
    held = summary.job_page(made("Q2_K", withheld=["Q2_K"])[0], LINKS)
    assert head(held) == "## ⛔ `google/gemma-2b:Q2_K`: withheld"
    broken = summary.job_page(failed(), LINKS)
    assert head(broken) == "## ❌ `google/gemma-2b:Q6_K`: job failed, exit code 3"
    golden("summary/job-trouble.md", held + "\n" + broken)


def test_the_same_answer_is_shown_once():
    same = Answer(text="the same", stopped=True)
    page = summary.job_page(made("Q8_0", answer=same, provenance=provenance(reference_answer=same))[0], LINKS)
    assert page.count("the same\n") == 1
    assert "Word for word the reference's answer" in page


def test_a_file_that_was_not_run_has_no_answer():
    verdict = Verdict(check="blocks", outcome="fail", seen="NaN as scale in blk.0.ffn_up.weight", advice="Do it again.")
    (broken,) = made("Q8_0", answer=Answer(text="", stopped=False), verdicts=(verdict,), quality=None, speed=None)
    page = summary.job_page(broken, LINKS)
    assert "**This file's answer**\n\nNone: the file is broken.\n\n**The reference's**" in page
    assert "no answer: the file is broken\n" in testlog.render(release(quants=[broken]))


@pytest.mark.parametrize(
    ("results", "failures", "releases", "state"),
    [
        (made("Q8_0"), [], [released("Q8_0")], "published"),
        (made("Q8_0"), [], [], "passed"),
        (made("Q8_0"), [], [released("Q2_K")], "withdrawn"),
        (made("Q8_0", withheld=["Q8_0"]), [], [released("Q8_0")], "withheld"),
        (made("Q8_0"), [failed(f"{GEMMA}:Q8_0", "stage", 4)], [], "failed"),
        (made("Q8_0"), [failed(f"{GEMMA}:Q8_0", "stage", 4)], [released("Q8_0")], "published"),
        (made("Q8_0"), [failed(f"{GEMMA}:Q8_0")], [], "passed"),
        ([], [failed(f"{GEMMA}:Q8_0")], [released("Q8_0")], "failed"),
        ([], [failed(GEMMA, "prepare")], [], "not run"),
        ([], [], [released("Q8_0")], "kept"),
        ([], [], [], "lost"),
    ],
)
def test_what_became_of_a_job(results, failures, releases, state):
    assert states(plans(plan(["Q8_0"])), results, failures, releases)["Q8_0"] == state


def test_what_is_published_already_is_kept_and_not_counted():
    models = plans(plan(["Q8_0"]), plan(source="a/b", action="published"))
    page = summary.run_page(models, made("Q8_0"), [], [released("Q8_0", "Q6_K")], LINKS)
    assert head(page) == "## ✅ 1 of 1 published, 0 withheld, 0 failed, 5 kept from the last release"
    assert "1 model had nothing to be done" in page
    assert "a/b" not in page


def test_a_release_that_failed_or_is_lost_is_no_dry_run():
    broken = failed(GEMMA, "release", 4, "The Hub answered 503.")
    page = summary.run_page(plans(), made(*QUANTS), [broken], [], LINKS)
    assert (
        head(page) == "## ❌ 0 of 4 published, 0 withheld, 0 failed, 4 passed but not published, 1 model not released"
    )
    assert "passed, not published: its release failed" in page
    both = plans(plan(["Q8_0"]), plan(["Q8_0"], source="a/b"))
    page = summary.run_page(
        both, made("Q8_0") + made("Q8_0", source="a/b"), [], [released("Q8_0", source="a/b")], LINKS
    )
    assert "passed, not published: its release is lost" in page
    assert "- ❌ **`release google/gemma-2b`**" in page


def test_what_went_right_later_is_no_failure():
    first_try = [failed(GEMMA, "prepare"), failed(f"{GEMMA}:Q8_0"), failed(GEMMA, "release", 4)]
    page = summary.run_page(plans(plan(["Q8_0"])), made("Q8_0"), first_try, [released("Q8_0")], LINKS)
    assert "Failed" not in page
    assert head(page).startswith("## ✅ 1 of 1")


def test_without_a_plan_the_records_are_all_there_is():
    page = summary.run_page(None, made("Q8_0", "Q2_K", withheld=["Q2_K"]), [failed()], [], Links())
    assert head(page) == "## ❌ 1 of 3 passed, 1 withheld, 1 failed; nothing is published: dry run"
    assert "`python -m pipeline job google/gemma-2b:Q6_K` again" in page
    assert "](http" not in page


@pytest.mark.parametrize(
    ("exit_code", "told"),
    [
        (2, "Correct what the message names"),
        (3, "re-run the failed jobs: they go on from what the store has"),
        (4, "wait for the Hub"),
        (5, "the store's clean-up button"),
        (130, "Re-run the failed jobs"),
    ],
)
def test_the_next_action_follows_from_how_it_ended(exit_code, told):
    assert told in summary.job_page(failed(exit_code=exit_code), LINKS)
    assert f"[run's log]({LINKS.run})" in summary.job_page(failed(exit_code=exit_code), LINKS)


def test_mistakes_of_a_matrix_stand_in_a_list():
    page = summary.run_page(None, [], [failed(GEMMA, "prepare", 2, MISTAKES)], [], LINKS)
    assert "- matrix.yml:9:3: unknown key \\`promt\\`" in page
    assert "\n- matrix.yml:12:15" in page


def test_a_folder_gets_no_links():
    page = summary.run_page(plans(), made(*QUANTS), [], [released(*QUANTS, place="out/gemma-2b-GGUF")], LINKS)
    assert "at `out/gemma-2b-GGUF`" in page
    assert "/blob/" not in page
    evil = "https://huggingface.co/a) [b](https://evil.example"
    assert written(summary.run_page(plans(), made(*QUANTS), [], [released(*QUANTS, place=evil)], LINKS))[0] == []


def test_of_many_models_each_is_folded():
    sources = [f"a/m{n}" for n in range(5)]
    page = summary.run_page(
        plans(*(plan(source=s) for s in sources)),
        [r for s in sources for r in made(*QUANTS, source=s)],
        [],
        [released(*QUANTS, source=s) for s in sources],
        LINKS,
    )
    assert page.count("<details><summary>") == page.count("</details>") == 5
    assert "a/m0: ✅\N{NO-BREAK SPACE}4 published</summary>" in page


@pytest.mark.parametrize("count", [2, 7, 25])
def test_a_chart_has_a_bar_for_each_file_by_size(count):
    results = made(*list(BITS)[-count:])
    drawn = chart(results[::-1])
    labels = re.search(r"x-axis .* \[(.*)\]", drawn)[1].split(", ")
    assert len(labels) == len(re.search(r"bar \[(.*)\]", drawn)[1].split(", ")) == count
    smallest = min(results, key=lambda r: r.file.size)
    assert labels[0].startswith(f'"{smallest.quant} ')


def test_a_chart_says_what_is_withheld_and_holds_no_foreign_words():
    assert " withheld" in chart(made("Q8_0", "Q2_K", withheld=["Q2_K"]))
    odd = made("Q8_0", '"]\n%%{init}%%\nclick```') + made("Q2_K")
    labels = re.search(r"x-axis .* \[(.*)\]", chart(odd))[1]
    assert re.fullmatch(r'("[A-Za-z0-9_.\- ]+"(, )?)+', labels)
    assert chart(made("Q8_0")) is None
    assert chart(made(*(f"Q{n}" for n in range(MOST_BARS + 1)))) is None


texts = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from([*EVIL.split("\n"), EVIL, "|", "`", "```", "~~~", "\n", "\n\n", "  | ", "<", "](x)", "www.a.b"])
    ).map("".join),
)


@settings(max_examples=60, deadline=None)
@given(texts)
@example(EVIL)
@example("Its last lines:\n  | ```\n  | </details><script>\nIt ran: `")
@example("\ud800")
def test_no_text_becomes_a_link_or_html(text):
    verdict = Verdict(check=text, outcome="fail", seen=text, advice=text)
    odd = result(
        "Q4_K_M",
        job=f"{GEMMA}:{text}",
        verdicts=(verdict,),
        answer=Answer(text=text, stopped=True),
        provenance=provenance(prompt=text, reference_answer=Answer(text=text * 2, stopped=False)),
    )
    odd = odd.model_copy(update={"recipe": odd.recipe.model_copy(update={"name": text})})
    failures = [failed(f"{text}:{text}", message=text), failed(text, "prepare", 2, text)]
    release = released("Q8_0", text, place=text, repo=text)
    page = summary.run_page(plans(), [odd, *made("Q8_0")], failures, [release], LINKS)
    links, html = written(page)
    assert set(links) <= {LINKS.run}
    assert all(re.fullmatch(r"</?sub>", tag) for tag in html), html
    for record in (odd, *failures):
        links, html = written(summary.job_page(record, LINKS))
        assert set(links) <= {LINKS.run}
        assert set(html) <= {"<sub>", "</sub>"}
    page.encode("utf-8", "strict")


@settings(max_examples=30, deadline=None)
@given(texts)
@example(EVIL)
def test_no_name_leaves_its_fold(text):
    models = plans(*(plan(source=f"a{n}/{text}") for n in range(6)))
    _, html = written(summary.run_page(models, [], [], [], LINKS))
    assert sum(block.count("<details><summary>") for block in html) == 6
    assert all(re.fullmatch(r"<details><summary>[^<>]*</summary>\n?|</details>\n?|</?sub>", block) for block in html), (
        html
    )


def many(models, quants, **result_overrides):
    names = list(BITS)[:quants]
    template = {q: made(q, withheld=["IQ1_S"], **result_overrides)[0] for q in names}
    sources = [f"owner/model-{n:04}" for n in range(models)]
    results = [template[q].model_copy(update={"job": f"{s}:{q}"}) for s in sources for q in names]
    return plans(*(plan(names, source=s) for s in sources)), results, sources, names


def test_25_000_jobs_fit():
    planned, results, sources, names = many(1000, 25)
    everything = [released(*names, source=s) for s in sources]
    page = summary.run_page(planned, results, [], everything, LINKS)
    assert SUMMARY_BYTES // 2 < len(page.encode()) < SUMMARY_BYTES
    assert head(page) == "## ⚠️ 24,000 of 25,000 published, 1,000 withheld, 0 failed"
    assert page.count("- ⛔") == 100
    assert "- and 900 more: " in page
    assert re.search(r"Left out, since GitHub shows 1 MiB a step: the tables of \d+ models", page)
    assert page.count("<details>") == page.count("</details>")


def test_a_model_of_25_000_quants_fits():
    quants = [f"Q{n}" for n in range(25_000)]
    page = summary.run_page(plans(plan(quants)), made("Q0"), [], [released("Q0")], LINKS)
    assert len(page.encode()) < SUMMARY_BYTES
    assert "the tables of 1 model;" in page
    assert "- and 24,799 more: " in page


@pytest.mark.parametrize(
    "message",
    [
        "x" * 2_000_000,
        "line\n" * 300_000,
        "  | `\n" * 300_000,
        (f"{chr(0x1F600) * 2_000}\n" * 20) + (f"  | {chr(0x1F600) * 2_000}\n" * 20),
    ],
    ids=["a line", "lines", "ticks", "wide"],
)
def test_any_number_of_failures_of_any_length_fits(message):
    planned, _, sources, names = many(1000, 25)
    failures = [failed(f"{s}:{q}", message=message) for s in sources for q in names[1:]]
    page = summary.run_page(planned, [], failures, [], LINKS)
    assert len(page.encode()) < SUMMARY_BYTES
    assert "0 withheld, 24,000 failed, 1,000 lost" in head(page)
    assert re.search(r"^- and 23,9\d\d more: ", page, re.MULTILINE)
    assert len(summary.job_page(failures[0], LINKS).encode()) < SUMMARY_BYTES


def test_hostile_names_fit():
    wide = chr(0x1F600) * 1_000
    quants = [f"{wide[: 900 - n]}" for n in range(800)]
    everything = [f"a/{wide}:{q}" for q in quants]
    results = [r for q in quants[:200] for r in made(f"h{q}", withheld=[f"h{q}"], source=f"a/{wide}")]
    failures = [failed(job, message=wide) for job in everything[300:600]]
    page = summary.run_page(plans(plan(quants, source=f"a/{wide}")), results, failures, [], LINKS)
    assert len(page.encode()) < SUMMARY_BYTES
    assert {"## Withheld", "## Failed", "## Lost"} <= set(page.splitlines())


def test_long_reasons_and_answers_fit():
    long = "<&>" * 200_000
    verdict = Verdict(check=long, outcome="fail", seen=long, advice=long)
    planned, results, _, _ = many(40, 25, verdicts=(verdict,) * 20, answer=Answer(text=long, stopped=False))
    page = summary.run_page(planned, results, [], [], LINKS)
    assert len(page.encode()) < SUMMARY_BYTES
    assert "1,000 withheld" in head(page)
    assert len(summary.job_page(results[0], LINKS).encode()) < SUMMARY_BYTES


def test_what_a_release_itself_passed_and_its_warnings():
    verdicts = (
        Verdict(check="names", outcome="warn", seen="the Hub reads no quant in m-X.gguf | <b>", advice="Rename it."),
        Verdict(check="base model", outcome="pass", seen="there"),
        Verdict(check="card", outcome="pass", seen="true"),
        Verdict(check="card", outcome="skip", seen="a folder gates nothing"),
        Verdict(check="target", outcome="pass", seen="9 files"),
    )
    page = summary.run_page(plans(), made("Q8_0"), [], [released("Q8_0", verdicts=verdicts)], Links())
    line = next(line for line in page.splitlines() if line.startswith("Released as"))
    assert line.endswith("this step uploaded 2\N{NO-BREAK SPACE}MB. Checked: base model, card, target.")
    assert "- ⚠️ names: the Hub reads no quant in m-X.gguf \\| \\<b\\>. Rename it." in page.splitlines()
    many = summary.run_page(plans(), made("Q8_0"), [], [released("Q8_0", verdicts=verdicts[:1] * 7)], Links())
    assert many.count("- ⚠️ names") == 5
    assert "- and 2 more; the `release.json`" in many
    none = summary.run_page(plans(), made("Q8_0"), [], [released("Q8_0")], Links())
    assert "Checked" not in none


def test_a_release_that_a_gate_held_back_says_what_to_do():
    said = "nold/gemma-2b-GGUF is not released: `-hf repo:F16` leads to another. Take one out."
    page = summary.run_page(plans(), made("Q8_0"), [failed(GEMMA, "release", 1, said)], [], Links())
    assert "1 model not released" in head(page)
    assert "**Next:** Correct what the message names" in page
