"""Answers are judged against the reference's, as good and broken files of SmolLM2-135M were seen to give them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from machine import ROOT

from pipeline import prompt
from pipeline.check import behaviour
from pipeline.result import Answer
from pipeline.toolchain import tools

SEEN = json.loads((ROOT / "tests/data/answers.json").read_text(encoding="utf-8"))
"""Answers of real files by mode (through the chat template, or not) and type, the reference's among them."""


def said(text, *, stopped=True):
    return Answer(text=text, stopped=stopped)


def seen(mode, quant):
    return [Answer.model_validate(answer) for answer in SEEN[mode][quant]]


GOOD = [
    said("A large language model is a program that predicts the next word of a text."),
    said("The capital of France is Paris."),
    said("Apple\nPear\nPlum\nCherry\nQuince"),
    said("```python\ndef larger(a, b):\n    return a if a > b else b\n```"),
    said("Eine Woche hat sieben Tage."),
    said("six, seven, eight, nine, ten."),
]
LOOP = said("It is a model. " * 9, stopped=False)


def outcome(quant, reference=GOOD):
    (verdict,) = behaviour.verdicts(quant, reference)
    return verdict.outcome, verdict.seen


def replaced(answers, count):
    """The good answers, the first `count` of them by others."""
    return [*answers[:count], *GOOD[count:]]


def test_the_same_answers_pass():
    assert outcome(GOOD) == ("pass", "the same answers to all 6 prompts, at temperature 0")


def test_agreement_is_shown_and_decides_nothing():
    other = [said("Large words.", stopped=True)] * 6
    found = outcome(other)
    assert found[0] == "pass"
    assert found[1].startswith(
        "0 of 6 answers are the reference's, the first 0 of its 15 words to the test prompt, and "
    )


def test_a_file_that_does_not_run_fails():
    assert outcome(None) == ("fail", "llama-completion could not run the file")


@pytest.mark.parametrize(
    ("silent", "expected"), [(0, "pass"), (1, "pass"), (2, "warn"), (3, "warn"), (4, "fail"), (6, "fail")]
)
def test_silence(silent, expected):
    found = outcome(replaced([said("")] * 6, silent))
    assert found[0] == expected
    if expected != "pass":
        assert found[1] == f"nothing is answered on {silent} of 6 prompts to which the reference answers well"


def test_silence_to_the_one_prompt_there_is_fails():
    assert outcome([said("")], GOOD[:1])[0] == "fail"
    assert outcome([said("")] * 6, [said("")] * 6)[0] == "pass"
    assert outcome([said("")] * 6, [said("", stopped=False)] * 6)[0] == "pass"


@pytest.mark.parametrize(("loops", "expected"), [(1, "pass"), (2, "pass"), (3, "warn"), (4, "fail"), (6, "fail")])
def test_loops(loops, expected):
    found = outcome(replaced([LOOP] * 6, loops))
    assert found[0] == expected
    if expected != "pass":
        assert found[1] == f"the answer repeats itself on {loops} of 6 prompts to which the reference answers well"


def test_a_base_model_that_repeats_itself_passes_when_its_reference_does():
    """The seed's case: gemma-2b says one line over and over to its test prompt."""
    line = "\n\nWhat is a Large Language Model?\n\nA Large Language Model is a type of artificial intelligence."
    babble = [said(line * 4, stopped=False), *[said(f"{n}. " * 30, stopped=False) for n in "12345"]]
    other = [said(line[::-1] * 4, stopped=False), *babble[1:]]
    assert outcome(babble, babble)[0] == "pass"
    assert outcome(other, babble)[0] == "pass"
    # The reference loops on two of six, the quant on all.
    assert outcome([LOOP] * 6, replaced([LOOP] * 6, 2))[0] == "warn"


def test_characters_that_are_no_text():
    rubbish = said("\ufffd\x01 so\ufffd \ue000it\ufffd goes \ufffd on", stopped=False)
    assert outcome(replaced([rubbish] * 6, 4))[0] == "fail"
    assert "holds characters that are no text on 6 of 6 prompts" in outcome([rubbish] * 6)[1]
    assert outcome([rubbish] * 6, [rubbish] * 6)[0] == "pass"
    cut = said(GOOD[0].text + " \U0001f999 \ufffd\ufffd")
    assert outcome([cut, *GOOD[1:]])[0] == "pass"


def test_another_script():
    other = said("это совсем другой язык")
    assert outcome(replaced([other] * 6, 4))[0] == "fail"
    assert "in a script that the reference never uses on 6 of 6" in outcome([other] * 6)[1]
    assert outcome([*GOOD[:5], other])[0] == "pass"
    assert outcome([*GOOD[:4], other, other])[0] == "warn"
    assert outcome([other] * 6, [*GOOD[:5], other])[0] == "pass"


def test_what_never_ends_warns():
    endless = [said(answer.text, stopped=False) for answer in GOOD]
    assert outcome(endless) == ("warn", "no answer ends, where the reference ends 6 of 6")
    assert outcome([GOOD[0], *endless[1:]])[0] == "pass"
    assert outcome(endless, [*GOOD[:2], *endless[2:]])[0] == "pass"


def test_what_never_ends_and_has_nothing_in_common_fails():
    salad = [said(f"joice {n} print of to ofleveland yet and ons {n} rokes", stopped=False) for n in range(6)]
    found = outcome(salad)
    assert found[0] == "fail"
    assert found[1].startswith("the answers are incoherent: no answer ends, where the reference ends 6 of 6, and they")


@pytest.mark.parametrize(("mode", "quant"), [(m, q) for m, quants in SEEN.items() for q in quants])
def test_real_answers(mode, quant):
    """Files of a mean KLD above 5 nats babble and fail; those below do not, be they as bad as IQ2_XXS here.

    "padded" is the same model with zeros around its matrices, so that rows divide into blocks and no tensor falls back.
    """
    found = behaviour.verdicts(seen(mode, quant), seen(mode, "reference"))
    broken = {"template": {"TQ1_0", "Q2_0"}, "plain": set(), "padded": {"TQ1_0", "IQ1_S"}}[mode]
    assert any(v.outcome == "fail" for v in found) == (quant in broken), found


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("", 0, 0),
        ("a", 0, 0),
        ("\n".join(f"{n}. yes" for n in range(30)), 0.9, 1),
        ("GGGGGGGGGGGGGGGGGGGGGG", 1, 1),
        ("The answer is this: " + "no, " * 20, 0.7, 0.9),
        (GOOD[0].text, 0, 0.1),
        (GOOD[3].text, 0, 0.1),
        ("\udc80" * 9, 1, 1),
    ],
)
def test_how_much_of_a_text_is_a_loop(text, least, most):
    assert least <= behaviour.loop(text) <= most


def test_long_answers_take_no_time():
    assert behaviour.loop("abc def ghi" * 100_000) > 0.9


@pytest.mark.real
def test_a_step_writes_every_answer(machine_store, toolchain, model_directory, tmp_path, monkeypatch):
    """The tiny model's own: what is written is what llama-completion said to each prompt, the test prompt's first."""
    llama = tools(machine_store, toolchain)
    model = tmp_path / "reference.gguf"
    convert = [sys.executable, llama.converter, model_directory("llama"), "--outfile", model, "--outtype", "bf16"]
    subprocess.run([*map(str, convert)], check=True, capture_output=True)
    prompt.write_answers(llama, model, "What?", 9, tmp_path)
    answers = [Answer.model_validate(a) for a in json.loads((tmp_path / prompt.ANSWERS).read_text())]
    assert len(answers) == 1 + len(prompt.PROMPTS)
    assert behaviour.verdicts(answers, answers)[0].outcome == "pass"
