"""What the benchmarks make of what they measured."""

from __future__ import annotations

import pytest

from tests.bench import bars, whole


def test_a_moment_of_several_steps_belongs_to_them_in_equal_parts():
    events = [("quantize", 1.0, 3.0), ("measure", 2.0, 6.0), ("release", 0.0, 8.0)]
    found = whole.shares(events, 8.0)
    assert found == pytest.approx({"release": 3.0, "quantize": 1.5, "measure": 3.5})
    assert sum(found.values()) == pytest.approx(8.0)


def test_the_steps_of_a_run_are_read_off_what_it_says():
    lines = [
        (0.5, "The run takes up to 1.20 GB (estimated) of the 20.00 GB that are free on the disk of here."),
        (1.0, "owner/model: convert …"),
        (3.0, "owner/model: convert: done in 2.0 s"),
        (3.0, "owner/model:Q8_0: quantize …"),
        (3.5, "owner/model:Q4_K_M: quantize …"),
        (3.6, "owner/model:Q4_K_M: quantize: 50 % 10 of 20 tensors"),
        (4.0, "owner/model:Q8_0: quantize: done in 1.0 s"),
        (5.0, "owner/model:Q4_K_M: quantize: done in 1.5 s"),
        (6.0, "owner/model-GGUF: stage model-Q8_0.gguf, 145.0 MB …"),
        (7.0, "owner/model-GGUF: stage model-Q8_0.gguf, 145.0 MB: done in 1.0 s"),
    ]
    assert list(whole._pipeline_events(lines, 9.0)) == [
        ("convert", 1.0, 3.0),
        ("quantize", 3.0, 4.0),
        ("quantize", 3.5, 5.0),
        ("release", 6.0, 7.0),
        ("release", 0.0, 9.0),
    ]


def test_the_steps_of_the_script_end_where_the_next_begins():
    lines = [(0.1, "@ download"), (0.2, "something else"), (1.0, "@ convert"), (4.0, "@ release")]
    assert list(whole._script_events(lines, 5.0)) == [
        ("download", 0.1, 1.0),
        ("convert", 1.0, 4.0),
        ("release", 4.0, 5.0),
    ]


def test_the_picture_has_both_sides():
    svg = bars.draw({"ours": {"convert": 2.0, "measure": 5.0}, "theirs": {"convert": 2.0, "quantize": 9.0}})
    assert svg == bars.draw({"ours": {"convert": 2.0, "measure": 5.0}, "theirs": {"convert": 2.0, "quantize": 9.0}})
    assert svg.count("<svg") == 1
