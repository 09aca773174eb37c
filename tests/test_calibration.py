"""Calibration against what can be known: true posteriors, exact temperatures, priors that can be undone."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import brier_score_loss

from pediatric_ecg.core import LeakError, DataError
from pediatric_ecg.splits.audit import audit
from pediatric_ecg.evaluate.calibration import (
    adjust,
    aurc,
    brier,
    calibrate,
    calibration_intervals,
    calibration_scores,
    choose_threshold,
    classwise_ece,
    ece,
    ece_if_calibrated,
    fit_temperature,
    plot_reliability,
    plot_selective,
    probabilities,
    reliability,
    selective,
    temper,
)
from pediatric_ecg.splits.folds import Fold


def draw(n=4000, classes=4, seed=0, scale=2.0):
    "Labels drawn from the probabilities themselves: calibrated by construction"
    rng = np.random.default_rng(seed)
    p = softmax(scale * rng.standard_normal((n, classes)), axis=1)
    return p, (p.cumsum(1) > rng.random((n, 1))).argmax(1)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.3, 4), st.integers(0, 5))
def test_temperature_undoes_a_scaling(T, seed):
    p, y = draw(500, seed=seed)
    base = fit_temperature(p, y)
    assert base == pytest.approx(1, abs=0.35)
    assert fit_temperature(temper(p, 1 / T), y) == pytest.approx(T * base, rel=1e-4), "scaling all logits scales the temperature"
    assert (temper(p, T).argmax(1) == p.argmax(1)).all()


def test_temperature_is_the_optimum():
    p, y = draw()
    sure = temper(p, 0.4)
    nll = lambda T: -np.log(temper(sure, T)[np.arange(len(y)), y]).mean()
    T = fit_temperature(sure, y)
    assert nll(T) < min(nll(0.98 * T), nll(1.02 * T))
    assert ece(temper(sure, T), y) < 0.5 * ece(sure, y) and brier(temper(sure, T), y) < brier(sure, y)


def test_temperature_at_the_ends():
    p = np.array([[0.9, 0.1], [0.1, 0.9]])
    assert fit_temperature(p, np.array([0, 1])) == 0.05
    assert fit_temperature(p, np.array([1, 0])) == 20
    assert fit_temperature(np.eye(3), np.arange(3)) == 0.05, "zeros and ones are probabilities too"


def test_calibrate_reads_validation_only_and_says_so():
    p, y = draw(90)
    table = pd.DataFrame(
        {"record": "r", "subject": np.repeat(["a", "b", "c"], 30), "label": "N", "start": np.arange(90), "end": np.arange(90) + 1}
    )
    fold = Fold("f", "patient", 0, np.arange(30), np.arange(30, 60), np.arange(60, 90))
    secret, labels = np.full_like(p, np.nan), np.full_like(y, -1)
    secret[30:59], labels[30:59] = p[30:59], y[30:59]   # of the last validation window the rhythm takes no part
    assert calibrate(lambda rows: secret[rows], labels, fold) == fit_temperature(p[30:59], y[30:59])
    assert fold.fitted["calibration"].tolist() == list(range(30, 59))
    assert (audit(table, fold, require=["calibration"]).verdict != "leak").all()
    fold.fitted["calibration"] = fold.test
    with pytest.raises(LeakError, match="calibration used 30 windows .* in test"):
        audit(table, fold)
    nobody = Fold("f", "patient", 0, np.arange(60), [], np.arange(60, 90))
    assert calibrate(lambda rows: p[rows], y, nobody) == 1 and "calibration" not in nobody.fitted


def test_ece_equals_its_definition():
    p, y = draw(1000)
    c, hit = p.max(1), p.argmax(1) == y
    order = np.argsort(c)
    bins = order.reshape(10, 100)
    assert ece(p, y, bins=10) == pytest.approx(np.mean([abs(c[b].mean() - hit[b].mean()) for b in bins]))
    assert ece(p, y, bins=1) == pytest.approx(abs(c.mean() - hit.mean()))
    assert classwise_ece(p, y, bins=1) == pytest.approx(abs(p.mean(0) - np.bincount(y, minlength=4) / 1000))
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
    p, y = draw(60)
    T = np.repeat([0.5, 1.0, 3.0], 20)
    assert temper(p, T) == pytest.approx(np.concatenate([temper(p[T == t], t) for t in (0.5, 1.0, 3.0)]))
    assert temper(p, np.ones(60)) == pytest.approx(p)
    with pytest.raises(DataError, match="above 0"):
        temper(p, np.where(np.arange(60) == 7, 0, T))


def test_intervals_are_over_patients():
    p, y = draw(1200)
    who = np.repeat(np.arange(12), 100)
    out = calibration_intervals(p, y, who, draws=500)
    again = calibration_intervals(np.tile(p, (3, 1)), np.tile(y, 3), np.tile(who, 3), draws=500)
    assert out["ece"][0] <= ece(p, y) <= out["ece"][1] and out["brier"][0] < brier(p, y) < out["brier"][1]
    assert again["brier"] == pytest.approx(out["brier"]), "windows judged three times are not three times the patients"
    assert calibration_intervals(p, y, np.zeros(1200)) == {"ece": [None, None], "brier": [None, None]}
    loop = [brier(*(np.concatenate([a[who == w] for w in np.random.default_rng(s).integers(0, 12, 12)]) for a in (p, y))) for s in range(300)]
    assert out["brier"] == pytest.approx(np.percentile(loop, [2.5, 97.5]).tolist(), abs=0.01), "a plain loop over draws"


@pytest.mark.parametrize("cluster", [False, True])
def test_reliability(cluster):
    p, y = draw(4000)
    who = np.arange(4000) % 40 if cluster else None
    r = reliability(p[:, 1], y == 1, bins=10, subject=who)
    assert r.windows.sum() == 4000 and (r.predicted.diff()[1:] > 0).all()
    assert (r.windows * r.observed).sum() == pytest.approx((y == 1).sum())
    assert np.ptp(r.windows * r.predicted) < 2, "each bin expects the same number of cases"
    assert ((r.low <= r.predicted) & (r.predicted <= r.high)).sum() >= 7


def test_reliability_intervals_grow_with_clusters():
    p, y = draw(4000)
    order = np.argsort(y == 1, kind="stable")
    few = reliability(p[order, 1], (y == 1)[order], bins=5, subject=np.arange(4000) // 200)
    many = reliability(p[order, 1], (y == 1)[order], bins=5)
    assert (few.high - few.low).mean() > 2 * (many.high - many.low).mean()


def test_selective():
    p, y = draw(500)
    s = selective(p, y)
    assert s.coverage.iloc[-1] == 1 and s.accuracy.iloc[-1] == pytest.approx((p.argmax(1) == y).mean())
    for _, row in s.iloc[::97].iterrows():
        answered = p.max(1) >= row.threshold
        assert row.coverage == pytest.approx(answered.mean()) and row.accuracy == pytest.approx((p.argmax(1) == y)[answered].mean())
    flat = np.full((6, 2), 0.5)
    assert len(selective(flat, np.array([0, 1, 0, 1, 0, 0]))) == 1
    oracle = np.where(p.argmax(1) == y, 0.99, 0.6)[:, None] * np.eye(4)[p.argmax(1)]
    oracle += (1 - oracle.sum(1, keepdims=True)) / 4
    assert aurc(oracle, y) < aurc(p, y)
    s = selective(p, y)
    assert s[s.threshold >= choose_threshold(p, y, 0.9)].accuracy.iloc[-1] >= 0.9
    assert choose_threshold(flat, np.array([0, 1, 0, 1, 0, 1]), 0.9) == float("inf")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=4, max_size=4), st.floats(0, 2))
def test_adjustment_can_be_undone(prior, tau):
    p, _ = draw(50)
    prior = np.array(prior) / np.sum(prior)
    q = adjust(p, prior, tau=tau)
    assert q.sum(1) == pytest.approx(np.ones(50))
    assert adjust(q, np.full(4, 0.25), target=prior, tau=tau) == pytest.approx(p, abs=1e-9)
    assert adjust(p, prior, tau=0) == pytest.approx(p) and adjust(p, np.full(4, 0.25)) == pytest.approx(p)


def test_scores_and_tables():
    p, y = draw(300)
    names = ["(N", "AF", "VT", "J"]
    table = pd.DataFrame(p, columns=[f"p_{c}" for c in names]).assign(truth=np.array(names)[y])
    q, z = probabilities(table, names[::-1])
    assert (q == p[:, ::-1]).all() and (z == 3 - y).all()
    s = calibration_scores(q, z)
    assert all(type(v) is float for v in s.values()) and s["brier"] == pytest.approx(brier(p, y)) and s["ece"] == pytest.approx(ece(p, y))
    with pytest.raises(DataError, match="lack the column p_B"):
        probabilities(table, ["B"])
    with pytest.raises(DataError, match="none of the classes"):
        probabilities(table, names[:2])


@pytest.mark.parametrize(
    "p, y, words",
    [
        (np.ones((3, 2)), [0, 1, 0], "sum to 1"),
        (np.full((3, 2), 0.5), [0, 1], "one class number a window"),
        (np.full((2, 2), 0.5), [0, 2], "from 0 to 1"),
        (np.full((2, 2), np.nan), [0, 1], "finite"),
        (np.zeros((0, 2)), [], "no window to calibrate"),
    ],
)
def test_bad_input(p, y, words):
    for f in (ece, brier, fit_temperature, selective):
        with pytest.raises(DataError, match=words):
            f(p, np.array(y, dtype=int))
    with pytest.raises(DataError, match="frequency 0"):
        adjust(np.full((1, 2), 0.5), [1, 0])


def test_pictures():
    import matplotlib.pyplot as plt

    p, y = draw(300)
    fig = plot_reliability({"a": p, "b": temper(p, 2)}, y, list("ABCD"), subject=np.arange(300) % 7)
    assert len([a for a in fig.axes if a.get_title()]) == 4
    plot_selective({"a": (p, y)})
    plt.close("all")
    own = plt.Figure()
    assert plot_reliability(p, y, list("ABCD"), cols=3, fig=own) is own and len(own.axes) == 6 and not plt.get_fignums()
