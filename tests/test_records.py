"""Headers, annotations, signals, leads and subjects, on the real files and on what is wrong with them."""
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import wfdb

from pediatric_ecg.data.databases import LEIPZIG, MITDB, Database
from pediatric_ecg.core import DataError
from pediatric_ecg.data.headers import _parse, check_signal_file, read_header
from pediatric_ecg.data.records import (
    all_headers,
    lead_slots,
    read_annotations,
    read_label_table,
    read_signals,
    record_name,
    record_paths,
    subjects,
    write_annotations,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wfdb")  # wfdb 4.3 under pandas 3.1
MUST_FAIL = {"100-no-len", "100skew", "1003", "p000878-2137-10-26-16-57", "3269321_layout", "3234460_layout"}


def copy(shared, folder, *names):
    for name in names:
        shutil.copy(shared / name, folder)
    return folder


def test_every_fixture_equals_wfdb_or_fails_by_name(shared):
    seen, failed = 0, set()
    for hea in sorted((shared / "wfdb_fixtures").rglob("*.hea")):
        path = str(hea)[:-4]
        if "2021" in path and not hea.stem.endswith(("0", "_1")):  # many and alike
            continue
        try:
            x = read_signals(path)
        except DataError as e:
            failed.add(hea.stem)
            assert hea.stem in str(e) or hea.stem.split("-")[0].split("skew")[0] in str(e)
            continue
        r = wfdb.rdrecord(path)
        np.testing.assert_array_equal(x, r.p_signal)
        h = read_header(path)
        assert (h.fs, h.n_samples, h.leads) == (r.fs, r.sig_len, r.sig_name)
        seen += 1
    assert failed == MUST_FAIL and seen > 50


def test_slices_equal_the_whole(shared):
    for name in ("mixedsignals", "binformats", "flacformats", "multi-segment/041s/041s", "a103l-no-len"):
        path = shared / "wfdb_fixtures" / name
        whole = read_signals(path)
        np.testing.assert_array_equal(read_signals(path, 100, 160), whole[100:160])
        np.testing.assert_array_equal(read_signals(path, 100, 160, leads=[1, 0]), whole[100:160][:, [1, 0]])


def test_microvolts_become_millivolts(tmp_path):
    x = np.linspace(-800, 800, 50)[:, None]
    wfdb.wrsamp("u", fs=100, units=["uV"], sig_name=["I"], p_signal=x, fmt=["16"], write_dir=str(tmp_path))
    np.testing.assert_allclose(read_signals(tmp_path / "u"), x / 1000, atol=1e-4)


def test_headers_are_parsed_once(shared, tmp_path):
    copy(shared, tmp_path, "mitdb/100.hea")
    _parse.cache_clear()
    assert read_header(tmp_path / "100") is read_header(str(tmp_path / "100"))
    assert _parse.cache_info().misses == 1
    text = (tmp_path / "100.hea").read_text().replace("650000", "640000")
    (tmp_path / "100.hea").write_text(text)
    os.utime(tmp_path / "100.hea", (1, 1))
    assert read_header(tmp_path / "100").n_samples == 640_000  # a changed file is parsed again


def test_broken_files_are_named(shared, tmp_path):
    copy(shared, tmp_path, "mitdb/100.hea", "mitdb/100.atr", "mitdb/101.hea", "mitdb/101.dat")
    (tmp_path / "100.dat").write_bytes(b"\0" * 1000)
    with pytest.raises(DataError, match="100.dat: has 1,000 bytes where 100.hea promises 1,950,000; download"):
        check_signal_file(read_header(tmp_path / "100"))
    with pytest.raises(DataError, match="101.atr: no such annotation file"):
        read_annotations(tmp_path / "101", MITDB)
    (tmp_path / "101.atr").write_bytes(b"\x01\xff" * 3)
    with pytest.raises(DataError, match="101.atr"):
        read_annotations(tmp_path / "101", MITDB)
    for text in ("", "101 x y z\n", "101 2 360 10\n101.dat 212\n", "101 1 0 10\n101.dat 16\n"):
        (tmp_path / "101.hea").write_text(text)
        with pytest.raises(DataError, match="101"):
            check_signal_file(read_header(tmp_path / "101"))


def test_folders_without_records_or_labels(shared, tmp_path):
    with pytest.raises(DataError, match="no WFDB header"):
        record_paths(tmp_path, MITDB)
    copy(shared, tmp_path, "mitdb/100.hea", "mitdb/100.dat")
    with pytest.raises(DataError, match="1 records and no annotation file .atr"):
        record_paths(tmp_path, MITDB)
    shutil.copy(shared / "mitdb/100.atr", tmp_path / "100.qrs")
    with pytest.raises(DataError, match='if .qrs holds the annotations, set "annotator"'):
        record_paths(tmp_path, MITDB)
    assert [p.name for p in record_paths(tmp_path, Database("q", "", {"a": ("V5",)}, ["(N"], annotator="qrs"))] == ["100"]


def test_records_in_sub_folders_and_in_part(shared, tmp_path):
    for sub in ("b", "a"):
        (tmp_path / sub).mkdir()
        copy(shared, tmp_path / sub, "mitdb/100.hea", "mitdb/100.atr")
    assert [record_name(p, tmp_path) for p in record_paths(tmp_path, MITDB)] == ["a/100", "b/100"]
    (tmp_path / "RECORDS").write_text("b/100\nb/101\n")  # 101 was not downloaded
    assert [record_name(p, tmp_path) for p in all_headers(tmp_path)] == ["b/100"]


def test_segments_are_no_records(shared):
    names = [p.name for p in all_headers(shared / "wfdb_fixtures" / "multi-segment")]
    assert names == ["041s", "v102s", "p000878-2137-10-26-16-57", "s25047-2704-05-04-10-44", "s25047-2704-05-04-10-44n"]


def test_annotations_of_x0010_are_the_released_ones(shared):
    a = read_annotations(shared / "leipzig" / "x0010", LEIPZIG)
    t = read_label_table(shared / "leipzig" / "annotations.csv").query("record == 'x0010'")
    assert len(a) == 930 and a.symbol.tolist() == t.symbol.tolist() and a.aux.tolist() == t.aux.tolist()


def test_custom_symbols_survive_a_round_trip(shared, tmp_path):
    copy(shared, tmp_path, "leipzig/x0010.hea")
    a = read_annotations(shared / "leipzig" / "x0010", LEIPZIG)
    a.loc[5, ["symbol", "aux"]] = ["b", "BI"]
    write_annotations(tmp_path / "x0010", a, LEIPZIG)
    pd.testing.assert_frame_equal(read_annotations(tmp_path / "x0010", LEIPZIG), a)


def test_aux_strings_lose_nul_and_keep_case(tmp_path):
    wfdb.wrsamp("r", fs=100, units=["mV"], sig_name=["I"], p_signal=np.zeros((50, 1)) + np.arange(50)[:, None] / 50, fmt=["16"],
                write_dir=str(tmp_path))
    wfdb.wrann("r", "atr", np.array([1, 9, 20]), symbol=["+", "+", "N"], aux_note=["(N\0", " (avnrt ", ""], write_dir=str(tmp_path))
    assert read_annotations(tmp_path / "r", MITDB).aux.tolist() == ["(N", "(avnrt", ""]


class Leads:
    def __init__(self, leads):
        self.leads, self.path = leads, "some/record"


def test_the_six_layouts_on_all_39(shared):
    t = pd.read_csv(shared / "leipzig" / "channels.csv").set_index("record").channels.str.split()
    assert len(t) == 39
    assert t.str[12:].str.join(" ").value_counts().to_dict() == {
        "ABL12 RVA12 CS12 CS34 CS56 CS78 CS90": 27, "RVA12 CS12 CS34 CS56 CS78 CS90": 4, "ABL12 RVA12": 5,
        "ABL12 ABL_uni RVA12 CS12 CS34 CS56 CS78 CS90": 1, "ART ABL12 RVA12 CS12 CS34 CS56 CS78 CS90": 1,
        "ABL12 CS12 CS34 CS56 CS78 CS90 RVA12": 1}
    absent = {}
    for record, leads in t.items():
        slots = lead_slots(Leads(leads), LEIPZIG)
        assert slots["ecg"] == list(range(12))
        for slot, channel in zip(LEIPZIG.modalities["iegm"], slots["iegm"], strict=True):
            assert (channel is None and slot not in leads) or leads[channel] == slot
        absent[record] = tuple(s for s, c in zip(LEIPZIG.modalities["iegm"], slots["iegm"], strict=True) if c is None)
    assert {r for r, a in absent.items() if "ABL12" in a} == {"x002", "x005", "x0015", "x0029"}
    assert {r for r, a in absent.items() if "CS12" in a} == {"x102", "x105", "x107", "x108", "x109"}
    assert sum(not a for a in absent.values()) == 30


def test_leads_of_mitdb(shared):
    got = {}
    for p in record_paths(shared / "mitdb", MITDB):
        h = read_header(p)
        (a,), (b,) = lead_slots(h, MITDB).values()
        got[p.name] = (h.leads[a], h.leads[b])
    assert len(got) == 48
    assert [got[r] for r in ("100", "102", "104", "114")] == [("MLII", "V5"), ("V5", "V2"), ("V5", "V2"), ("MLII", "V5")]
    assert all(a == "MLII" for r, (a, _) in got.items() if r not in ("102", "104"))


def test_lead_slots_by_name_pattern_position():
    db = Database("d", "", {"a": ("ECG", "ECG"), "b": ("ii|/^cs ?1/", "#5|#0")}, ["(N"])
    assert lead_slots(Leads(["ECG", "x", "ECG", "II"]), db) == {"a": [0, 2], "b": [3, None]}
    assert lead_slots(Leads(["y", "cs 12"]), db) == {"a": [None, None], "b": [1, 0]}
    with pytest.raises(DataError, match="some/record.hea: has none of the leads of 'd', but P Q"):
        lead_slots(Leads(["P", "Q"]), Database("d", "", {"a": ("ECG",)}, ["(N"]))


def test_subjects_of_leipzig(shared):
    s = subjects(shared / "leipzig", LEIPZIG).set_index("record")
    assert s.group.value_counts().to_dict() == {"children": 29, "adults": 10}
    assert s.subject["x0010"] == "0010" and s.index[9] == "x0010" and s.index[-1] == "x109"
    assert s.age["x007"] == 14.3 and s.note["x007"] == "age .14.3 read as 14.3" and (s.note != "").sum() == 1
    assert s.age.notna().all() and s.age.dtype == float and s.age["x100"] == 64.16
    assert s.ap_location["x003"] == "left lateral" and s.ap_location["x100"] == ""
    assert s.groupby("group").duration.sum().round().to_dict() == {"adults": 14214, "children": 52210}


def test_subjects_of_mitdb(shared):
    s = subjects(shared / "mitdb", MITDB).set_index("record")
    assert len(s) == 48 and s.subject.nunique() == 47 and s.subject["202"] == "201"
    assert (s.age["100"], s.gender["100"]) == (69, "M")


def test_subject_table_without_a_record_column(shared, tmp_path):
    copy(shared, tmp_path, "mitdb/100.hea")
    (tmp_path / "people.csv").write_text("id,age\n1,2\n")
    with pytest.raises(DataError, match="people.csv: no column names the record"):
        subjects(tmp_path, Database("d", "", {"a": ("V5",)}, ["(N"], subject_tables={"people.csv": ""}))
