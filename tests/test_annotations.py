"""Annotations of every form: against wfdb and edfio, against a loop that reads word by word, and on broken bytes."""

import datetime
import shutil
from dataclasses import replace
from types import SimpleNamespace

import edfio
import numpy as np
import pandas as pd
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from watchdog import ends

from pediatric_ecg.core import DataError
from pediatric_ecg.data import LEIPZIG, MITDB, Database, read_annotations, read_header
from pediatric_ecg.data.annotations import (
    decode_annotations,
    encode_annotations,
    find_annotations,
    read_edf_annotations,
    read_label_rows,
    read_label_table,
    record_labels,
    unused_labels,
    write_annotations,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wfdb")  # wfdb 4.3 under pandas 3.1
TOY = Database("toy", "Toy", {"a": ("MLII",)}, {"(N": "sinus rhythm", "(AFIB": "atrial fibrillation"})


def copy(shared, folder, *names):
    for name in names:
        shutil.copy(shared / name, folder)
    return folder


def test_annotations_of_x0010_are_the_released_ones(shared):
    annotations = read_annotations(shared / "leipzig" / "x0010", LEIPZIG)
    released = read_label_table(shared / "leipzig" / "annotations.csv").query("record == 'x0010'")
    assert len(annotations) == 930
    assert annotations.symbol.tolist() == released.symbol.tolist()
    assert annotations.aux.tolist() == released.aux.tolist()


def test_custom_symbols_survive_a_round_trip(shared, tmp_path):
    copy(shared, tmp_path, "leipzig/x0010.hea")
    annotations = read_annotations(shared / "leipzig" / "x0010", LEIPZIG)
    annotations.loc[5, ["symbol", "aux"]] = ["b", "BI"]
    write_annotations(tmp_path / "x0010", annotations, LEIPZIG)
    pd.testing.assert_frame_equal(read_annotations(tmp_path / "x0010", LEIPZIG), annotations)
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".partial"] == []


def by_wfdb(folder, annotations, database, fs=None):
    "The bytes of the annotation file that wfdb writes."
    written = wfdb.Annotation(
        "r",
        database.annotator,
        annotations["sample"].to_numpy(np.int64),
        symbol=list(annotations.symbol),
        fs=fs,
        aux_note=list(annotations.aux),
        custom_labels=[tuple(symbol) for symbol in database.symbols] or None,
    )
    written.wrann(write_fs=fs is not None, write_dir=str(folder))
    return (folder / f"r.{database.annotator}").read_bytes()


STEPS = st.integers(0, 3000) | st.integers(1020, 1030) | st.integers(60_000, 70_000) | st.integers(0, 2**24)
NOTES = st.sampled_from([("+", "(N"), ("+", "(AVNRT"), ("N", ""), ("X", "avrt"), ("b", "BI"), ("~", ""), ("/", "/A")])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(STEPS, NOTES), min_size=1, max_size=12), st.sampled_from([None, 977, 360.0, 127.5]))
def test_annotations_are_written_as_wfdb_writes_them(tmp_path_factory, steps, fs):
    "Byte for byte: with custom symbols and without, with a declared rate and without, whatever the steps."
    folder = tmp_path_factory.mktemp("written")
    for database in (LEIPZIG, replace(MITDB, annotator="rhy")):
        custom = {symbol for _, symbol, _ in database.symbols}
        notes = [note for _, note in steps if note[0] not in "Xb" or custom]
        samples = np.cumsum([step for step, note in steps if note[0] not in "Xb" or custom])
        if not notes:
            continue
        annotations = pd.DataFrame(notes, columns=["symbol", "aux"]).assign(sample=samples)
        encoded = encode_annotations(samples, list(annotations.symbol), list(annotations.aux), database.symbols, fs)
        assert encoded == by_wfdb(folder, annotations, database, fs)
        if fs is None:  # what `annotate` writes
            file = write_annotations(folder / "ours", annotations, database)
            assert file == folder / f"ours.{database.annotator}"
            assert file.read_bytes() == encoded


def test_the_real_file_is_written_back_byte_for_byte(shared):
    annotations = read_annotations(shared / "leipzig" / "x0010", LEIPZIG)
    columns = (annotations[name].tolist() for name in ("sample", "symbol", "aux"))
    assert encode_annotations(*columns, LEIPZIG.symbols, fs=977) == (shared / "leipzig" / "x0010.atr").read_bytes()


def test_annotations_that_the_format_cannot_hold():
    for samples, symbols, aux, says in (
        ([10], ["%"], [""], "no annotation symbol '%'"),
        ([10, 5], ["N", "N"], ["", ""], "in order of time"),
        ([-1], ["N"], [""], "in order of time"),
        ([1], ["+"], ["(" * 256], "at most 255 bytes"),
    ):
        with pytest.raises(DataError, match=says):
            encode_annotations(samples, symbols, aux)


def test_aux_strings_lose_nul_and_keep_case(tmp_path):
    ramp = np.arange(50)[:, None] / 50
    wfdb.wrsamp("r", fs=100, units=["mV"], sig_name=["I"], p_signal=ramp, fmt=["16"], write_dir=str(tmp_path))
    wfdb.wrann(
        "r",
        "atr",
        np.array([1, 9, 20]),
        symbol=["+", "+", "N"],
        aux_note=["(N\0", " (avnrt ", ""],
        write_dir=str(tmp_path),
    )
    assert read_annotations(tmp_path / "r", MITDB).aux.tolist() == ["(N", "(avnrt", ""]


# --- The format -------------------------------------------------------------------------------------------------------


def word_by_word(content):
    "The format once more, as a plain loop: (sample, code, text) of each annotation, or None for what makes no sense."
    at, clock, found, may_have_text, may_have_fields = 0, 0, [], False, False
    while at + 1 < len(content):
        word = content[at] + 256 * content[at + 1]
        code, number = word // 1024, word % 1024
        at += 2
        if word == 0:
            return found if not any(content[at:]) else None
        if code == 59:
            if at + 4 > len(content) // 2 * 2:
                return None
            high, low = (int.from_bytes(content[place : place + 2], "little") for place in (at, at + 2))
            clock += int(np.int32(np.uint32(65536 * high + low)))
            at, may_have_fields = at + 4, False
        elif code < 59:
            clock += number
            found.append((clock, code, b""))
            may_have_text = may_have_fields = True
        elif not may_have_fields:
            return None
        elif code == 63:
            length = number % 256
            if not may_have_text or at + length + length % 2 > len(content) // 2 * 2:
                return None
            found[-1] = (*found[-1][:2], content[at : at + length])
            may_have_text = False
            at += length + length % 2
    return None if content else []


WORDS = st.builds(
    lambda code, number: (code << 10 | number).to_bytes(2, "little"),
    st.sampled_from([0, 1, 5, 22, 28, 42, 50, 58, 60, 61, 62]),
    st.sampled_from([0, 0, 1, 5, 900]),
)
SKIPS = st.builds(lambda tail: b"\0\xec" + tail, st.binary(min_size=4, max_size=4))
TEXTS = st.binary(max_size=9) | st.sampled_from(["(N", "## time resolution: 250", "## x", "42 X Tachy beat"]).map(
    str.encode
)
AUX = TEXTS.map(lambda text: bytes([len(text), 252]) + text + b"\0" * (len(text) % 2))
FILES = st.one_of(
    st.binary(max_size=60),
    st.tuples(
        st.lists(st.one_of(WORDS, WORDS, AUX, SKIPS), max_size=14), st.sampled_from([b"\0\0", b"\0\0", b"", b"\0"])
    ).map(lambda parts: b"".join(parts[0]) + parts[1]),
)


@settings(deadline=None, max_examples=400)
@given(FILES)
def test_the_reader_equals_a_loop_over_words(content):
    expected = word_by_word(content)
    try:
        read = decode_annotations(content)
    except DataError as error:
        assert "\n" not in str(error)
        known = (
            "mark of its end",
            "goes on behind",
            "belongs to no annotation",
            "AHA",
            "no rate",
            "defines no",
            "two time",
        )
        assert any(text in str(error) for text in known)
        assert expected is None or "rate" in str(error) or "defines" in str(error) or "two time" in str(error)
        return
    kept = [note for note in expected if note[1] != 0 and not (note[1] == 22 and note[0] == 0)]
    assert read.sample.tolist() == [sample for sample, _, _ in kept]
    assert len(read.aux) == len(read.symbol) == len(kept)
    assert all(bool(text) <= bool(raw) for text, (_, _, raw) in zip(read.aux, kept))


def annotation_files(shared):
    endings = ("*.atr", "*.qrs", "*.sqrs", "*.ari", "*.wrann")
    found = [file for ending in endings for file in shared.rglob(ending)]
    return sorted(file for file in found if "cases" not in file.parts and "._" not in file.name)


def test_every_annotation_file_equals_wfdb(shared):
    files = annotation_files(shared)
    for file in files:
        read, expected = (
            decode_annotations(file.read_bytes(), file),
            wfdb.rdann(str(file.with_suffix("")), file.suffix[1:]),
        )
        np.testing.assert_array_equal(read.sample, expected.sample)
        assert read.symbol.tolist() == list(expected.symbol)
        assert read.aux.tolist() == [text.replace("\0", "").strip() for text in expected.aux_note]
        if read.fs is not None:
            assert read.fs == expected.fs
    assert len(files) >= 70


def test_damaged_files_end_and_equal_wfdb_where_both_read(shared, tmp_path):
    "What wfdb makes of a damaged file is compared where its loop ends, that is where no note is at the beginning."
    random, both = np.random.default_rng(0), 0
    whole = (shared / "mitdb" / "203.atr").read_bytes()[:1500] + b"\0\0"
    for _ in range(150):
        content = bytearray(whole)
        for place in random.integers(len(content), size=2):
            content[place] = random.integers(256)
        (tmp_path / "r.atr").write_bytes(content)
        try:
            read = decode_annotations(bytes(content))
        except DataError:
            continue
        expected = wfdb.rdann(str(tmp_path / "r"), "atr")
        np.testing.assert_array_equal(read.sample, expected.sample)
        pairs = zip(read.symbol, expected.symbol, strict=True)
        assert all(ours == theirs or ours == f"[{ours[1:-1]}]" and theirs != theirs for ours, theirs in pairs)
        both += 1
    assert both > 50


@pytest.mark.parametrize(
    "unit",
    [b"\x01\x04", b"\0\xf0", b"\xff\xfc" + b"\0" * 256, b"\0\xec\0\0\0\0", b"\x01\x04\x00\xfc", b"\x01\x58\x02\xfc##"],
)
def test_the_time_is_linear_in_the_bytes(unit):
    content = unit * ((1 << 21) // len(unit)) + b"\0\0"
    with ends():
        try:
            decode_annotations(content)
        except DataError:
            pass


@pytest.mark.parametrize(
    "content, says",
    [
        (b"\x05\x04", "without the mark of its end"),
        (b"\x05", "without the mark of its end"),
        (b"\x05\x04\xff\xfc(N\0\0", "without the mark of its end"),
        (b"\x05\x04\0\xec\0\0", "without the mark of its end"),
        (b"\x05\x04\0\0\x05\x04", "goes on behind"),
        (b"\x02\xfc(N\0\0", "belongs to no annotation"),
        (b"\x05\x04\x01\xfca\0\x01\xfcb\0\0\0", "belongs to no annotation"),
        (b"\0N" + b"\1" * 14 + b"\0V" + b"\1" * 14, "AHA"),
    ],
)
def test_bytes_that_make_no_sense(tmp_path, content, says):
    (tmp_path / "p1.hea").write_text("p1 0 125 2500\n")
    (tmp_path / "p1.atr").write_bytes(content)
    with pytest.raises(DataError, match=f"p1.atr: .*{says}"):
        read_annotations(tmp_path / "p1", TOY)


@pytest.mark.parametrize("content", [b"", b"\0\0", b"\0\0" * 256, b"\0\0\0"])
def test_files_without_annotations(tmp_path, content):
    (tmp_path / "p1.hea").write_text("p1 0 125 2500\n")
    (tmp_path / "p1.atr").write_bytes(content)
    read = read_annotations(tmp_path / "p1", TOY)
    assert len(read) == 0 and list(read) == ["sample", "symbol", "aux", "end"]


def notes(*texts, behind=b""):
    "Notes at sample 0, a beat of code 42 at sample 9."
    parts = [
        b"\0\x58" + bytes([len(text.encode()), 252]) + text.encode() + b"\0" * (len(text.encode()) % 2)
        for text in texts
    ]
    return b"".join(parts) + b"\x09\xa8" + behind + b"\0\0"


@pytest.mark.parametrize(
    "texts, symbol, fs",
    [
        ([], "[42]", None),
        (["## tame resolution: 977"], "[42]", None),
        (["##"], "[42]", None),
        (["reviewed"], "[42]", None),
        (["## time resolution: 250", "## time resolution: 2.5e2"], "[42]", 250),
        (["## time resolution: 250 Hz"], "[42]", 250),
        (["## annotation type definitions", "42 Tachy a, b and c", "## end of definitions"], "Tachy", None),
        (["## annotation type definitions", "42 Tä"], "Tä", None),
        (["42 X not between the notes"], "[42]", None),
        (["## annotation type definitions", "1 Q N is Q", "42 X", "## end of definitions", "## remark"], "X", None),
    ],
)
def test_notes_at_the_beginning(texts, symbol, fs):
    read = decode_annotations(notes(*texts))
    assert (read.sample.tolist(), read.symbol.tolist(), read.fs) == ([9], [symbol], fs)


def test_a_standard_code_may_be_defined_anew():
    read = decode_annotations(
        notes("## annotation type definitions", "1 q quiet", "## end of definitions", behind=b"\1\4")
    )
    assert read.symbol.tolist() == ["[42]", "q"]
    assert decode_annotations(notes(), custom=LEIPZIG.symbols).symbol.tolist() == ["X"]
    assert decode_annotations(notes(behind=b"\1\4"), custom=((1, "q", ""),)).symbol.tolist() == ["[42]", "N"]


@pytest.mark.parametrize("text", ["0", "-250", "nan", "inf", "1e12", "1e-9", "", "fast"])
def test_resolutions_that_are_none(text):
    with pytest.raises(DataError, match="no rate in Hz"):
        decode_annotations(notes(f"## time resolution: {text}"))


# --- Records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["01", "02"])
def test_cases_that_hung(shared, case):
    "Case 29 holds the same annotations without notes ahead, and a marker at the very end."
    plain = wfdb.rdann(str(shared / "cases" / "29" / "p1"), "atr")
    read, at_end = (read_annotations(shared / "cases" / name / "p1", TOY) for name in (case, "29"))
    assert read["sample"].tolist() == plain.sample[:-1].tolist() and read.symbol.tolist() == plain.symbol[:-1]
    assert read.aux.tolist() == plain.aux_note[:-1]
    assert at_end.values.tolist()[-1] == [2500, "+", "(N", -1]


def test_the_bytes_of_case_33(shared):
    read = read_annotations(shared / "cases" / "33" / "x001", LEIPZIG)
    assert {"X", "+", "N"} <= set(read.symbol) and not read.symbol.str.startswith("[").any()


def test_an_annotation_before_the_beginning(shared):
    with pytest.raises(DataError, match=r"09/p1.atr: the annotation '\+ \(N' stands at sample -600, before .*\"skip\""):
        read_annotations(shared / "cases" / "09" / "p1", TOY)


@pytest.mark.parametrize(
    "note, frame_rate, factor",
    [("## time resolution: 125", 1, 1), ("", 1, 125), ("", 125, 1), ("## time resolution: 250", 125, 0.5)],
)
def test_times_count_frames_unless_a_note_says_otherwise(tmp_path, monkeypatch, note, frame_rate, factor):
    (tmp_path / "p1.atr").write_bytes(notes(*[note] * bool(note)))
    header = SimpleNamespace(fs=125.0, frame_rate=frame_rate, path=tmp_path / "p1")
    monkeypatch.setattr("pediatric_ecg.data.annotations.read_header", lambda path: header)
    assert read_annotations(tmp_path / "p1", TOY)["sample"].tolist() == [np.rint(9 * factor)]


def test_times_that_no_record_has(tmp_path):
    (tmp_path / "p1.hea").write_text("p1 0 1000000 2500\n")
    far = b"\0\xec\xff\x7f\xff\xff\1\4" * 9
    (tmp_path / "p1.atr").write_bytes(notes("## time resolution: 0.00001", behind=far))
    with pytest.raises(DataError, match="an annotation stands at sample"):
        read_annotations(tmp_path / "p1", TOY)


def test_a_changed_file_is_read_again_and_copies_are_given(shared, tmp_path):
    copy(shared, tmp_path, "mitdb/100.hea", "mitdb/100.atr")
    first = read_annotations(tmp_path / "100", MITDB)
    first.loc[:, "sample"] = 0
    first.loc[:, "aux"] = "changed"
    again = read_annotations(tmp_path / "100", MITDB)
    assert again["sample"].max() == 649_991 and "changed" not in set(again.aux)
    (tmp_path / "100.atr").write_bytes(b"\0\0")
    assert len(read_annotations(tmp_path / "100", MITDB)) == 0


def test_the_file_of_a_record_in_any_case(shared, tmp_path):
    copy(shared, tmp_path, "mitdb/100.hea")
    shutil.copy(shared / "mitdb/100.atr", tmp_path / "100.ATR")
    assert len(read_annotations(tmp_path / "100", MITDB)) == 2274
    (tmp_path / "a.hea").write_text("a 0 125 2500\n")
    (tmp_path / "A.hea").write_text("A 0 125 2500\n")
    (tmp_path / "A.atr").write_bytes(b"\0\0")
    assert find_annotations(tmp_path / "a", "atr") is None  # another record's
    assert find_annotations(tmp_path / "A", "ATR") == tmp_path / "A.atr"
    assert find_annotations(tmp_path / "nowhere" / "a", "atr") is None
    for annotator in ("../a", "a/../../b", "a\0", "a\\b"):
        with pytest.raises(DataError, match="annotator"):
            find_annotations(tmp_path / "a", annotator)


def test_a_folder_in_place_of_the_file(tmp_path):
    (tmp_path / "p1.hea").write_text("p1 0 125 2500\n")
    (tmp_path / "p1.atr").mkdir()
    with pytest.raises(DataError, match="p1.atr: no such annotation file"):
        read_annotations(tmp_path / "p1", TOY)


def test_remarks_that_are_markers(tmp_path):
    "A database may mark its rhythms by remarks: then one at sample 0 counts too."
    (tmp_path / "p1.hea").write_text("p1 0 125 2500\n")
    (tmp_path / "p1.atr").write_bytes(notes("## time resolution: 125", "(N"))
    assert len(read_annotations(tmp_path / "p1", TOY)) == 1
    by_remarks = read_annotations(tmp_path / "p1", replace(TOY, marker_symbols=('"',)))
    assert by_remarks.aux.tolist() == ["(N", ""]


def test_beats_of_a_second_file(tmp_path):
    (tmp_path / "p1.hea").write_text("p1 0 125 2500\n")
    (tmp_path / "p1.atr").write_bytes(encode_annotations([0, 10, 20], ["+", "N", "+"], ["(N", "", "(AFIB"]))
    (tmp_path / "p1.QRS").write_bytes(encode_annotations([0, 20, 25, 30], ["N", "V", "+", "N"], ["", "", "(N", ""]))
    read = read_annotations(tmp_path / "p1", replace(TOY, beats_annotator="qrs"))
    assert read["sample"].tolist() == [0, 0, 20, 20, 30]
    assert (read.symbol + read.aux).tolist() == ["+(N", "N", "+(AFIB", "V", "N"]
    assert len(read_annotations(tmp_path / "p1", replace(TOY, beats_annotator="ari"))) == 3
    back = b"\x32\x70\x02\xfc(N\0\xec\xff\xff\xe0\xff\0\x70\x05\xfc(AFIB\0\0\0"  # sample 50, then 18
    (tmp_path / "p1.atr").write_bytes(back)
    read = read_annotations(tmp_path / "p1", replace(TOY, beats_annotator="qrs"))
    assert read["sample"].tolist() == [50, 18, 0, 20, 30]  # the order of a file that is not in order stays


# --- One label for a record -------------------------------------------------------------------------------------------

CODES = {"426783006": "sinus rhythm", "164889003": "atrial fibrillation"}
BY_RECORD = Database(
    "codes", "Codes", {"a": ("II",)}, CODES, label_source="record", aliases={"SR": "426783006"}, unusable=("noise",)
)


@pytest.mark.parametrize(
    "comments, label, rule, expected",
    [
        ("#Dx: 426783006", "", "", ["426783006"]),
        ("# Dx: 426783006, 270492004 ", "", "", ["426783006"]),
        ("# Dx: 270492004", "", "", []),
        ("# nothing", "", "", []),
        ("#Dx:", "", "", []),
        ("#Dx: SR,426783006", "", "", ["426783006"]),
        ("#Dx: 426783006\n# Dx: 164889003", "", "first", ["426783006"]),
        ("#Dx: 164889003,426783006", "", "first", ["426783006"]),
        ("#Dx: 164889003,426783006", "", "skip", []),
        ("#Dx: 164889003,426783006", "", "", None),
        ("#Dx: noise", "", "", ["noise"]),
        ("#Dx: 426783006", "164889003", "", ["164889003"]),
        ("#Dx: 426783006", " ", "", ["426783006"]),
    ],
)
def test_labels_of_records(tmp_path, comments, label, rule, expected):
    (tmp_path / "p1.hea").write_text(f"p1 0 500 5000\n{comments}\n")
    database = replace(BY_RECORD, several_labels=rule)
    if expected is None:
        with pytest.raises(DataError, match='p1.hea: has the labels 426783006, 164889003; set "several_labels"'):
            read_annotations(tmp_path / "p1", database, label)
        return
    read = read_annotations(tmp_path / "p1", database, label)
    assert read.values.tolist() == [[0, "+", text, -1] for text in expected]


def test_labels_that_are_no_marker_are_named(tmp_path):
    (tmp_path / "p1.hea").write_text("p1 0 500 5000\n# Dx: 426783006, 270492004,SR, ,x\n")
    assert record_labels(tmp_path / "p1", BY_RECORD) == ["426783006", "270492004", "SR", "x"]
    assert unused_labels(tmp_path / "p1", BY_RECORD) == ["270492004", "x"]
    assert unused_labels(tmp_path / "p1", BY_RECORD, "y") == ["y"]
    by_semicolon = replace(BY_RECORD, label_pattern=r"Dx: ([^,]+)", label_separator=";")
    assert record_labels(tmp_path / "p1", by_semicolon) == ["426783006"]
    with pytest.raises(DataError, match="takes too long"):
        (tmp_path / "p2.hea").write_text("p2 0 500 5000\n#" + "a" * 200 + "b\n")
        read_annotations(tmp_path / "p2", replace(BY_RECORD, label_pattern="(a|a|aa)+$"))


def test_beats_beside_a_label(tmp_path):
    (tmp_path / "p1.hea").write_text("p1 0 500 5000\n# Dx: 426783006\n")
    (tmp_path / "p1.qrs").write_bytes(encode_annotations([0, 400], ["N", "N"], ["", ""]))
    read = read_annotations(tmp_path / "p1", replace(BY_RECORD, beats_annotator="qrs"))
    assert read.symbol.tolist() == ["+", "N", "N"]


# --- EDF+ -------------------------------------------------------------------------------------------------------------

NOTES = [
    (0.0, None, "(N"),
    (1.25, None, "V"),
    (2.5, 3.5, "(AFIB"),
    (7.125, None, "Vorhofflimmern – ä"),
    (9.75, None, "N"),
]


def write_edf(file, notes=NOTES, starttime=0):
    ramp = np.linspace(-1, 1, 2500)
    kind, signal = (edfio.Bdf, edfio.BdfSignal) if file.suffix == ".bdf" else (edfio.Edf, edfio.EdfSignal)
    signals = [signal(ramp, sampling_frequency=250, label="II", physical_dimension="mV")]
    kind(
        signals,
        annotations=[edfio.EdfAnnotation(*note) for note in notes],
        data_record_duration=1,
        starttime=datetime.time(1, 2, 3, starttime),
    ).write(file)
    return file


EDF = replace(TOY, annotator="edf+")


@pytest.mark.parametrize("ending", ["edf", "bdf", "EDF"])
@pytest.mark.parametrize("starttime", [0, 250_000])
def test_annotations_inside_of_edf_equal_edfio(tmp_path, ending, starttime):
    file = write_edf(tmp_path / f"p1.{ending}", starttime=starttime)
    expected = (edfio.read_bdf if ending == "bdf" else edfio.read_edf)(file).annotations
    read = read_edf_annotations(read_header(tmp_path / "p1"))
    assert [tuple(note) for note in read] == [(note.onset, note.duration or 0, note.text) for note in expected]
    rows = read_annotations(tmp_path / "p1", EDF)
    assert rows["sample"].tolist() == [0, 312, 625, 1781, 2438]
    assert rows.symbol.tolist() == ["+", "V", "+", "+", "N"]
    assert rows.aux.tolist() == ["(N", "", "(AFIB", "Vorhofflimmern – ä", ""]
    assert rows.end.tolist() == [-1, -1, 1500, -1, -1]
    as_marker = read_annotations(
        tmp_path / "p1", replace(EDF, markers={"N": "sinus", "(AFIB": "af"}, marker_symbols=("*",))
    )
    assert as_marker.symbol.tolist() == ["*", "V", "*", "*", "*"]


def test_edf_that_is_not_as_it_should_be(tmp_path):
    file = write_edf(tmp_path / "p1.edf")
    content = file.read_bytes()

    def read(changed):
        file.write_bytes(changed)
        return read_annotations(tmp_path / "p1", EDF)

    assert read(content.replace("– ä".encode(), b"- \xe4   ")).aux[3] == "Vorhofflimmern - ä"
    assert len(read(content.replace(b"EDF+C", b"EDF+D"))) == 5  # without gaps after all
    gap = content.replace(b"EDF+C", b"EDF+D")
    gap = gap.replace(b"+9\x14\x14\0+9.75\x14N\x14\0\0", b"+11\x14\x14\0+9.75\x14N\x14\0")
    gap = gap.replace(b"+8\x14\x14\0\0", b"+10\x14\x14\0").replace(b"+7\x14\x14", b"+9\x14\x14")
    gap = gap.replace(b"+6\x14\x14", b"+8\x14\x14").replace(b"+5\x14\x14", b"+7\x14\x14")
    assert read(gap)["sample"].tolist() == [0, 312, 625, 1781, 2438]
    assert read_header(tmp_path / "p1").n_samples == 3000
    with pytest.raises(DataError, match="p1.edf: is shorter than its header says"):
        read(content[:-500])
    with pytest.raises(DataError, match="holds signals alone"):
        read(content.replace(b"EDF Annotations ", b"other           "))
    with pytest.raises(DataError, match="no time of an annotation"):
        read(content.replace(b"+1.25", b"+1,25"))
    (tmp_path / "p2.hea").write_text("p2 0 125 2500\n")
    with pytest.raises(DataError, match="p2.hea: no file in EDF or BDF"):
        read_annotations(tmp_path / "p2", EDF)


def test_edf_annotations_outside_of_the_record(tmp_path):
    write_edf(tmp_path / "p1.edf", [(-0.5, None, "(N"), (1, None, "(AFIB")])
    with pytest.raises(DataError, match="p1.edf: the annotation '. .N' stands at sample -125"):
        read_annotations(tmp_path / "p1", EDF)
    write_edf(tmp_path / "p2.edf", [(1, None, "(N"), (100, None, "(AFIB")])
    assert read_annotations(tmp_path / "p2", EDF)["sample"].tolist() == [250, 25_000]
    write_edf(tmp_path / "p3.edf", [])
    assert len(read_annotations(tmp_path / "p3", EDF)) == 0


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=8)), max_size=5))
def test_damaged_edf_ends_in_one_line(tmp_path_factory, damage):
    file = tmp_path_factory.mktemp("edf") / "p1.edf"
    content = bytearray(write_edf(file).read_bytes())
    for place, piece in damage:
        content[place : place + len(piece)] = piece
    file.write_bytes(content)
    try:
        read_annotations(file.with_suffix(""), EDF)
    except DataError as error:
        assert "p1.edf" in str(error) and "\n" not in str(error)


# --- Writing and tables -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 2**33), st.text(max_size=60)), max_size=6))
def test_texts_in_every_alphabet_come_back(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("written")
    (folder / "p 1, ä.hea").write_text("p 0 125 2500\n")
    samples, texts = np.cumsum([step for step, _ in steps], dtype=int), [text for _, text in steps]
    annotations = pd.DataFrame({"sample": samples, "symbol": ["+"] * len(texts), "aux": texts})
    try:
        write_annotations(folder / "p 1, ä", annotations, TOY)
    except DataError as error:
        assert "at most 255 bytes" in str(error)
        assert max(len(text.encode()) for text in texts) > 255
        return
    read = decode_annotations((folder / "p 1, ä.atr").read_bytes())
    assert read.sample.tolist() == samples.tolist()
    assert read.aux.tolist() == [text.replace("\0", "").strip() for text in texts]


def test_what_cannot_be_written_names_the_file(tmp_path):
    for samples, aux, says in (
        ([-5], "(N", "in order of time"),
        ([9, 3], "(N", "in order of time"),
        ([0.5], "(N", "whole samples"),
        ([np.nan], "(N", "whole samples"),
        ([np.inf], "(N", "whole samples"),
        ([2**41], "(N", "whole samples"),
        ([1], "ä" * 128, "at most 255 bytes"),
        ([1], "\ud800", "write it in letters"),
    ):
        rows = pd.DataFrame({"sample": samples, "symbol": "+", "aux": aux})
        with pytest.raises(DataError, match=f"p1.atr: .*{says}"):
            write_annotations(tmp_path / "p1", rows, TOY)
    rows = pd.DataFrame({"sample": [1], "symbol": "+", "aux": "(N"})
    with pytest.raises(DataError, match="no extension of a file"):
        write_annotations(tmp_path / "p1", rows, replace(TOY, annotator="x/../../y"))
    assert list(tmp_path.iterdir()) == []
    assert write_annotations(tmp_path / "p1", rows, replace(TOY, annotator="edf+")).name == "p1.atr"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_tables_of_labels_in_every_encoding(tmp_path, encoding):
    (tmp_path / "labels.csv").write_bytes("record,symbol,aux_note\nä 1 ,+, (N\nä 1,N,\n".encode(encoding))
    table = read_label_table(tmp_path / "labels.csv")
    assert table.values.tolist() == [["ä 1", 0, "+", "(N"], ["ä 1", 1, "N", ""]]


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "is empty"),
        ("record,symbol\nx,N\n", "no column 'aux_note'"),
        ("a,b\n1,2,3\n1\n", "line 2 has 3 cells"),
        ("record,symbol,aux_note\n", "holds no labels"),
        ("record,symbol,aux_note\nx,+,(N\nx,N,,,,,\n", "line 3 has 7 cells"),
        ('record,symbol,aux_note\nx,"+,(N\n', "line 2: not readable"),
        ("\0\0\0", "is no text"),
        ("record,record,symbol,aux_note\nx,x,+,(N\n", "the column 'record' is there twice"),
    ],
)
def test_tables_of_labels_that_are_none(tmp_path, text, says):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=f"labels.csv: .*{says}|labels.csv: {says}"):
        read_label_rows(tmp_path / "labels.csv")
    with pytest.raises(DataError, match="none.csv: no such file"):
        read_label_rows(tmp_path / "none.csv")
