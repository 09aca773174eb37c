"""A look at a record: nothing is cut off, and what was found stands where it was found."""
import matplotlib.pyplot as plt
import numpy as np
import pytest
import wfdb

from pediatric_ecg.core import DataError, wfdb_quiet
from pediatric_ecg.data import read_header
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
