"""Each kind of leak is planted once, and the audit must name it, the record, the subject and the windows."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GroupKFold, KFold

from pediatric_ecg.core import DataError, LeakError
from pediatric_ecg.splits import Fold, audit, leave_one_patient_out, patient_folds, random_folds
from pediatric_ecg.splits.audit import LEAK_KINDS
from pediatric_ecg.splits.split import few_shot
from pediatric_ecg.windows.store import content_hashes


@pytest.fixture
def table():
    "Six patients, two records each, five windows per record"
    rows = [
        (f"r{patient}{half}", f"s{patient}", "NA"[number % 2], number * 100, number * 100 + 100)
        for patient in range(6)
        for half in "ab"
        for number in range(5)
    ]
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


def test_clean_folds_pass(table, fold):
    proof = audit(table, patient_folds(table, 3, repeats=2))
    assert set(proof.kind) == set(LEAK_KINDS) and set(proof.verdict) == {"clean", "not checked"}
    fold.fitted = {
        "normaliser": fold.train,
        "early_stopping": fold.valid,
        "class_counts": table.label.iloc[fold.train].value_counts().to_dict(),
    }
    hashed = table.assign(hash=[f"{row:x}" for row in range(len(table))])
    proof = audit(hashed, fold, require=["normaliser"])
    assert set(proof.verdict) == {"clean"}


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
    words = (f"subject {table.subject[row]}", f"{to} (windows {row})", "test (windows", "[subject]")
    found = leak(table, [moved(fold, row, to)], "subject", *words)
    assert found[0].subject == table.subject[row] and table.record[row] in found[0].record and row in found[0].windows
    assert "allowed" in set(audit(table, [moved(fold, row, to)], allow=("subject",)).verdict)


def test_overlapping_windows(table):
    folds = random_folds(table, 3, seed=1)
    audit(table, folds, allow=("subject",))
    half = table.assign(end=table.end + 50)
    with pytest.raises(LeakError, match="overlap in time across train") as e:
        audit(half, folds, allow=("subject",))
    finding = e.value.findings[0]
    assert finding.kind == "overlap" and set(half.record.iloc[list(finding.windows)]) == {finding.record}
    touching = table.assign(start=table.start, end=table.start + 100)
    audit(touching, folds, allow=("subject",))


def test_copies_under_other_names(table, fold):
    samples = np.random.default_rng(0).standard_normal((len(table), 2, 250)).astype(np.float16)
    audit(table.assign(hash=content_hashes([samples])), [fold])
    first, copy = fold.train[2], fold.test[4]
    samples[copy] = samples[first]
    copied = table.assign(hash=content_hashes([samples]))
    found = leak(copied, [fold], "duplicate", "same content", table.record[first], table.subject[copy], "[duplicate]")
    assert set(found[0].windows) == {first, copy}
    assert "allowed" in set(audit(copied, [fold], allow=("duplicate",)).verdict)
    assert "not checked" in set(audit(table, [fold]).query("kind == 'duplicate'").verdict)


def test_copies_on_one_side_and_level_windows_are_no_leak(table, fold):
    samples = np.random.default_rng(0).standard_normal((len(table), 2, 250)).astype(np.float16)
    samples[fold.train[1]] = samples[fold.train[0]]
    samples[[fold.train[2], fold.test[0]]] = 0  # nothing in them
    samples[[fold.train[3], fold.test[1]]] = np.float16([[0.5], [0.25]])  # every lead at a level of its own
    hashed = table.assign(hash=content_hashes([samples]))
    assert (hashed.hash == "").sum() == 4
    audit(hashed, [fold])
    audit(hashed.assign(hash=hashed.hash.replace("", np.nan)), [fold])  # as a careless reader of the CSV has it


def test_copies_in_a_store(simstore):
    table = simstore.table
    folds = leave_one_patient_out(table)
    proof = audit(table, folds)
    assert set(proof.verdict[proof.kind == "duplicate"]) == {"clean"}
    copied = table.copy()
    first, copy = folds[0].train[0], folds[0].test[0]
    copied.loc[copy, "hash"] = copied.hash[first]
    found = leak(copied, folds[:1], "duplicate", "same content")
    assert set(found[0].windows) == {first, copy}


@pytest.mark.parametrize("name", ["normaliser", "class_counts", "prototypes", "anything else"])
@pytest.mark.parametrize("side", ["valid", "test"])
def test_fitted_beyond_train(table, fold, name, side):
    rows = np.append(fold.train, getattr(fold, side)[:4])
    where = getattr(fold, side)[0]
    words = (f"{name} used 4 windows", f"in {side} (windows", table.record[where], table.subject[where])
    finding = leak(table, [fold], "fit", *words, fitted={name: rows})[0]
    assert set(finding.windows) == set(getattr(fold, side)[:4])
    audit(table, [fold], fitted={name: fold.train[3:]})


def test_fitted_outside_the_fold(table, fold):
    small = few_shot(table, fold, 2, labels=["A"])
    leak(table, [small], "fit", "outside the fold", fitted={"normaliser": fold.train})


def test_class_counts_are_recounted(table, fold):
    whole = {"class_counts": table.label.value_counts().to_dict()}
    leak(table, [fold], "fit", "class_counts are not those of the training windows", "A, N", fitted=whole)
    right = table.label.iloc[fold.train].value_counts().to_dict()
    leak(table, [fold], "fit", "ghost", fitted={"class_counts": {**right, "ghost": 3}})


@pytest.mark.parametrize("name", ["early_stopping", "calibration"])
def test_selection_on_test(table, fold, name):
    beyond = {name: np.append(fold.valid, fold.test[0])}
    leak(table, [fold], "selection", f"{name} used 1 windows", "in test", fitted=beyond)
    audit(table, [fold], fitted={name: np.append(fold.valid, fold.train[0])})


def test_undeclared(table, fold):
    leak(table, [fold], "undeclared", "prototypes is not declared", require=["prototypes"])


def test_every_kind_can_be_found(table, fold):
    "One fold with one leak of each kind; the list of kinds holds nothing that no audit can find."
    row, other = fold.train[0], fold.test[0]
    hashes = [f"{number:x}" for number in range(len(table))]
    hashes[other] = hashes[fold.train[3]]
    bad = table.assign(hash=hashes, simulated=np.arange(len(table)) == fold.test[2])
    same_record = moved(fold, fold.test[1], "train")
    bad.loc[fold.test[1], "end"] += 50
    same_record.test = np.sort(np.append(same_record.test, row))
    fitted = {"normaliser": fold.test, "early_stopping": fold.test}
    found = _findings(bad, [same_record], fitted=fitted, require=["prototypes"])
    assert {finding.kind for finding in found} == set(LEAK_KINDS)


def test_folds_of_any_make(table):
    groups = table.subject
    pairs = list(GroupKFold(3).split(table, groups=groups))
    every = np.arange(len(table))
    masks = [(np.isin(every, train), np.isin(every, test)) for train, test in pairs]
    for folds in (
        pairs,
        masks,
        [{"train": train, "test": test} for train, test in pairs],
        [(train, test, []) for train, test in pairs],
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


def three_windows(*sides):
    "A table of one record whose three windows of 100 samples begin 50 apart, and a fold that deals them out."
    table = pd.DataFrame({"record": "r", "subject": "s", "label": "N", "start": [0, 50, 100], "end": [100, 150, 200]})
    dealt = {side: np.array([row for row, name in enumerate(sides) if name == side], int)
             for side in ("train", "valid", "test")}
    return table, Fold("dealt", "patient", 0, **dealt)


@pytest.mark.parametrize("sides", [("valid", "test", "test"), ("train", "valid", "valid"), ("train", "test", "test")])
def test_an_overlap_of_any_two_sides_is_found(sides):
    table, fold = three_windows(*sides)
    with pytest.raises(LeakError) as error:
        audit(table, fold, allow=("subject",))
    found = [leak for leak in error.value.findings if leak.kind == "overlap"]
    assert [leak.windows for leak in found] == [(0, 1)]


def test_leaks_are_in_order_and_the_first_six_are_told(table):
    "Subjects one after another, whatever the order of the rows; of more than six leaks, how many more there are."
    backwards = table.iloc[::-1].reset_index(drop=True)
    rows = np.arange(len(backwards))
    mixed = Fold("mixed", "patient", 0, rows[rows % 2 == 0], rows[:0], rows[rows % 2 == 1])
    with pytest.raises(LeakError) as error:
        audit(backwards, mixed)
    assert [leak.subject for leak in error.value.findings] == [f"s{patient}" for patient in range(6)]
    assert str(error.value).count("\n") == 5 and "more" not in str(error.value)
    with pytest.raises(LeakError) as error:
        audit(backwards, [mixed, mixed])
    lines = str(error.value).splitlines()
    assert len(lines) == 7 and lines[-1] == "… and 6 more"
