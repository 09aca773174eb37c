"""Figures: colours that colour-blind readers tell apart, and strips that a ruler measures."""
import json
import re
from io import BytesIO
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from pediatric_ecg.data import LEIPZIG, MITDB
from pediatric_ecg.evaluate.plots import COLOURS, overview
from pediatric_ecg.figures import (
    AGAINST_IT,
    COLOURS_OF_AREAS,
    COLOURS_OF_LINES,
    FOR_IT,
    GREY,
    RECORDED,
    SIMULATED,
    VISION,
    YELLOW,
    Strip,
    colour_distance,
    draw_strips,
    is_catheter,
    lab,
    plain_name,
    png,
    rhythm_looks,
)

# CIEDE2000; the least distance of two of nine colours, by kind of vision
LEAST = {"normal": 20, "deuteranopia": 11, "protanopia": 11}


@pytest.mark.parametrize("vision", VISION)
def test_any_two_colours_are_told_apart(vision):
    distances = {
        pair: colour_distance(*(lab(colour, vision) for colour in pair))
        for pair in combinations((*COLOURS_OF_AREAS, GREY), 2)}
    assert min(distances.values()) > LEAST[vision], min(distances, key=distances.get)


def contrast_with_white(colour):
    "Contrast of WCAG 2, from 1 to 21."
    parts = np.array([int(colour[place:place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)


def test_lines_are_seen_on_white():
    "No curve, point or letter of a page is yellow; only bars are, and the picture that shows the looks."
    assert min(map(contrast_with_white, COLOURS_OF_LINES)) > 2 > contrast_with_white(YELLOW)
    pale = []
    for page in sorted((Path(__file__).parent.parent / "nbs").glob("*/*.ipynb")):
        for cell in json.loads(page.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                drawn = "".join(output.get("data", {}).get("image/svg+xml", ""))
                if re.search(f"fill: none; stroke: {YELLOW}", drawn, re.I):
                    pale.append((page.name, cell["id"]))
    assert pale == []


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("pair", [tuple(COLOURS.values()), (FOR_IT, AGAINST_IT), (RECORDED, SIMULATED)])
def test_opposites_are_far_apart(vision, pair):
    assert colour_distance(*(lab(colour, vision) for colour in pair)) > 25


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("database", [LEIPZIG, MITDB], ids=lambda database: database.name)
def test_rhythms_of_a_database_differ_in_colour_or_hatch(vision, database):
    looks = rhythm_looks(list(database.markers))
    for first, second in combinations(looks.values(), 2):
        if first.member == second.member:  # the same hatch, line style and marker
            assert colour_distance(lab(first.colour, vision), lab(second.colour, vision)) > LEAST[vision]
        else:
            assert first.bar()["hatch"] != second.bar()["hatch"]
            assert first.curve()["linestyle"] != second.curve()["linestyle"]
            assert first.points()["marker"] != second.points()["marker"]


def test_names_are_plain():
    "No bracket of a marker is seen, and no name is too long for an axis."
    for database in (LEIPZIG, MITDB):
        names = [plain_name(marker, database.markers) for marker in database.markers]
        assert not any("(" in name for name in names) and max(map(len, names)) <= 32
        assert len(set(names)) == len(names)
    assert plain_name("(AVNRT", LEIPZIG.markers) == "AVNRT" and plain_name("N", MITDB.markers) == "sinus rhythm"


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 14), st.sampled_from([128.0, 360.0, 977.0]), st.floats(0.3, 6), st.sampled_from([25, 50, 100]),
    st.floats(0.001, 60), st.integers(0, 2**31))
def test_nothing_is_cut_and_nothing_touches(num_leads, fs, seconds, speed, size, seed):
    "Whatever the signals: the paper is true, each sample is on it, and no trace touches the next."
    rng = np.random.default_rng(seed)
    signals = np.cumsum(rng.standard_normal((round(seconds * fs), num_leads)), axis=0)
    signals *= size / (np.ptp(signals) + 1e-9)
    signals[rng.random(len(signals)) < 0.01] = np.nan
    leads = [*("I", "V1", "CS12", "CS34", "RVA12"), *(f"V{number}" for number in range(2, 12))][:num_leads]
    strip = Strip(signals, fs, leads, speed=speed, marks=[(0.1, "A"), (0.11, "H"), (0.12, "V")])
    fig = draw_strips([strip])
    ax = fig.axes[0]
    (left, right), (floor, top) = ax.get_xlim(), ax.get_ylim()
    box, inches = ax.get_position(), fig.get_size_inches()
    assert box.width * inches[0] * 25.4 == pytest.approx((right - left) * speed)
    assert box.height * inches[1] * 25.4 == pytest.approx(top - floor)
    heights = strip._heights + strip.lines
    assert floor < np.nanmin(heights) and np.nanmax(heights) < top
    if num_leads > 1:
        assert np.nanmin(-np.diff(heights, axis=1)) > 1.5  # mm of paper between two traces
    for number, lead in enumerate(leads):
        if not is_catheter(lead):
            assert strip.gains[number] == 10
            assert np.ptp(heights[np.isfinite(heights[:, number]), number]) == pytest.approx(
                10 * np.ptp(signals[np.isfinite(signals[:, number]), number]))


def test_bipoles_of_one_catheter_share_a_gain():
    signals = np.sin(np.linspace(0, 30, 500))[:, None] * [0.2, 2, 20]
    gains = Strip(signals, 500, ["CS12", "CS34", "ABL12"]).gains
    assert gains[0] == gains[1] != gains[2]
    assert 7 <= gains[2] * 40 <= 14


def test_strip_says_paper_gain_and_what_is_absent():
    strip = Strip(np.zeros((500, 2)), 500, ["II", "CS12"], title="A name", present=[True, False],
                  intervals=[("AH", 0.2, 0.29)])
    ax = strip.draw(Figure().subplots())
    texts = [text.get_text().strip() for text in ax.texts]
    for text in ("II", "CS12", "absent or flat", "1 mV", "25 mm/s, 10 mm/mV", "AH 90 ms"):
        assert text in texts, (text, texts)
    assert ax.get_xlabel() == "time (s)" and ax.get_title(loc="left") == "A name"


def test_overview_says_what_people_annotated():
    segments = pd.DataFrame({"start_s": [0, 60], "end_s": [60, 90], "rhythm": ["N", "AFIB"], "probability": [0.9, 0.8]})
    reference = pd.DataFrame({"start_s": [0], "end_s": [90], "rhythm": ["VT"]})
    for given_reference, rows in ((None, 2), (reference, 3)):
        ax = overview(segments, "x", MITDB.markers, given_reference).axes[0]
        labels = [tick.get_text() for tick in ax.get_yticklabels()]
        assert labels[:2] == ["sinus rhythm", "atrial fibrillation"] and len(labels) == rows
    assert labels[2] == "annotated rhythm"


def test_red_stays_red_in_a_small_palette():
    "A few coloured pixels on much grey paper keep their colour, which says what speaks for an answer."
    fig = Figure(figsize=(4, 3))
    ax = fig.add_axes((0, 0, 1, 1))
    ax.imshow(np.linspace(0, 1, 600).reshape(20, 30), cmap="pink", aspect="auto", interpolation="bicubic")
    ax.barh([5, 10], [2, 2], height=1, color=["#c00016", "#1433d6"])
    whole, few = (np.asarray(Image.open(BytesIO(png(fig, 100, colours))).convert("RGB")).astype(int)
                  for colours in (None, 64))
    coloured = np.ptp(whole, axis=-1) > 150
    assert coloured.sum() > 100 and np.abs(whole - few)[coloured].max() < 40


def test_nothing_of_a_window_without_a_title_is_cut():
    "Low traces leave the calibration mark highest, and its text is on the picture."
    signals = 0.05 * np.sin(np.arange(500) / 20)[:, None].repeat(2, 1)
    fig = draw_strips([Strip(signals, 250.0, ["I", "II"])])
    renderer = fig.canvas.get_renderer() if hasattr(fig.canvas, "get_renderer") else None
    marks = [text for text in fig.axes[0].texts if text.get_text() == "1 mV"]
    assert marks and all(text.get_window_extent(renderer).y1 <= fig.bbox.y1 for text in marks)
