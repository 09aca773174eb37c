"""Calibration against what can be known: true posteriors, exact temperatures, priors that can be undone."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import brier_score_loss

from pediatric_ecg.core import DataError, LeakError
from pediatric_ecg.evaluate import calibrate, fit_temperature
from pediatric_ecg.evaluate.calibration import (
    adjust,
    aurc,
    aurc_interval,
    brier,
    calibration_intervals,
    calibration_scores,
    classwise_ece,
    ece,
    ece_if_calibrated,
    plot_reliability,
    plot_selective,
    probabilities,
    reliability,
    selective,
    temper,
)
from pediatric_ecg.splits import Fold, audit


def draw(windows=4000, classes=4, seed=0, scale=2.0):
    "Labels drawn from the probabilities themselves: calibrated by construction."
    rng = np.random.default_rng(seed)
    p = softmax(scale * rng.standard_normal((windows, classes)), axis=1)
    return p, (p.cumsum(1) > rng.random((windows, 1))).argmax(1)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.3, 4), st.integers(0, 5))
def test_temperature_undoes_a_scaling(temperature, seed):
    p, y = draw(500, seed=seed)
    base = fit_temperature(p, y)
    assert base == pytest.approx(1, abs=0.35)
    scaled = fit_temperature(temper(p, 1 / temperature), y)
    assert scaled == pytest.approx(temperature * base, rel=1e-4), "scaling all logits scales the temperature"
    assert (temper(p, temperature).argmax(1) == p.argmax(1)).all()


def test_temperature_is_the_optimum():
    p, y = draw()
    sure = temper(p, 0.4)

    def mean_nll(temperature):
        return -np.log(temper(sure, temperature)[np.arange(len(y)), y]).mean()

    best = fit_temperature(sure, y)
    assert mean_nll(best) < min(mean_nll(0.98 * best), mean_nll(1.02 * best))
    tempered = temper(sure, best)
    assert ece(tempered, y) < 0.5 * ece(sure, y) and brier(tempered, y) < brier(sure, y)


def test_temperature_at_the_ends():
    p = np.array([[0.9, 0.1], [0.1, 0.9]])
    assert fit_temperature(p, np.array([0, 1])) == 0.05
    assert fit_temperature(p, np.array([1, 0])) == 20
    assert fit_temperature(np.eye(3), np.arange(3)) == 0.05, "zeros and ones are probabilities too"


def test_calibrate_reads_validation_only_and_says_so():
    p, y = draw(90)
    subject, start = np.repeat(["a", "b", "c"], 30), np.arange(90)
    table = pd.DataFrame({"record": "r", "subject": subject, "label": "N", "start": start, "end": start + 1})
    fold = Fold("f", "patient", 0, np.arange(30), np.arange(30, 60), np.arange(60, 90))
    used = np.arange(30, 59)  # of the last validation window the rhythm takes no part
    secret, labels = np.full_like(p, np.nan), np.full_like(y, -1)
    secret[used], labels[used] = p[used], y[used]
    assert calibrate(lambda rows: secret[rows], labels, fold) == fit_temperature(p[used], y[used])
    assert fold.fitted["calibration"].tolist() == used.tolist()
    assert (audit(table, fold, require=["calibration"]).verdict != "leak").all()
    fold.fitted["calibration"] = fold.test
    with pytest.raises(LeakError, match="calibration used 30 windows .* in test"):
        audit(table, fold)
    nobody = Fold("f", "patient", 0, np.arange(60), [], np.arange(60, 90))
    assert calibrate(lambda rows: p[rows], y, nobody) == 1 and "calibration" not in nobody.fitted


def test_ece_equals_its_definition():
    p, y = draw(1000)
    confidence, hit = p.max(1), p.argmax(1) == y
    bins = np.argsort(confidence).reshape(10, 100)
    gaps = [abs(confidence[rows].mean() - hit[rows].mean()) for rows in bins]
    assert ece(p, y, bins=10) == pytest.approx(np.mean(gaps))
    assert ece(p, y, bins=1) == pytest.approx(abs(confidence.mean() - hit.mean()))
    frequency = np.bincount(y, minlength=4) / 1000
    assert classwise_ece(p, y, bins=1) == pytest.approx(abs(p.mean(0) - frequency))
    assert ece(p[:5], y[:5], bins=50) >= 0


def test_ece_null():
    p, y = draw(600)
    mean, high = ece_if_calibrated(p)
    assert 0 < mean < high and ece(p, y) < 1.3 * high and ece(temper(p, 0.3), y) > high


def test_brier_is_twice_the_binary_score():
    p, y = draw(200, classes=2)
    assert brier(p, y) == pytest.approx(2 * brier_score_loss(y, p[:, 1]))
    assert brier(np.eye(4)[y % 4], y % 4) == 0 and brier(np.eye(2)[[0]], np.array([1])) == 2


def test_temperature_of_each_window():
    p, _ = draw(60)
    temperatures = (0.5, 1.0, 3.0)
    of_window = np.repeat(temperatures, 20)
    parts = [temper(p[of_window == temperature], temperature) for temperature in temperatures]
    assert temper(p, of_window) == pytest.approx(np.concatenate(parts))
    assert temper(p, np.ones(60)) == pytest.approx(p)
    with pytest.raises(DataError, match="above 0"):
        temper(p, np.where(np.arange(60) == 7, 0, of_window))


def test_intervals_are_over_patients():
    p, y = draw(1200)
    patient = np.repeat(np.arange(12), 100)
    intervals = calibration_intervals(p, y, patient, draws=500)
    thrice = calibration_intervals(np.tile(p, (3, 1)), np.tile(y, 3), np.tile(patient, 3), draws=500)
    assert intervals["ece"][0] <= ece(p, y) <= intervals["ece"][1]
    assert intervals["brier"][0] < brier(p, y) < intervals["brier"][1]
    assert thrice["brier"] == pytest.approx(intervals["brier"]), "more predictions are not more patients"
    nobody_to_draw = calibration_intervals(p, y, np.zeros(1200))
    assert nobody_to_draw == dict.fromkeys(("ece", "brier", "classwise_ece"), [None, None])
    assert intervals["classwise_ece"][0] <= classwise_ece(p, y).mean() <= intervals["classwise_ece"][1]
    low, high = aurc_interval(p, y, patient)
    assert low < aurc(p, y) < high and aurc_interval(p, y, np.zeros(1200)) == [None, None]
    again = aurc_interval(np.tile(p, (3, 1)), np.tile(y, 3), np.tile(patient, 3))
    assert again == pytest.approx([low, high], abs=0.002)
    loop = []
    for seed in range(300):
        drawn = np.random.default_rng(seed).integers(0, 12, 12)
        rows = np.concatenate([np.flatnonzero(patient == number) for number in drawn])
        loop.append(brier(p[rows], y[rows]))
    expected = np.percentile(loop, [2.5, 97.5]).tolist()
    assert intervals["brier"] == pytest.approx(expected, abs=0.01), "a plain loop over draws"


@pytest.mark.parametrize("cluster", [False, True])
def test_reliability(cluster):
    p, y = draw(4000)
    patient = np.arange(4000) % 40 if cluster else None
    table = reliability(p[:, 1], y == 1, bins=10, subject=patient)
    assert table.windows.sum() == 4000 and (table.predicted.diff()[1:] > 0).all()
    assert (table.windows * table.observed).sum() == pytest.approx((y == 1).sum())
    assert np.ptp(table.windows * table.predicted) < 2, "each bin expects the same number of cases"
    assert ((table.low <= table.predicted) & (table.predicted <= table.high)).sum() >= 7


def test_reliability_intervals_grow_with_clusters():
    p, y = draw(4000)
    order = np.argsort(y == 1, kind="stable")
    score, hit = p[order, 1], (y == 1)[order]
    few = reliability(score, hit, bins=5, subject=np.arange(4000) // 200)
    many = reliability(score, hit, bins=5)
    assert (few.high - few.low).mean() > 2 * (many.high - many.low).mean()


def test_selective():
    p, y = draw(500)
    right = p.argmax(1) == y
    table = selective(p, y)
    assert table.coverage.iloc[-1] == 1 and table.accuracy.iloc[-1] == pytest.approx(right.mean())
    for _, row in table.iloc[::97].iterrows():
        answered = p.max(1) >= row.threshold
        assert row.coverage == pytest.approx(answered.mean())
        assert row.accuracy == pytest.approx(right[answered].mean())
    flat = np.full((6, 2), 0.5)
    assert len(selective(flat, np.array([0, 1, 0, 1, 0, 0]))) == 1
    oracle = np.where(right, 0.99, 0.6)[:, None] * np.eye(4)[p.argmax(1)]
    oracle += (1 - oracle.sum(1, keepdims=True)) / 4
    assert aurc(oracle, y) < aurc(p, y)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), st.floats(0, 2))
def test_adjustment_can_be_undone(prior, tau):
    p, _ = draw(50)
    prior, equal = np.array(prior) / np.sum(prior), np.full(4, 0.25)
    adjusted = adjust(p, prior, tau=tau)
    assert adjusted.sum(1) == pytest.approx(np.ones(50))
    assert adjust(adjusted, equal, target=prior, tau=tau) == pytest.approx(p, abs=1e-9)
    assert adjust(p, prior, tau=0) == pytest.approx(p) and adjust(p, equal) == pytest.approx(p)


def test_scores_and_tables():
    p, y = draw(300)
    names = ["(N", "AF", "VT", "J"]
    table = pd.DataFrame(p, columns=[f"p_{name}" for name in names]).assign(truth=np.array(names)[y])
    reversed_p, reversed_y = probabilities(table, names[::-1])
    assert (reversed_p == p[:, ::-1]).all() and (reversed_y == 3 - y).all()
    figures = calibration_scores(reversed_p, reversed_y)
    assert all(type(value) is float for value in figures.values())
    assert figures["brier"] == pytest.approx(brier(p, y)) and figures["ece"] == pytest.approx(ece(p, y))
    with pytest.raises(DataError, match="lack the column p_B"):
        probabilities(table, ["B"])
    with pytest.raises(DataError, match="none of the classes"):
        probabilities(table, names[:2])


BAD = [
    (np.ones((3, 2)), [0, 1, 0], "sum to 1"),
    (np.full((3, 2), 0.5), [0, 1], "one class number per window"),
    (np.full((2, 2), 0.5), [0, 2], "from 0 to 1"),
    (np.full((2, 2), np.nan), [0, 1], "finite"),
    (np.zeros((0, 2)), [], "no window to calibrate"),
]


@pytest.mark.parametrize(("p", "y", "words"), BAD)
def test_bad_input(p, y, words):
    for function in (ece, brier, fit_temperature, selective):
        with pytest.raises(DataError, match=words):
            function(p, np.array(y, dtype=int))


def test_a_class_without_training_windows_cannot_be_adjusted():
    with pytest.raises(DataError, match="frequency 0"):
        adjust(np.full((1, 2), 0.5), [1, 0])


def test_pictures():
    p, y = draw(300)
    labels, patient = list("ABCD"), np.arange(300) % 7
    fig = plot_reliability({"a": p, "b": temper(p, 2)}, y, labels, subject=patient)
    assert len([ax for ax in fig.axes if ax.get_title()]) == 4
    plot_selective({"a": (p, y)})
    plt.close("all")
    own = plt.Figure()
    assert plot_reliability(p, y, labels, cols=3, fig=own) is own
    assert len(own.axes) == 6 and not plt.get_fignums()
