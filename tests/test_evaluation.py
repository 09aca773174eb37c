"""Figures against scikit-learn, intervals against the loop one would write first."""

import json

import matplotlib.pyplot as plt
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
from pediatric_ecg.evaluate import compare, scores, summarise
from pediatric_ecg.evaluate.scores import (
    METRICS,
    bootstrap,
    confusion,
    gross_average,
    per_class,
    per_patient,
    plot_confusion,
    plot_intervals,
)

LABELS = ["(N", "AF", "VT", "J"]


def make(seed=0, windows=300, patients=9, skill=0.6):
    "Simulated predictions: four labels with priors 8 : 4 : 2 : 1, right more often than by chance."
    rng = np.random.default_rng(seed)
    target = rng.choice(len(LABELS), windows, p=np.array([8, 4, 2, 1]) / 15)
    probability = rng.dirichlet(np.ones(len(LABELS)), windows)
    probability[np.arange(windows), target] += skill * rng.random(windows)
    probability /= probability.sum(1, keepdims=True)
    names, number = np.array(LABELS), np.arange(windows)
    subject = rng.integers(patients, size=windows).astype(str)
    table = pd.DataFrame({"split": "patient", "repeat": 0, "fold": "f", "seed": 0, "window": number})
    table = table.assign(
        subject=subject,
        record=[f"r{name}" for name in subject],
        start=number * 10,
        end=number * 10 + 10,
        truth=names[target],
        prediction=names[probability.argmax(1)],
    )
    return table.assign(**{f"p_{label}": probability[:, k] for k, label in enumerate(LABELS)})


def by_sklearn(truth, prediction, classes):
    macro = dict(labels=list(classes), average="macro", zero_division=0)
    return {
        "top1": accuracy_score(truth, prediction),
        "macro_precision": precision_score(truth, prediction, **macro),
        "macro_recall": recall_score(truth, prediction, **macro),
        "macro_f1": fbeta_score(truth, prediction, beta=1, **macro),
        "macro_f2": fbeta_score(truth, prediction, beta=2, **macro),
    }


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ABCDE"), st.sampled_from("ABCDEF")), min_size=1, max_size=40),
    st.sets(st.sampled_from("ABCDEFG"), min_size=1),
)
def test_scores_equal_sklearn(pairs, classes):
    truth, prediction = zip(*pairs, strict=True)
    classes = sorted(classes)
    ours, theirs = scores(truth, prediction, classes), by_sklearn(truth, prediction, classes)
    assert list(ours) == list(METRICS)
    for key in METRICS:
        assert ours[key] == pytest.approx(theirs[key], abs=1e-12) and type(ours[key]) is float


def test_one_registry_names_the_figures():
    assert METRICS == {
        "top1": "Top-1 accuracy",
        "macro_precision": "Macro precision",
        "macro_recall": "Macro recall",
        "macro_f1": "Macro F1",
        "macro_f2": "Macro F2",
    }


def test_per_class_equals_sklearn():
    table = make()
    entries = per_class(table, LABELS, not_evaluable=["J", "AFL"])
    assert entries["J"] == entries["AFL"] == "not evaluable"
    truth, prediction = table.truth, table.prediction
    each = dict(labels=LABELS, zero_division=0)
    precision, recall, f1, windows = precision_recall_fscore_support(truth, prediction, **each)
    f2 = fbeta_score(truth, prediction, beta=2, average=None, **each)
    for k, label in enumerate(LABELS[:3]):
        is_label = truth == label
        assert entries[label] == pytest.approx(
            {
                "precision": precision[k],
                "recall": recall[k],
                "f1": f1[k],
                "f2": f2[k],
                "windows": windows[k],
                "patients": table[is_label].subject.nunique(),
                "specificity": ((prediction != label) & ~is_label).sum() / (~is_label).sum(),
                "auroc": roc_auc_score(is_label, table[f"p_{label}"]),
                "auprc": average_precision_score(is_label, table[f"p_{label}"]),
            }
        )


def test_areas_that_are_not_defined_are_none():
    table = make().drop(columns="p_VT")
    assert per_class(table, LABELS)["VT"]["auroc"] is None
    assert per_class(table[table.truth == "AF"], LABELS)["AF"]["auprc"] is None
    assert summarise(table, LABELS)["macro_auroc"] is None


@pytest.mark.parametrize("absent", ["zero", "skip"])
def test_bootstrap_equals_the_naive_loop(absent):
    table, draws = make(windows=120, patients=6), 60
    fast = bootstrap(table, LABELS, draws=draws, seed=5, absent=absent)
    names, found = np.unique(table.subject), []
    patients = len(names)
    for times in np.random.default_rng(5).multinomial(patients, np.full(patients, 1 / patients), size=draws):
        rows = []
        for subject, number in zip(names, times, strict=True):
            rows += [table[table.subject == subject]] * number
        rows = pd.concat(rows)
        kept = LABELS if absent == "zero" else [label for label in LABELS if (rows.truth == label).any()]
        found.append(by_sklearn(rows.truth, rows.prediction, kept))
    for key in METRICS:
        interval = np.percentile([figures[key] for figures in found], [2.5, 97.5])
        assert fast[key] == pytest.approx(interval, abs=1e-12)


def test_bootstrap_is_over_patients():
    table = make(windows=400)
    once = bootstrap(table, LABELS, 200)
    assert once == bootstrap(table.sample(frac=1, random_state=0), LABELS, 200)
    thrice = pd.concat([table, table.assign(seed=1), table.assign(seed=2)])
    for key, interval in bootstrap(thrice, LABELS, 200).items():
        assert interval == pytest.approx(once[key]), "more seeds are not more patients"
    one = bootstrap(table.assign(subject="only"), LABELS)
    assert all(interval == [None, None] for interval in one.values())
    with pytest.raises(DataError, match="skip or zero"):
        bootstrap(table, LABELS, absent="drop")


def test_summary_is_plain_and_complete():
    table = pd.concat([make(), make().assign(seed=1)])
    windows = make().rename(columns={"truth": "label"})
    summary = summarise(table, LABELS, not_evaluable=["J"], table=windows, draws=100)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    figures = {key: summary[key] for key in METRICS}
    assert figures == pytest.approx(by_sklearn(table.truth, table.prediction, LABELS[:3]))
    counts = [summary[key] for key in ("n_classes", "n_windows", "n_predictions", "n_patients")]
    assert counts == [3, 300, 600, 9]
    assert summary["per_class"]["J"] == "not evaluable" and summary["classes"] == LABELS[:3]
    for key, (low, high) in summary["ci95"].items():
        assert low <= summary[key] <= high
    assert np.array(summary["confusion"]["counts"]).sum() == 600
    assert summary["cohort"]["AF"]["windows"] == summary["per_class"]["AF"]["windows"] / 2
    with pytest.raises(DataError, match="no class is evaluable"):
        summarise(table, LABELS, not_evaluable=LABELS)


def test_classes_never_seen_and_all_wrong():
    table = make(windows=30).assign(truth="(N", prediction="AF")
    summary = summarise(table, [*LABELS, "never"], draws=50)
    assert summary["top1"] == 0 and summary["macro_f1"] == 0
    assert summary["n_classes"] == 5 and summary["per_class"]["never"]["windows"] == 0
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_gross_and_average():
    table = make()
    result = gross_average(table, LABELS)
    for label in LABELS:
        held = table[table.truth == label]
        right = held.prediction == label
        assert result.loc[label, "gross_sensitivity"] == pytest.approx(right.mean())
        by_patient = right.groupby(held.subject).mean().mean()
        assert result.loc[label, "average_sensitivity"] == pytest.approx(by_patient)
        called = table[table.prediction == label]
        by_patient = (called.truth == label).groupby(called.subject).mean().mean()
        assert result.loc[label, "average_ppv"] == pytest.approx(by_patient)
    each = per_patient(table, LABELS)
    top1 = scores(table.truth, table.prediction, LABELS)["top1"]
    assert each.windows.sum() == len(table)
    assert (each.top1 * each.windows).sum() / len(table) == pytest.approx(top1)


def test_confusion_keeps_the_order_and_the_strangers():
    table = make()
    table.loc[0, "prediction"] = "other"
    matrix = confusion(table, LABELS[::-1])
    assert list(matrix.index) == [*LABELS[::-1], "other"] and matrix.to_numpy().sum() == len(table)
    theirs = confusion_matrix(table.truth, table.prediction, labels=list(matrix.index))
    assert (matrix.to_numpy() == theirs).all()


def test_compare_is_paired():
    one, other = make(), make()
    other.loc[other.index % 7 == 0, "prediction"] = "J"
    compared = compare(one, other, LABELS, draws=300)
    reverse = compare(other, one, LABELS, draws=300)
    assert json.loads(json.dumps(compared, allow_nan=False)) == compared
    a, b = (by_sklearn(table.truth, table.prediction, LABELS) for table in (one, other))
    for key in METRICS:
        forth, back = compared[key], reverse[key]
        expected = (a[key], b[key], a[key] - b[key])
        assert (forth["a"], forth["b"], forth["difference"]) == pytest.approx(expected)
        assert back["ci95"] == pytest.approx([-value for value in forth["ci95"][::-1]])
        assert back["p"] == pytest.approx(forth["p"])
    same = compare(one, one.sample(frac=1, random_state=1), LABELS, draws=100)
    assert same["macro_f1"]["ci95"] == [0, 0] and same["macro_f1"]["p"] == 1
    assert compared["top1"]["ci95"][0] > 0 and compared["top1"]["p"] < 0.05


def test_compare_refuses_other_windows():
    table = make()
    for other in (table[1:], table.assign(truth="VT"), table.assign(start=table.start + 1)):
        with pytest.raises(DataError, match="same folds"):
            compare(table, other, LABELS)


def test_compare_of_a_single_patient_has_no_interval():
    one, other = make().assign(subject="only"), make().assign(subject="only", prediction="(N")
    figure = compare(one, other, LABELS)["macro_f1"]
    assert figure["ci95"] == [None, None] and figure["p"] is None and figure["difference"] > 0


def test_compare_with_several_seeds_and_through_a_file(tmp_path):
    one = pd.concat([make().assign(seed=seed) for seed in range(3)])
    other = make().assign(prediction="(N")
    one.to_csv(tmp_path / "one.csv", index=False)
    read = pd.read_csv(tmp_path / "one.csv")
    assert read.subject.dtype != object
    assert compare(read, other, LABELS, draws=50) == compare(one, other, LABELS, draws=50)


def test_bad_predictions():
    with pytest.raises(DataError, match="lack the column subject"):
        summarise(make().drop(columns="subject"), LABELS)
    with pytest.raises(DataError, match="table is empty"):
        summarise(make()[:0], LABELS)


def test_scores_bad_input():
    with pytest.raises(DataError, match="2 truths and 1 predictions"):
        scores(["a", "b"], ["a"], ["a"])
    with pytest.raises(DataError, match="no class"):
        scores(["a"], ["a"], [])


def test_pictures_close_cleanly():
    table = make()
    ax = plot_confusion(confusion(table, LABELS), title="t")
    assert ax.get_yticklabels()[1].get_text().startswith("AF (")
    summaries = {"all": summarise(table, LABELS, draws=50), "one": summarise(table.assign(subject="1"), LABELS)}
    ax = plot_intervals(summaries)
    assert "4 classes" in ax.get_legend().get_texts()[0].get_text()
    plt.close("all")
