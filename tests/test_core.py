"""Files of others, names, patterns and tables: read, or refused in one line."""
import json
import os
import re
import stat
import time
from dataclasses import dataclass, field

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pediatric_ecg.core import (
    DataError,
    check_keys,
    compile_pattern,
    decode_text,
    inside,
    parse_json,
    read_bytes,
    read_json,
    read_table,
    search,
    typed,
)


@pytest.mark.skipif(os.geteuid() == 0, reason="everything can be read by the administrator")
def test_unreadable_file(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("{}")
    file.chmod(0)
    with pytest.raises(DataError, match="a.json: cannot be read .Permission denied.; restore it"):
        read_json(file)
    file.chmod(stat.S_IRUSR)


@pytest.mark.parametrize("name", ["a/" * 5000, "x" * 5000, "\ud800", "a\0"])
def test_names_of_no_file(name):
    with pytest.raises(DataError) as failure:
        read_bytes(name, "give another")
    assert str(failure.value).endswith("; give another")


@settings(deadline=None, max_examples=200)
@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)))
def test_any_value_of_json_is_taken_or_refused(value):
    "What Python wrote is read back as it was; of each type it is a value of that type, or an error."
    back = parse_json(json.dumps(value), "x")
    assert repr(back) == repr(value)
    for kind in (str, float, int, list[str], tuple[float, ...], dict[str, int], dict[str, list[str]], float | None):
        try:
            found = typed(kind, value, "x", "mend it")
        except DataError as error:
            assert str(error).startswith("x") and str(error).endswith("; mend it") and "\n" not in str(error)
            continue
        if kind in (str, int, float):
            assert isinstance(found, kind) and not isinstance(value, bool)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_refused(content):
    try:
        parse_json(decode_text(content), "x")
    except DataError as error:
        assert str(error).startswith("x: not readable as JSON (")


@pytest.mark.parametrize("depth", [10, 500, 990, 5000, 100_000])
@pytest.mark.parametrize("kind", [dict, list, dict[str, list[str]]])
def test_any_depth(tmp_path, depth, kind):
    "Deep values of the right kind are kept; the rest is refused, and the stack holds."
    for opened, closed in (("[", "]"), ('{"a":', "}")):
        (tmp_path / "a.json").write_text(opened * depth + "1" + closed * depth)
        try:
            read_json(tmp_path / "a.json", kind)
        except DataError as error:
            assert "a.json" in str(error) and len(str(error)) < 500


def test_dataclasses_are_read_by_kind():
    @dataclass
    class Inner:
        name: str
        size: float = 1.0

    @dataclass
    class Outer:
        inner: Inner
        others: list[Inner] = field(default_factory=list)

    found = typed(Outer, {"inner": {"name": "a", "size": 2, "unknown": 1}, "others": [{"name": "b"}]}, "x")
    assert found == Outer(Inner("a", 2.0), [Inner("b")])
    for value, says in (
        ({}, "x: the key 'inner' is missing"),
        ({"inner": {"size": 1}}, "x: inner: the key 'name' is missing"),
        ({"inner": {"name": 1}}, "x: inner: name: must be text, not 1"),
        ({"inner": {"name": "a"}, "others": [{"name": "b", "size": "2"}]},
         r"x: others\[0\]\['size'\]: must be a number"),
        ([], "x: must be names and values"),
    ):
        with pytest.raises(DataError, match=says):
            typed(Outer, value, "x")


def test_values_of_other_libraries_are_plain():
    import numpy as np

    assert typed(dict[str, list[float]], {"a": np.arange(2.0)}, "x") == {"a": [0.0, 1.0]}
    assert typed(float, np.float32(2), "x") == 2.0
    assert typed(list[str], {"b", "a"}, "x") == ["a", "b"]
    with pytest.raises(DataError, match="object is no value that JSON can hold"):
        typed(str, object(), "x")


def test_keys_that_are_not_known_are_left_alone():
    content = {"a": 1, "b": [object]}
    assert check_keys({"a": int}, content, "x") is content
    with pytest.raises(DataError, match="x: must be names and values"):
        check_keys({}, [], "x")


@settings(deadline=None, max_examples=300)
@given(st.text("ab./\\~:\0 é\ud800\n", max_size=8))
def test_no_name_leaves_its_folder(name):
    try:
        path = inside("/folder", name, "RECORDS")
    except DataError as error:
        assert "RECORDS" in str(error)
        return
    assert os.path.normpath(path).startswith("/folder/")
    os.fsencode(path)


@pytest.mark.parametrize("pattern", [
    "^(a+)+$", "(a|a)*b$", "(a|aa)+$", "(.*)*x", "(a?){50}a{50}b", "(?=(a+))\\1+b", "((a{1,100}){1,100})+b", "a" * 999])
def test_every_pattern_ends(pattern):
    begun = time.process_time()  # of this process: the machine may be busy with others
    for text in ("a" * 200 + "!", "b", ""):
        try:
            search(pattern, text, "pattern")
        except DataError as error:
            assert "takes too long" in str(error)
    assert time.process_time() - begun < 5


def test_patterns_mean_what_they_mean_to_re():
    for pattern in (r"^x\d{3,4}$", r"(?P<age>\d+)", r"(?i)CS", r"a\b", r"^\s*Dx:\s*(.*)$", r"[^\W\d_]+"):
        for text in ("x001", "age 12", "cs12 a", "é1", "Age: 1\nDx: 12,34\n"):
            ours, theirs = search(pattern, text, "x"), re.compile(pattern, re.MULTILINE).search(text)
            assert (ours and ours.span()) == (theirs and theirs.span()), (pattern, text)
    assert compile_pattern("(a)", "x") is compile_pattern("(a)", "x")
    assert search("[[a]", "[", "x")  # re warns of such a set, which is no concern of the user


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.text("ab ;é", max_size=4), st.text("12,.", max_size=4)), min_size=1, max_size=5),
       st.sampled_from([",", ";", "\t"]), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
       st.sampled_from(["\n", "\r\n"]))
def test_tables_as_spreadsheets_write_them(tmp_path_factory, rows, separator, encoding, end):
    file = tmp_path_factory.mktemp("table") / "t.csv"
    table = pd.DataFrame(rows, columns=["name", "value"])
    with open(file, "w", encoding=encoding, newline="") as stream:
        table.to_csv(stream, index=False, sep=separator, lineterminator=end)
    found = read_table(file, ["name"])
    expected = [(name.strip(), value.strip()) for name, value in rows if name.strip() or value.strip()]
    assert list(found.itertuples(index=False, name=None)) == expected


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_table_or_refused(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.csv"
    file.write_bytes(content)
    try:
        table = read_table(file)
    except DataError as error:
        assert "any.csv" in str(error) and "\n" not in str(error)
        return
    assert all(isinstance(cell, str) for column in table for cell in table[column])


def test_every_table_of_the_real_data_is_read_as_pandas_reads_it(shared):
    for file in sorted((shared / "leipzig").glob("*.csv")):
        theirs = pd.read_csv(file, dtype=str, keep_default_na=False)
        theirs.columns = theirs.columns.str.strip()
        theirs = theirs.apply(lambda column: column.str.strip()).astype(object)
        assert read_table(file).reset_index(drop=True).equals(theirs)


def test_a_blank_behind_a_name(shared):
    "The case of a record whose name ends in a blank."
    assert all(name == name.strip() for name in read_table(shared / "cases" / "34" / "s.csv").iloc[:, 0])
