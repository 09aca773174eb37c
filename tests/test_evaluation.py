"""Figures against scikit-learn, intervals against the loop one would write first."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    fbeta_score,
    precision_recall_fscore_support,
    precision_score,
    recall_score,
    roc_auc_score,
)

from pediatric_ecg.core import DataError
from pediatric_ecg.evaluate.scores import (
    FIGURES,
    bootstrap,
    compare,
    confusion,
    gross_average,
    per_class,
    per_patient,
    plot_confusion,
    plot_intervals,
    scores,
    summarise,
)

LABELS = ["(N", "AF", "VT", "J"]


def make(seed=0, n=300, patients=9, labels=LABELS, skill=0.6):
    rng = np.random.default_rng(seed)
    y = rng.choice(len(labels), n, p=np.array([8, 4, 2, 1][: len(labels)]) / sum([8, 4, 2, 1][: len(labels)]))
    p = rng.dirichlet(np.ones(len(labels)), n)
    p[np.arange(n), y] += skill * rng.random(n)
    p /= p.sum(1, keepdims=True)
    names = np.array(labels)
    d = pd.DataFrame(
        {
            "split": "patient",
            "repeat": 0,
            "fold": "f",
            "seed": 0,
            "window": np.arange(n),
            "subject": rng.integers(patients, size=n).astype(str),
        }
    )
    d = d.assign(record="r" + d.subject, start=np.arange(n) * 10, end=np.arange(n) * 10 + 10, truth=names[y], prediction=names[p.argmax(1)])
    return d.assign(**{f"p_{c}": p[:, k] for k, c in enumerate(labels)})


def by_sklearn(t, p, classes):
    kw = dict(labels=list(classes), average="macro", zero_division=0)
    return {
        "top1": accuracy_score(t, p),
        "macro_precision": precision_score(t, p, **kw),
        "macro_recall": recall_score(t, p, **kw),
        "macro_f1": fbeta_score(t, p, beta=1, **kw),
        "macro_f2": fbeta_score(t, p, beta=2, **kw),
    }


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ABCDE"), st.sampled_from("ABCDEF")), min_size=1, max_size=40),
    st.sets(st.sampled_from("ABCDEFG"), min_size=1),
)
def test_scores_equal_sklearn(pairs, classes):
    t, p = zip(*pairs, strict=True)
    classes = sorted(classes)
    ours, peer = scores(t, p, classes), by_sklearn(t, p, classes)
    assert list(ours) == list(FIGURES)
    for k in FIGURES:
        assert ours[k] == pytest.approx(peer[k], abs=1e-12) and type(ours[k]) is float


def test_per_class_equals_sklearn():
    d = make()
    out = per_class(d, LABELS, not_evaluable=["J", "AFL"])
    assert out["J"] == out["AFL"] == "not evaluable"
    p, r, f1, n = precision_recall_fscore_support(d.truth, d.prediction, labels=LABELS, zero_division=0)
    f2 = fbeta_score(d.truth, d.prediction, beta=2, labels=LABELS, average=None, zero_division=0)
    for k, c in enumerate(LABELS[:3]):
        y = d.truth == c
        assert out[c] == pytest.approx(
            {
                "precision": p[k],
                "recall": r[k],
                "f1": f1[k],
                "f2": f2[k],
                "windows": n[k],
                "patients": d[y].subject.nunique(),
                "specificity": ((d.prediction != c) & ~y).sum() / (~y).sum(),
                "auroc": roc_auc_score(y, d[f"p_{c}"]),
                "auprc": average_precision_score(y, d[f"p_{c}"]),
            }
        )


def test_areas_that_are_not_defined_are_none():
    d = make().drop(columns="p_VT")
    assert per_class(d, LABELS)["VT"]["auroc"] is None
    assert per_class(d[d.truth == "AF"], LABELS)["AF"]["auprc"] is None
    assert summarise(d, LABELS)["macro_auroc"] is None


@pytest.mark.parametrize("absent", ["zero", "skip"])
def test_bootstrap_equals_the_naive_loop(absent):
    d, draws = make(n=120, patients=6), 60
    fast = bootstrap(d, LABELS, draws=draws, seed=5, absent=absent)
    names, found = np.unique(d.subject), []
    for m in np.random.default_rng(5).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws):
        rows = pd.concat([d[d.subject == s] for s, k in zip(names, m, strict=True) for _ in range(k)])
        kept = LABELS if absent == "zero" else [c for c in LABELS if (rows.truth == c).any()]
        found.append(by_sklearn(rows.truth, rows.prediction, kept))
    for k in FIGURES:
        assert fast[k] == pytest.approx(np.percentile([f[k] for f in found], [2.5, 97.5]), abs=1e-12)


def test_bootstrap_is_over_patients():
    d = make(n=400)
    assert bootstrap(d, LABELS, 200) == bootstrap(d.sample(frac=1, random_state=0), LABELS, 200)
    thrice = pd.concat([d, d.assign(seed=1), d.assign(seed=2)])
    for k, interval in bootstrap(thrice, LABELS, 200).items():
        assert interval == pytest.approx(bootstrap(d, LABELS, 200)[k]), "more seeds are not more patients"
    one = bootstrap(d.assign(subject="only"), LABELS)
    assert all(v == [None, None] for v in one.values())
    with pytest.raises(DataError, match="skip or zero"):
        bootstrap(d, LABELS, absent="drop")


def test_summary_is_plain_and_complete():
    d = pd.concat([make(), make().assign(seed=1)])
    s = summarise(d, LABELS, not_evaluable=["J"], table=make().rename(columns={"truth": "label"}), draws=100)
    assert json.loads(json.dumps(s, allow_nan=False)) == s
    assert {k: s[k] for k in FIGURES} == pytest.approx(by_sklearn(d.truth, d.prediction, LABELS[:3]))
    assert (s["n_classes"], s["n_windows"], s["n_predictions"], s["n_patients"]) == (3, 300, 600, 9)
    assert s["per_class"]["J"] == "not evaluable" and s["classes"] == LABELS[:3]
    assert all(s["ci95"][k][0] <= s[k] <= s["ci95"][k][1] for k in FIGURES)
    assert np.array(s["confusion"]["counts"]).sum() == 600
    assert s["cohort"]["AF"]["windows"] == s["per_class"]["AF"]["windows"] / 2
    with pytest.raises(DataError, match="no class is evaluable"):
        summarise(d, LABELS, not_evaluable=LABELS)


def test_classes_never_seen_and_all_wrong():
    d = make(n=30)
    d = d.assign(truth="(N", prediction="AF")
    s = summarise(d, [*LABELS, "never"], draws=50)
    assert s["top1"] == 0 and s["macro_f1"] == 0 and s["n_classes"] == 5 and s["per_class"]["never"]["windows"] == 0
    assert json.loads(json.dumps(s, allow_nan=False)) == s


def test_gross_and_average():
    d = make()
    t = gross_average(d, LABELS)
    for c in LABELS:
        y = d[d.truth == c]
        assert t.loc[c, "gross_sensitivity"] == pytest.approx((y.prediction == c).mean())
        assert t.loc[c, "average_sensitivity"] == pytest.approx((y.prediction == c).groupby(y.subject).mean().mean())
        called = d[d.prediction == c]
        assert t.loc[c, "average_ppv"] == pytest.approx((called.truth == c).groupby(called.subject).mean().mean())
    each = per_patient(d, LABELS)
    assert each.windows.sum() == len(d) and (each.top1 * each.windows).sum() / len(d) == pytest.approx(
        scores(d.truth, d.prediction, LABELS)["top1"]
    )


def test_confusion_keeps_the_order_and_the_strangers():
    d = make()
    d.loc[0, "prediction"] = "other"
    cm = confusion(d, LABELS[::-1])
    assert list(cm.index) == [*LABELS[::-1], "other"] and cm.to_numpy().sum() == len(d)
    assert (cm.to_numpy() == confusion_matrix(d.truth, d.prediction, labels=list(cm.index))).all()


def test_compare_is_paired():
    a, b = make(), make()
    b.loc[b.index % 7 == 0, "prediction"] = "J"
    c = compare(a, b, LABELS, draws=300)
    assert json.loads(json.dumps(c, allow_nan=False)) == c
    for k in FIGURES:
        x, y = (by_sklearn(d.truth, d.prediction, LABELS)[k] for d in (a, b))
        assert (c[k]["a"], c[k]["b"], c[k]["difference"]) == pytest.approx((x, y, x - y))
        r = compare(b, a, LABELS, draws=300)[k]
        assert r["ci95"] == pytest.approx([-v for v in c[k]["ci95"][::-1]]) and r["p"] == pytest.approx(c[k]["p"])
    same = compare(a, a.sample(frac=1, random_state=1), LABELS, draws=100)
    assert same["macro_f1"]["ci95"] == [0, 0] and same["macro_f1"]["p"] == 1
    assert c["top1"]["ci95"][0] > 0 and c["top1"]["p"] < 0.05


def test_compare_refuses_other_windows():
    a = make()
    for b in (a[1:], a.assign(truth="VT"), a.assign(start=a.start + 1)):
        with pytest.raises(DataError, match="same folds"):
            compare(a, b, LABELS)


def test_compare_with_several_seeds_and_through_a_file(tmp_path):
    a = pd.concat([make().assign(seed=s) for s in range(3)])
    b = make().assign(prediction="(N")
    a.to_csv(tmp_path / "a.csv", index=False)
    read = pd.read_csv(tmp_path / "a.csv")
    assert read.subject.dtype != object and compare(read, b, LABELS, draws=50) == compare(a, b, LABELS, draws=50)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda d: d.drop(columns="subject"), "lack the column subject"),
        (lambda d: d[:0], "table is empty"),
    ],
)
def test_bad_predictions(change, words):
    with pytest.raises(DataError, match=words):
        summarise(change(make()), LABELS)


def test_scores_bad_input():
    with pytest.raises(DataError, match="2 truths and 1 predictions"):
        scores(["a", "b"], ["a"], ["a"])
    with pytest.raises(DataError, match="no class"):
        scores(["a"], ["a"], [])


def test_pictures_close_cleanly():
    import matplotlib.pyplot as plt

    d = make()
    ax = plot_confusion(confusion(d, LABELS), title="t")
    assert [t.get_text() for t in ax.get_yticklabels()][1].startswith("AF (")
    ax = plot_intervals({"all": summarise(d, LABELS, draws=50), "one": summarise(d.assign(subject="1"), LABELS)})
    assert "4 classes" in ax.get_legend().get_texts()[0].get_text()
    plt.close("all")
