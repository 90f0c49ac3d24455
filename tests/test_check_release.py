"""A card that lies is caught, licence and gating are the source's, and what is wrong is not published."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

import factories
import pytest
from bundles import entry, gguf
from test_card import BROKEN, GEMMA, HOSTILE
from test_source import SHA, model
from test_still_valid import steps

from pipeline import release, run
from pipeline.card import render, render_footer
from pipeline.check import release as check
from pipeline.check.names import names
from pipeline.errors import GateError
from pipeline.progress import Display
from pipeline.publish.folder import Folder
from pipeline.result import Answer, FileEntry, Released, Verdict, Withdrawal
from pipeline.source import Source
from pipeline.store import Store

LICENCE = FileEntry(name="LICENSE", size=5, sha256="a" * 64)
SOURCE = "---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE\nlanguage: [en, no]\n---\n# A model\n"


def made(**overrides):
    found = factories.release(quants=("Q2_K", "Q4_K_M"), withheld=("IQ1_S",), **overrides)
    return found.model_copy(update={"files": (*found.files, LICENCE)})


def judged(change=lambda card: card, original=SOURCE, style="full", licences=("LICENSE",), **overrides):
    """The verdicts on a card that was changed by hand after it was rendered."""
    of = made(**overrides)
    text = render(of, original, None, licences) if style == "full" else render_footer(of, original)
    changed = change(text)
    assert change.__name__ == "<lambda>" or changed != text
    return check.card(changed, of, style, original, licences)


def swapped(old, new):
    def change(card):
        assert old in card
        return card.replace(old, new)

    return change


def outcomes(verdicts):
    return [v.outcome for v in verdicts]


@pytest.mark.parametrize("original", [SOURCE, GEMMA, None, "# No front matter\n", "---\nlicense: mit\n---\n"])
def test_a_card_that_tells_the_truth(original):
    (verdict,) = judged(original=original)
    assert verdict.outcome == "pass"
    assert "names 2 published quants with their SHA-256, and 1 withheld" in verdict.seen


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_source_card_is_no_false_alarm(text):
    assert outcomes(judged(original=SOURCE + text)) == ["pass"]


def test_a_hostile_answer_is_no_false_alarm():
    text = "## Withheld\n\n- nothing\n\n## The original card\n\n| `x` | `" + "a" * 64 + "` | 1 |\n\n```\n## Files\n\nx"
    quants = [factories.result("Q2_K", answer=Answer(text=text, stopped=True))]
    of = factories.release(quants=quants, withheld=("IQ1_S",))
    assert outcomes(check.card(render(of, None, None, []), of, "full", None, ())) == ["pass"]


@pytest.mark.parametrize("original", BROKEN.values(), ids=BROKEN)
def test_a_front_matter_that_cannot_be_read_is_a_warning(original):
    (verdict,) = judged(original=original)
    assert verdict.outcome == "warn"
    assert "so that no licence and no gating is taken over" in verdict.seen


Q2 = factories.digest("gemma-2b-Q2_K.gguf")
LIES = {
    "another sum": (swapped(Q2, "b" * 64), f"the SHA-256 of gemma-2b-Q2_K.gguf, which is {Q2}"),
    "no sum": (swapped(f"| gemma-2b-Q2\\_K.gguf | `{Q2}`", "| x | y"), "gives None as the SHA-256 of gemma-2b-Q2_K"),
    "a file more": (
        swapped("| imatrix.gguf | `", f"| more.gguf | `{'c' * 64}` | 1 |\n| imatrix.gguf | `"),
        "the SHA-256 of 'more.gguf', which is not in the release",
    ),
    "no link": (swapped("](gemma-2b-Q2_K.gguf)", "](other.gguf)"), "no link to gemma-2b-Q2_K.gguf in its table"),
    "nothing withheld": (swapped("## Withheld", "## Elsewhere"), "does not say that IQ1_S is withheld"),
    "no licence": (swapped("license: other\n", ""), "license is 'other' in the source's card, and None in"),
    "another licence": (
        swapped("license: other\n", "license: mit\n"),
        "license is 'other' in the source's card, and 'mit'",
    ),
    "no licence name": (swapped("license_name: mine\n", ""), "license_name is 'mine'"),
    "a language less": (swapped("- en\n", ""), "language is ['en', 'no'] in the source's card, and ['no']"),
    "another base": (
        swapped("base_model: google/gemma-2b", "base_model: google/gemma"),
        "gives base_model 'google/gemma'",
    ),
    "no relation": (swapped("base_model_relation: quantized\n", ""), "base_model_relation None"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_card_that_lies(lie):
    change, said = LIES[lie]
    found = judged(change)
    assert {(v.check, v.outcome) for v in found} == {("card", "fail")}
    assert any(said in v.seen for v in found), found
    assert all("report it" in v.advice for v in found)


def test_what_is_missing_or_withdrawn_must_be_said():
    gone = (Withdrawal(quant="Q6_K", artifact="x", reason="Loops", date="2026-11-25"),)
    assert outcomes(judged(missing=("Q5_K_M",), withdrawn=gone)) == ["pass"]
    for heading, quant in (("Missing", "Q5_K_M"), ("Withdrawn", "Q6_K")):
        (verdict,) = judged(swapped(f"## {heading}\n", "## x\n"), missing=("Q5_K_M",), withdrawn=gone)
        assert verdict.seen == f"the card does not say that {quant} is {heading.lower()}"


def test_the_gating_prompts_are_taken_over():
    (verdict,) = judged(swapped("extra_gated_button_content: Acknowledge license\n", ""), GEMMA)
    assert verdict.outcome == "fail"
    assert "extra_gated_button_content is 'Acknowledge license'" in verdict.seen


@pytest.mark.parametrize("value", ["{a: {b: {c: {d: {e: f}}}}}", "[1.5]", "'" + "x" * 30_000 + "'"])
def test_a_value_that_is_left_out_on_purpose_is_a_warning(value):
    (verdict,) = judged(original=f"---\nlicense: mit\nextra_gated_fields: {value}\n---\n")
    assert verdict.outcome == "warn"
    assert verdict.seen.startswith("extra_gated_fields is ")
    assert len(verdict.seen) < 250


def test_a_licence_that_is_a_list_is_a_warning():
    (verdict,) = judged(original="---\nlicense: [mit, other]\n---\n")
    assert (verdict.outcome, verdict.seen[:26]) == ("warn", "license is ['mit', 'other'")


def test_a_licence_file_that_is_not_copied():
    (verdict,) = judged(licences=("LICENSE", "NOTICE"))
    assert verdict.outcome == "fail"
    assert verdict.seen == "the source's licence file 'NOTICE' is not in the release"


def test_what_a_terminal_obeys_is_not_repeated():
    (verdict,) = judged(original='---\nlicense: ["\\e[31m\\u202e"]\n---\n')
    assert "\x1b" not in verdict.seen
    assert "\u202e" not in verdict.seen


def test_the_footer_style():
    (verdict,) = judged(original=GEMMA, style="footer", licences=())
    assert verdict.outcome == "warn"
    assert "base_model None" in verdict.seen
    assert "will not list this repo under google/gemma-2b" in verdict.seen
    based = GEMMA.replace("license:", "base_model: google/gemma-2b\nbase_model_relation: quantized\nlicense:")
    (verdict,) = judged(original=based, style="footer", licences=())
    assert verdict.outcome == "pass"
    (verdict,) = judged(swapped("license: gemma\n", ""), based, "footer", ())
    assert "license is 'gemma'" in verdict.seen


# The model that it is made of


def test_the_base_model_of_a_directory_is_not_asked_for(tmp_path):
    source = Source("a/b", None, tmp_path, (), (), {}, "", {}, None)
    assert check.base_model(source, None).outcome == "skip"


def test_the_base_model_at_the_revision_that_was_looked_at_needs_no_asking():
    verdict = check.base_model(steps().source, "a" * 40)
    assert (verdict.check, verdict.outcome, verdict.seen) == (
        *("base model", "pass"),
        "the Hub has google/gemma-2b at aaaaaaaaaaaa",
    )


def test_the_base_model_at_another_revision_is_asked_for(loopback_hub, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text("{}")
    loopback_hub.add("google/gemma-2b", tmp_path / "source", SHA)
    assert check.base_model(steps().source, SHA).outcome == "pass"
    verdict = check.base_model(steps().source, "d" * 40)
    assert verdict.outcome == "warn"
    assert verdict.seen == f"the Hub has google/gemma-2b no longer at {'d' * 40}, which this release was made from"


# Who may have it


@pytest.mark.parametrize(
    ("gated", "rule", "is_open", "outcome"),
    [
        ("manual", "inherit", True, "fail"),
        ("auto", "inherit", True, "fail"),
        ("manual", "inherit", False, "pass"),
        ("manual", "open", True, "warn"),
        ("manual", "open", False, "pass"),
        ("manual", "inherit", None, "skip"),
    ],
)
def test_gating(gated, rule, is_open, outcome):
    (verdict,) = check.gating("google/gemma-2b", gated, rule, is_open=is_open)
    assert (verdict.check, verdict.outcome) == ("card", outcome)
    assert f"google/gemma-2b is gated ({gated})" in verdict.seen
    assert check.gating("google/gemma-2b", "no", rule, is_open=is_open) == []
    assert check.gating("google/gemma-2b", None, rule, is_open=is_open) == []


# What is wrong is not published


@pytest.fixture
def shop(tmp_path):
    return run.Workshop(
        Store(tmp_path / "store", Display(io.StringIO())), tmp_path / "results", Folder(tmp_path / "out")
    )


def said(shop):
    return shop.store.display._stream.getvalue()


def bundled(tmp_path, verdicts=(), quants=("Q8_0", "Q4_K_L")):
    """A release that is put together for real; `verdicts` are added to its own."""
    results, places = [], {"imatrix.gguf": tmp_path / "imatrix.gguf"}
    (tmp_path / "imatrix.gguf").write_bytes(gguf("imatrix"))
    for quant in quants:
        name = f"gemma-2b-{quant}.gguf"
        places[name] = tmp_path / name
        places[name].write_bytes(gguf(name))
        sums = {"size": len(gguf(name)), "sha256": entry(name, gguf(name)).sha256}
        results.append(factories.result(quant, file=factories.file(name, **sums)))
    provenance = factories.provenance(imatrix=entry("imatrix.gguf", gguf("imatrix")))
    draft = factories.release(quants=results, provenance=provenance, repo="me/gemma-2b-GGUF")
    store = Store(tmp_path / "plots", Display(io.StringIO()))
    made = release.bundle(store, draft, "full", SOURCE, places, {"LICENSE": b"terms"})
    of = made.release.model_copy(update={"verdicts": (*made.release.verdicts, *verdicts)})
    return replace(made, release=of)


def publish(shop, monkeypatch, bundle, gated="no", gating="inherit"):
    monkeypatch.setattr(release, "assemble", lambda *_: bundle)
    source = SimpleNamespace(id="google/gemma-2b", gated=gated)
    run.publish(shop, SimpleNamespace(model=replace(model(), gating=gating), source=source), bundle.release.results)


def records(tmp_path):
    return [Released.model_validate_json(p.read_bytes()) for p in (tmp_path / "results" / "releases").glob("*")]


def test_a_release_keeps_what_was_found_out(shop, tmp_path, monkeypatch):
    bundle = bundled(tmp_path)
    assert [(v.check, v.outcome) for v in bundle.release.verdicts] == [("names", "warn"), ("card", "pass")]
    publish(shop, monkeypatch, bundle)
    (record,) = records(tmp_path)
    assert [(v.check, v.outcome) for v in record.verdicts] == [("names", "warn"), ("card", "pass"), ("target", "pass")]
    assert record.verdicts[-1].seen == "8 files read back with the SHA-256 that were released"
    assert shop.target.last("me/gemma-2b-GGUF").verdicts == bundle.release.verdicts
    assert "warning: me/gemma-2b-GGUF, names: the Hub reads no quant in gemma-2b-Q4_K_L.gguf" in said(shop)


def test_a_gated_source_in_a_folder_is_said(shop, tmp_path, monkeypatch):
    publish(shop, monkeypatch, bundled(tmp_path), gated="manual")
    (record,) = records(tmp_path)
    assert [v.seen for v in record.verdicts if v.outcome == "skip"] == [
        "google/gemma-2b is gated (manual), and a folder gates nothing: gate the repo that it goes to"
    ]


def test_a_fault_stops_it_before_anything_is_published(shop, tmp_path, monkeypatch):
    faults = [Verdict(check="card", outcome="fail", seen=f"fault {n}", advice="Do this.") for n in (1, 2)]
    with pytest.raises(GateError) as raised:
        publish(shop, monkeypatch, bundled(tmp_path, faults))
    assert raised.value.exit_code == 1
    assert str(raised.value).splitlines() == [
        "me/gemma-2b-GGUF is not released: fault 1. Do this.",
        "me/gemma-2b-GGUF is not released: fault 2. Do this.",
    ]
    assert not shop.target.root.exists()
    assert records(tmp_path) == []


def test_names_that_clash_stop_it(shop, tmp_path, monkeypatch):
    with pytest.raises(GateError, match=r"`-hf repo:F16` leads to gemma-2b-BF16.gguf, not to gemma-2b-F16.gguf"):
        publish(shop, monkeypatch, bundled(tmp_path, quants=("F16", "BF16")))
    assert not shop.target.root.exists()


def test_a_card_that_is_rendered_wrongly_stops_it(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(release.card, "render", lambda *_: "---\nlicense: mit\n---\n# Nothing\n")
    with pytest.raises(GateError, match="the card gives None as the SHA-256 of gemma-2b-Q8_0"):
        publish(shop, monkeypatch, bundled(tmp_path))


def test_the_names_of_a_whole_release_are_judged(tmp_path):
    of = bundled(tmp_path).release
    quants = {r.quant: [f.name for f in r.files] for r in of.published}
    assert names(quants, ["imatrix.gguf"]) == [v for v in of.verdicts if v.check == "names"]
