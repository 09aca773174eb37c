"""The check tells damage from known errata: on the real files, on simulated ones, and on copies that were damaged."""
import json
import shutil

import pytest

from pediatric_ecg.core import DataError, digest
from pediatric_ecg.data import LEIPZIG, MITDB, check, read_annotations
from pediatric_ecg.data.annotations import write_annotations

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
