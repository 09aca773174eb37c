"""Databases as values: recognition, specifications in JSON, and what contradicts itself."""
import hashlib
import json
import shutil
from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pediatric_ecg.core import DataError
from pediatric_ecg.data import LEIPZIG, MITDB, Database, get_database, register
from pediatric_ecg.data.databases import DATABASES, recognise, slot_names

# SHA-256 of what `to_json` gave when the two specifications were still Python code
SPECIFICATIONS = {
    "leipzig": "87ac1b01820e5365676c642242f318640a16bd091833f48d24bfdcabcbd44f05",
    "mitdb": "511f0040e94e57178c0174d241de00a31419e7052d7af54ac14581257de14406",
}


def test_json_round_trip(tmp_path):
    for database in (LEIPZIG, MITDB):
        file = tmp_path / f"{database.name}.json"
        database.to_json(file)
        assert get_database(file) == database == Database.from_json(str(file))
        assert isinstance(json.loads(file.read_text())["modalities"], dict)


@pytest.mark.parametrize("database", [LEIPZIG, MITDB], ids=lambda database: database.name)
def test_built_in_specifications_are_files(database):
    "The files of the package hold what the values in the code held, to the last byte, and nothing is lost in reading."
    file = files("pediatric_ecg.data") / "specs" / f"{database.name}.json"
    assert file.read_bytes() == (database.to_json() + "\n").encode()
    assert hashlib.sha256(database.to_json().encode()).hexdigest() == SPECIFICATIONS[database.name]
    assert get_database(database.name) is database


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(st.text("ab/|#(", min_size=1, max_size=4), st.text(max_size=5), min_size=1, max_size=4),
       st.lists(st.text("IVx|#/0", min_size=1, max_size=6), min_size=1, max_size=3))
def test_any_database_survives_json(markers, slots):
    fits = {marker: ("N",) for marker in markers}
    database = Database("any", "title", {"m": tuple(slots)}, markers, continues=("(C",), fits=fits)
    assert Database.from_json(database.to_json()) == database


@pytest.mark.parametrize("bad, says", [
    ({"aliases": {"(X": "(Y"}}, "'(Y'"),
    ({"groupings": {"g": {"(Q": "q"}}}, "grouping g names '(Q'"),
    ({"markers": {}}, "no rhythm markers"),
    ({"modalities": {}}, "at least one modality"),
    ({"fits": {"(Z": ["N"]}}, "fits names '(Z'"),
    ({"records": "("}, "regular expression"),
    ({"nonsense": 1}, "unknown key 'nonsense'"),
    ({"modalities": 3}, "wrong type"),
])
def test_specification_with_a_mistake(tmp_path, bad, says):
    spec = {"name": "mine", "modalities": {"ecg": ["I"]}, "markers": {"(N": "sinus"}, **bad}
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec))
    with pytest.raises(DataError, match="(?s)" + says.replace("(", r"\(")):
        get_database(file)


def test_unreadable_specification(tmp_path):
    (tmp_path / "a.json").write_text("{not json")
    (tmp_path / "b.json").write_text("[1]")
    for name in ("a.json", "b.json", "absent.json"):
        with pytest.raises(DataError, match=name):
            get_database(tmp_path / name)


def test_unknown_name_lists_the_known():
    with pytest.raises(DataError, match="leipzig, mitdb.*--database"):
        get_database("nosuch")


def test_real_folders(shared, tmp_path):
    assert recognise(shared / "mitdb") is MITDB
    assert recognise(shared / "leipzig") is LEIPZIG
    for r in ("102", "114"):
        shutil.copy(shared / "mitdb" / f"{r}.hea", tmp_path)
    assert recognise(tmp_path) is MITDB
    for other in ("iafdb", "wfdb_fixtures", "wfdb_fixtures/cpsc2021", "wfdb_fixtures/cinc2021"):
        with pytest.raises(DataError, match="no known database fits.*leipzig, mitdb.*--database"):
            recognise(shared / other)


def test_simulated_leipzig_is_leipzig(simdb):
    assert recognise(simdb) is LEIPZIG


def test_folders_that_hold_nothing(tmp_path):
    for folder, says in ((tmp_path, "no WFDB header"), (tmp_path / "absent", "no such folder")):
        with pytest.raises(DataError, match=says):
            recognise(folder)
    (tmp_path / "x.hea").write_text("this is no header\n")
    with pytest.raises(DataError, match="x.hea"):
        recognise(tmp_path)


def test_a_folder_may_describe_itself(tmp_path):
    mine = Database("mine", "", {"ecg": ("I",)}, {"(N": "sinus"})
    mine.to_json(tmp_path / "database.json")
    (tmp_path / "r.hea").write_text("r 1 100 10\nr.dat 16 200 16 0 0 0 0 I\n")
    assert recognise(tmp_path) == get_database(None, tmp_path) == mine


def test_two_that_look_alike_need_names(shared):
    twin = register(replace(MITDB, name="twin", records=r"t\d+"))
    try:
        assert recognise(shared / "mitdb") is MITDB  # the record names decide
        register(replace(twin, records=MITDB.records))
        with pytest.raises(DataError, match="several databases fit"):
            recognise(shared / "mitdb")
    finally:
        del DATABASES["twin"]


def test_slots_split_outside_of_patterns():
    assert slot_names("A|/B|C/|#2") == ["A", "/B|C/", "#2"]


def test_a_registered_name_may_have_capitals():
    mine = register(replace(MITDB, name="MyDB"))
    try:
        assert get_database("MyDB") is mine
    finally:
        del DATABASES["mydb"]
