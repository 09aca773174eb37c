"""Rhythm segments: the published figures from the real files, a database nobody foresaw, and properties that always hold."""
import shutil

import numpy as np
import pandas as pd
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from pediatric_ecg.data.beats import AGREE, beat_labels, beat_matrix
from pediatric_ecg.data.databases import LEIPZIG, MITDB, Database
from pediatric_ecg.core import DataError
from pediatric_ecg.data.records import lead_slots, read_label_table, record_paths, subjects
from pediatric_ecg.data.headers import read_header
from pediatric_ecg.data.rhythms import all_segments, count_windows, group, label_effect, label_segments, segment_frame, segments, unusable_spans

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wfdb")  # wfdb 4.3 under pandas 3.1

# rhythm: (segments, beats, patients) of all, and of the children
RELEASED = {
    "(N": ((1001, 69062, 39), (727, 56790, 29)), "(/A": ((454, 12645, 20), (454, 12645, 20)), "(AVRT": ((93, 13121, 15), (93, 13121, 15)),
    "(AVNRT": ((126, 8546, 13), (126, 8546, 13)), "(/V": ((403, 6622, 28), (196, 4499, 19)), "(AFIB": ((12, 1277, 5), (12, 1277, 5)),
    "(J": ((25, 332, 4), (25, 332, 4)), "(A": ((13, 437, 6), (8, 297, 5)), "(VT": ((99, 3076, 15), (12, 120, 5)),
    "(AFL": ((1, 107, 1), (1, 107, 1)), "(EAT": ((4, 31, 1), (4, 31, 1)), "(B": ((2, 18, 2), (2, 18, 2)), "(IVR": ((5, 472, 4), (0, 0, 0))}
# rhythm: seconds, episodes, records, windows of 5 s, records that hold them
MIT = {
    "(N": (63326.7, 530, 42, 12415, 42), "(AFIB": (7956.4, 107, 8, 1543, 8), "(P": (6611.8, 60, 4, 1290, 4),
    "(B": (2510.9, 221, 12, 368, 10),
    "(SBR": (1805.3, 1, 1, 361, 1), "(T": (1140.8, 83, 12, 185, 10), "(AFL": (785.2, 45, 3, 139, 3), "(PREX": (740.6, 103, 1, 97, 1),
    "(BII": (699.8, 5, 1, 138, 1), "(NOD": (279.1, 36, 3, 36, 3), "(VT": (214.1, 61, 13, 19, 2), "(SVTA": (210.5, 26, 7, 31, 3),
    "(IVR": (146.4, 4, 2, 27, 2), "(VFL": (143.9, 6, 1, 26, 1), "(AB": (88.3, 3, 1, 16, 1)}


@pytest.fixture(scope="module")
def labels(shared):
    return read_label_table(shared / "leipzig" / "annotations.csv")


@pytest.fixture(scope="module")
def children(shared):
    s = subjects(shared / "leipzig", LEIPZIG)
    return set(s.record[s.group == "children"])


def test_counts_of_the_release(labels):
    assert len(labels) == 118_214 and labels.record.nunique() == 39
    beats = labels[labels.symbol.isin(list(LEIPZIG.beat_symbols))]
    assert len(beats) == 115_748
    assert labels.symbol.value_counts().to_dict() == {
        "N": 50973, "X": 29477, "/": 13779, "R": 12023, "A": 3469, "+": 2238, "V": 2133, "Q": 1824, "J": 1710, "~": 228, "F": 160, "a": 146,
        "f": 39, "L": 8, "b": 4, "j": 3}
    aux = lambda symbol: labels.aux[labels.symbol == symbol].value_counts().to_dict()
    assert aux("X") == {"AVRT": 17599, "AVNRT": 8097, "VT": 1914, "AFIB": 1235, "avnrt": 231, "AVNRT+BII": 161, "AFL": 109, "IVR": 82,
                        "EAT": 28, "avrt": 21}
    assert aux("N") == {"": 37187, "N-Prex": 13786} and aux("/") == {"/A": 8031, "/V": 5748} and aux("A")["A-Prex"] == 2786
    pairs = labels[labels.symbol == "~"].groupby("record").size() // 2
    assert pairs.to_dict() == {"x003": 29, "x001": 24, "x002": 21, "x006": 17, "x004": 12, "x005": 6, "x0024": 2, "x0010": 1, "x0011": 1,
                               "x109": 1}


def test_segments_beats_and_patients(labels, children):
    t = label_segments(labels, merge=False, unusable="report")
    count = lambda g: (len(g), int(g.beats.sum()), g.subject.nunique())
    for rhythm, (everyone, young) in RELEASED.items():
        own = t[t.rhythm == rhythm]
        assert (count(own), count(own[own.record.isin(children)])) == (everyone, young), rhythm
    assert len(t) == 2238 and int((t.beats == 0).sum()) == 8
    assert len(t) - len(label_segments(labels, unusable="report")) == 168  # repeated markers
    early = labels[labels.record == "x0013"].reset_index(drop=True)
    assert int(beat_labels(early[:early.index[early.symbol == "+"][0]], LEIPZIG).notna().sum()) == 2


def test_markers_and_beats_disagree(labels):
    m = beat_matrix(labels, LEIPZIG)
    assert m.to_numpy().sum() == 115_748
    assert (m.loc["X AVRT"].sum(), m.loc["X AVRT"].sum() - m.loc["X AVRT", "(AVRT"]) == (17_599, 4_908)
    assert round(m.loc["X AVRT", "(/A"] / m["(/A"].sum(), 2) == .32
    paced = m.loc[["/ /A", "/ /V"], "(N"].sum()
    assert (m.loc["X AVNRT", "(N"], m.loc["X AVRT", "(N"], paced) == (323, 226, 1519)
    t = label_segments(labels, merge=False, unusable="report")
    avrt = {r: np.r_[0, np.cumsum(g.aux == "AVRT")] for r, g in labels.groupby("record")}
    t["avrt"] = [int(avrt[s.record][s.end] - avrt[s.record][s.start]) for s in t.itertuples()]
    worst = t[t.rhythm == "(/A"].nlargest(1, "avrt").iloc[0]
    assert (worst.record, worst.avrt, worst.beats) == ("x009", 2205, 2255)
    many = t[(t.record == "x001") & (t.rhythm == "(/A") & (t.avrt > 0)].nlargest(10, "avrt")
    assert many.avrt.sum() == 1833
    v = t[(t.record == "x004") & (t.rhythm == "(/V")].nlargest(1, "avrt").iloc[0]
    assert (v.avrt, v.beats) == (465, 556)


def test_no_child_has_both_tachycardias(labels, children):
    t = label_segments(labels)
    held = t[t.record.isin(children)].groupby("subject").rhythm.agg(set)
    assert not any({"(AVRT", "(AVNRT"} <= h for h in held)


def test_concentration(labels, children):
    t = label_segments(labels, unusable="report")
    beats = lambda rhythm, who: t.beats[(t.rhythm == rhythm) & t.record.isin(who)].sum()
    share = lambda rhythm, who: beats(rhythm, who) / beats(rhythm, children)
    assert [round(share(r, {"x006"}), 2) for r in ("(AFIB", "(J", "(A")] == [.75, .92, .67]
    assert share("(AFL", {"x006"}) == 1 and round(share("(VT", {"x002", "x003"}), 1) == .7


def test_x0010_in_time(shared):
    t = segments(shared / "leipzig" / "x0010", unusable="report")
    assert list(t.columns) == ["record", "subject", "rhythm", "start", "end", "beats", "agreement", "unusable"]
    s = ((t.end - t.start) / 977).groupby(t["rhythm"]).agg(["sum", "size"]).round(2)
    assert s.T.to_dict("list") == {"(/A": [45.22, 10], "(/V": [7.33, 2], "(AVNRT": [247.23, 3], "(N": [16.86, 10]}
    assert count_windows(t, 977).T.to_dict("list") == {"(/A": [40, 18, 9, 3, 0], "(/V": [6, 3, 1, 0, 0], "(AVNRT": [246, 123, 81, 48, 23],
                                                       "(N": [12, 2, 0, 0, 0]}
    cut = segments(shared / "leipzig" / "x0010")
    assert list(cut.columns) == ["record", "subject", "rhythm", "start", "end", "beats", "agreement"]
    assert set(cut.subject) == {"0010"}
    assert (t.end - t.start).sum() - (cut.end - cut.start).sum() == t.unusable.sum()


def test_mitdb_by_its_markers(shared):
    t = all_segments(shared / "mitdb", MITDB)
    assert set(t.rhythm) == set(MIT)
    for rhythm, g in t.groupby("rhythm"):
        windows = (g.end - g.start) // 1800
        got = ((g.end - g.start).sum() / 360, len(g), g.record.nunique(), int(windows.sum()), g.record[windows > 0].nunique())
        assert got == pytest.approx(MIT[rhythm], abs=.051), rhythm
    beats = 0
    for p in record_paths(shared / "mitdb", MITDB):
        beats += int(pd.Series(wfdb.rdann(str(p), "atr").symbol).isin(list(MITDB.beat_symbols)).sum())
    assert beats == 109_494
    assert t.beats[t.record == "100"].sum() == 2273 and set(t.subject[t.record == "202"]) == {"201"}


def test_label_by_beats(labels):
    marked, told = (label_segments(labels, label=l, unusable="report") for l in ("marker", "beats"))
    effect = label_effect(marked, told)
    assert effect.to_numpy().sum() == (marked.end - marked.start).sum()
    assert effect.loc["(/A", "(AVRT"] > 4000
    assert told.beats[told.rhythm == "(AVRT"].sum() > 1.3 * marked.beats[marked.rhythm == "(AVRT"].sum()
    assert (told.agreement.dropna() >= AGREE).all() and (marked.agreement < AGREE).sum() > 30


def frame(*rows):
    return pd.DataFrame(rows, columns=["sample", "symbol", "aux"])


def test_unknown_marker_names_file_sample_marker_and_remedy(shared, tmp_path):
    shutil.copy(shared / "mitdb" / "100.hea", tmp_path)
    wfdb.wrann("100", "atr", np.array([18, 400]), symbol=["+", "+"], aux_note=["(N", "(WPW"], write_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"100.atr: unknown rhythm marker '\(WPW' at sample 400; add it to \"markers\", \"aliases\""):
        segments(tmp_path / "100", MITDB)


def test_missing_record_is_named(shared):
    with pytest.raises(DataError, match="999: no such annotated record"):
        all_segments(shared / "mitdb", MITDB, records=["100", "999"])


def test_unpaired_bracket_runs_to_the_end():
    assert unusable_spans(frame((10, "~", "")), 50) == [(10, 50)]
    assert segment_frame(frame((0, "+", "(N"), (10, "~", "")), 50)[["start", "end"]].to_numpy().tolist() == [[0, 10]]


def test_grouping_leaves_out_what_it_does_not_name(labels):
    g = group(label_segments(labels))
    assert set(g.label) == {"N", "/A", "/V", "AVRT", "AVNRT", "AF", "VT", "AE", "J"}
    assert not set(g.rhythm) & {"(B", "(IVR"}
    assert group(label_segments(labels), LEIPZIG, "fine").label.nunique() == 13


def test_a_database_nobody_foresaw(tmp_path):
    "Another rate, two leads of one name, sub-folders, another annotator, no beats, blanks after the markers: a value, no code."
    db = Database("odd", "", {"near": ("ECG",), "far": ("ECG",)}, {"(SR": "sinus", "(SVT": "tachycardia"}, aliases={"(NSR": "(SR"},
                  continues=("(SAME",), unusable=("(NOISE",), subject_pattern=r"^(p\d)/", annotator="rhy")
    rng = np.random.default_rng(0)
    for person in ("p1", "p2"):
        (tmp_path / person).mkdir()
        wfdb.wrsamp("a", fs=128, units=["mV"] * 2, sig_name=["ECG", "ECG2"], p_signal=rng.normal(size=(1280, 2)), fmt=["16"] * 2,
                    write_dir=str(tmp_path / person))
        hea = tmp_path / person / "a.hea"
        hea.write_text(hea.read_text().replace("ECG2", "ECG"))  # wfdb reads such names, but does not write them
        wfdb.wrann("a", "rhy", np.array([10, 300, 500, 700, 900]), symbol=["+"] * 5,
                   aux_note=["(NSR\0", "(SAME ", "(NOISE", "(SVT \0", "(SVT"], write_dir=str(tmp_path / person))
    assert lead_slots(read_header(tmp_path / "p1" / "a"), db) == {"near": [0], "far": [1]}
    t = all_segments(tmp_path, db)
    assert t[["record", "subject", "rhythm", "start", "end", "beats"]].to_numpy().tolist() == [
        [f"{p}/a", p, r, a, b, 0] for p in ("p1", "p2") for r, a, b in (("(SR", 10, 500), ("(SVT", 700, 1280))]
    assert t.agreement.isna().all()


SYMBOLS = st.sampled_from([("+", "(N"), ("+", "(/A"), ("+", "(AVRT"), ("N", ""), ("/", "/A"), ("X", "AVRT"), ("V", ""), ("~", ""),
                           ("Q", "")])


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(st.integers(0, 40), SYMBOLS), max_size=60), st.sampled_from(["marker", "beats"]),
       st.sampled_from(["cut", "report"]))
def test_segments_always(steps, label, unusable):
    at = np.cumsum([d for d, _ in steps]) if steps else []
    a = frame(*[(int(s), *x) for s, (_, x) in zip(at, steps, strict=True)])
    n = int(at[-1]) + 10 if steps else 10
    t = segment_frame(a, n, label=label, unusable=unusable)
    assert (t.start < t.end).all() and (t.end <= n).all()
    assert (t.start.to_numpy()[1:] >= t.end.to_numpy()[:-1]).all()  # in order, no overlap
    first = a["sample"][a.symbol == "+"].min()
    assert not len(t) or t.start.min() >= first  # nothing is labelled before the first marker
    touching = (t.start.to_numpy()[1:] == t.end.to_numpy()[:-1])
    assert (t["rhythm"].to_numpy()[1:][touching] != t["rhythm"].to_numpy()[:-1][touching]).all()  # repeats are merged
    if unusable == "cut":
        assert not any(max(s, x) < min(e, y) for s, e in zip(t.start, t.end, strict=True) for x, y in unusable_spans(a, n))
    if label == "beats":
        assert (t.agreement.dropna() >= AGREE).all()
