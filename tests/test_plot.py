import itertools
import math
import xml.etree.ElementTree as ET
from io import StringIO

import matplotlib as mpl
import pytest
from factories import BITS, provenance, quality, release, result

from pipeline.artifact import digest_of
from pipeline.card import drawing, labels, plot
from pipeline.card.labels import Box
from pipeline.progress import Display
from pipeline.result import Estimate
from pipeline.store import Store

SVG = "{http://www.w3.org/2000/svg}"


def draw(shown):
    return drawing.draw(plot.of(shown))


@pytest.fixture
def placed(monkeypatch):
    """The boxes of labels, and what they had to keep clear of, as `draw` places them."""
    calls = []
    place = labels.place

    def watched(points, sizes, taken, frame):
        calls.append((place(points, sizes, taken, frame), taken, frame))
        return calls[-1][0]

    monkeypatch.setattr(labels, "place", watched)
    return calls


@pytest.mark.parametrize("count", [1, 3, 8, 25])
def test_labels_keep_clear(count, placed):
    draw(release(quants=list(BITS)[-count:]))
    ((boxes, taken, frame),) = placed
    assert len(boxes) == count
    for one, other in itertools.combinations([*boxes], 2):
        assert not one.overlap(other)
    for box in boxes:
        assert frame.holds(box)
        assert not any(box.overlap(other) for other in taken)


def test_the_same_release_gives_the_same_bytes():
    before = dict(mpl.rcParams)
    first = draw(release())
    assert first == draw(release())
    assert "<dc:date>" not in first
    assert dict(mpl.rcParams) == before


def test_is_drawn_once_for_the_same_numbers(tmp_path, monkeypatch):
    store = Store(tmp_path, Display(StringIO()))
    shown = plot.of(release())
    first = store.get(shown).file(plot.PLOT).read_text()
    assert first == drawing.draw(shown)
    monkeypatch.setattr(drawing, "draw", None)
    again = plot.of(release(pipeline="another"))
    assert store.get(again).file(plot.PLOT).read_text() == first
    other = plot.of(release(quants=["Q4_K_M"]))
    assert digest_of(other) != digest_of(shown)


def test_says_what_it_shows():
    root = ET.fromstring(draw(release(quants=["Q4_K_M"])))  # noqa: S314 - ours
    assert root.get("role") == "img"
    assert "nold/gemma-2b-GGUF" in root.find(f"{SVG}title").text
    assert "Q4_K_M 1.63\N{NO-BREAK SPACE}GB" in root.find(f"{SVG}desc").text


@pytest.mark.parametrize("value", [0.0, -0.0002, math.nan, math.inf, 1e-9, 50.0])
def test_any_divergence_can_be_drawn(value):
    odd = result("Q8_0", quality=quality(mean_kld=Estimate(value=value, error=0.0001)))
    ET.fromstring(draw(release(quants=["Q4_K_M", odd])))  # noqa: S314 - ours
    ET.fromstring(draw(release(quants=[odd])))  # noqa: S314 - ours


def test_no_floor_and_nothing_measured():
    silent = provenance(reference_quality=quality(mean_kld=Estimate(value=-1e-5, error=1e-7)))
    draw(release(provenance=silent))
    draw(release(quants=[], withheld=["IQ1_S"]))
    draw(release(quants=[result(quality=None)]))


def test_crowded_labels_still_get_a_place():
    points = [(50.0, 50.0)] * 5
    boxes = labels.place(points, [(30.0, 10.0)] * 5, [], Box(0, 0, 100, 100))
    assert len(set(boxes)) == 5
    assert labels.place([(5.0, 5.0)], [(300.0, 10.0)], [], Box(0, 0, 100, 100))
