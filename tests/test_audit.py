"""Each kind of leak is planted once, and the audit must name it, the record, the subject and the windows."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GroupKFold, KFold

from pediatric_ecg.splits import split as splits
from pediatric_ecg.splits.audit import KINDS, audit
from pediatric_ecg.core import LeakError, DataError
from pediatric_ecg.splits._fingerprints import signal_hashes, window_hashes
from pediatric_ecg.splits.folds import Fold
from pediatric_ecg.splits.split import patient_folds, random_folds


@pytest.fixture
def table():
    "Six patients, two records each, five windows a record"
    rows = [(f"r{p}{half}", f"s{p}", "NA"[i % 2], i * 100, i * 100 + 100) for p in range(6) for half in "ab" for i in range(5)]
    return pd.DataFrame(rows, columns=["record", "subject", "label", "start", "end"])


@pytest.fixture
def fold(table):
    return patient_folds(table, 3)[0]


def leak(table, folds, kind, *words, **kw):
    "The audit must raise, with one kind only, and say the words"
    with pytest.raises(LeakError) as e:
        audit(table, folds, **kw)
    assert {f.kind for f in e.value.findings} == {kind}
    for word in words:
        assert word in str(e.value), f"{word!r} is not in {e.value}"
    copy = pickle.loads(pickle.dumps(e.value))
    assert str(copy) == str(e.value) and copy.findings == e.value.findings
    return e.value.findings


def moved(fold, row, to):
    "A fold in which one row has moved to another side"
    sides = {s: np.setdiff1d(getattr(fold, s), row) for s in ("train", "valid", "test")}
    sides[to] = np.append(sides[to], row)
    return Fold("planted", "patient", 0, **sides)


def test_same_objects_in_splits():
    assert splits.audit is audit and splits.LeakError is LeakError and issubclass(LeakError, ValueError)


def test_clean_folds_pass(table, fold):
    proof = audit(table, patient_folds(table, 3, repeats=2))
    assert set(proof.kind) == set(KINDS) and set(proof.verdict) == {"clean", "not checked"}
    fold.fitted = {
        "normaliser": fold.train,
        "early_stopping": fold.valid,
        "class_counts": table.label.iloc[fold.train].value_counts().to_dict(),
    }
    proof = audit(table, fold, hashes=np.arange(len(table)) + 1, persons={}, require=["normaliser"])
    assert set(proof.verdict[proof.kind != "augmentation"]) == {"clean"}


def test_row_on_two_sides(table, fold):
    row = fold.train[0]
    bad = Fold("twice", "patient", 0, fold.train, fold.valid, np.append(fold.test, row))
    found = [f for f in _findings(table, bad) if f.kind == "rows"]
    assert found[0].windows == (row,) and table.record[row] in found[0].record
    with pytest.raises(LeakError, match="are in train and in test"):
        audit(table, bad, allow=["subject"])


def _findings(table, folds, **kw):
    with pytest.raises(LeakError) as e:
        audit(table, folds, **kw)
    return e.value.findings


@pytest.mark.parametrize("to", ["valid", "train"])
def test_subject_on_both_sides(table, fold, to):
    row = fold.test[3]
    found = leak(
        table, [moved(fold, row, to)], "subject", f"subject {table.subject[row]}", f"{to} (windows {row})", "test (windows", "[subject]"
    )
    assert found[0].subject == table.subject[row] and table.record[row] in found[0].record and row in found[0].windows
    assert "allowed" in set(audit(table, [moved(fold, row, to)], allow=("subject",)).verdict)


def test_one_person_under_two_names_by_table(table, fold):
    a, b = table.record[fold.train[0]], table.record[fold.test[0]]
    persons = pd.DataFrame({"record": [a, b], "subject": ["Smith", "Smith"]})
    for who in (persons, dict(zip(persons.record, persons.subject, strict=True))):
        found = leak(table, [fold], "person", "are one person", a[:-1].replace("r", "s"), b[:-1].replace("r", "s"), persons=who)
        assert {a, b} <= set(found[0].record.split(", "))
    audit(table, random_folds(table, 3), persons=persons, allow=("subject",))


def test_one_person_under_two_names_by_content(table, fold):
    "Copies within train still prove that two names are one person, who then stands on two sides with other windows"
    s, other = table.subject.iloc[fold.train].unique()[:2]
    rows = np.flatnonzero(table.subject == s)
    bad = moved(fold, rows[5:], "test")
    bad.train, bad.test = np.setdiff1d(bad.train, rows[5:]), np.sort(bad.test)
    renamed = table.copy()
    renamed.loc[rows[5:], "subject"] = "alias"
    hashes = np.arange(len(table)) + 1
    audit(renamed, [bad], hashes=hashes)
    hashes[rows[5]] = hashes[rows[0]]
    kinds = {f.kind for f in _findings(renamed, [bad], hashes=hashes)}
    assert kinds == {"person", "duplicate"}
    with pytest.raises(LeakError, match=f"subjects alias, {s} .* are one person"):
        audit(renamed, [bad], hashes=hashes, allow=("duplicate",))


def test_overlapping_windows(table):
    folds = random_folds(table, 3, seed=1)
    audit(table, folds, allow=("subject",))
    half = table.assign(end=table.end + 50)
    with pytest.raises(LeakError, match="overlap in time across train") as e:
        audit(half, folds, allow=("subject",))
    f = e.value.findings[0]
    assert f.kind == "overlap" and set(half.record.iloc[list(f.windows)]) == {f.record}
    touching = table.assign(start=table.start, end=table.start + 100)
    audit(touching, folds, allow=("subject",))


@pytest.mark.parametrize("near", [False, True])
def test_duplicates_under_other_names(table, fold, near):
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.standard_normal((len(table), 2, 250)), axis=2).astype(np.float32)
    x -= x.mean(axis=2, keepdims=True)
    audit(table, [fold], hashes=signal_hashes(x, near))
    a, b = fold.train[2], fold.test[4]
    x[b] = 1.7 * x[a] + 0.2 if near else x[a]
    hashes = signal_hashes(x, near)
    found = _findings(table, [fold], hashes=hashes)
    assert {f.kind for f in found} == {"duplicate", "person"}
    f = next(f for f in found if f.kind == "duplicate")
    assert set(f.windows) == {a, b} and "same content" in f.message and table.record[a] in f.record and table.subject[b] in f.subject
    x[[a, b]] = 0
    audit(table, [fold], hashes=signal_hashes(x, near))


def test_store_hashes(simstore):
    exact, near = window_hashes(simstore), window_hashes(simstore, near=True, batch=64)
    assert exact.shape == near.shape == (len(simstore.table),)
    x, _ = simstore.batch(np.arange(3))
    assert (exact[:3] == signal_hashes(np.concatenate([x[m] for m in sorted(x)], axis=1))).all()
    assert len(set(exact[exact != 0])) == (exact != 0).sum()
    folds = leave = splits.leave_one_patient_out(simstore.table)
    audit(simstore.table, folds, hashes=exact)
    audit(simstore.table, leave, hashes=near)


@pytest.mark.parametrize("name", ["normaliser", "class_counts", "prototypes", "anything else"])
@pytest.mark.parametrize("side", ["valid", "test"])
def test_fitted_beyond_train(table, fold, name, side):
    rows = np.append(fold.train, getattr(fold, side)[:4])
    where = getattr(fold, side)[0]
    f = leak(
        table,
        [fold],
        "fit",
        f"{name} used 4 windows",
        f"in {side} (windows",
        table.record[where],
        table.subject[where],
        fitted={name: rows},
    )[0]
    assert set(f.windows) == set(getattr(fold, side)[:4])
    audit(table, [fold], fitted={name: fold.train[3:]})


def test_fitted_outside_the_fold(table, fold):
    small = splits.few_shot(table, fold, 2, labels=["A"])
    leak(table, [small], "fit", "outside the fold", fitted={"normaliser": fold.train})


def test_class_counts_are_recounted(table, fold):
    whole = table.label.value_counts().to_dict()
    leak(table, [fold], "fit", "class_counts are not those of the training windows", "A, N", fitted={"class_counts": whole})
    leak(table, [fold], "fit", "ghost", fitted={"class_counts": {**table.label.iloc[fold.train].value_counts().to_dict(), "ghost": 3}})


@pytest.mark.parametrize("name", ["early_stopping", "calibration"])
def test_selection_on_test(table, fold, name):
    leak(table, [fold], "selection", f"{name} used 1 windows", "in test", fitted={name: np.append(fold.valid, fold.test[0])})
    audit(table, [fold], fitted={name: np.append(fold.valid, fold.train[0])})


def test_undeclared(table, fold):
    leak(table, [fold], "undeclared", "prototypes is not declared", require=["prototypes"])


def test_augmented_copies(table, fold):
    more = pd.concat(
        [table.assign(source_window=np.nan), table.iloc[[fold.test[0]]].assign(source_window=fold.test[0], start=10**6, end=10**6 + 100)],
        ignore_index=True,
    )
    new = len(table)
    bad = Fold("planted", "patient", 0, np.append(fold.train, new), fold.valid, fold.test)
    found = _findings(more, [bad], allow=("subject",))
    assert [f.kind for f in found] == ["augmentation"] and set(found[0].windows) == {fold.test[0], new}
    assert f"window {fold.test[0]}" in found[0].message.replace(".0", "")
    good = Fold("good", "patient", 0, fold.train, fold.valid, np.append(fold.test, new))
    audit(more, [good])


def test_folds_of_any_make(table):
    groups = table.subject
    pairs = list(GroupKFold(3).split(table, groups=groups))
    masks = [(np.isin(np.arange(len(table)), a), np.isin(np.arange(len(table)), b)) for a, b in pairs]
    for folds in (
        pairs,
        masks,
        [{"train": a, "test": b} for a, b in pairs],
        [(a, b, []) for a, b in pairs],
        GroupKFold(3).split(table, groups=groups),
        pairs[0],
    ):
        audit(table, folds)
    with pytest.raises(LeakError, match="subject s0"):
        audit(table, KFold(3, shuffle=True, random_state=0).split(table))


@pytest.mark.parametrize(
    "folds, words",
    [
        ([([0], [999])], "row 999 is not in the table"),
        ([([0.0], [1.0])], "must be integers"),
        ([([0],)], "give \\(train, test\\)"),
        ([{"train": [0]}], "needs train and test"),
        ([(np.ones(3, bool), np.ones(3, bool))], "mask of 3 values"),
    ],
)
def test_unreadable_folds(table, folds, words):
    with pytest.raises(DataError, match=words):
        audit(table, folds)


def test_unreadable_arguments(table, fold):
    with pytest.raises(DataError, match="lacks the column subject"):
        audit(table.drop(columns="subject"), [fold])
    with pytest.raises(DataError, match="no kind of leak"):
        audit(table, [fold], allow=["everything"])
    with pytest.raises(DataError, match="hashes for a table"):
        audit(table, [fold], hashes=[1, 2])
