"""Folds as promises: whoever is studied is not examined, whatever can be examined is, and nothing depends on the order of rows."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pediatric_ecg.data.databases import MITDB
from pediatric_ecg.core import DataError, LeakError
from pediatric_ecg.data.rhythms import all_segments, group
from pediatric_ecg.splits.audit import audit
from pediatric_ecg.splits.split import evaluable, few_shot, leave_one_patient_out, patient_folds, random_folds
from pediatric_ecg.splits.folds import fold_table, folds_hash, load_folds, save_folds
from pediatric_ecg.windows.prepare import cut

SIDES = ("train", "valid", "test")


def make_table(held, extra=0):
    "held: list of {label: windows}, one a patient; patients beyond the first `extra` have one record, the others two"
    rows = []
    for p, labels in enumerate(held):
        for label, n in labels.items():
            rows += [(f"r{p}{'b' if p < extra and i % 2 else ''}", f"s{p}", label) for i in range(n)]
    t = pd.DataFrame(rows, columns=["record", "subject", "label"])
    t["start"] = t.groupby("record").cumcount() * 10
    return t.assign(end=t["start"] + 10)


studies = st.lists(st.dictionaries(st.sampled_from("ABCDE"), st.integers(1, 12), min_size=1), min_size=3, max_size=12)


def possible(held, k):
    "By brute force: can patients be coloured with k colours, none unused, so that no label of two patients or more has one colour?"
    labels = {c for h in held for c in h}
    groups = [g for c in labels if len(g := [i for i, h in enumerate(held) if c in h]) > 1]
    return any(all(len({a[i] for i in g}) > 1 for g in groups) and len(set(a)) == k for a in product(range(k), repeat=len(held)))


@settings(max_examples=60, deadline=None)
@given(studies, st.integers(2, 5), st.integers(0, 3))
def test_patient_folds_keep_their_promises(held, k, seed):
    table = make_table(held, extra=2)
    can = [c for c, ok in evaluable(table).items() if ok]
    k = min(k, len(held))
    if not can:
        with pytest.raises(DataError, match="nothing can be scored"):
            patient_folds(table, k)
        return
    try:
        folds = patient_folds(table, k, seed=seed)
    except DataError as e:
        assert "cannot spread" in str(e)
        assert len(held) > 6 or not possible(held, k)
        return
    assert audit(table, folds).verdict.isin(["clean", "not checked"]).all()
    assert (np.sort(np.concatenate([f.test for f in folds])) == np.arange(len(table))).all()
    labels = table.label.to_numpy()
    tested = {c: sum(c in labels[f.test] for f in folds) for c in can}
    for f in folds:
        assert len(f.train) and len(f.test)
        assert sum(len(getattr(f, s)) for s in SIDES) == len(table)
        for c in can:
            assert c in labels[f.train], "every evaluable label keeps a train patient"
    assert min(tested.values()) >= 2


@pytest.mark.parametrize("held, k", [([{"A": 1, "B": 1}, {"B": 2, "C": 1}, {"A": 3, "C": 1}], 2)])
def test_what_cannot_be_spread_is_said(held, k):
    assert not possible(held, k)
    with pytest.raises(DataError, match="2 folds cannot spread the patients of"):
        patient_folds(make_table(held), k)
    assert len(patient_folds(make_table(held), 3)) == 3


@settings(max_examples=25, deadline=None)
@given(studies, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(held, random):
    table = make_table(held, extra=1)
    order = list(range(len(table)))
    random.shuffle(order)
    order = np.array(order)
    makers = [lambda t: random_folds(t, 2, seed=1)]
    if any(evaluable(table).values()):
        makers.append(lambda t: leave_one_patient_out(t, seed=1))
    for make in makers:
        for f, g in zip(make(table), make(table.iloc[order]), strict=True):
            for side in SIDES:
                assert (getattr(f, side) == np.sort(order[getattr(g, side)])).all()


@settings(max_examples=30, deadline=None)
@given(studies, st.integers(2, 5))
def test_random_folds_are_stratified(held, k):
    table = make_table(held)
    k = min(k, len(table))
    folds = random_folds(table, k, valid=0.2)
    counts = pd.DataFrame([table.label.iloc[f.test].value_counts() for f in folds]).fillna(0)
    assert (counts.max() - counts.min() <= 1).all()
    assert np.ptp([len(f.test) for f in folds]) <= 1
    assert (np.sort(np.concatenate([f.test for f in folds])) == np.arange(len(table))).all()


def test_repeats_differ_and_have_names_of_their_own():
    table = make_table([{"N": 5, "A": 2 + p % 3} for p in range(12)])
    for make in (random_folds, patient_folds):
        folds = make(table, 4, repeats=3)
        assert len({f.name for f in folds}) == 12 and [f.repeat for f in folds] == sorted([0, 1, 2] * 4)
        assert len({folds_hash(folds[i : i + 4]) for i in (0, 4, 8)}) == 3
        assert len({tuple(f.test) for f in folds}) > 4


def test_rows_filter_refers_to_the_whole_table():
    table = make_table([{"N": 4, "A": 3, "X": 5 if p == 0 else 0} for p in range(6)])
    rows = np.flatnonzero(table.label != "X")
    for folds in (
        patient_folds(table, 3, rows=rows),
        patient_folds(table, 3, rows=(table.label != "X").to_numpy()),
        random_folds(table, 3, rows=rows),
    ):
        used = np.unique(np.concatenate([np.concatenate([f.train, f.valid, f.test]) for f in folds]))
        assert (used == rows).all()
    shifted = table.set_index(np.arange(100, 100 + len(table)))
    assert (patient_folds(shifted, 3)[0].test == patient_folds(table, 3)[0].test).all()


def test_subject_rules_over_record():
    table = make_table([{"N": 6, "A": 4}] * 5, extra=5)
    for f in patient_folds(table, 5):
        assert table.subject.iloc[f.test].nunique() == 1 and table.record.iloc[f.test].nunique() == 2


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda t: patient_folds(t, 9), "9 folds of 6 patients"),
        (lambda t: patient_folds(t, 1), "1 folds of 6 patients"),
        (lambda t: patient_folds(t[t.subject == "s0"]), "too few"),
        (lambda t: patient_folds(t[:0]), "empty"),
        (lambda t: patient_folds(t, rows=np.zeros(len(t), bool)), "filter of rows is empty"),
        (lambda t: patient_folds(t.drop(columns="start")), "lacks the column start"),
        (lambda t: patient_folds(t.assign(subject=None)), "no subject in row 0"),
        (lambda t: random_folds(t, 1000), "1000 folds"),
        (lambda t: few_shot(t, random_folds(t)[0], 0), "k=0"),
        (lambda t: few_shot(t, random_folds(t)[0], 1, unit="beats"), "choose windows or patients"),
        (lambda t: few_shot(t, random_folds(t)[0], 1, labels=["VT"]), "no training window of VT"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(DataError, match=words):
        make(make_table([{"N": 9, "A": 3}] * 6))


def test_two_patients_make_two_folds():
    folds = patient_folds(make_table([{"N": 3, "A": 2}, {"N": 2, "A": 1}]), 2)
    assert [len(f.valid) for f in folds] == [0, 0] and all(len(f.train) and len(f.test) for f in folds)


@pytest.mark.parametrize("unit", ["windows", "patients"])
def test_few_shots_are_nested_and_touch_train_only(unit):
    table = make_table([{"N": 200, "A": 4 + p, "B": 3} for p in range(8)])
    fold = patient_folds(table, 4)[0]
    before = None
    for k in (1, 2, 5, 100):
        g = few_shot(table, fold, k, unit=unit)
        assert (g.test == fold.test).all() and (g.valid == fold.valid).all() and set(g.train) <= set(fold.train)
        t = table.iloc[g.train]
        assert (t.label == "N").sum() == (table.label.iloc[fold.train] == "N").sum()
        for c in "AB":
            kept, whole = (x[x.label == c] for x in (t, table.iloc[fold.train]))
            n, most = (len(kept), len(whole)) if unit == "windows" else (kept.subject.nunique(), whole.subject.nunique())
            assert n == min(k, most)
        assert before is None or before <= set(g.train)
        before = set(g.train)
    assert set(few_shot(table, fold, 100).train) == set(fold.train)


def test_fold_table_adds_up():
    table = make_table([{"N": 9, "A": 3}] * 6)
    folds = patient_folds(table, 3)
    t = fold_table(table, folds)
    assert (t.groupby("fold").windows.sum() == len(table)).all()
    assert (t[t.side == "test"].groupby("label").windows.sum() == table.label.value_counts().sort_index()).all()
    assert (t.groupby(["fold", "label"]).patients.sum() == 6).all()


def test_files_of_folds(tmp_path):
    table = make_table([{"N": 9, "A": 3}] * 6)
    folds = patient_folds(table, 3) + random_folds(table, 3)
    file = tmp_path / "folds.json"
    assert save_folds(file, folds, table) == folds_hash(folds) == folds_hash(load_folds(file, table))
    assert list(tmp_path.iterdir()) == [file], "nothing half-written is left"
    with pytest.raises(DataError, match="another table"):
        load_folds(file, table.assign(label="N"))
    file.write_text(file.read_text()[:200])
    with pytest.raises(DataError, match="not a file of folds"):
        load_folds(file)
    file.write_text("[]")
    with pytest.raises(DataError, match="not a file of folds"):
        load_folds(file)
    folds[0].test[0] = folds[0].train[0]
    with pytest.raises(LeakError, match="in train and in test"):
        save_folds(tmp_path / "bad.json", folds, table)


def test_mitdb(shared):
    table = cut(group(all_segments(shared / "mitdb", MITDB), MITDB), 360, 5)
    assert {c for c, ok in evaluable(table).items() if not ok} == {"AB", "BII", "PREX", "SBR", "VFL"}
    can = [c for c, ok in evaluable(table, 3).items() if ok]
    assert len(can) == 8
    rows = np.flatnonzero(table.label.isin(can))
    folds = patient_folds(table, repeats=3, rows=rows)
    audit(table, folds)
    held = fold_table(table.iloc[rows], patient_folds(table.iloc[rows]))
    assert (held[held.side == "train"].patients >= 1).all()
    spread = held[held.side == "test"].groupby("label").patients.agg(lambda p: p.max() - p.min())
    assert (spread <= 1).all(), "the patients of each rhythm are spread as evenly as whole patients allow"
    both = table.record.isin(["201", "202"])
    assert all(len({s for s in SIDES if np.isin(np.flatnonzero(both & table.label.isin(can)), getattr(f, s)).any()}) == 1 for f in folds)
