"""Folds as promises: whoever is studied is not examined, all that can be is, and the order of rows does not matter."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pediatric_ecg.core import DataError, LeakError
from pediatric_ecg.data import MITDB, all_segments, group
from pediatric_ecg.splits import Fold, audit, evaluable, leave_one_patient_out, patient_folds, random_folds
from pediatric_ecg.splits._assign import assign, choose_validation, fold_sums, share_vectors, violations
from pediatric_ecg.splits.folds import SIDES, fold_table, folds_hash, load_folds, save_folds
from pediatric_ecg.splits.split import _apart_first, few_shot, patients_by_fold, transfer_folds
from pediatric_ecg.windows import cut


def make_table(held, extra=0):
    "held: list of {label: windows}, one per patient; patients beyond the first `extra` have one record, the others two"
    rows = []
    for patient, labels in enumerate(held):
        for label, count in labels.items():
            for number in range(count):
                second = "b" if patient < extra and number % 2 else ""
                rows.append((f"r{patient}{second}", f"s{patient}", label))
    table = pd.DataFrame(rows, columns=["record", "subject", "label"])
    table["start"] = table.groupby("record").cumcount() * 10
    return table.assign(end=table["start"] + 10)


studies = st.lists(st.dictionaries(st.sampled_from("ABCDE"), st.integers(1, 12), min_size=1), min_size=3, max_size=12)


def possible(held, k):
    "By brute force: k colours for patients, none unused, so that no label of two patients or more has one colour?"
    groups = []
    for label in {label for labels in held for label in labels}:
        holders = [patient for patient, labels in enumerate(held) if label in labels]
        if len(holders) > 1:
            groups.append(holders)
    for colours in product(range(k), repeat=len(held)):
        spread = all(len({colours[patient] for patient in holders}) > 1 for holders in groups)
        if spread and len(set(colours)) == k:
            return True
    return False


@settings(max_examples=60, deadline=None)
@given(studies, st.integers(2, 5), st.integers(0, 3))
def test_patient_folds_keep_their_promises(held, k, seed):
    table = make_table(held, extra=2)
    scored = [label for label, ok in evaluable(table).items() if ok]
    k = min(k, len(held))
    if not scored:
        with pytest.raises(DataError, match="nothing can be scored"):
            patient_folds(table, k)
        return
    try:
        folds = patient_folds(table, k, seed=seed)
    except DataError as error:
        assert "cannot spread" in str(error)
        assert len(held) > 6 or not possible(held, k)
        return
    assert audit(table, folds).verdict.isin(["clean", "not checked"]).all()
    assert (np.sort(np.concatenate([fold.test for fold in folds])) == np.arange(len(table))).all()
    labels = table.label.to_numpy()
    for fold in folds:
        assert len(fold.train) and len(fold.test)
        assert sum(len(rows) for rows in fold.sides.values()) == len(table)
        for label in scored:
            assert label in labels[fold.train], "every evaluable label keeps a train patient"
    for label in scored:
        assert sum(label in labels[fold.test] for fold in folds) >= 2


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
        for fold, again in zip(make(table), make(table.iloc[order]), strict=True):
            for side in SIDES:
                assert (getattr(fold, side) == np.sort(order[getattr(again, side)])).all()


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
    table = make_table([{"N": 5, "A": 2 + patient % 3} for patient in range(12)])
    for make in (random_folds, patient_folds):
        folds = make(table, 4, repeats=3)
        assert len({fold.name for fold in folds}) == 12
        assert [fold.repeat for fold in folds] == sorted([0, 1, 2] * 4)
        assert len({folds_hash(folds[first : first + 4]) for first in (0, 4, 8)}) == 3
        assert len({tuple(fold.test) for fold in folds}) > 4


def test_rows_filter_refers_to_the_whole_table():
    table = make_table([{"N": 4, "A": 3, "X": 5 if patient == 0 else 0} for patient in range(6)])
    rows = np.flatnonzero(table.label != "X")
    for folds in (
        patient_folds(table, 3, rows=rows),
        patient_folds(table, 3, rows=(table.label != "X").to_numpy()),
        random_folds(table, 3, rows=rows),
    ):
        used = np.unique(np.concatenate([np.concatenate(list(fold.sides.values())) for fold in folds]))
        assert (used == rows).all()
    shifted = table.set_index(np.arange(100, 100 + len(table)))
    assert (patient_folds(shifted, 3)[0].test == patient_folds(table, 3)[0].test).all()


def test_subject_rules_over_record():
    table = make_table([{"N": 6, "A": 4}] * 5, extra=5)
    for fold in patient_folds(table, 5):
        tested = table.iloc[fold.test]
        assert tested.subject.nunique() == 1 and tested.record.nunique() == 2


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
    assert [len(fold.valid) for fold in folds] == [0, 0]
    assert all(len(fold.train) and len(fold.test) for fold in folds)


@pytest.mark.parametrize("unit", ["windows", "patients"])
def test_few_shots_are_nested_and_touch_train_only(unit):
    table = make_table([{"N": 200, "A": 4 + patient, "B": 3} for patient in range(8)])
    fold = patient_folds(table, 4)[0]
    before = None
    whole = table.iloc[fold.train]
    for k in (1, 2, 5, 100):
        thinned = few_shot(table, fold, k, unit=unit)
        assert (thinned.test == fold.test).all() and (thinned.valid == fold.valid).all()
        assert set(thinned.train) <= set(fold.train)
        kept = table.iloc[thinned.train]
        assert (kept.label == "N").sum() == (whole.label == "N").sum()
        for label in "AB":
            some, every = kept[kept.label == label], whole[whole.label == label]
            if unit == "windows":
                assert len(some) == min(k, len(every))
            else:
                assert some.subject.nunique() == min(k, every.subject.nunique())
        assert before is None or before <= set(thinned.train)
        before = set(thinned.train)
    assert set(few_shot(table, fold, 100).train) == set(fold.train)


def test_fold_table_adds_up():
    table = make_table([{"N": 9, "A": 3}] * 6)
    folds = patient_folds(table, 3)
    held = fold_table(table, folds)
    assert (held.groupby("fold").windows.sum() == len(table)).all()
    tested = held[held.side == "test"].groupby("label").windows.sum()
    assert (tested == table.label.value_counts().sort_index()).all()
    assert (held.groupby(["fold", "label"]).patients.sum() == 6).all()


def test_files_of_folds(tmp_path):
    table = make_table([{"N": 9, "A": 3}] * 6)
    folds = patient_folds(table, 3) + random_folds(table, 3)
    file = tmp_path / "folds.json"
    assert save_folds(file, folds, table) == folds_hash(folds) == folds_hash(load_folds(file, table))
    assert list(tmp_path.iterdir()) == [file], "nothing half-written is left"
    with pytest.raises(DataError, match="another table"):
        load_folds(file, table.assign(label="N"))
    file.write_text(file.read_text()[:200])
    with pytest.raises(DataError, match="folds.json: not a file of folds .not readable as JSON"):
        load_folds(file)
    file.write_text("[]")
    with pytest.raises(DataError, match="must be names and values"):
        load_folds(file)
    folds[0].test[0] = folds[0].train[0]
    with pytest.raises(LeakError, match="patient repeat 0 fold 0: windows .* are in train and in test"):
        save_folds(tmp_path / "bad.json", folds, table)
    with pytest.raises(DataError, match="row 999 is not in the table"):
        save_folds(tmp_path / "bad.json", [Fold("far", "patient", 0, [999], [], [1])], table)
    assert list(tmp_path.iterdir()) == [file]


def test_mitdb(shared):
    table = cut(group(all_segments(shared / "mitdb", MITDB), MITDB), 360, 5)
    assert {label for label, ok in evaluable(table).items() if not ok} == {"AB", "BII", "PREX", "SBR", "VFL"}
    scored = [label for label, ok in evaluable(table, 3).items() if ok]
    assert len(scored) == 8
    rows = np.flatnonzero(table.label.isin(scored))
    folds = patient_folds(table, repeats=3, rows=rows)
    audit(table, folds)
    held = fold_table(table.iloc[rows], patient_folds(table.iloc[rows]))
    assert (held[held.side == "train"].patients >= 1).all()
    spread = held[held.side == "test"].groupby("label").patients.agg(lambda counts: counts.max() - counts.min())
    assert (spread <= 1).all(), "the patients of each rhythm are spread as evenly as whole patients allow"
    one_man = np.flatnonzero(table.record.isin(["201", "202"]) & table.label.isin(scored))
    for fold in folds:
        assert sum(np.isin(one_man, side).any() for side in fold.sides.values()) == 1


def overlapping_table(seed):
    "Random segments of a few patients, cut with a stride shorter than the window; segments may touch."
    rng, rows = np.random.default_rng(seed), []
    length, hop = 20, int(rng.integers(3, 21))
    for patient in range(int(rng.integers(3, 7))):
        for half in range(int(rng.integers(1, 3))):
            at = 0
            for _ in range(int(rng.integers(1, 5))):
                stop = at + int(rng.integers(20, 600))
                label = str(rng.choice(list("NAV")))
                for start in range(at, stop - length + 1, hop):
                    rows.append((f"r{patient}{half}", f"s{patient}", label, start, start + length))
                at = stop + int(rng.integers(0, 2))*7
    table = pd.DataFrame(rows, columns=["record", "subject", "label", "start", "end"])
    return table.iloc[rng.permutation(len(table))].reset_index(drop=True)


def samples_of(table, rows):
    "Every sample of some windows, one by one: the slow oracle."
    held = set()
    for row in table.iloc[rows].itertuples():
        held.update((row.record, sample) for sample in range(row.start, row.end))
    return held


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_overlapping_windows_stay_on_one_side(seed, k):
    table = overlapping_table(seed)
    try:
        folds = random_folds(table, k, seed=seed)
    except DataError as error:
        assert "choose" in str(error)
        return
    assert (np.sort(np.concatenate([fold.test for fold in folds])) == np.arange(len(table))).all()
    audit(table, folds, allow=("subject",))
    for fold in folds:
        assert len(fold.test)
        sides = [samples_of(table, rows) for rows in fold.sides.values()]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
        # only windows that reach into another side are left out
        used = np.concatenate(list(fold.sides.values()))
        elsewhere = samples_of(table, np.concatenate([fold.valid, fold.test]))
        for row in np.setdiff1d(np.arange(len(table)), used):
            assert samples_of(table, [row]) & elsewhere
    shuffled = np.random.default_rng(seed).permutation(len(table))
    for fold, again in zip(folds, random_folds(table.iloc[shuffled], k, seed=seed), strict=True):
        for side in SIDES:
            assert (getattr(fold, side) == np.sort(shuffled[getattr(again, side)])).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_few_shots_of_overlapping_windows_are_apart_and_nested(seed):
    table = overlapping_table(seed)
    try:
        fold = patient_folds(table, 2, seed=seed)[0]
    except DataError:
        return
    labels = sorted(set(table.label.iloc[fold.train]))[:1]
    before = set()
    for k in (1, 2, 4, 8):
        kept = few_shot(table, fold, k, labels=labels, seed=seed).train
        assert before <= set(kept)
        before = set(kept)
        mine = table.iloc[kept][table.label.iloc[kept].isin(labels).to_numpy()]
        if k == 2 and len(mine) == 2:
            held = [samples_of(mine, [row]) for row in range(2)]
            whole = table.iloc[fold.train]
            whole = whole[whole.label.isin(labels)]
            apart = len(samples_of(whole, range(len(whole)))) >= 2*20 and not (held[0] & held[1])
            assert apart or whole.end.max() - whole.start.min() < 60


def test_folds_without_overlap_are_those_of_before():
    "Bit for bit: the hash was taken before windows could overlap."
    table = make_table([{"N": 9, "A": 3 + patient % 2} for patient in range(6)], extra=2)
    before = "d02f7d05de35a8dfe0722f9139b9888457bd088fe9ca116d8d8cece0353a7f63"
    assert folds_hash(random_folds(table, 4, seed=3, repeats=2)) == before


@pytest.mark.parametrize("seed", range(8))
def test_no_single_step_makes_the_spread_better(seed):
    "By brute force: every patient to every other fold, and every pair exchanged."
    rng = np.random.default_rng(seed)
    windows = rng.integers(0, 9, (9, 4))*rng.integers(0, 2, (9, 4))
    vectors, holds = share_vectors(windows), (windows > 0).astype(float)

    def badness(fold_of):
        return violations(fold_of, holds, 3), (fold_sums(fold_of, vectors, 3)**2).sum()

    found = assign(windows, 3, np.random.default_rng(seed), starts=1)
    broken, cost = badness(found)
    steps = []
    for one in range(9):
        for fold in range(3):
            steps.append(np.where(np.arange(9) == one, fold, found))
        for other in range(one):
            steps.append(found.copy())
            steps[-1][[one, other]] = found[[other, one]]
    for step in steps:
        still_broken, other_cost = badness(step)
        assert still_broken > broken or (still_broken == broken and other_cost > cost - 1e-9)
    assert broken == 0


def test_validation_covers_labels_first_and_may_exchange_one():
    "Two patients of ten validate: those who together hold the most labels, of whom train keeps a holder."
    windows = np.zeros((10, 3))
    windows[:, 0] = 5
    windows[[1, 2], 1] = 5
    windows[[3, 4], 2] = 5
    for seed in range(5):
        chosen = choose_validation(windows, np.arange(10), 0.2, np.full(3, True), np.random.default_rng(seed))
        assert len(chosen) == 2 and (windows[chosen].sum(0) > 0).all()


def test_overlapping_windows_are_cut_by_length_not_by_time_of_day():
    "A record that begins later is cut at the same places; blocks of other labels go to other folds."
    table = pd.DataFrame({"record": "r", "subject": "s", "label": "N", "start": np.arange(40)*5})
    table["end"] = table.start + 10
    later = table.assign(start=table.start + 100_000, end=table.end + 100_000)
    for one, other in zip(random_folds(table, 3), random_folds(later, 3), strict=True):
        assert all((one.sides[side] == other.sides[side]).all() for side in SIDES)
    four = pd.concat([table[:2].assign(record=label, label=label) for label in "ABCD"], ignore_index=True)
    assert [len(fold.test) for fold in random_folds(four, 4)] == [2, 2, 2, 2]


def test_windows_that_touch_are_apart():
    "For few shots: the end of one is the beginning of the next, and a third overlaps both."
    table = pd.DataFrame({"record": "r", "subject": "s", "label": "N", "start": [0, 10, 5], "end": [10, 20, 15]})
    for order, first in {(0, 2, 1): [0, 1, 2], (1, 2, 0): [1, 0, 2], (2, 0, 1): [2, 0, 1]}.items():
        assert _apart_first(table, np.array(order)).tolist() == first


def test_tables_and_defaults_of_folds():
    "A label that a fold does not examine has no patients there; one repetition where none is asked for."
    table = make_table([{"A": 2}, {"A": 2, "B": 1}, {"A": 1, "B": 2}])
    counts = patients_by_fold(table, [table.index[table.subject == "s0"], table.index[table.subject != "s0"]])
    assert counts.loc["A"].tolist() == [1, 2] and counts.loc["B"].tolist() == [0, 2]
    assert len(transfer_folds(table, ["s0", "s1"])) == 1


@pytest.mark.parametrize("share, number", [(0, 0), (0.01, 1), (0.2, 2), (1, 9)])
def test_how_many_patients_validate(share, number):
    "None where none are asked for, one where few are, and never all."
    windows = np.ones((10, 1))
    chosen = choose_validation(windows, np.arange(10), share, np.array([True]), np.random.default_rng(0))
    assert len(chosen) == number
