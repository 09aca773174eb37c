"""The check tells damage from known errata: on the real files, on simulated ones, and on copies that were damaged."""
import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from pediatric_ecg.core import DataError, digest
from pediatric_ecg.data import LEIPZIG, MITDB, Database, check, read_annotations
from pediatric_ecg.data.annotations import write_annotations
from pediatric_ecg.data.check import Finding, Report, checksums, inspect_record

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wfdb")  # wfdb 4.3 under pandas 3.1


@pytest.fixture
def part(shared, tmp_path):
    "Two whole records of mitdb with their checksums."
    sums = ""
    for record in ("100", "114"):
        for ending in ("hea", "dat", "atr"):
            file = shutil.copy(shared / "mitdb" / f"{record}.{ending}", tmp_path)
            sums += f"{digest(file)} {record}.{ending}\n"
    (tmp_path / "SHA256SUMS.txt").write_text(sums)
    return tmp_path


def errors(folder, signals=True):
    report = check(folder, signals=signals)
    assert report.ok == (not report.of("error"))
    return {(finding.code, finding.record) for finding in report.of("error")}


def test_a_sound_part_of_mitdb(part):
    report = check(part)
    assert report.ok and report.database == "mitdb"
    expected = {"records": 2, "annotated": 2, "files_compared": 6, "subjects": 2, "simulated": 0,
                "layouts": {"MLII V5": 1, "V5 MLII": 1}}
    assert {key: report.summary[key] for key in expected} == expected
    assert json.loads(report.to_json())["ok"] is True
    assert report.text().splitlines()[-1].startswith("ok: 0 errors")


def test_one_wrong_byte(part):
    data = bytearray((part / "114.dat").read_bytes())
    data[77_777] ^= 1
    (part / "114.dat").write_bytes(data)
    assert errors(part, signals=False) == {("checksum", "114.dat")}


def test_a_lost_tail_a_lost_file_a_broken_header(part):
    (part / "SHA256SUMS.txt").unlink()
    (part / "100.dat").write_bytes((part / "100.dat").read_bytes()[:-7])
    (part / "114.atr").unlink()
    assert errors(part) == {("signal-file", "100"), ("annotations", "114")}
    (part / "100.hea").write_text("100 2 360 abc\n")
    assert ("header", "100") in errors(part)


def test_labels(part):
    (part / "SHA256SUMS.txt").unlink()
    annotations = read_annotations(part / "100", MITDB)
    annotations.loc[0, "aux"] = "(WPW"
    write_annotations(part / "100", annotations, MITDB)
    (found,) = check(part, signals=False).of("error")
    assert (found.code, found.record) == ("unknown-marker", "100")
    assert "unknown rhythm marker '(WPW'; add it to" in found.text
    annotations.loc[0, "aux"] = "(N"
    annotations.loc[len(annotations) - 1, "sample"] = 700_000
    write_annotations(part / "100", annotations, MITDB)
    assert errors(part, signals=False) == {("beyond-end", "100")}


def test_unpaired_bracket(shared, tmp_path):
    shutil.copy(shared / "leipzig/x0010.hea", tmp_path)
    annotations = read_annotations(shared / "leipzig/x0010", LEIPZIG)
    first_bracket = annotations.index[annotations.symbol == "~"][0]
    write_annotations(tmp_path / "x0010", annotations.drop(first_bracket), LEIPZIG)
    assert errors(tmp_path) == {("unpaired", "x0010"), ("signal-file", "x0010")}  # its .dat is not here, either


def test_errata_of_the_release_are_known(shared):
    report = check(shared / "leipzig")
    assert {(finding.code, finding.record) for finding in report.of("error")} == {("signal-file", "x0010")}
    assert not {"duration", "leads", "rate", "age"} & {finding.code for finding in report.findings}


def test_simulated_defects_are_notes(simdb):
    report = check(simdb)
    assert report.ok, report.text()
    assert report.summary["simulated"] == report.summary["records"] == 8
    assert {finding.severity for finding in report.findings} <= {"note"}


def test_nothing_to_check(tmp_path):
    with pytest.raises(DataError, match="no WFDB header"):
        check(tmp_path)
    with pytest.raises(DataError, match="unknown database"):
        check(tmp_path, "nosuch")


TOY = Database("toy", "", {"ecg": ("II",)}, {"(N": "sinus rhythm", "(VFL": "ventricular flutter"}, window_seconds=2,
               subject_pattern="^.")


def record(folder, name, *annotations, gain="1000/mV", fs=125, seconds=20, lead="II", header="", database=TOY):
    "A record of noise of 1 mV, and its annotations: (sample, symbol, aux)."
    samples = np.random.default_rng(0).integers(-500, 500, int(fs * seconds)).astype("<i2")
    samples.tofile(folder / f"{name}.dat")
    line = header or f"{name}.dat 16 {gain} 16 0 0 0 0 {lead}"
    (folder / f"{name}.hea").write_text(f"{name} 1 {fs} {len(samples)}\n{line}\n")
    rows = pd.DataFrame(list(annotations), columns=["sample", "symbol", "aux"])
    write_annotations(folder / name, rows, database)
    return samples


SINUS = (0, "+", "(N")


def found(report, severity="note"):
    return {(finding.code, finding.record) for finding in report.of(severity)}


def one(report, code):
    (finding,) = [finding for finding in report.findings if finding.code == code]
    return finding


def test_what_a_newcomer_wants_first(tmp_path):
    record(tmp_path, "a1", SINUS, (2000, "+", "(VFL"), (2200, "+", "(N"))
    record(tmp_path, "a2", SINUS)
    record(tmp_path, "b1", SINUS, lead="V1")
    (tmp_path / "b1.hea").write_text("b1 2 125 2500\nb1.dat 16 1000 16 0 0 0 0 V1\nb1.dat 16 1000 16 0 0 0 0 V2\n")
    np.zeros(5000, "<i2").tofile(tmp_path / "b1.dat")
    (tmp_path / "RECORDS").write_text("a1\na2\nb1\nz9\n")
    report = check(tmp_path, dataclasses.replace(TOY, modalities={"ecg": ("II|V1", "V2")}))
    lines = report.text().splitlines()
    assert lines[1] == "records: 4 listed, 3 here, 3 annotated, 3 labelled; 0.02 h at 125 Hz"
    assert lines[2] == "patients: 2"
    assert lines[5:8] == ["rhythm                       segments  seconds  patients  shorter than 2 s",
                          "(N      sinus rhythm                4     58.4         2                 0",
                          "(VFL    ventricular flutter         1      1.6         1                 1"]
    assert lines[9] == "leads of ecg: II|V1 in all records, V2 in 1 of 3"
    assert lines[-1].startswith("ok: 0 errors")
    flow = json.loads(report.to_json())["summary"]["flow"]
    assert flow["records"] == {"listed": 4, "here": 3, "skipped": {}, "without_window": {}, "copies": {},
                               "annotated": 3, "labelled": 3}
    assert flow["segments"]["(VFL"] == {"segments": 1, "seconds": 1.6, "patients": 1, "shorter": 1}
    assert one(report, "not-here").text == "1 of 4 records of the list not here: z9"


def test_signs_of_fibrillation_that_nothing_reads(tmp_path):
    record(tmp_path, "a1", SINUS, (500, "[", ""), (510, "!", ""), (750, "]", ""))
    record(tmp_path, "b1", (100, "[", ""), (200, "]", ""), (300, "+", "(N"))
    report = check(tmp_path, TOY)
    text = one(report, "flutter-signs").text
    assert "'!' 1, '[' 2, ']' 2 in 2 records (a1, b1)" in text and "here (N 2.0 s" in text and '"spans"' in text
    spans = check(tmp_path, dataclasses.replace(TOY, spans={"[]": "(VFL"}))
    assert spans.summary["flow"]["segments"]["(VFL"]["seconds"] == 2.8
    assert one(spans, "flutter-signs").text.startswith("'!' 1 in 1 record (a1)")
    both = check(tmp_path, dataclasses.replace(TOY, spans={"[]": "(VFL"}, symbol_markers={"!": "(VFL"}))
    assert "flutter-signs" not in {finding.code for finding in both.findings}


def test_spans_that_do_not_pair_are_said(tmp_path):
    record(tmp_path, "a1", SINUS, (500, "]", ""), (600, "[", ""), (700, "[", ""))
    report = check(tmp_path, dataclasses.replace(TOY, spans={"[]": "(VFL"}))
    texts = [finding.text for finding in report.findings if finding.code == "span"]
    assert len(texts) == 3 and any("is never closed: (VFL to the end" in text for text in texts) and report.ok


def test_symbols_that_nothing_reads(tmp_path):
    record(tmp_path, "a1", SINUS, (10, "N", ""), (20, "~", ""), (30, "~", ""), (40, "s", ""), (50, '"', "(VFL"))
    report = check(tmp_path, TOY)
    assert one(report, "other-symbols").text.endswith(
        "'~' (change of signal quality) 2, 's' (ST change) 1, '\"' (comment) 1")
    assert "hold rhythm markers that are not read: (VFL 1" in one(report, "marker-elsewhere").text
    quiet = check(tmp_path, dataclasses.replace(TOY, unusable_pair="~", marker_symbols=("+", '"'), beat_symbols="Ns"))
    assert not {finding.code for finding in quiet.findings} & {"other-symbols", "marker-elsewhere"}


@pytest.mark.parametrize("fields, words", [
    ({"annotator": "qrs"}, 'if .atr holds the annotations, set "annotator"'),
    ({"marker_symbols": ('"',)}, "no rhythm marker among them ('\"'); 1 are beats, and nothing reads '+' 2"),
    ({"unusable": ("(N",), "markers": {"(X": ""}}, "all signal under the 2 rhythm markers is unusable"),
    ({"label_source": "record"}, "none of 2 records has a label"),
    ({"skip": {"*": "no"}}, "all records are left out")])
def test_a_folder_without_one_labelled_second_is_not_ok(tmp_path, fields, words):
    record(tmp_path, "a1", SINUS, (10, "N", ""))
    record(tmp_path, "b1", SINUS)
    report = check(tmp_path, dataclasses.replace(TOY, **fields))
    assert not report.ok and report.text().splitlines()[-1].startswith("not ok: 1 errors")
    assert words in one(report, "no-labels").text


def test_no_patient_is_lost_without_a_word(tmp_path):
    record(tmp_path, "a1", SINUS)
    record(tmp_path, "b1")
    record(tmp_path, "c1", (10, "N", ""))
    record(tmp_path, "d1", (2400, "+", "(N"))
    record(tmp_path, "e1", (10, "+", "(VFL"))
    record(tmp_path, "f1", SINUS)
    (tmp_path / "f1.atr").unlink()
    (tmp_path / "g1.hea").write_text("g1 0 125 2500\n")
    record(tmp_path, "h1", SINUS)
    report = check(tmp_path, dataclasses.replace(
        TOY, groupings={"default": {"(N": "N"}}, skip={"h?": "consent withdrawn"}))
    assert report.ok
    records = report.summary["flow"]["records"]
    assert records["without_window"] == {
        "b1": "the annotation file is empty", "c1": "no rhythm marker",
        "d1": "no segment is as long as a window of 2 s", "e1": "its rhythms are in no class: (VFL",
        "f1": "no annotations"}
    assert records["skipped"] == {"g1": "its header describes no signal", "h1": "consent withdrawn"}
    assert (records["here"], records["annotated"], records["labelled"]) == (8, 5, 3)
    said = report.text()
    for name in ("b1", "c1", "d1", "e1", "f1", "g1", "h1"):
        assert f" {name}" in said


def test_amplitudes_and_units(tmp_path):
    record(tmp_path, "a1", SINUS)
    record(tmp_path, "b1", SINUS, gain="1/mV")
    record(tmp_path, "c1", SINUS, gain="1000/V")
    record(tmp_path, "d1", SINUS, gain="1000000/mV")
    record(tmp_path, "e1", SINUS, gain="10/mV", lead="II")
    report = check(tmp_path, TOY)
    odd = {finding.record: finding for finding in report.findings if finding.code == "amplitude"}
    assert set(odd) == {"b1", "c1", "d1", "e1"} and {finding.lead for finding in odd.values()} == {"II"}
    assert "spans 982 mV" in odd["b1"].text and report.ok
    electrogram = dataclasses.replace(TOY, modalities={"iegm": ("CS12",)})
    record(tmp_path, "e1", SINUS, gain="10/mV", lead="CS12")
    assert ("amplitude", "e1") not in found(check(tmp_path, electrogram))
    record(tmp_path, "b1", SINUS, gain="10/mmHg")
    report = check(tmp_path, dataclasses.replace(TOY, modalities={"ecg": ("II|CS12",)}))
    assert ("leads", "b1") in found(report, "error")


def test_signals_that_are_not_what_the_header_says(tmp_path):
    samples = record(tmp_path, "a1", SINUS)
    total = (int(samples.sum()) + (1 << 15)) % (1 << 16) - (1 << 15)
    header = f"a1.dat 16 1000/mV 16 0 {samples[0]} {total} 0 II"
    record(tmp_path, "a1", SINUS, header=header)
    assert check(tmp_path, TOY).ok
    samples.byteswap().tofile(tmp_path / "a1.dat")
    report = check(tmp_path, TOY)
    finding = one(report, "signal-checksum")
    assert (finding.record, finding.lead, finding.severity) == ("a1", "II", "error") and not report.ok
    assert check(tmp_path, TOY, signals=False).ok


def test_a_rate_that_differs_from_the_specification(tmp_path):
    record(tmp_path, "a1", SINUS)
    report = check(tmp_path, dataclasses.replace(TOY, fs=250))
    assert found(report, "error") == {("rate", "a1")}
    findings, counts = inspect_record(tmp_path / "a1", "a1", dataclasses.replace(TOY, fs=250))
    assert [finding.code for finding in findings if finding.severity == "error"] == ["rate"]
    record(tmp_path, "b1", SINUS, fs=25)
    assert "implausible" in one(check(tmp_path, TOY), "header-note").text
    assert check(tmp_path, TOY).summary["rates"] == {"125 Hz": 1, "25 Hz": 1}


def test_inspect_never_raises_and_counts_what_prepare_needs(tmp_path):
    record(tmp_path, "a1", SINUS, (2000, "+", "(VFL"))
    findings, counts = inspect_record(tmp_path / "a1", "a1", TOY)
    assert findings == [] and counts["rhythms"] == {
        "(N": {"segments": 1, "seconds": 16., "shorter": 0}, "(VFL": {"segments": 1, "seconds": 4., "shorter": 0}}
    assert (counts["skipped"], counts["annotated"], counts["labelled"]) == ("", 1, 20.)
    (tmp_path / "a1.atr").write_bytes(b"\x01")
    for content in (b"", b"a1 1 0 10\na1.dat 16\n", b"\xff" * 200, b"a1 99999999 977 9\n"):
        (tmp_path / "a1.hea").write_bytes(content)
        findings, counts = inspect_record(tmp_path / "a1", "a1", TOY)
        assert [(finding.code, finding.severity) for finding in findings] == [("header", "error")]
    findings, counts = inspect_record(tmp_path / "nowhere", "nowhere", TOY)
    assert [finding.severity for finding in findings] == ["error"]


def test_one_bad_record_does_not_hide_the_others(tmp_path):
    record(tmp_path, "a1", SINUS)
    record(tmp_path, "b1", (0, "+", "(n"))
    record(tmp_path, "c1", SINUS)
    (tmp_path / "c1.hea").write_text("c1 1 abc\n")
    record(tmp_path, "d1", (9999, "+", "(N"))
    report = check(tmp_path, TOY)
    assert found(report, "error") == {("unknown-marker", "b1"), ("header", "c1"), ("beyond-end", "d1")}
    assert "('(N' is known)" in one(report, "unknown-marker").text
    assert report.summary["flow"]["segments"]["(N"]["segments"] == 1


def test_a_marker_at_the_very_end_is_fine(tmp_path):
    record(tmp_path, "a1", SINUS, (2500, "+", "(VFL"))
    report = check(tmp_path, TOY)
    assert report.ok and not report.findings
    record(tmp_path, "a1", SINUS, (2501, "+", "(VFL"))
    assert found(check(tmp_path, TOY), "error") == {("beyond-end", "a1")}


def test_lists_that_lead_out_of_the_folder(tmp_path):
    record(tmp_path, "a1", SINUS)
    outside = tmp_path.parent / "outside.txt"
    outside.write_text("secret")
    lines = [f"{digest(outside)}  ../outside.txt", f"{'0' * 64}  /etc/passwd", f"{'zz' * 32}  a1.dat",
             f"{digest(tmp_path / 'a1.dat')} *./a1.dat"]
    (tmp_path / "SHA256SUMS.txt").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    report = check(tmp_path, TOY)
    assert [finding.code for finding in report.of("error")] == ["checksum-list"] * 3
    assert report.summary["files_compared"] == 1
    with pytest.raises(DataError, match="leads out of the folder"):
        checksums(tmp_path)


def test_records_that_the_list_leaves_out(tmp_path):
    for name in ("a1", "b1", "c1"):
        record(tmp_path, name, SINUS)
    (tmp_path / "RECORDS").write_text("a1\nb1\n")
    report = check(tmp_path, TOY)
    assert one(report, "unlisted").text == "1 record here and not in the list, so not read: c1"
    assert report.summary["records"] == 2


def test_equal_findings_share_a_line():
    findings = [Finding("header", "error", f"p{i}", f"data/p{i}.hea: no rate") for i in range(1000)]
    findings += [Finding("clipped", "note", f"p{i}", f"{i} s at the rail", "II") for i in range(1000)]
    flow = {"records": {"listed": None, "here": 0, "skipped": {}, "annotated": 0, "labelled": 0}, "segments": {}}
    summary = {"flow": flow, "simulated": 0, "seconds": 0, "subject_notes": [], "subjects": 0, "annotations": 0,
               "beats": 0, "files_compared": 0, "window_seconds": 2, "rhythm_names": {}, "slots": {},
               "records": 0, "rates": {}}
    lines = Report("data", "toy", summary, findings).text().splitlines()
    assert "error   header              p0, p1, p2, p3, p4, p5 and 994 more: data/*.hea: no rate" in lines
    assert sum("clipped" in line for line in lines) == 9 and len(lines) < 22
    assert lines[-1] == "not ok: 1000 errors, 0 known errata, 1000 notes"


def test_one_label_per_record(shared):
    leads = {"ecg": ("I", "II", "V1")}
    markers = {"426783006": "sinus rhythm", "427084000": "sinus tachycardia", "426177001": "sinus bradycardia"}
    database = Database("cinc", "", leads, markers, label_source="record", several_labels="first")
    report = check(shared / "wfdb_fixtures" / "cinc2021", database, signals=False)
    assert report.ok
    records = report.summary["flow"]["records"]
    assert (records["annotated"], records["labelled"], len(records["without_window"])) == (50, 43, 7)
    assert set(records["without_window"].values()) == {"none of its labels is a marker"}
    assert "284470004 (20)" in one(report, "other-labels").text
    skipping = dataclasses.replace(database, several_labels="skip")
    several = [reason for reason in check(shared / "wfdb_fixtures" / "cinc2021", skipping, signals=False).summary[
        "flow"]["records"]["without_window"].values() if "several labels" in reason]
    assert len(several) == 2


def test_whole_mitdb_says_what_stands_in_it(shared):
    report = check(shared / "mitdb", MITDB, signals=False)
    assert report.ok and report.summary["subjects"] == 47 and report.summary["subject_notes"] == []
    flow = report.summary["flow"]["segments"]
    assert flow["(AFIB"] == {"segments": 107, "seconds": 7956.419, "patients": 7, "shorter": 34}
    assert "here (VFL 142.2 s" in one(report, "flutter-signs").text
