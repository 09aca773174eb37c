"""Rhythm segments: the published figures from the real files, a database nobody foresaw, and what always holds."""
import shutil

import numpy as np
import pandas as pd
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from pediatric_ecg.core import DataError, wfdb_quiet
from pediatric_ecg.data import LEIPZIG, MITDB, Database, all_segments, group, read_header, segments, subjects
from pediatric_ecg.data.annotations import read_label_table, write_annotations
from pediatric_ecg.data.headers import lead_slots, record_paths
from pediatric_ecg.data.rhythms import (
    MIN_AGREEMENT,
    agreement,
    beat_labels,
    beat_matrix,
    beat_path,
    count_windows,
    label_effect,
    label_segments,
    read_markers,
    record_gaps,
    segment_frame,
    split_by_beats,
    symbol_spans,
    unusable_spans,
    window_samples,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wfdb")  # wfdb 4.3 under pandas 3.1

# rhythm: (segments, beats, patients) of all, and of the children
RELEASED = {
    "(N": ((1001, 69062, 39), (727, 56790, 29)),
    "(/A": ((454, 12645, 20), (454, 12645, 20)),
    "(AVRT": ((93, 13121, 15), (93, 13121, 15)),
    "(AVNRT": ((126, 8546, 13), (126, 8546, 13)),
    "(/V": ((403, 6622, 28), (196, 4499, 19)),
    "(AFIB": ((12, 1277, 5), (12, 1277, 5)),
    "(J": ((25, 332, 4), (25, 332, 4)),
    "(A": ((13, 437, 6), (8, 297, 5)),
    "(VT": ((99, 3076, 15), (12, 120, 5)),
    "(AFL": ((1, 107, 1), (1, 107, 1)),
    "(EAT": ((4, 31, 1), (4, 31, 1)),
    "(B": ((2, 18, 2), (2, 18, 2)),
    "(IVR": ((5, 472, 4), (0, 0, 0)),
}
# rhythm: seconds, episodes, records, windows of 5 s, records that hold them
MIT = {
    "(N": (63326.7, 530, 42, 12415, 42),
    "(AFIB": (7956.4, 107, 8, 1543, 8),
    "(P": (6611.8, 60, 4, 1290, 4),
    "(B": (2510.9, 221, 12, 368, 10),
    "(SBR": (1805.3, 1, 1, 361, 1),
    "(T": (1140.8, 83, 12, 185, 10),
    "(AFL": (785.2, 45, 3, 139, 3),
    "(PREX": (740.6, 103, 1, 97, 1),
    "(BII": (699.8, 5, 1, 138, 1),
    "(NOD": (279.1, 36, 3, 36, 3),
    "(VT": (214.1, 61, 13, 19, 2),
    "(SVTA": (210.5, 26, 7, 31, 3),
    "(IVR": (146.4, 4, 2, 27, 2),
    "(VFL": (143.9, 6, 1, 26, 1),
    "(AB": (88.3, 3, 1, 16, 1),
}


@pytest.fixture(scope="module")
def labels(shared):
    return read_label_table(shared / "leipzig" / "annotations.csv")


@pytest.fixture(scope="module")
def children(shared):
    people = subjects(shared / "leipzig", LEIPZIG)
    return set(people.record[people.group == "children"])


def test_counts_of_the_release(labels):
    assert len(labels) == 118_214 and labels.record.nunique() == 39
    beats = labels[labels.symbol.isin(list(LEIPZIG.beat_symbols))]
    assert len(beats) == 115_748
    assert labels.symbol.value_counts().to_dict() == {
        "N": 50973, "X": 29477, "/": 13779, "R": 12023, "A": 3469, "+": 2238, "V": 2133, "Q": 1824, "J": 1710,
        "~": 228, "F": 160, "a": 146, "f": 39, "L": 8, "b": 4, "j": 3}

    def aux(symbol):
        return labels.aux[labels.symbol == symbol].value_counts().to_dict()

    assert aux("X") == {"AVRT": 17599, "AVNRT": 8097, "VT": 1914, "AFIB": 1235, "avnrt": 231, "AVNRT+BII": 161,
                        "AFL": 109, "IVR": 82, "EAT": 28, "avrt": 21}
    assert aux("N") == {"": 37187, "N-Prex": 13786}
    assert aux("/") == {"/A": 8031, "/V": 5748}
    assert aux("A")["A-Prex"] == 2786
    pairs = labels[labels.symbol == "~"].groupby("record").size() // 2
    assert pairs.to_dict() == {"x003": 29, "x001": 24, "x002": 21, "x006": 17, "x004": 12, "x005": 6, "x0024": 2,
                               "x0010": 1, "x0011": 1, "x109": 1}


def test_segments_beats_and_patients(labels, children):
    def count(rows):
        return len(rows), int(rows.beats.sum()), rows.subject.nunique()

    table = label_segments(labels, merge=False, unusable="report")
    for rhythm, (everyone, young) in RELEASED.items():
        rows = table[table.rhythm == rhythm]
        assert (count(rows), count(rows[rows.record.isin(children)])) == (everyone, young), rhythm
    assert len(table) == 2238
    assert int((table.beats == 0).sum()) == 8
    assert len(table) - len(label_segments(labels, unusable="report")) == 168  # repeated markers
    early = labels[labels.record == "x0013"].reset_index(drop=True)
    first_marker = early.index[early.symbol == "+"][0]
    assert int(beat_labels(early[:first_marker], LEIPZIG).notna().sum()) == 2


def test_markers_and_beats_disagree(labels):
    matrix = beat_matrix(labels, LEIPZIG)
    assert matrix.to_numpy().sum() == 115_748
    avrt = matrix.loc["X AVRT"]
    assert (avrt.sum(), avrt.sum() - avrt["(AVRT"]) == (17_599, 4_908)
    assert round(avrt["(/A"] / matrix["(/A"].sum(), 2) == .32
    paced = matrix.loc[["/ /A", "/ /V"], "(N"].sum()
    assert (matrix.loc["X AVNRT", "(N"], avrt["(N"], paced) == (323, 226, 1519)

    table = label_segments(labels, merge=False, unusable="report")
    counted = {record: np.r_[0, np.cumsum(rows.aux == "AVRT")] for record, rows in labels.groupby("record")}
    table["avrt"] = [int(counted[s.record][s.end] - counted[s.record][s.start]) for s in table.itertuples()]
    atrial, ventricular = table[table.rhythm == "(/A"], table[table.rhythm == "(/V"]
    worst = atrial.nlargest(1, "avrt").iloc[0]
    assert (worst.record, worst.avrt, worst.beats) == ("x009", 2205, 2255)
    many = atrial[(atrial.record == "x001") & (atrial.avrt > 0)].nlargest(10, "avrt")
    assert many.avrt.sum() == 1833
    worst = ventricular[ventricular.record == "x004"].nlargest(1, "avrt").iloc[0]
    assert (worst.avrt, worst.beats) == (465, 556)


def test_no_child_has_both_tachycardias(labels, children):
    table = label_segments(labels)
    rhythms = table[table.record.isin(children)].groupby("subject").rhythm.agg(set)
    assert not any({"(AVRT", "(AVNRT"} <= of_child for of_child in rhythms)


def test_concentration(labels, children):
    table = label_segments(labels, unusable="report")

    def share(rhythm, records):
        rows = table[(table.rhythm == rhythm) & table.record.isin(children)]
        return rows.beats[rows.record.isin(records)].sum() / rows.beats.sum()

    assert [round(share(rhythm, {"x006"}), 2) for rhythm in ("(AFIB", "(J", "(A")] == [.75, .92, .67]
    assert share("(AFL", {"x006"}) == 1
    assert round(share("(VT", {"x002", "x003"}), 1) == .7


def test_x0010_in_time(shared):
    columns = ["record", "subject", "rhythm", "start", "end", "beats", "agreement"]
    table = segments(shared / "leipzig" / "x0010", unusable="report")
    assert list(table.columns) == [*columns, "unusable"]
    totals = ((table.end - table.start) / 977).groupby(table["rhythm"]).agg(["sum", "size"]).round(2)
    assert totals.T.to_dict("list") == {
        "(/A": [45.22, 10], "(/V": [7.33, 2], "(AVNRT": [247.23, 3], "(N": [16.86, 10]}
    assert count_windows(table, 977).T.to_dict("list") == {
        "(/A": [40, 18, 9, 3, 0], "(/V": [6, 3, 1, 0, 0], "(AVNRT": [246, 123, 81, 48, 23], "(N": [12, 2, 0, 0, 0]}
    cut = segments(shared / "leipzig" / "x0010")
    assert list(cut.columns) == columns
    assert set(cut.subject) == {"0010"}
    assert (table.end - table.start).sum() - (cut.end - cut.start).sum() == table.unusable.sum()


def test_mitdb_by_its_markers(shared):
    table = all_segments(shared / "mitdb", MITDB)
    assert set(table.rhythm) == set(MIT)
    for rhythm, rows in table.groupby("rhythm"):
        length = rows.end - rows.start
        windows = length // 1800
        holders = rows.record[windows > 0].nunique()
        found = (length.sum() / 360, len(rows), rows.record.nunique(), int(windows.sum()), holders)
        assert found == pytest.approx(MIT[rhythm], abs=.051), rhythm
    beats = 0
    for path in record_paths(shared / "mitdb", MITDB):
        beats += int(pd.Series(wfdb.rdann(str(path), "atr").symbol).isin(list(MITDB.beat_symbols)).sum())
    assert beats == 109_494
    assert table.beats[table.record == "100"].sum() == 2273
    assert set(table.subject[table.record == "202"]) == {"201"}


def test_label_by_beats(labels):
    by_marker = label_segments(labels, label="marker", unusable="report")
    by_beats = label_segments(labels, label="beats", unusable="report")
    effect = label_effect(by_marker, by_beats)
    assert effect.to_numpy().sum() == (by_marker.end - by_marker.start).sum()
    assert effect.loc["(/A", "(AVRT"] > 4000
    avrt_beats = [table.beats[table.rhythm == "(AVRT"].sum() for table in (by_marker, by_beats)]
    assert avrt_beats[1] > 1.3 * avrt_beats[0]
    assert (by_beats.agreement.dropna() >= MIN_AGREEMENT).all()
    assert (by_marker.agreement < MIN_AGREEMENT).sum() > 30


def frame(*rows):
    "Annotations as a table."
    return pd.DataFrame(rows, columns=["sample", "symbol", "aux"])


def test_unknown_marker_names_file_sample_marker_and_remedy(shared, tmp_path):
    shutil.copy(shared / "mitdb" / "100.hea", tmp_path)
    notes = {"symbol": ["+", "+"], "aux_note": ["(N", "(WPW"]}
    wfdb.wrann("100", "atr", np.array([18, 400]), **notes, write_dir=str(tmp_path))
    message = r"100.atr: unknown rhythm marker '\(WPW' at sample 400; add it to \"markers\", \"aliases\""
    with pytest.raises(DataError, match=message):
        segments(tmp_path / "100", MITDB)


def test_missing_record_is_named(shared):
    with pytest.raises(DataError, match="999: no such annotated record"):
        all_segments(shared / "mitdb", MITDB, records=["100", "999"])


def test_only_the_records_asked_for(shared):
    one = all_segments(shared / "mitdb", MITDB, records=["201"])
    assert set(one.record) == {"201"}
    both = all_segments(shared / "mitdb", MITDB, records=["201", "100"])
    assert set(both.record) == {"100", "201"}
    pd.testing.assert_frame_equal(both[both.record == "201"].reset_index(drop=True), one)


def test_one_record_with_its_folder_equals_all_of_them(shared):
    "Whose record it is stands in the folder's own table: 201 and 202 are one person."
    folder = shared / "mitdb"
    every = all_segments(folder, MITDB)
    for record in ("100", "202"):
        own = every[every.record == record].reset_index(drop=True)
        pd.testing.assert_frame_equal(segments(folder / record, MITDB, folder=folder), own)


def test_a_label_of_the_whole_record_needs_its_folder(tmp_path):
    "Where the label stands in a table, a record by itself has none."
    (tmp_path / "table.csv").write_text("record,rhythm\na,sinus\n")
    with wfdb_quiet():
        wfdb.wrsamp("a", fs=100, units=["mV"], sig_name=["I"], p_signal=np.zeros((1000, 1)), fmt=["16"],
                    write_dir=str(tmp_path))
    database = Database(
        "t", "", {"a": ("I",)}, {"sinus": "sinus rhythm"}, label_source="record", subject_tables={"table.csv": "all"},
        subject_columns={"rhythm": "label"})
    found = segments(tmp_path / "a", database, folder=tmp_path)
    assert found[["rhythm", "start", "end"]].to_numpy().tolist() == [["sinus", 0, 1000]]
    assert segments(tmp_path / "a", database).empty


def test_four_beats_of_five_are_enough():
    "Sixteen of twenty beats fit: the segment stays whole, although the last four tell of another rhythm."
    labels = np.array(["N"] * 16 + ["X AVRT"] * 4, dtype=object)
    at = 10 * np.arange(20) + 5
    assert agreement(labels, "(N", LEIPZIG) == MIN_AGREEMENT
    assert split_by_beats("(N", 0, 200, at, labels, LEIPZIG) == [["(N", 0, 200]]
    fewer = [["(N", 0, 150], ["(AVRT", 150, 190]]
    assert split_by_beats("(N", 0, 190, at[:19], labels[1:], LEIPZIG) == fewer


def test_unpaired_bracket_runs_to_the_end():
    assert unusable_spans(frame((10, "~", "")), 50) == [(10, 50)]
    assert segment_frame(frame((0, "+", "(N"), (10, "~", "")), 50)[["start", "end"]].to_numpy().tolist() == [[0, 10]]


def test_grouping_leaves_out_what_it_does_not_name(labels):
    grouped = group(label_segments(labels))
    assert set(grouped.label) == {"N", "/A", "/V", "AVRT", "AVNRT", "AF", "VT", "AE", "J"}
    assert not set(grouped.rhythm) & {"(B", "(IVR"}
    assert group(label_segments(labels), LEIPZIG, "fine").label.nunique() == 13


def test_a_database_nobody_foresaw(tmp_path):
    "Another rate, two leads of one name, sub-folders, another annotator, no beats, blanks after markers: no code."
    odd = Database("odd", "", {"near": ("ECG",), "far": ("ECG",)}, {"(SR": "sinus", "(SVT": "tachycardia"},
                   aliases={"(NSR": "(SR"}, continues=("(SAME",), unusable=("(NOISE",),
                   subject_pattern=r"^(p\d)/", annotator="rhy")
    rng = np.random.default_rng(0)
    for person in ("p1", "p2"):
        folder = tmp_path / person
        folder.mkdir()
        wfdb.wrsamp("a", fs=128, units=["mV"] * 2, sig_name=["ECG", "ECG2"], p_signal=rng.normal(size=(1280, 2)),
                    fmt=["16"] * 2, write_dir=str(folder))
        header = folder / "a.hea"
        header.write_text(header.read_text().replace("ECG2", "ECG"))  # wfdb reads such names, but does not write them
        wfdb.wrann("a", "rhy", np.array([10, 300, 500, 700, 900]), symbol=["+"] * 5,
                   aux_note=["(NSR\0", "(SAME ", "(NOISE", "(SVT \0", "(SVT"], write_dir=str(folder))
    assert lead_slots(read_header(tmp_path / "p1" / "a"), odd) == {"near": [0], "far": [1]}
    table = all_segments(tmp_path, odd)
    assert table[["record", "subject", "rhythm", "start", "end", "beats"]].to_numpy().tolist() == [
        ["p1/a", "p1", "(SR", 10, 500, 0], ["p1/a", "p1", "(SVT", 700, 1280, 0],
        ["p2/a", "p2", "(SR", 10, 500, 0], ["p2/a", "p2", "(SVT", 700, 1280, 0]]
    assert table.agreement.isna().all()


SYMBOLS = st.sampled_from([
    ("+", "(N"), ("+", "(/A"), ("+", "(AVRT"), ("N", ""), ("/", "/A"), ("X", "AVRT"), ("V", ""), ("~", ""), ("Q", "")])


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.integers(0, 40), SYMBOLS), max_size=60), st.sampled_from(["marker", "beats"]),
       st.sampled_from(["cut", "report"]))
def test_segments_always(steps, label, unusable):
    samples = np.cumsum([step for step, _ in steps]) if steps else []
    annotations = frame(*[(int(sample), *named) for sample, (_, named) in zip(samples, steps, strict=True)])
    n_samples = int(samples[-1]) + 10 if steps else 10
    table = segment_frame(annotations, n_samples, label=label, unusable=unusable)
    start, end, rhythm = table.start.to_numpy(), table.end.to_numpy(), table["rhythm"].to_numpy()
    assert (start < end).all() and (end <= n_samples).all()
    assert (start[1:] >= end[:-1]).all()  # in order, no overlap
    first = annotations["sample"][annotations.symbol == "+"].min()
    assert not len(table) or start.min() >= first  # nothing is labelled before the first marker
    touching = start[1:] == end[:-1]
    assert (rhythm[1:][touching] != rhythm[:-1][touching]).all()  # repeats are merged
    if unusable == "cut":
        for span_start, span_end in unusable_spans(annotations, n_samples):
            assert not (np.maximum(start, span_start) < np.minimum(end, span_end)).any()
    if label == "beats":
        assert (table.agreement.dropna() >= MIN_AGREEMENT).all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(["N", "/ /A", "X AVRT", "V", "Q"]), min_size=1, max_size=30))
def test_pieces_by_beats_are_a_part_of_the_segment(labels):
    "What the beats make of a segment lies inside of it, in order, and each piece is explained by its own beats."
    labels, at = np.array(labels, dtype=object), 10 * np.arange(len(labels)) + 5
    pieces = split_by_beats("(/A", 0, 10 * len(labels), at, labels, LEIPZIG)
    before = 0
    for rhythm, start, end in pieces:
        assert before <= start < end <= 10 * len(labels)
        before = end
        own = agreement(labels[(at >= start) & (at < end)], rhythm, LEIPZIG)
        assert np.isnan(own) or own >= MIN_AGREEMENT
    assert len(beat_path(labels, ["(/A", "(AVRT"], LEIPZIG)) == len(labels)


FLUTTER = Database("flutter", "", {"x": ("II",)}, {"(N": "", "(AFIB": "", "(VFL": "", "(VT": ""}, unusable=("(NOISE",),
                   spans={"[]": "(VFL", "{}": "(VT", "^`": "(NOISE"}, symbol_markers={"!": "(VT", "N": "(N"})
LAYERS = st.lists(st.tuples(st.integers(0, 8), st.sampled_from(
    [("+", "(N"), ("+", "(AFIB"), ("+", "(NOISE"), *((symbol, "") for symbol in "[]{}^`!")]),
    st.integers(-3, 12)), max_size=25)


def layers_by_loop(rows, n_samples):
    "The rhythm of each sample, by looking through all annotations for each of them; '' is unusable, None unlabelled."
    marks = [(sample, "(VT" if symbol == "!" else aux, end) for sample, symbol, aux, end in rows if symbol in "+!"]
    layers = []
    for number, (sample, marker, end) in enumerate(marks):
        following = marks[number + 1][0] if number + 1 < len(marks) else n_samples
        layers.append((0, sample, following if end <= sample else end, marker))
    for opening, closing, marker in (("[", "]", "(VFL"), ("{", "}", "(VT"), ("^", "`", "(NOISE")):
        began = None
        for sample, symbol, _, _ in rows:
            if began is None and symbol == opening:
                began = sample
            elif began is not None and symbol == closing:
                layers.append((1, began, sample, marker))
                began = None
        if began is not None:
            layers.append((1, began, n_samples, marker))
    rhythms = []
    for sample in range(n_samples):
        over = [(2 if marker == "(NOISE" else rank, start, number, marker)
                for number, (rank, start, end, marker) in enumerate(layers) if start <= sample < end]
        top = max(over, key=lambda layer: layer[:3])[3] if over else None
        rhythms.append("" if top == "(NOISE" else top)
    return rhythms


@settings(deadline=None, max_examples=300)
@given(LAYERS, st.integers(0, 60))
def test_layers_equal_a_loop_over_all_samples(steps, n_samples):
    rows, sample = [], 0
    for step, (symbol, aux), length in steps:
        sample += step
        rows.append((sample, symbol, aux, sample + length if symbol == "+" and length > 0 else -1))
    annotations = pd.DataFrame(rows, columns=["sample", "symbol", "aux", "end"]).astype({"sample": int, "end": int})
    expected = layers_by_loop(rows, n_samples)
    table = segment_frame(annotations, n_samples, FLUTTER)
    found = [None] * n_samples
    for row in table.itertuples():
        assert set(found[row.start:row.end]) == {None}
        found[row.start:row.end] = [row.rhythm] * (row.end - row.start)
    assert found == [rhythm or None for rhythm in expected]


def test_fibrillation_between_brackets_is_not_the_sinus_rhythm_around_it():
    rows = frame((0, "+", "(N"), (300, "[", ""), (310, "!", ""), (500, "]", ""))
    plain = Database("plain", "", {"x": ("II",)}, {"(N": "", "(VFL": ""})
    assert segment_frame(rows, 900, plain)[["rhythm", "start", "end"]].to_numpy().tolist() == [["(N", 0, 900]]
    spans = Database("spans", "", {"x": ("II",)}, {"(N": "", "(VFL": ""}, spans={"[]": "(VFL"})
    assert segment_frame(rows, 900, spans)[["rhythm", "start", "end"]].to_numpy().tolist() == [
        ["(N", 0, 300], ["(VFL", 300, 500], ["(N", 500, 900]]


def test_spans_through_aliases_and_unknown_markers():
    alias = Database("a", "", {"x": ("II",)}, {"(N": "", "(VFL": ""}, aliases={"(VF": "(VFL"}, spans={"[]": "(VF"},
                     symbol_markers={"!": "(VF"})
    rows = frame((0, "+", "(N"), (5, "!", ""), (10, "[", ""), (20, "]", ""))
    assert symbol_spans(rows, 99, alias) == ([("(VFL", 10, 20)], [])
    assert read_markers(rows, alias) == [("(N", 0), ("(VFL", 5)]


def test_a_marker_at_the_very_end_and_several_at_one_sample():
    rows = frame((0, "+", "(N"), (0, "+", "(AFIB"), (50, "+", "(AFIB"), (100, "+", "(N"), (100, "+", "(N"))
    assert segment_frame(rows, 100, FLUTTER)[["rhythm", "start", "end"]].to_numpy().tolist() == [["(AFIB", 0, 100]]
    assert len(segment_frame(rows, 100, FLUTTER, merge=False)) == 2


def test_windows_are_whole_samples():
    assert [window_samples(seconds, fs) for seconds, fs in (
        (2, 977), (1.7, 977), (1, 512.01), (.1, 30), (5, 360), (2.9, 100), (2, 600.615))] == [
        1954, 1661, 513, 3, 1800, 290, 1202]
    table = pd.DataFrame({"rhythm": ["(N"], "start": [0], "end": [3 * 513 - 1]})
    assert count_windows(table, 512.01, (1,)).loc["(N", 1] == 2


def test_a_gap_of_a_record_is_no_labelled_time(tmp_path):
    for name, length in (("s1", 1000), ("s2", 1500)):
        (tmp_path / f"{name}.hea").write_text(f"{name} 1 125 {length}\n{name}.dat 16 1000/mV 16 0 0 0 0 II\n")
        np.zeros(length, "<i2").tofile(tmp_path / f"{name}.dat")
    (tmp_path / "r.hea").write_text("r/3 1 125 3000\ns1 1000\n~ 500\ns2 1500\n")
    database = Database("gap", "", {"x": ("II",)}, {"(N": ""}, subjects={"r": "R"})
    write_annotations(tmp_path / "r", frame((10, "+", "(N")), database)
    assert record_gaps(read_header(tmp_path / "r")) == [(1000, 1500)]
    assert all_segments(tmp_path, database)[["start", "end"]].to_numpy().tolist() == [[10, 1000], [1500, 3000]]
    reported = segments(tmp_path / "r", database, unusable="report")
    assert reported[["start", "end", "unusable"]].to_numpy().tolist() == [[10, 3000, 500]]
