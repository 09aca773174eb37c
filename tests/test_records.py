"""Headers, annotations, signals, leads and subjects, on the real files and on what is wrong with them."""
import os
import shutil

import numpy as np
import pandas as pd
import pytest
import wfdb

from pediatric_ecg.core import DataError
from pediatric_ecg.data import LEIPZIG, MITDB, Database, read_annotations, read_header, read_signals, subjects
from pediatric_ecg.data.headers import _parse, all_headers, check_signal_file, lead_slots, record_name, record_paths

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wfdb")  # wfdb 4.3 under pandas 3.1
MUST_FAIL = {"100-no-len", "100skew", "1003", "p000878-2137-10-26-16-57", "3269321_layout", "3234460_layout"}


def copy(shared, folder, *names):
    for name in names:
        shutil.copy(shared / name, folder)
    return folder


def test_every_fixture_equals_wfdb_or_fails_by_name(shared):
    seen, failed = 0, set()
    for file in sorted((shared / "wfdb_fixtures").rglob("*.hea")):
        path = str(file).removesuffix(".hea")
        if "2021" in path and not file.stem.endswith(("0", "_1")):  # many and alike
            continue
        try:
            signals = read_signals(path)
        except DataError as error:
            failed.add(file.stem)
            assert file.stem in str(error) or file.stem.split("-")[0].split("skew")[0] in str(error)
            continue
        # each lead at its own rate, then repeated to that of the finest voltage
        record, header = wfdb.rdrecord(path, smooth_frames=False), read_header(path)
        for column, values in enumerate(record.e_p_signal):
            times = header.n_samples // len(values)
            np.testing.assert_array_equal(signals[:, column], np.repeat(values, times))
        assert (header.fs, header.leads) == (record.fs * header.finest, record.sig_name)
        assert header.n_samples == record.sig_len * header.finest
        seen += 1
    assert failed == MUST_FAIL and seen > 50


def test_slices_equal_the_whole(shared):
    for name in ("mixedsignals", "binformats", "flacformats", "multi-segment/041s/041s", "a103l-no-len"):
        path = shared / "wfdb_fixtures" / name
        whole = read_signals(path)
        np.testing.assert_array_equal(read_signals(path, 100, 160), whole[100:160])
        np.testing.assert_array_equal(read_signals(path, 100, 160, leads=[1, 0]), whole[100:160][:, [1, 0]])


def test_microvolts_become_millivolts(tmp_path):
    microvolts = np.linspace(-800, 800, 50)[:, None]
    wfdb.wrsamp("u", fs=100, units=["uV"], sig_name=["I"], p_signal=microvolts, fmt=["16"], write_dir=str(tmp_path))
    np.testing.assert_allclose(read_signals(tmp_path / "u"), microvolts / 1000, atol=1e-4)


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
    by_qrs = Database("q", "", {"a": ("V5",)}, ["(N"], annotator="qrs")
    assert [path.name for path in record_paths(tmp_path, by_qrs)] == ["100"]


def test_records_in_sub_folders_and_in_part(shared, tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        copy(shared, tmp_path / name, "mitdb/100.hea", "mitdb/100.atr")
    assert [record_name(path, tmp_path) for path in record_paths(tmp_path, MITDB)] == ["a/100", "b/100"]
    (tmp_path / "RECORDS").write_text("b/100\nb/101\n")  # 101 was not downloaded
    assert [record_name(path, tmp_path) for path in all_headers(tmp_path)] == ["b/100"]


def test_segments_are_no_records(shared):
    names = [path.name for path in all_headers(shared / "wfdb_fixtures" / "multi-segment")]
    assert names == [
        "041s", "v102s", "p000878-2137-10-26-16-57", "s25047-2704-05-04-10-44", "s25047-2704-05-04-10-44n"]


class Leads:
    "A header needs no more than leads here."

    def __init__(self, leads):
        self.leads, self.file, self.millivolts = leads, "some/record.hea", [1.0] * len(leads)


def test_the_six_layouts_on_all_39(shared):
    channels = pd.read_csv(shared / "leipzig" / "channels.csv").set_index("record").channels.str.split()
    assert len(channels) == 39
    assert channels.str[12:].str.join(" ").value_counts().to_dict() == {
        "ABL12 RVA12 CS12 CS34 CS56 CS78 CS90": 27, "RVA12 CS12 CS34 CS56 CS78 CS90": 4, "ABL12 RVA12": 5,
        "ABL12 ABL_uni RVA12 CS12 CS34 CS56 CS78 CS90": 1, "ART ABL12 RVA12 CS12 CS34 CS56 CS78 CS90": 1,
        "ABL12 CS12 CS34 CS56 CS78 CS90 RVA12": 1}
    absent = {}
    for record, leads in channels.items():
        slots = lead_slots(Leads(leads), LEIPZIG)
        assert slots["ecg"] == list(range(12))
        absent[record] = []
        for slot, channel in zip(LEIPZIG.modalities["iegm"], slots["iegm"], strict=True):
            assert (channel is None and slot not in leads) or leads[channel] == slot
            if channel is None:
                absent[record].append(slot)
    assert {record for record, slots in absent.items() if "ABL12" in slots} == {"x002", "x005", "x0015", "x0029"}
    assert {record for record, slots in absent.items() if "CS12" in slots} == {"x102", "x105", "x107", "x108", "x109"}
    assert sum(not slots for slots in absent.values()) == 30


def test_leads_of_mitdb(shared):
    found = {}
    for path in record_paths(shared / "mitdb", MITDB):
        header = read_header(path)
        (first,), (second,) = lead_slots(header, MITDB).values()
        found[path.name] = (header.leads[first], header.leads[second])
    assert len(found) == 48
    assert found["100"] == found["114"] == ("MLII", "V5")
    assert found["102"] == found["104"] == ("V5", "V2")
    assert all(first == "MLII" for record, (first, _) in found.items() if record not in ("102", "104"))


def test_lead_slots_by_name_pattern_position():
    database = Database("d", "", {"a": ("ECG", "ECG"), "b": ("ii|/^cs ?1/", "#5|#0")}, ["(N"])
    assert lead_slots(Leads(["ECG", "x", "ECG", "II"]), database) == {"a": [0, 2], "b": [3, None]}
    assert lead_slots(Leads(["y", "cs 12"]), database) == {"a": [None, None], "b": [1, 0]}
    with pytest.raises(DataError, match="some/record.hea: has none of the leads of 'd', but P Q"):
        lead_slots(Leads(["P", "Q"]), Database("d", "", {"a": ("ECG",)}, ["(N"]))


def test_subjects_of_leipzig(shared):
    people = subjects(shared / "leipzig", LEIPZIG).set_index("record")
    assert people.group.value_counts().to_dict() == {"children": 29, "adults": 10}
    assert people.subject["x0010"] == "0010"
    assert people.index[9] == "x0010" and people.index[-1] == "x109"
    assert people.age["x007"] == 14.3
    assert people.note["x007"] == "age .14.3 read as 14.3" and (people.note != "").sum() == 1
    assert people.age.notna().all() and people.age.dtype == float and people.age["x100"] == 64.16
    assert people.ap_location["x003"] == "left lateral" and people.ap_location["x100"] == ""
    assert people.groupby("group").duration.sum().round().to_dict() == {"adults": 14214, "children": 52210}


def test_subjects_of_mitdb(shared):
    people = subjects(shared / "mitdb", MITDB).set_index("record")
    assert len(people) == 48 and people.subject.nunique() == 47 and people.subject["202"] == "201"
    assert (people.age["100"], people.gender["100"]) == (69, "M")


def test_subject_table_without_a_record_column(shared, tmp_path):
    copy(shared, tmp_path, "mitdb/100.hea")
    (tmp_path / "people.csv").write_text("id,age\n1,2\n")
    with pytest.raises(DataError, match="people.csv: no column names the record"):
        subjects(tmp_path, Database("d", "", {"a": ("V5",)}, ["(N"], subject_tables={"people.csv": ""}))
