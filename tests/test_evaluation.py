"""Figures against scikit-learn, intervals against the formula one would write first."""

import json
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
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
from pediatric_ecg.evaluate import compare, holm, scores, summarise
from pediatric_ecg.evaluate.scores import (
    METRICS,
    _count_intervals,
    _estimates,
    average_intervals,
    class_intervals,
    confusion,
    gross_average,
    intervals,
    patient_counts,
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


def naive_interval(sums, value):
    """The interval of one quotient, patient by patient, from the formulas of the notebook.

    `sums` are (windows counted for, windows counted) of each patient, real ones first and the two started ones last."""
    real, total = sums[:-2], sum(b for _, b in sums)
    ratio = sum(a for a, _ in sums) / total
    squares = [((a - ratio * b) / total) ** 2 / (1 - b / total) for a, b in sums]
    windows = [b for _, b in real]
    patients = sum(windows) ** 2 / sum(b**2 for b in windows)
    freedom = max(patients + 2 / 3 - 1, 1)
    reach = stats.t.ppf(0.975, freedom) * sum(squares) ** 0.5
    return [min(max(ratio - reach, 0), value), max(min(ratio + reach, 1), value)]


def test_recall_interval_equals_the_naive_formula():
    table = make(windows=150, patients=7)
    found = class_intervals(table, LABELS)
    for label in LABELS:
        held = table[table.truth == label]
        sums = [((part.prediction == label).sum(), len(part)) for _, part in held.groupby("subject")]
        started = len(held) / len(sums) / 3
        expected = naive_interval([*sums, (started, started), (0, started)], (held.prediction == label).mean())
        assert found[label]["recall"] == pytest.approx(expected, abs=1e-12)


def test_macro_error_is_near_the_jackknife():
    table = make(windows=2000, patients=40)
    counts = patient_counts(table, LABELS)[0]
    errors = {key: estimate.error for key, estimate in _estimates(counts, len(LABELS)).items()}
    without = [scores(*(table[table.subject != who][name] for name in ("truth", "prediction")), LABELS)
               for who in table.subject.unique()]
    for key in METRICS:
        values = np.array([figures[key] for figures in without])
        jackknife = np.sqrt(((values - values.mean()) ** 2).sum() * 39 / 40)
        assert errors[key] == pytest.approx(jackknife, rel=0.1)


def test_intervals_are_over_patients():
    table = make(windows=400)
    once = intervals(table, LABELS)
    assert once == intervals(table.sample(frac=1, random_state=0), LABELS)
    thrice = pd.concat([table, table.assign(seed=1), table.assign(seed=2)])
    for key, interval in intervals(thrice, LABELS).items():
        assert interval == pytest.approx(once[key]), "more seeds are not more patients"
    one = table.assign(subject="only")
    assert all(interval == [None, None] for interval in intervals(one, LABELS).values())
    assert class_intervals(one, LABELS)["VT"]["f1"] == class_intervals(one, LABELS)["VT"]["auroc"] == [None, None]


@pytest.mark.parametrize("right", [0, 3])
def test_three_patients_do_not_make_certainty(right):
    frequent = pd.DataFrame({"subject": list("abcdefgh"), "truth": "(N", "prediction": "(N"})
    rare = pd.DataFrame({"subject": list("abc"), "truth": "J", "prediction": "J" if right else "(N"})
    table = pd.concat([frequent, rare])
    low, high = class_intervals(table, ["(N", "J"])["J"]["recall"]
    assert (low == 0 and high > 0.3) if right == 0 else (high == 1 and low < 0.7)
    low, high = intervals(table, ["(N", "J"])["macro_recall"]
    assert high - low > 0.15
    # one label of all windows: the whole scale is in order, and no division fails
    assert class_intervals(rare.assign(prediction="J"), ["J"])["J"]["recall"][1] == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("ABC"), st.sampled_from("ABCD")), min_size=1))
def test_intervals_hold_the_figure_and_stay_on_the_scale(rows):
    table = pd.DataFrame(rows, columns=["subject", "truth", "prediction"])
    summary = summarise(table, list("ABC"))
    figures = [(summary[key], summary["ci95"][key]) for key in METRICS]
    for entry in summary["per_class"].values():
        figures += [(entry[name], interval) for name, interval in entry["ci95"].items()]
    for value, (low, high) in figures:
        assert low is None or 0 <= low <= value <= high <= 1


def test_auroc_interval_covers():
    "Simulated patients whose probabilities carry a part of their own; the truth is the mean over many studies."
    rng, values, ends = np.random.default_rng(0), [], []
    for _ in range(150):
        subject = np.repeat(np.arange(14), 20)
        is_label = rng.random(len(subject)) < np.where(subject < 6, 0.5, 0)
        own = rng.normal(size=(2, 14))[is_label.astype(int), subject]
        score = 1.4 * is_label + 0.8 * own + rng.normal(size=len(subject))
        truth = np.where(is_label, "VT", "(N")
        table = pd.DataFrame({"subject": subject, "truth": truth, "prediction": truth, "p_VT": score})
        values.append(roc_auc_score(is_label, score))
        ends.append(class_intervals(table, ["VT"])["VT"]["auroc"])
        assert ends[-1][0] <= values[-1] <= ends[-1][1]
    low, high = np.transpose(ends)
    assert 0.9 <= np.mean((low <= np.mean(values)) & (np.mean(values) <= high)) < 1


def test_intervals_are_quick():
    counts = np.random.default_rng(0).poisson(3, size=(48, 10, 10)).astype(float)
    start = time.perf_counter()
    _count_intervals(counts, 10)
    assert time.perf_counter() - start < 0.5


def naive_holm(p):
    "Holm (1979), word by word: step down, stop at the first that is not rejected; the smallest level that rejects."
    adjusted = []
    for value in p:
        steps = [(len(p) - number) * smaller for number, smaller in enumerate(sorted(p)) if smaller <= value]
        adjusted.append(min(1, max(steps[: sorted(p).index(value) + 1])))
    return adjusted


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=12, unique=True))
def test_holm_equals_its_definition(p):
    adjusted = holm(p)
    assert adjusted == pytest.approx(naive_holm(p))
    for level in (0.01, 0.05, 0.2):  # the procedure itself
        rejected = set()
        for number, index in enumerate(np.argsort(p)):
            if p[index] * (len(p) - number) > level:
                break
            rejected.add(int(index))
        assert rejected == set(np.flatnonzero(adjusted <= level).tolist())


def test_holm_leaves_out_what_was_not_tested():
    assert holm([None, 0.01, np.nan, 0.03]) == pytest.approx([np.nan, 0.02, np.nan, 0.03], nan_ok=True)
    assert len(holm([])) == 0


def test_summary_is_plain_and_complete():
    table = pd.concat([make(), make().assign(seed=1)])
    windows = make().rename(columns={"truth": "label"})
    summary = summarise(table, LABELS, not_evaluable=["J"], table=windows)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    figures = {key: summary[key] for key in METRICS}
    assert figures == pytest.approx(by_sklearn(table.truth, table.prediction, LABELS[:3]))
    counts = [summary[key] for key in ("n_classes", "n_windows", "n_predictions", "n_patients")]
    assert counts == [3, 300, 600, 9]
    assert summary["per_class"]["J"] == "not evaluable" and summary["classes"] == LABELS[:3]
    for key, (low, high) in summary["ci95"].items():
        assert low <= summary[key] <= high
    for label in LABELS[:3]:
        assert set(summary["per_class"][label]["ci95"]) == {"precision", "recall", "f1", "f2", "specificity", "auroc"}
    assert np.array(summary["confusion"]["counts"]).sum() == 600
    assert summary["cohort"]["AF"]["windows"] == summary["per_class"]["AF"]["windows"] / 2
    with pytest.raises(DataError, match="no class is evaluable"):
        summarise(table, LABELS, not_evaluable=LABELS)


def test_classes_never_seen_and_all_wrong():
    table = make(windows=30).assign(truth="(N", prediction="AF")
    summary = summarise(table, [*LABELS, "never"])
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
    compared = compare(one, other, LABELS)
    reverse = compare(other, one, LABELS)
    assert json.loads(json.dumps(compared, allow_nan=False)) == compared
    a, b = (by_sklearn(table.truth, table.prediction, LABELS) for table in (one, other))
    for key in METRICS:
        forth, back = compared[key], reverse[key]
        expected = (a[key], b[key], a[key] - b[key])
        assert (forth["a"], forth["b"], forth["difference"]) == pytest.approx(expected)
        assert back["ci95"] == pytest.approx([-value for value in forth["ci95"][::-1]])
        assert back["p"] == pytest.approx(forth["p"])
    same = compare(one, one.sample(frac=1, random_state=1), LABELS)
    assert same["macro_f1"]["ci95"] == [0, 0] and same["macro_f1"]["p"] == 1
    assert compared["top1"]["ci95"][0] > 0 and compared["top1"]["p"] < 0.05
    for seed in range(12):  # p and interval say the same
        figure = compare(make(seed=seed), make(seed=seed).assign(prediction=make(seed=seed + 1).prediction.to_numpy()),
                         LABELS)["macro_f1"]
        assert (figure["p"] < 0.05) == (figure["ci95"][0] > 0 or figure["ci95"][1] < 0)


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
    assert compare(read, other, LABELS) == compare(one, other, LABELS)


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
    summaries = {"all": summarise(table, LABELS), "one": summarise(table.assign(subject="1"), LABELS)}
    ax = plot_intervals(summaries)
    assert "4 classes" in ax.get_legend().get_texts()[0].get_text()
    plt.close("all")


def test_intervals_of_ec57s_averages_hold_the_truth():
    "Each patient's share is drawn from Beta(2, 2), so the truth is a half; windows per patient differ by ten times."
    rng, held = np.random.default_rng(0), []
    for _ in range(200):
        rows = []
        for patient in range(10):
            windows = int(rng.integers(5, 60))
            right = rng.random(windows) < rng.beta(2, 2)
            named = np.where(right, "VT", "N")
            rows.append(pd.DataFrame({"subject": str(patient), "truth": "VT", "prediction": named}))
        table = pd.concat(rows)
        each, of_means = average_intervals(table, ["VT"])
        low, high = each["VT"]["sensitivity"]
        assert of_means["sensitivity"] == [low, high] and each["VT"]["ppv"][1] == 1
        held.append(low <= 0.5 <= high)
    assert 0.92 <= np.mean(held) <= 0.99
    each, of_means = average_intervals(table, ["VT", "never"])
    assert each["never"]["sensitivity"] == [None, None], "nobody holds it"
    assert of_means["sensitivity"] == each["VT"]["sensitivity"], "so it is not in the mean"


def test_intervals_need_two_patients_and_no_more():
    "Of one patient there is none; of two there is one, also of a difference."
    table = make(windows=60, patients=2)
    one = table.assign(subject="0")
    each, means = average_intervals(one, LABELS)
    assert means == {"sensitivity": [None, None], "ppv": [None, None]}
    assert all(interval == [None, None] for entry in each.values() for interval in entry.values())
    assert None not in average_intervals(table, LABELS)[1]["sensitivity"]
    worse = table.assign(prediction=table.prediction.to_numpy()[::-1])
    compared = compare(table, worse, LABELS)["top1"]
    assert None not in compared["ci95"] and 0 < compared["p"] <= 1
    assert compare(one, worse.assign(subject="0"), LABELS)["top1"]["ci95"] == [None, None]


def naive_auroc_interval(table, label):
    "The same by loops: placements, two started patients on each side, leverage, Welch and Satterthwaite."
    is_label, probability = (table.truth == label).to_numpy(), table[f"p_{label}"].to_numpy()
    moves, middles, freedom = [], [], []
    for side in (is_label, ~is_label):
        sums = {}
        for value, subject in zip(probability[side], table.subject[side]):
            others = probability[~side]
            placement = ((others < value) + 0.5*(others == value)).mean()
            placement = placement if side is is_label else 1 - placement
            better, count = sums.get(subject, (0, 0))
            sums[subject] = better + placement, count + 1
        counts = np.array([count for _, count in sums.values()])
        started = counts.sum()/3/len(counts)
        sums |= {("right", len(moves)): (started, started), ("wrong", len(moves)): (0, started)}
        total = sum(count for _, count in sums.values())
        middle = sum(better for better, _ in sums.values())/total
        moves.append({subject: (better - middle*count)/total/np.sqrt(max(1 - count/total, 0.05))
                      for subject, (better, count) in sums.items()})
        middles.append(middle)
        freedom.append(max(counts.sum()**2/(counts**2).sum() + 2/3 - 1, 1))
    error = np.sqrt(sum((moves[0].get(name, 0) + moves[1].get(name, 0))**2 for name in {*moves[0], *moves[1]}))
    parts = [sum(move**2 for move in side.values()) for side in moves]
    degrees = sum(parts)**2/sum(part**2/free for part, free in zip(parts, freedom))
    value, reach = roc_auc_score(is_label, probability), stats.t.ppf(0.975, degrees)*error
    middle = sum(middles) - value
    return [min(max(middle - reach, 0), value), max(min(middle + reach, 1), value)]


@pytest.mark.parametrize("seed", range(3))
def test_auroc_interval_equals_loops(seed):
    table = make(seed=seed, windows=80, patients=5, skill=0.1)
    for label in LABELS:
        assert class_intervals(table, LABELS)[label]["auroc"] == pytest.approx(naive_auroc_interval(table, label))


def test_a_label_that_is_left_out_hides_no_other():
    "Wherever it stands among the classes."
    table = make()
    found = per_class(table, LABELS, LABELS[:1])
    assert found.pop(LABELS[0]) == "not evaluable"
    assert found == {label: each for label, each in per_class(table, LABELS).items() if label != LABELS[0]}
