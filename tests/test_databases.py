"""Databases as values: recognition, specifications in JSON, and what contradicts itself."""
import hashlib
import json
import re
import shutil
from dataclasses import fields, replace
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from watchdog import ends

from pediatric_ecg.core import DataError
from pediatric_ecg.data import LEIPZIG, MITDB, Database, get_database, register
from pediatric_ecg.data.databases import DATABASES, recognise, slot_names

# SHA-256 of what `to_json` gave when the two specifications were still Python code
SPECIFICATIONS = {
    "leipzig": "530c0fd35ed9353f22c31cec5dadf7cadadb9e4efaa3e51a827fa952219bece3",
    "mitdb": "05c12ea5d278f57ebfa0cf620df21e625b39494eeb1150dab317c9221566da71",
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
    try:
        database = Database("any", "title", {"m": tuple(slots)}, markers, continues=("(C",), fits=fits)
    except DataError as error:
        assert "the slot" in str(error)
        return
    assert Database.from_json(database.to_json()) == database
    labels = database.grouping()
    assert len(set(labels.values())) == len(markers) and all(labels.values())


@pytest.mark.parametrize("bad, says", [
    ({"aliases": {"(X": "(Y"}}, "'(Y'"),
    ({"groupings": {"g": {"(Q": "q"}}}, "groupings: g names '(Q'"),
    ({"markers": {}}, "no rhythm markers"),
    ({"modalities": {}}, "at least one modality"),
    ({"fits": {"(Z": ["N"]}}, "fits names '(Z'"),
    ({"records": "("}, "regular expression"),
    ({"nonsense": 1}, "unknown key 'nonsense'"),
    ({"modalities": 3}, "modalities: must be names and values in braces, not 3; correct the specification"),
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


MINE = {"name": "mine", "modalities": {"ecg": ["I"]}, "markers": {"(N": "sinus", "(AFIB": "fibrillation"}}


def written(folder, text):
    "A specification in a file, as text or as names and values."
    file = folder / "spec.json"
    file.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return file


@pytest.mark.parametrize("key", [entry.name for entry in fields(Database)])
def test_every_key_is_checked_by_kind(tmp_path, key):
    "No value of another kind is taken for something else; the line names file, key and what to do."
    right = json.loads(Database.from_dict({**MINE, key: MINE[key]} if key in MINE else MINE, "x").to_json())
    default = getattr(Database.from_dict(right, "x"), key)
    wrong = {"text": "no", "number": 125, "list": [1], "nested": {"a": {"b": 1}}, "truth": True, "null": None}
    allowed = {str: "text", float: "number"}.get(type(default))
    if key in ("fs", "mains", "window_seconds", "size_mb"):
        allowed = "number"
    for kind, value in wrong.items():
        if kind == allowed or (kind == "null" and key == "fs"):
            continue
        with pytest.raises(DataError, match=rf"spec\.json: {key}.*; ") as failure:
            get_database(written(tmp_path, {**MINE, key: value}))
        assert "\n" not in str(failure.value)
        with pytest.raises(DataError, match=f"{key}.*; "):
            Database(**{"title": "", **MINE, key: value if key != "modalities" or kind != "text" else 3})


@pytest.mark.parametrize("bad, says", [
    ({"fs": "125"}, 'fs: must be a number, not "125" .*without quotation marks'),
    ({"fs": -1}, "fs: must be from 0.001 to 1,000,000 Hz, not -1"),
    ({"fs": 0}, "fs: must be from 0.001 to"),
    ({"fs": 10**400}, "fs: must be from 0.001 to"),
    ({"window_seconds": 0}, "window_seconds: must be from 0.1 to 86,400 s, not 0"),
    ({"window_seconds": -2}, "window_seconds"),
    ({"mains": -50}, "mains: must be from 0 to 100 Hz, not -50"),
    ({"size_mb": -1}, "size_mb"),
    ({"annotator": ".atr"}, "annotator: '.atr' is no extension of a file; write \"atr\""),
    ({"annotator": "../atr"}, "annotator.*write \"atr\""),
    ({"annotator": "a/b"}, "annotator"),
    ({"annotator": ".."}, "annotator.*write \"atr\""),
    ({"annotator": ""}, "annotator"),
    ({"beats_annotator": ".qrs"}, "beats_annotator.*write \"qrs\""),
    ({"beats_annotator": "atr"}, "beats_annotator: is the annotator itself"),
    ({"modalities": {"ecg": ["/[/"]}}, "modalities: ecg: the slot '/\\[/': .*is no regular expression"),
    ({"modalities": {"ecg": ["/CS 1/2/"]}}, "write a dot for it, '/CS 1.2/', or the plain name, 'CS 1/2'"),
    ({"modalities": {"ecg": ["/^CS"]}}, "has no second slash"),
    ({"modalities": {"ecg": ["MLII||V5"]}}, "nothing beside a bar"),
    ({"modalities": {"ecg": ["|"]}}, "nothing beside a bar"),
    ({"modalities": {"ecg": ["#"]}}, "'#', which is no position; write #0"),
    ({"modalities": {"ecg": [""]}}, "modalities: ecg: the slot '' is empty"),
    ({"modalities": {"ecg": []}}, "at least one lead"),
    ({"modalities": {"ecg": ["#0"] * 1001}}, "more than 1000 slots"),
    ({"modalities": {"../ecg": ["I"]}}, "'../ecg' is no name of a modality"),
    ({"modalities": {"json": ["I"]}}, "'json' has a meaning of its own"),
    ({"modalities": {"ecg": ["I"], "ECG": ["II"]}}, "differ in capital letters only"),
    ({"markers": {"(N ": "sinus"}}, "markers: '\\(N ' .*blank"),
    ({"markers": {"": "sinus"}}, "markers: '' is empty"),
    ({"unusable": ["(N"]}, "unusable: '\\(N' is named under markers already"),
    ({"aliases": {"(N": "(AFIB"}}, "aliases: '\\(N' is named under markers already"),
    ({"first_marker": "(X"}, "first_marker names '\\(X', which is not among its markers; known are \\(N, \\(AFIB"),
    ({"symbol_markers": {"!": "(VFL"}}, "symbol_markers names '\\(VFL'"),
    ({"spans": {"[]": "(VF"}}, "spans names '\\(VF'"),
    ({"spans": {"[": "(N"}}, "spans: '\\[' are not two symbols"),
    ({"spans": {"[[": "(N"}}, "spans"),
    ({"symbol_markers": {"VT": "(N"}}, "symbol_markers: 'VT' is no annotation symbol"),
    ({"symbol_markers": {"+": "(N"}}, "symbol_markers: .* is among the marker_symbols"),
    ({"marker_symbols": ["++"]}, "marker_symbols: '\\+\\+' is no annotation symbol"),
    ({"unusable_pair": "~~"}, "unusable_pair"),
    ({"beat_symbols": "N V"}, "beat_symbols: ' ' is no annotation symbol"),
    ({"symbols": [[50, "X", ""]]}, "symbols: 50 is no code"),
    ({"symbols": [[42, "X", ""], [42, "Y", ""]]}, "symbols: a code is there twice"),
    ({"symbols": [[42, "X"]]}, "symbols"),
    ({"label_source": "file"}, 'label_source: must be "annotations" or "record"'),
    ({"label_pattern": "Dx: .*"}, "label_pattern: has no group"),
    ({"label_pattern": "("}, "label_pattern: '\\(' is no regular expression"),
    ({"several_labels": "last"}, 'several_labels: must be "" or "first" or "skip"'),
    ({"comment_pattern": "Age: (.*)"}, "comment_pattern: has no group with a name"),
    ({"subject_pattern": "((a{1000}){1000}){1000}"}, "subject_pattern: .* repeats too often"),
    ({"subject_pattern": "x" * 2000}, "subject_pattern: .*2000 letters"),
    ({"subject_tables": {"../people.csv": ""}}, "subject_tables: the name '../people.csv' leads out of the folder"),
    ({"subject_tables": {"/etc/passwd": ""}}, "subject_tables"),
    ({"subject_columns": {"file": "record", "name": "record"}}, "two columns are called 'record'"),
    ({"groupings": {"default": {}}}, "groupings: default is empty"),
    ({"groupings": {"default": {"(N": ""}}}, "groupings: default: '' is no name of a class"),
    ({"subjects": {"a": ""}}, "subjects: a subject has no name"),
    ({"name": ""}, "name: '' is no name"),
    ({"name": "a\nb"}, "name"),
])
def test_what_a_specification_may_not_say(tmp_path, bad, says):
    "One line that names the file, the key and what to do, from a file and (but for kinds) from Python."
    with pytest.raises(DataError, match=says) as failure:
        get_database(written(tmp_path, {**MINE, **bad}))
    assert str(failure.value).startswith(str(tmp_path / "spec.json: ")) and "\n" not in str(failure.value)
    with pytest.raises(DataError, match=says):
        Database(**{"title": "", **MINE, **bad})


@pytest.mark.parametrize("text, says", [
    ("", "not readable as JSON"),
    ('{"name": "mine", ', "not readable as JSON"),
    ("[" * 100_000, "nested too deep"),
    ('{"a":' * 100_000, "nested too deep"),
    ('{"name": "x", "markers": {"(N": "a", "(N": "b"}, "modalities": {"ecg": ["I"]}}', 'the key ".N" is there twice'),
    ('{"name": "x", "markers": {"(N": ""}, "modalities": {"ecg": ["I"], "ecg": ["II"]}}',
     'the key "ecg" is there twice'),
    ('{"name": "x", "fs": NaN}', "NaN is no number"),
    ('{"name": "x", "window_seconds": -Infinity}', "-Infinity is no number"),
    ('{"name": "x", "modalities": {"ecg": ["I"]}, "markers": {"(N": ""}, "window_seconds": 1e999}',
     "window_seconds: must be"),
    ('{"name": "x", "modalities": {"ecg": ["I"]}, "markers": {"(N": "\\ud800"}}', "markers"),
    ('{"name": "x", "fs": ' + "9" * 5000 + "}", "not readable as JSON"),
    ('"name"', "holds no names and values"),
    (" " * 4_000_001, "at most 4,000,000 are read"),
])
def test_damaged_specification(tmp_path, text, says):
    with pytest.raises(DataError, match=says) as failure:
        get_database(written(tmp_path, text))
    assert "spec.json" in str(failure.value) and "\n" not in str(failure.value)


def test_specifications_in_other_encodings(tmp_path):
    "Names and markers hold what people write; a byte-order mark and UTF-16 are read."
    spec = {**MINE, "name": "Größe, 2. Reihe", "markers": {"(Vorhof, flimmern": "Vorhofflimmern", "心房颤动": "AF"},
            "groupings": {"default": {"(Vorhof, flimmern": "Vorhof, flimmern", "心房颤动": "房 颤"}}}
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file = tmp_path / "spec.json"
        file.write_text(json.dumps(spec, ensure_ascii=False), encoding=encoding)
        database = get_database(file)
        assert database.grouping() == spec["groupings"]["default"] and database.name == "Größe, 2. Reihe"
    assert Database.from_json("\ufeff" + json.dumps(spec)) == database


def test_what_python_may_write_shorter():
    "One lead without a list, markers and skipped records as a list; numbers of NumPy, tuples for lists."
    short = Database("mine", "", {"ecg": "I"}, ["(N", "(AFIB"], skip=["x1", "x2*"], fs=np.float32(250),
                     continues=("(C",))
    assert short.modalities == {"ecg": ("I",)} and short.markers == {"(N": "N", "(AFIB": "AFIB"}
    assert list(short.skip) == ["x1", "x2*"] and all(short.skip.values()) and short.fs == 250
    assert Database.from_json(short.to_json()) == short
    assert Database.from_dict({**MINE, "markers": ["(N", "(AFIB"]}, "x").markers == short.markers


def test_names_of_modalities_can_name_modules():
    "A modality becomes a module of the network, where some names are taken."
    nn = pytest.importorskip("torch").nn
    for name in dir(nn.ModuleDict()):
        if not name.startswith("_"):
            with pytest.raises(DataError, match="modalities"):
                Database("mine", "", {name: "I"}, ["(N"])


def test_specifications_of_all_cases(shared):
    "All that were right are right; the one that is wrong says so."
    for file in sorted((shared / "cases").glob("*/database.json")):
        if file.parent.name == "23":
            with pytest.raises(DataError, match="fs: must be a number, not \"125\""):
                Database.from_json(file)
            content = json.loads(file.read_text())
            with pytest.raises(DataError, match="the slot '/\\[/'"):
                Database.from_dict({**content, "fs": 125, "annotator": "atr"}, "x")
            with pytest.raises(DataError, match="annotator"):
                Database.from_dict({**content, "fs": 125, "modalities": {"ecg": ["I"]}}, "x")
        else:
            assert Database.from_json(Database.from_json(file).to_json()) == Database.from_json(file)


def header(folder, name, fs, leads, suffix=".hea"):
    "A header without signals."
    lines = [f"{name} {len(leads)} {fs} 1000", *(f"{name}.dat 16 200 16 0 0 0 0 {lead}" for lead in leads)]
    (folder / f"{name}{suffix}").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("modalities", [
    {"inside": ("/^CS [0-9]/",), "outside": ("/^(II|V1)$/",)},
    {"inside": "#0", "outside": "#1"},
    {"inside": "CS 1/2|#0"},
])
def test_databases_by_expression_or_position_are_found(tmp_path, modalities):
    other = register(Database("other", "", modalities, ["(N"], fs=500.0))
    try:
        header(tmp_path, "a", 500, ["CS 1/2", "II"])
        assert recognise(tmp_path) is other
        header(tmp_path, "b", 360, ["CS 1/2", "II"])
        with pytest.raises(DataError, match="no known database fits"):
            recognise(tmp_path)
    finally:
        del DATABASES["other"]


def test_names_say_more_than_positions(shared):
    anybody = register(Database("anybody", "", {"first": "#0", "second": "#1"}, ["(N"], fs=360.0))
    try:
        assert recognise(shared / "mitdb") is MITDB
        assert anybody.fs == MITDB.fs
    finally:
        del DATABASES["anybody"]


def test_patterns_of_record_names_are_bounded(tmp_path):
    header(tmp_path, "a" * 60 + "!", 360, ["MLII", "V1"])
    register(replace(MITDB, name="twin", records="(a|aa)+"))
    try:
        with pytest.raises(DataError, match="database 'twin': records: .*takes too long"):
            recognise(tmp_path)
    finally:
        del DATABASES["twin"]


def test_folders_of_other_files(tmp_path):
    "Companions of a Mac are no headers, capitals are; EDF files say what to do; a broken database.json is named."
    header(tmp_path, "._a", 360, ["x"])
    header(tmp_path, "A", 360, ["MLII", "V1"], ".HEA")
    assert recognise(tmp_path) is MITDB
    edf = tmp_path / "edf"
    edf.mkdir()
    (edf / "p1.EDF").write_bytes(b"0       ")
    with pytest.raises(DataError, match="files in EDF .p1.EDF.*--database NAME"):
        recognise(edf)
    (edf / "database.json").write_text("{")
    with pytest.raises(DataError, match=r"database\.json: not readable as JSON"):
        recognise(edf)
    (edf / "database.json").unlink()
    (edf / "database.json").mkdir()
    with pytest.raises(DataError, match=r"database\.json: is a folder"):
        recognise(edf)


@pytest.mark.parametrize("text", [
    "", "\0" * 1000, "a", "a 1", "a/3 1 100 10\na 5\na 5\na 5", "a 99999999999 360 10", "a 1 1e999\na.dat 16",
    "a 1 x\n", "a/2 2 360\n../b 1\n~ 5", "9 " * 100_000, "a 1 360\n" + "1 " * 100_000, "a 2 -360 100\n"])
def test_strange_headers_are_no_evidence(tmp_path, text):
    "One line, soon, and nothing is read outside of the folder."
    (tmp_path / "a.hea").write_text(text)
    with ends():
        with pytest.raises(DataError, match=re.escape(str(tmp_path))):
            recognise(tmp_path)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "", "/", "..", "no/such.JSON", "x" * 300 + ".json"])
def test_names_that_no_database_has(name):
    with pytest.raises(DataError):
        get_database(name)
