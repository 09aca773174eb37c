"""Who is a patient is never guessed in silence: rules that name nobody, tables of every making, records named twice."""
import pytest

from pediatric_ecg.core import DataError
from pediatric_ecg.data import LEIPZIG, MITDB, Database, all_segments, check, segments, subjects
from pediatric_ecg.data.subjects import (
    NO_RULE,
    number,
    skipped,
    subject_notes,
    subject_of,
    subject_tables,
    table_labels,
)

COLUMNS = {"ID": "record", "patient": "subject"}
EVERYBODY = "ID,patient\n" + "".join(f"{name},{name[0]}\n" for name in ("a1", "a2", "a3", "b1", "b2", "c1", "c2"))


def database(**fields):
    given = {"subject_columns": COLUMNS, **fields}
    return Database("mine", "", {"ecg": ("II",)}, {"(N": "sinus", "(AFIB": "fibrillation"}, **given)


def add_record(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    signal = f"{name.rpartition('/')[2]}.dat 16 200/mV 16 0 0 0 0 II"
    (folder / f"{name}.hea").write_text(f"{name.rpartition('/')[2]} 1 250 1\n{signal}\n# who: {name[0]}\n")
    (folder / f"{name}.dat").write_bytes(b"\0\0")


@pytest.fixture
def folder(tmp_path):
    "Seven records of three patients, one sample long."
    for name in ("a1", "a2", "a3", "b1", "b2", "c1", "c2"):
        add_record(tmp_path, name)
    return tmp_path


def table(folder, text, name="people.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return {name: "all"}


def test_no_rule_is_said(folder):
    assert subject_notes(folder, database()) == [NO_RULE]
    assert subjects(folder, database()).attrs["notes"] == [NO_RULE]
    report = check(folder, database(), signals=False)
    assert report.summary["subject_notes"] == [NO_RULE]
    assert f"patients: 7; {NO_RULE}" in report.text()
    assert subject_notes(folder, database(subject_pattern="^.")) == []


@pytest.mark.parametrize("pattern", ["^patient", "^x?", "(?=a)"])
def test_a_pattern_that_matches_nothing_is_an_error(folder, pattern):
    "It made 280 patients of 7, and the audit passed."
    for read in (subject_notes, subjects, all_segments):
        if read is all_segments:
            (folder / "a1.atr").write_bytes(b"\0\0")
        with pytest.raises(DataError, match="matches none of the 7 records"):
            read(folder, database(subject_pattern=pattern))
    report = check(folder, database(subject_pattern=pattern), signals=False)
    assert "subjects" in {finding.code for finding in report.of("error")} and not report.ok
    assert report.summary["subjects"] is None and "patients: ?" in report.text()


def test_a_pattern_that_takes_for_ever_is_one_line(folder):
    add_record(folder, "a" * 60)
    with pytest.raises(DataError, match="takes too long"):
        subjects(folder, database(subject_pattern="^(a|aa)+!$"))


def test_a_pattern_that_matches_some_counts_the_others(folder):
    (note,) = subject_notes(folder, database(subject_pattern="^[ab]"))
    assert note == ('the "subject_pattern" does not match 2 of 7 records (c1, c2): '
                    "each of them is counted as one patient")
    assert sorted(set(subjects(folder, database(subject_pattern="^[ab]")).subject)) == ["a", "b", "c1", "c2"]


def test_an_absent_table_is_an_error_unless_another_rule_names_everybody(folder):
    absent = {"people.csv": "all"}
    with pytest.raises(DataError, match="the subject table people.csv is not here"):
        subjects(folder, database(subject_tables=absent))
    with pytest.raises(DataError, match="the subject table people.csv is not here"):
        subjects(folder, database(subject_tables=absent, subject_pattern="^[ab]"))
    named = database(subject_tables=absent, subject_pattern="^.")
    assert subject_notes(folder, named) == [
        "the subject table people.csv is not here, and other rules name the patients"]
    assert subject_notes(folder, database(subject_tables=absent, comment_pattern=r"who: (?P<subject>\w)"))
    both = {**table(folder, EVERYBODY), "others.csv": "others"}
    assert subject_notes(folder, database(subject_tables=both)) == [
        "the subject table others.csv is not here, and other rules name the patients"]


def test_a_table_that_names_some_counts_the_others(folder):
    text = "ID,patient\na1,A\na2,A\na3 ,A\nB1,B\nb2,?\nz9,Z\n"
    given = database(subject_tables=table(folder, text))
    (note,) = subject_notes(folder, given)
    assert note == ("people.csv names the subject of 3 of 7 records; the other 4 (b1, b2, c1, …) "
                    "are counted as one patient each (the table has B1 for b1)")
    people = subjects(folder, given).set_index("record").subject
    assert [people[name] for name in ("a3", "b1", "b2", "c1")] == ["A", "b1", "b2", "c1"]
    (note,) = subject_notes(folder, database(subject_tables=table(folder, text), subject_pattern="^."))
    assert note.endswith("are named by another rule (the table has B1 for b1)")
    with pytest.raises(DataError, match="names the subject of none of the 7 records"):
        subjects(folder, database(subject_tables=table(folder, "ID,patient\nx1,A\n")))
    with pytest.raises(DataError, match="no column of people.csv is the subject"):
        subjects(folder, database(subject_tables=table(folder, "ID,Patient\na1,A\n")))


def test_a_table_of_ages_alone_is_no_rule(folder):
    given = database(subject_tables=table(folder, "ID,age\na1,7\n"), subject_columns={"ID": "record"})
    assert subject_notes(folder, given) == [NO_RULE]


def test_two_rows_of_one_record_name_both_lines(folder):
    rows = table(folder, "ID,patient\n\na1,A\nb1,B\na1 ,C\n")
    message = r"people.csv: line 5 names record 'a1', and so does line 3; keep one"
    with pytest.raises(DataError, match=message):
        subjects(folder, database(subject_tables=rows))
    two = {**table(folder, EVERYBODY), **table(folder, "ID,patient\na1,A\n", "more.csv")}
    with pytest.raises(DataError, match="more.csv: line 2 names record 'a1', and so does line 2 of people.csv"):
        subjects(folder, database(subject_tables=two))


@pytest.mark.parametrize("text, encoding", [
    ("ID,patient,age\na1 ,Å, 7.5\n", "utf-8"), ("ID,patient,age\na1,Å,7.5\n", "latin-1"),
    ("ID;patient;age\r\n a1;Å;7,5\r\n", "utf-8-sig"), ("ID\tpatient\tage\na1.hea\tÅ\t7.5\n", "utf-16"),
    ("ID,patient,age\n\n\"a1\",\"Å\",\"7,5\"\n,,\n", "utf-8")])
def test_tables_of_every_making(folder, text, encoding):
    given = database(subject_tables=table(folder, text, encoding=encoding))
    row = subjects(folder, given).set_index("record").loc["a1"]
    assert (row.subject, row.age, row.group) == ("Å", 7.5, "all")


@pytest.mark.parametrize("text, words", [
    ("", "is empty"), ("ID,patient\na1,A,B\n", "line 2 has 3 cells"),
    ("name,patient\na1,A\n", "no column names the record"),
    ("ID,ID\na1,A\n", "is there twice"), ("ID,record\na1,A\n", "2 columns are called 'record'"),
    ("a\0b", "is no text")])
def test_tables_that_cannot_be_read(folder, text, words):
    with pytest.raises(DataError, match=words) as error:
        subjects(folder, database(subject_tables=table(folder, text)))
    assert "people.csv" in str(error.value) and "\n" not in str(error.value)


def test_no_table_leaves_the_folder(folder):
    for name in ("../people.csv", "/etc/passwd"):
        with pytest.raises(DataError, match="leads out of the folder"):
            subjects(folder, database(subject_tables={name: "all"}))


def test_slips_in_names_are_noted(folder):
    for names, words in ((["01", "1"], "'01' and '1'"), (["Ann", "ann"], "'Ann' and 'ann'")):
        rows = "".join(f"{record},{names[i % 2] if i < 4 else record}\n" for i, record in
                       enumerate(["a1", "a2", "a3", "b1", "b2", "c1", "c2"]))
        notes = subject_notes(folder, database(subject_tables=table(folder, "ID,patient\n" + rows)))
        assert len(notes) == 1 and words in notes[0] and "counted apart" in notes[0]
    assert subject_notes(folder, database(subject_pattern="[abc]?.$")) == []
    everybody = dict.fromkeys(["a1", "a2", "a3", "b1", "b2", "c1", "c2"], "one")
    assert subject_notes(folder, database(subjects=everybody)) == [
        "all 7 records are counted as one patient, 'one'"]
    (note,) = subject_notes(folder, database(subjects={"A1": "A", "A2": "A"}))
    assert note == 'the map "subjects" names none of the 7 records: each is counted as one patient'


def test_records_left_out_are_not_counted(folder):
    given = database(subject_pattern="^[ab]", skip={"c*": "of another study", "b2": ""})
    assert subject_notes(folder, given) == []
    assert [skipped(name, given) for name in ("c2", "b2", "a1")] == [
        "of another study", "left out by the specification", ""]
    report = check(folder, given, signals=False)
    assert report.summary["flow"]["records"]["skipped"] == {
        "b2": "left out by the specification", "c1": "of another study", "c2": "of another study"}
    assert report.summary["subjects"] == 2


def test_segments_know_the_subject_of_the_table_and_of_the_comment(folder):
    for name in ("a1", "b1"):
        (folder / f"{name}.atr").write_bytes(bytes([0, 28 << 2, 2, 63 << 2]) + b"(N" + b"\0\0")
    given = database(subject_tables=table(folder, EVERYBODY))
    assert all_segments(folder, given)[["record", "subject", "rhythm"]].to_numpy().tolist() == [
        ["a1", "a", "(N"], ["b1", "b", "(N"]]
    assert segments(folder / "b1", given, folder=folder).subject.tolist() == ["b"]
    by_comment = database(comment_pattern=r"who: (?P<subject>\w)")
    assert all_segments(folder, by_comment).subject.tolist() == ["a", "b"]
    assert len(all_segments(folder, given, records=[])) == 0


def test_labels_of_records_out_of_a_table(folder):
    rows = table(folder, "ID,patient,Dx\na1,A,(N\nb1,B,(AFIB\nc1,C,\n")
    columns = {**COLUMNS, "Dx": "label"}
    given = database(subject_tables=rows, subject_columns=columns, label_source="record", subject_pattern="^.")
    assert table_labels(folder, given) == {"a1": "(N", "b1": "(AFIB"}
    assert all_segments(folder, given)[["record", "rhythm", "start", "end"]].to_numpy().tolist() == [
        ["a1", "(N", 0, 1], ["b1", "(AFIB", 0, 1]]
    assert table_labels(folder, database(subject_tables=rows, subject_columns=columns)) == {}


def test_ages():
    assert number("7,5") == (7.5, "7,5 read as 7.5")
    assert number("6 months")[0] == .5 and number("52 weeks")[0] == pytest.approx(.9966, abs=1e-4)
    assert number("11 y")[0] == 11 and number("14.3")[1] == ""
    assert number("1e999")[1] == "1e999 is no number" and number("n/a")[1] == ""
    assert number("-1")[1] == "-1 means unknown"


def test_what_was_right_stays_right(shared):
    assert subject_notes(shared / "leipzig", LEIPZIG) == []
    assert subject_notes(shared / "mitdb", MITDB) == []
    people = subjects(shared / "mitdb", MITDB)
    assert people.subject.nunique() == 47 and people.age.notna().sum() == 46
    assert len(subject_tables(shared / "leipzig", LEIPZIG)) == 39
    assert subject_of("202", MITDB) == "201"
