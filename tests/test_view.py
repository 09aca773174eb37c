"""A look at a record: nothing is cut off, and what was found stands where it was found."""
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import wfdb

from pediatric_ecg.annotate import annotate
from pediatric_ecg.core import DataError, wfdb_quiet
from pediatric_ecg.data import LEIPZIG, MITDB, read_header
from pediatric_ecg.data.annotations import decode_annotations, write_annotations
from pediatric_ecg.figures import CATHETER_INK, SURFACE_INK, plain_name
from pediatric_ecg.view import draw_record, view


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


def test_traces_keep_their_peaks_and_surface_leads_their_scale(simdb):
    record = simdb / "x001"
    leads = [lead for lead in read_header(record).leads if lead in ("II", "V1", "RVA12", "CS90")]
    ax = draw_record(record, 10, 4, leads).axes[0]
    traces = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) > 100]
    assert len(traces) == len(leads)
    low, high = ax.get_ylim()
    signal = wfdb.rdrecord(str(record), channel_names=leads)
    first, last = round(10 * signal.fs), round(14 * signal.fs)
    drawn = {}
    for row, (lead, trace) in enumerate(zip(leads, traces)):
        samples = signal.p_signal[first:last, signal.sig_name.index(lead)]
        assert low <= trace.min() and trace.max() <= high and np.abs(trace + row).max() <= 0.5 + 1e-6
        drawn[lead] = np.ptp(trace) / np.ptp(samples)   # height on the page per mV
        assert np.corrcoef(trace, samples)[0, 1] > 0.9999
    assert drawn["II"] == pytest.approx(drawn["V1"], rel=0.01)
    assert ax.get_title(loc="left") == "x001, simulated"


def test_what_was_found_stands_where_it_was_found(simdb, tmp_path):
    rate = read_header(simdb / "x001").fs
    with wfdb_quiet():
        wfdb.wrann("x001", "rhy", np.array([1, round(12 * rate)]), ["+", "+"], aux_note=["(N", "(AVRT"],
                   fs=rate, write_dir=str(tmp_path))
    ax = draw_record(simdb / "x001", 10, 4, ["II"], found=tmp_path).axes[0]
    bars = [tuple(line.get_xdata()) for line in ax.lines if line.get_linewidth() == 6]
    assert bars == [(10, pytest.approx(12, abs=0.01)), (pytest.approx(12, abs=0.01), 14)]
    words = [text.get_text() for text in ax.texts]
    assert "found: sinus rhythm" in words and "found: atrioventricular reentrant tachycardia" in words


def test_the_files_of_annotate_are_read(simdb, tmp_path):
    "They declare no rate, hold comments beside the rhythms, and mark stretches without a usable lead."
    found = annotate(simdb / "x001", tmp_path)
    notes = decode_annotations(found.path.read_bytes())
    assert notes.fs is None and '"' in notes.symbol   # who answered stands there, and is no rhythm
    ax = draw_record(simdb / "x001", 0, 90, ["II"], found=tmp_path).axes[0]
    bars = [tuple(line.get_xdata()) for line in ax.lines if line.get_linewidth() == 6]
    named = found.segments[found.segments.rhythm != ""]
    assert bars == [pytest.approx(span, abs=0.01) for span in zip(named.start_s, named.end_s)]
    words = [text.get_text() for text in ax.texts if text.get_text().startswith("found")]
    assert words == [f"found: {plain_name(rhythm, LEIPZIG.markers, 60)}" for rhythm in named.rhythm]


def test_stretches_without_a_usable_lead_have_no_name(simdb, tmp_path):
    rate = round(read_header(simdb / "x001").fs)
    notes = pd.DataFrame({"sample": [0, 1, 5 * rate, 8 * rate, 8 * rate], "symbol": ["+", '"', "~", "~", "+"],
                          "aux": ["(N", "named by somebody", "", "", "(VT"]})
    write_annotations(tmp_path / "x001", notes, replace(LEIPZIG, annotator="rhy"))
    ax = draw_record(simdb / "x001", 0, 10, ["II"], found=tmp_path).axes[0]
    bars = [tuple(line.get_xdata()) for line in ax.lines if line.get_linewidth() == 6]
    assert bars == [(0, pytest.approx(5, abs=0.01)), (pytest.approx(8, abs=0.01), 10)]


def test_leads_of_the_skin_are_black_whatever_they_are_called(tmp_path):
    "As in every other figure: what does not begin with the name of a catheter lies on the skin."
    signals = np.random.default_rng(0).normal(size=(1000, 3))
    with wfdb_quiet():
        wfdb.wrsamp("a", fs=250, units=["mV"] * 3, sig_name=["v5", "ECG1", "CS12"], p_signal=signals,
                    fmt=["16"] * 3, write_dir=str(tmp_path))
        wfdb.wrann("a", "atr", np.array([10]), ["+"], aux_note=["(N"], write_dir=str(tmp_path))
    (tmp_path / "RECORDS").write_text("a\n")
    ax = draw_record(tmp_path / "a", 0, 4, database=MITDB).axes[0]
    inks = [line.get_color() for line in ax.lines if len(line.get_xdata()) > 100]
    assert inks == [SURFACE_INK, SURFACE_INK, CATHETER_INK]


@pytest.mark.parametrize(("wrong", "words"), [
    ({"leads": ["X9"]}, "no lead 'X9'"), ({"start": 1e6}, "it lasts 90 s"), ({"seconds": 0}, "0 s from"),
    ({"found": "nowhere"}, "no such file")])
def test_what_cannot_be_drawn_is_one_line(simdb, wrong, words):
    with pytest.raises(DataError, match=words) as caught:
        draw_record(simdb / "x001", **wrong)
    assert "\n" not in str(caught.value)


def test_the_slider_reaches_the_end(simdb):
    ipywidgets = pytest.importorskip("ipywidgets")
    widget = view(simdb / "x001", seconds=6.0)
    [slider] = [child for child in widget.children if isinstance(child, ipywidgets.FloatSlider)]
    assert slider.min == 0 and slider.max == pytest.approx(84, abs=0.1)
