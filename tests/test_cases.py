"""Files as they are in the world: small inputs that once failed, others of their kinds, and what is right for each.

The right values are computed here: samples by NumPy from the bytes, annotations by a decoder of a few lines.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import edfio
import numpy as np
import pandas as pd
import pytest
import scipy.io
import toy
from made_up_run import made_up_run

from pediatric_ecg import cli
from pediatric_ecg.core import DataError
from pediatric_ecg.data import (
    Database,
    check,
    get_database,
    read_annotations,
    read_header,
    read_signals,
    segments,
    subjects,
)
from pediatric_ecg.data.annotations import write_annotations
from pediatric_ecg.data.headers import all_headers, lead_slots, record_name
from pediatric_ecg.experiments import Protocol
from pediatric_ecg.experiments.run import make_folds
from pediatric_ecg.sim import simulate
from pediatric_ecg.splits import audit, patient_folds
from pediatric_ecg.windows import Preprocess, prepare

ROOT = Path(__file__).resolve().parent.parent
RAW = Preprocess(fs=125, band=None, notch=None)  # leaves records of 125 Hz as they are


@pytest.fixture
def case(shared, tmp_path):
    "A function: the number of a case → a copy of it."
    if not (shared / "cases").is_dir():
        pytest.skip("the cases are not here")

    def copied(number):
        folder = tmp_path / "case"
        shutil.copytree(shared / "cases" / number, folder, copy_function=shutil.copyfile)
        return folder

    return copied


def millivolts(file, leads=2):
    "A file of format 16 with 1000 units per mV."
    return np.fromfile(file, "<i2").reshape(-1, leads) / 1000


def accepted(folder, **choices):
    "The report and the store of a folder that check and prepare both accept."
    report = check(folder)
    assert report.ok, report.text()
    store = prepare(folder, folder.parent / "store", n_jobs=1, progress=False, **choices)
    return report, store


def one_line(error, *says):
    "The text of an error: one line with these words."
    text = str(error)
    assert text.strip() and "\n" not in text
    for word in says:
        assert word in text, f"{word!r} is not in: {text}"
    return text


def refused(folder, *says, **choices):
    "Check finds an error and prepare raises one; both say these words."
    try:
        report = check(folder)
    except DataError as error:
        one_line(error, *says)
    else:
        found = "\n".join(
            f"{finding.record} {finding.lead}: {finding.text}" for finding in report.of("error")
        )
        assert not report.ok, report.text()
        for word in says:
            assert word in found, f"{word!r} is not in: {found}"
    with pytest.raises(DataError) as raised:
        prepare(folder, folder.parent / "store", n_jobs=1, progress=False, **choices)
    one_line(raised.value, *says)


def command(capsys, *words):
    "Exit code, stdout and stderr of a command, which shows no traceback."
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    assert len(err.splitlines()) <= 1, err
    return code, out, err


def flow(store):
    "What became of the records of a store."
    return store.manifest["flow"]["records"]


def sound(folder):
    "The three records of a case in their ordinary form, as far as signals go."
    for name in ("p1", "p2", "p3"):
        np.testing.assert_allclose(
            read_signals(folder / name), millivolts(folder / f"{name}.dat"), rtol=1e-15
        )


# ── The cases ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number, rate", [("01", 125), ("02", 250), ("03", 125)])
def test_remarks_and_time_resolutions(case, number, rate):
    "01, 02, 03: notes at the beginning of an annotation file are no rhythm, and what they say of time counts."
    folder = case(number)
    content = (folder / "p1.atr").read_bytes()
    expected = [row for row in toy.decode(content) if row[1] != toy.CODES['"']]
    read = read_annotations(folder / "p1", get_database(None, folder))
    read = read[read.symbol != '"']
    assert read["sample"].tolist() == [round(sample * 125 / rate) for sample, _, _ in expected]
    assert [toy.CODES[symbol] for symbol in read.symbol] == [code for _, code, _ in expected]
    assert read.aux.tolist() == [aux.decode() for _, _, aux in expected]
    assert read.aux[read.symbol == "+"].tolist() == ["(N", "(AFIB"]
    _, store = accepted(folder)
    assert set(store.table.record) == {"p1", "p2", "p3"} and set(store.table.label) == {"N", "AFIB"}


def test_samples_per_frame(case):
    "03: 125 samples of each lead in a frame of one second are a lead of 125 Hz."
    folder = case("03")
    header = read_header(folder / "p1")
    assert (header.fs, header.n_samples, header.rates) == (125, 2500, (125, 125))
    frames = np.fromfile(folder / "p1.dat", "<i2").reshape(20, 2, 125)  # frame, lead, sample
    expected = frames.transpose(0, 2, 1).reshape(2500, 2) / 1000
    np.testing.assert_array_equal(read_signals(folder / "p1"), expected)
    _, store = accepted(folder, pre=RAW, dtype="float32")
    for row, window in store.table[store.table.record == "p1"].reset_index().iterrows():
        np.testing.assert_array_equal(
            store.arrays["lead1"][row, 0], expected[window.start : window.end, 0].astype(np.float32)
        )


def test_microvolts(case):
    "04: a million times too large, once."
    folder = case("04")
    sound(folder)
    _, store = accepted(folder, pre=RAW, dtype="float32")
    assert np.abs(store.arrays["lead1"]).max() < 5


def test_pressure_is_no_ecg(case):
    "06: microvolts in capitals are read, and a lead of blood pressure is left out by name."
    folder = case("06")
    header = read_header(folder / "p1")
    signal = read_signals(folder / "p1", leads=["MLII"])[:, 0]
    np.testing.assert_allclose(signal, millivolts(folder / "p1.dat")[:, 0], rtol=1e-15)
    assert lead_slots(header, get_database(None, folder)) == {"lead1": [0], "lead2": [None]}
    report, store = accepted(folder)
    named = [f for f in report.findings if "mmHg" in f.text]
    assert {(f.record, f.lead, f.severity) for f in named} == {("p1", "V1", "note")}
    present = store.table.groupby("record").present_lead2.unique().map(list).to_dict()
    assert present == {"p1": ["0"], "p2": ["1"], "p3": ["1"]}


def test_the_same_record_in_a_subfolder(case):
    "07: one patient, found by content."
    folder = case("07")
    _, store = accepted(folder)
    assert len({"p1", "again/p1"} & set(store.table.record)) == 1
    assert store.table.subject.nunique() == 3 and store.table.hash.is_unique
    (left_out,) = flow(store)["copies"]
    assert left_out in {"p1", "again/p1"}


def direct(signal, fs, times, wanted=250.0):
    "Band-limited interpolation at any times: a sum over a windowed sinc, ten slower samples to each side."
    slower = min(fs, wanted)
    lag = (times[:, None] - np.arange(len(signal))[None] / fs) * slower
    inside = np.abs(lag) <= 10
    kernel = np.where(inside, np.sinc(lag) * np.i0(5 * np.sqrt(np.clip(1 - (lag / 10) ** 2, 0, None))), 0)
    return (kernel @ signal) / kernel.sum(1)


def test_an_odd_rate(case):
    "08: 600.615 Hz is resampled to what a direct sum in double precision gives."
    folder = case("08")
    _, store = accepted(folder, pre=Preprocess(band=None, notch=None), dtype="float32")
    fs, signal = 600.614990234375, millivolts(folder / "p1.dat")[:, 0]
    rows = np.flatnonzero(store.table.record == "p1")
    assert len(rows) == 2  # of 4.16 s, half in one rhythm and half in another
    for row in rows:
        first = np.floor(store.table.start[row] * 250 / fs + 0.5)
        expected = direct(signal, fs, (first + np.arange(store.length)) / 250)
        inner = slice(20, -20)
        np.testing.assert_allclose(store.arrays["lead1"][row, 0][inner], expected[inner], atol=2e-3)


def test_a_marker_before_the_record(case):
    "09: file and place in one line."
    refused(case("09"), "p1", "-6")


def test_records_with_a_mark_and_one_that_is_missing(case):
    "10."
    folder = case("10")
    assert [record_name(path, folder) for path in all_headers(folder)] == ["p1", "p2", "p3"]
    report, store = accepted(folder)
    assert "p99" in report.text() and "p99" not in set(store.table.record)
    assert flow(store)["listed"] == 4 and flow(store)["here"] == 3


def test_records_in_latin_1(case):
    "11."
    folder = case("11")
    report, store = accepted(folder)
    missing = (folder / "RECORDS").read_bytes().decode("latin-1").split()[-1]
    assert missing in report.text()
    assert set(store.table.record) == {"p1", "p2", "p3"}


def test_companions_are_ignored(case):
    "13."
    folder = case("13")
    report, store = accepted(folder)
    assert "._" not in report.text()
    assert report.summary["records"] == 3 and set(store.table.record) == {"p1", "p2", "p3"}


def test_a_year_instead_of_a_date(case):
    "17."
    folder = case("17")
    header = read_header(folder / "p1")
    assert (header.fs, header.n_samples) == (125, 2500)
    sound(folder)
    report, _ = accepted(folder)
    assert any("2006" in finding.text for finding in report.findings)


@pytest.mark.parametrize("number", ["19", "20"])
def test_segments(case, number):
    "19, 20: a total that is not written is the sum; a null segment is unusable time."
    folder = case(number)
    header = read_header(folder / "p1")
    first, last = millivolts(folder / "p1_1.dat"), millivolts(folder / "p1_2.dat")
    gap = np.full((500 if number == "20" else 0, 2), np.nan)
    expected = np.concatenate([first, gap, last])
    assert header.n_samples == len(expected)
    np.testing.assert_array_equal(read_signals(folder / "p1"), expected)
    _, store = accepted(folder, pre=RAW, dtype="float32")
    assert set(store.table.record) == {"p1", "p2", "p3"}
    own = store.table[store.table.record == "p1"]
    for row, window in own.iterrows():
        if number == "20":
            assert window.end <= 1000 or window.start >= 1500
        seen = expected[window.start : window.end, 1].astype(np.float32)
        np.testing.assert_array_equal(store.arrays["lead2"][row, 0], seen)


def test_two_rows_of_one_record(case):
    "22: both rows are named."
    folder = case("22")
    with pytest.raises(DataError) as raised:
        subjects(folder, get_database(None, folder))
    text = one_line(raised.value, "subjects.csv", "p1")
    rows = set(re.findall(r"\b[1-3]\b", text.split("subjects.csv")[1]))
    assert len(rows) == 2, text
    refused(folder, "subjects.csv", "p1")


@pytest.mark.parametrize("key", ["fs", "annotator", "modalities"])
def test_keys_of_a_wrong_kind(case, key):
    "23: each of the three is named, the file too."
    folder = case("23")
    wrong = json.loads((folder / "database.json").read_text())
    right = {**toy.SPEC, key: wrong[key]}
    (folder / "database.json").write_text(json.dumps(right))
    with pytest.raises(DataError) as raised:
        get_database(None, folder)
    one_line(raised.value, "database.json", key)
    refused(folder, key)


def test_swapped_bytes(case):
    "25: the header's own checksums say which signal."
    folder = case("25")
    refused(folder, "p1", "MLII")
    swapped = np.fromfile(folder / "p1.dat", "<i2")
    swapped.byteswap().tofile(folder / "p1.dat")
    accepted(folder)


def test_a_matplotlibrc(case, tmp_path):
    "26: the report of a run does not depend on the folder that the user stands in."
    folder = case("26")
    run = made_up_run(tmp_path / "run")
    (run / "examples.npz").unlink()  # half of the pictures, which take long
    words = [Path(sys.executable).with_name("pediatric-ecg"), "report", run]
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"} | {
        "PYTHONPATH": str(ROOT)
    }
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (run / "report.html").stat().st_size > 10_000


def test_a_marker_at_the_very_end(case):
    "29."
    folder = case("29")
    database = get_database(None, folder)
    table = segments(folder / "p1", database)
    last = toy.decode((folder / "p1.atr").read_bytes())[-1]
    assert last == (2500, toy.CODES["+"], b"(N")
    assert table[["rhythm", "start", "end"]].values.tolist() == [["(N", 0, 1250], ["(AFIB", 1250, 2500]]
    accepted(folder)


BOUNDED = """
import json, resource, sys, time
from pathlib import Path
import pediatric_ecg.data as data
from pediatric_ecg.data.headers import lead_slots
from pediatric_ecg.windows import prepare
cases = Path(sys.argv[1])

def read(number):
    if number == '31':
        return data.read_header(cases/'31'/'b')
    if number == '33':
        return data.read_annotations(cases/'33'/'x001', data.LEIPZIG)
    database = data.get_database(None, cases/'32')
    lead_slots(data.read_header(cases/'32'/'x001'), database)
    return data.subjects(cases/'32', database)

rows = []
for number in ('31', '32', '33'):
    for call in (read, lambda number: data.check(cases/number, None if number == '32' else 'leipzig')):
        start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            call(number)
            outcome = 'result'
        except data.DataError if hasattr(data, 'DataError') else ValueError as error:
            outcome = f'{type(error).__name__}: {error}'
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        rows.append((number, outcome, time.process_time() - start, grown/1e6))
print(json.dumps(rows))
"""


def test_nothing_loops_and_nothing_explodes(case, shared):
    "31, 32, 33: a result or one line, within 5 s and 1 GB."
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, shared / "cases"],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == 6
    for number, outcome, seconds, gigabytes in rows:
        assert seconds < 5 and gigabytes < 1, (number, outcome, seconds, gigabytes)
        assert outcome == "result" or outcome.startswith("DataError: ") and "\n" not in outcome, outcome
    outcomes = {number: outcome for number, outcome, _, _ in rows[::2]}
    assert "b.hea" in outcomes["31"]


def test_blanks_in_a_table(case):
    "34: a record's name that ends in a blank."
    folder = case("34")
    people = subjects(folder, get_database(None, folder)).set_index("record")
    assert people.subject.to_dict() == {"x001": "P1", "x002": "P1", "x003": "P2", "X004": "P2"}
    assert people.age["x001"] == 3


@pytest.mark.parametrize("name", ["evil.csv", "evil2.csv"])
def test_names_that_lead_out_of_the_folder(case, tmp_path, capsys, name):
    "35: nothing is written anywhere."
    folder = case("35")
    (tmp_path / "a" / "b").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError) as raised:
        simulate(tmp_path / "a" / "b" / "out", labels=folder / name)
    one_line(raised.value, name, "escape")
    code, _, err = command(capsys, "simulate", tmp_path / "a" / "b" / "out", "--labels", folder / name)
    assert code == 2 and "escape" in err
    made = set(tmp_path.rglob("*")) - set(before)
    assert not [path for path in made if path.is_file()] and not Path("/abs").exists()


@pytest.mark.parametrize("number", ["01", "04", "06", "07", "10", "13", "17", "19", "20", "29"])
def test_commands_accept(case, capsys, number):
    "`check` ends with code 0, and `prepare` too."
    folder = case(number)
    code, out, _ = command(capsys, "check", folder, "--no-signals")
    assert code == 0 and out.splitlines()[-1].startswith("ok")
    code, out, _ = command(capsys, "prepare", folder, "--out", folder.parent / "store", "--jobs", 1)
    assert code == 0 and "windows of 3 patients" in out


@pytest.mark.parametrize("number", ["09", "22", "23", "25"])
def test_commands_refuse(case, capsys, number):
    "`check` ends with code 1, or 2 where there is nothing to check; `prepare` with code 2 and one line."
    folder = case(number)
    code, out, err = command(capsys, "check", folder)
    assert code == 1 and "not ok" in out or code == 2 and err
    code, out, err = command(capsys, "prepare", folder, "--out", folder.parent / "store", "--jobs", 1)
    assert code == 2 and len(err.splitlines()) == 1 and not out
    assert not (folder.parent / "store").exists()


def test_a_name_with_a_blank_to_the_end(case, capsys, tmp_path):
    "14: from the files to the report and to the annotation of a record, through the command line."
    folder = case("14")
    code, _, err = command(
        capsys, "run", folder, "--out", tmp_path / "run", "--quick", "--jobs", 1, "--epochs", 1
    )
    assert code == 0, err
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert set(predictions.record) == {"pat 1", "p2", "p3"}
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    code, _, err = command(capsys, "annotate", tmp_path / "run", folder / "pat 1", "--out", tmp_path / "out")
    assert code == 0, err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"pat 1{ending}" for ending in (".rhy", ".csv", ".png", ".rhythms.edf")}
    written = toy.decode((tmp_path / "out" / "pat 1.rhy").read_bytes())
    rhythms = {aux.decode() for _, _, aux in written if aux.startswith(b"(")}
    assert rhythms and rhythms <= {"(N", "(AFIB", "(none of these"}


# ── Others of the same kinds: units, gains, rates ─────────────────────────────────────────────────────────────────

VOLTAGES = {
    "mV": 1,
    "MV": 1,
    "mv": 1,
    "millivolt": 1,
    "millivolts": 1,
    "uV": 1e-3,
    "UV": 1e-3,
    "µV": 1e-3,
    "μV": 1e-3,
    "uv": 1e-3,
    "microvolt": 1e-3,
    "microVolts": 1e-3,
    "V": 1e3,
    "v": 1e3,
    "volt": 1e3,
    "Volts": 1e3,
    "nV": 1e-6,
    "NV": 1e-6,
    "nanovolt": 1e-6,
}


@pytest.mark.parametrize("unit, factor", VOLTAGES.items())
def test_units(tmp_path, unit, factor):
    "Every spelling of a voltage."
    toy.write(tmp_path, {"p1.hea": toy.header(gain=f"50/{unit}"), "p1.dat": toy.pulses()})
    assert read_header(tmp_path / "p1").millivolts == (factor, factor)
    np.testing.assert_allclose(read_signals(tmp_path / "p1"), toy.pulses() / 50 * factor, rtol=1e-15)


@pytest.mark.parametrize(
    "unit", ["mmHg", "degC", "bpm", "%", "NU", "adu", "l/min", "kPa", "g", "Ohm", "mVs", "?"]
)
def test_units_of_something_else(tmp_path, unit):
    "What is no voltage is no lead, and is named."
    lines = toy.header().splitlines()
    lines[2] = lines[2].replace("/mV", f"/{unit}")
    folder = toy.database(tmp_path / "in", {"p1.hea": "\n".join(lines)})
    header = read_header(folder / "p1")
    assert header.millivolts == (1, None)
    assert lead_slots(header, Database("d", "", {"a": ("V1", "#1", "/V/", "MLII")}, ["(N"])) == {
        "a": [None, None, None, 0]
    }
    report, _ = accepted(folder)
    assert any(f.record == "p1" and f.lead == "V1" and unit in f.text for f in report.findings)


def test_units_of_each_segment(tmp_path):
    "The second segment is in microvolts and has another gain and another baseline."
    second = toy.header("p1_2", samples="900", gain="2(100)/uV").replace("1(100)", "2(100)")
    folder = toy.database(
        tmp_path / "in",
        {
            "p1.hea": "p1/2 2 125 2000\np1_1 1100\np1_2 900\n",
            "p1_1.hea": toy.header("p1_1", samples="1100"),
            "p1_2.hea": second,
            "p1_1.dat": toy.pulses(1100),
            "p1_2.dat": toy.pulses(900, seed=4) + 100,
            "p1.dat": None,
        },
    )
    expected = np.concatenate([toy.pulses(1100) / 1000, toy.pulses(900, seed=4) / 2 / 1000])
    np.testing.assert_allclose(read_signals(folder / "p1"), expected, rtol=1e-15)
    np.testing.assert_allclose(read_signals(folder / "p1", 1000, 1300), expected[1000:1300], rtol=1e-15)
    _, store = accepted(folder, pre=RAW, dtype="float32")
    for row, window in store.table[store.table.record == "p1"].iterrows():
        seen = expected[window.start : window.end, 0].astype(np.float32)
        np.testing.assert_allclose(store.arrays["lead1"][row, 0], seen, rtol=1e-6)


@pytest.mark.parametrize(
    "gain, divisor, says",
    [
        ("0", 200, "200"),
        ("0/mV", 200, "200"),
        ("0(0)/mV", 200, "200"),
        ("-1000/mV", -1000, "negative"),
        ("1000(50)/mV", 1000, ""),
        ("1000", 1000, ""),
        ("1e3/mV", 1000, ""),
    ],
)
def test_gains(tmp_path, gain, divisor, says):
    "WFDB's default of 200 units per mV, an upside-down lead, a baseline; what was assumed stands in a note."
    folder = toy.database(tmp_path / "in", {"p1.hea": toy.header(gain=gain)})
    baseline = 50 if "(50)" in gain else 0
    np.testing.assert_allclose(read_signals(folder / "p1"), (toy.pulses() - baseline) / divisor, rtol=1e-15)
    report, _ = accepted(folder)
    notes = [f for f in report.findings if f.record == "p1" and "gain" in f.text]
    assert {f.lead for f in notes} == ({"MLII", "V1"} if says else set())
    assert all(says in f.text for f in notes)


def test_no_gain_at_all(tmp_path):
    "A signal line may end after the format."
    toy.write(tmp_path, {"p1.hea": "p1 2 125 2500\np1.dat 16\np1.dat 16\n", "p1.dat": toy.pulses()})
    np.testing.assert_array_equal(read_signals(tmp_path / "p1"), toy.pulses() / 200)
    assert any("200" in text for _, text in read_header(tmp_path / "p1").notes)


def test_two_rates_in_one_record(tmp_path):
    "Frames of four samples of one lead and two of the other, 25 a second."
    fast, slow = toy.pulses(2000, 1)[:, 0], toy.pulses(1000, 1, fs=50, seed=2)[:, 0]
    frames = np.concatenate([fast.reshape(-1, 4), slow.reshape(-1, 2)], 1)
    text = toy.header(fs="25", samples="500").replace(" 16 1000", " 16x4 1000", 1)
    text = text.replace("p1.dat 16 1000", "p1.dat 16x2 1000")
    ticks = [(5, "+", "(N"), (310, "+", "(AFIB")]  # of frames, as WFDB counts where the file does not say
    folder = toy.database(
        tmp_path / "in", {"p1.hea": text, "p1.dat": frames, "p1.atr": toy.annotations(ticks)}
    )
    header = read_header(folder / "p1")
    assert (header.fs, header.n_samples, header.rates) == (100, 2000, (100, 50))
    expected = np.stack([fast, np.repeat(slow, 2)], 1) / 1000
    np.testing.assert_array_equal(read_signals(folder / "p1"), expected)
    np.testing.assert_array_equal(read_signals(folder / "p1", 11, 777), expected[11:777])
    _, store = accepted(folder)
    own = store.table[store.table.record == "p1"]
    assert own.start.tolist() == [20 + 200 * i for i in range(6)] + [1240 + 200 * i for i in range(3)]


def test_a_pressure_of_a_finer_rate_does_not_count(tmp_path):
    "The rate of a record is that of its finest voltage."
    text = "p1 2 25 100\np1.dat 16x4 1000/mV 16 0 0 0 0 MLII\np1.dat 16x8 1/mmHg 16 0 0 0 0 ART\n"
    toy.write(tmp_path, {"p1.hea": text, "p1.dat": np.arange(1200)})
    header = read_header(tmp_path / "p1")
    assert (header.fs, header.n_samples, header.rates) == (100, 400, (100, 200))
    expected = np.arange(1200).reshape(100, 12)[:, :4].ravel() / 1000
    np.testing.assert_array_equal(read_signals(tmp_path / "p1", leads=["MLII"])[:, 0], expected)


@pytest.mark.parametrize("values", ["7 0 0", "0 1234 0"])
def test_a_header_that_knows_its_signals(tmp_path, values):
    "A first value, or a checksum, that does not fit. Zeros are what writers put where they know nothing."
    signal = toy.pulses()
    first, total = signal[0, 0], int(signal[:, 0].sum()) & 0xFFFF
    text = toy.header().replace("16 0 0 0 0 MLII", f"16 0 {first} {total} 0 MLII")
    folder = toy.database(tmp_path / "in", {"p1.hea": text})
    accepted(folder)
    shutil.rmtree(tmp_path / "store")
    (folder / "p1.hea").write_text(toy.header().replace("0 0 0 MLII", f"{values} MLII"))
    if "1234" in values:
        refused(folder, "p1", "MLII")
    else:
        report, _ = accepted(folder)
        assert [f for f in report.findings if (f.record, f.lead) == ("p1", "MLII") and "7" in f.text], (
            report.text()
        )


def test_an_amplitude_that_no_heart_has(tmp_path):
    "A note that names record and lead."
    folder = toy.database(tmp_path / "in", {"p2.hea": toy.header("p2", gain="1/mV")})
    report = check(folder)
    named = {(f.record, f.lead) for f in report.findings if f.code == "amplitude"}
    assert named == {("p2", "MLII"), ("p2", "V1")}


# ── Headers and lists ─────────────────────────────────────────────────────────────────────────────────────────────


def test_no_length_in_the_header(tmp_path):
    "The length is that of the signal file."
    folder = toy.database(tmp_path / "in", {"p1.hea": toy.header(samples="")})
    assert read_header(folder / "p1").n_samples == 2500
    np.testing.assert_array_equal(read_signals(folder / "p1", 2400, 2500), toy.pulses()[2400:] / 1000)
    accepted(folder)


@pytest.mark.parametrize(
    "more",
    [
        "12:30:00",
        "12:30:00.250 24/12/1989",
        "24/12/1989",
        "31/2/2000",
        "1989",
        "12:30",
        "99:99:99",
        "0:0:0 0/0/0",
        "[12:00:00 01/01/2000]",
    ],
)
def test_times_and_dates(tmp_path, more):
    "Whatever stands behind the length, the signals are read."
    toy.write(tmp_path, {"p1.hea": toy.header(samples=f"2500 {more}"), "p1.dat": toy.pulses()})
    header = read_header(tmp_path / "p1")
    assert (header.fs, header.n_samples) == (125, 2500)
    np.testing.assert_array_equal(read_signals(tmp_path / "p1"), toy.pulses() / 1000)


def test_comments_anywhere(tmp_path):
    "Before the first line, between the signals, behind them, indented, and empty lines too; line ends of every kind."
    lines = toy.header().splitlines()
    text = (
        "# first\n\n" + lines[0] + "\n# between\n" + lines[1] + "\n   \n  # indented\n" + lines[2] + "\n#last"
    )
    for ends in ("\n", "\r\n", "\r"):
        folder = toy.write(
            tmp_path / repr(ends), {"p1.hea": text.replace("\n", ends), "p1.dat": toy.pulses()}
        )
        header = read_header(folder / "p1")
        assert header.comments == ("first", "between", "indented", "last") and header.leads == ["MLII", "V1"]
        np.testing.assert_array_equal(read_signals(folder / "p1"), toy.pulses() / 1000)


def test_a_gap_with_a_layout(tmp_path):
    "A layout that names two leads, segments that hold one of them, and a gap."
    layout = "p1_0 2 125 0\n~ 0 1000/mV 16 0 0 0 0 MLII\n~ 0 1000/mV 16 0 0 0 0 V1\n"
    one, two = toy.pulses(900, 1)[:, :1], toy.pulses(1000, 2, seed=3)
    folder = toy.database(
        tmp_path / "in",
        {
            "p1.hea": "p1/4 2 125 2400\np1_0 0\np1_1 900\n~ 500\np1_2 1000\n",
            "p1_0.hea": layout,
            "p1.dat": None,
            "p1_1.hea": toy.header("p1_1", samples="900", leads=("V1",)),
            "p1_1.dat": one,
            "p1_2.hea": toy.header("p1_2", samples="1000"),
            "p1_2.dat": two,
        },
    )
    expected = np.full((2400, 2), np.nan)
    expected[:900, 1:] = one / 1000
    expected[1400:] = two / 1000
    np.testing.assert_array_equal(read_signals(folder / "p1"), expected)
    _, store = accepted(folder, pre=RAW, dtype="float32")
    own = store.table[store.table.record == "p1"]
    assert ((own.end <= 900) | (own.start >= 1400)).all() and len(own) >= 5
    assert set(own.present_lead1[own.end <= 900]) == {"0"}


NAMES = ["p 1", "a,b", "ü", "p;1", "p'1", "µ%s", "日本", "(p1)", "p-1.2", "#p", "p=1&2", '"p"']


@pytest.mark.parametrize("name", NAMES)
def test_names_of_records(tmp_path, name):
    "Names with blanks, commas and letters outside of ASCII go into the table and come back."
    files = toy.record("p1", 5)
    renamed = {f"{name}.{ending}": files[f"p1.{ending}"] for ending in ("hea", "atr")}
    if not name.startswith("#"):  # such a first line would be a comment
        renamed[f"{name}.hea"] = renamed[f"{name}.hea"].replace("p1 2", f"{name} 2")
    folder = toy.database(
        tmp_path / "in", renamed, {"p1.dat": files["p1.dat"], "p1.hea": None, "p1.atr": None}
    )
    np.testing.assert_array_equal(read_signals(folder / name), toy.pulses(seed=5) / 1000)
    _, store = accepted(folder)
    assert set(store.table.record) == {name, "p2", "p3"}
    assert prepare(folder, tmp_path / "store", n_jobs=1, progress=False).table.equals(store.table)


def test_markers_and_classes_with_other_letters(tmp_path):
    "Markers in UTF-8 and in Latin-1, a class with a comma; written back and read again they are the same."
    spec = {
        "markers": {"(Sinus, ü": "Sinus", "(AFIB": "f"},
        "groupings": {"default": {"(Sinus, ü": "a, ß", "(AFIB": "AF"}},
    }
    notes = [(10, "+", "(Sinus, ü"), (1250, "+", "(AFIB"), (1300, "N", "Größe")]
    latin = [(sample, symbol, aux.encode("latin-1")) for sample, symbol, aux in notes]
    folder = toy.database(
        tmp_path / "in",
        *(toy.record(f"p{i}", i, notes) for i in (1, 2)),
        toy.record("p3", 3, latin),
        spec=spec,
    )
    database = get_database(None, folder)
    for name in ("p1", "p3"):
        assert read_annotations(folder / name, database).aux.tolist() == ["(Sinus, ü", "(AFIB", "Größe"]
    _, store = accepted(folder)
    assert set(store.table.label) == {"a, ß", "AF"} and store.classes == ["a, ß", "AF"]
    written = write_annotations(tmp_path / "p1", read_annotations(folder / "p1", database), database)
    toy.write(tmp_path, {"p1.hea": toy.header()})
    pd.testing.assert_frame_equal(
        read_annotations(tmp_path / "p1", database), read_annotations(folder / "p1", database)
    )
    assert "Größe".encode() in written.read_bytes()


def test_signal_files_in_a_folder_below(tmp_path):
    "A header may name a file of a folder below its own, and none elsewhere."
    files = {"p1.hea": toy.header(file="signals/p1.dat"), "p1.dat": None, "signals/p1.dat": toy.pulses()}
    folder = toy.database(tmp_path / "in", files)
    np.testing.assert_array_equal(read_signals(folder / "p1"), toy.pulses() / 1000)
    accepted(folder)
    toy.write(tmp_path, {"p9.dat": toy.pulses()})
    for name in ("../p9.dat", str(tmp_path / "p9.dat"), "signals/../../p9.dat", "~/p9.dat"):
        (folder / "p1.hea").write_text(toy.header(file=name))
        with pytest.raises(DataError) as raised:
            read_signals(folder / "p1")
        one_line(raised.value, "p1")


@pytest.mark.parametrize("name", ["../p9", "/abs/p9", "~/p9", "a/../../p9", "p\0q", "."])
def test_records_that_lead_out_of_the_folder(tmp_path, name):
    "A list of records, and a list of segments."
    toy.write(tmp_path, {"p9.hea": toy.header("p9"), "p9.dat": toy.pulses(), "p9.atr": toy.annotations()})
    folder = toy.database(tmp_path / "in", {"RECORDS": f"p1\n{name}\n"})
    try:
        found = all_headers(folder)
    except DataError as error:
        one_line(error, "RECORDS")
    else:
        assert [path.name for path in found] == ["p1"]
    toy.write(folder, {"p1.hea": f"p1/1 2 125 2500\n{name} 2500\n", "RECORDS": "p1\np2\n"})
    with pytest.raises(DataError) as raised:
        read_signals(folder / "p1")
    one_line(raised.value, "p1")


def test_a_list_that_leaves_out_a_record(tmp_path):
    "What is here but not in RECORDS is named."
    folder = toy.database(tmp_path / "in", {"RECORDS": "p1\np2\n"})
    report, store = accepted(folder)
    assert any("p3" in f.record + f.text for f in report.findings)
    assert set(store.table.record) == {"p1", "p2"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_lists_in_any_encoding(tmp_path, encoding):
    "With the ends of lines of another system."
    files = toy.record("pü", 4)
    files["pü.hea"] = files["pü.hea"].replace("pü.dat", "p4.dat")
    files["p4.dat"] = files.pop("pü.dat")
    folder = toy.database(tmp_path / "in", files, {"RECORDS": "p1\r\npü\r\n".encode(encoding)})
    assert [path.name for path in all_headers(folder)] == ["p1", "pü"]


def test_endings_in_capitals(tmp_path):
    "A disk that knew only one case."
    files = toy.database(tmp_path / "a", patients=2)
    for path in list(files.iterdir()):
        if path.stem.startswith("p1"):
            path.rename(path.with_suffix(path.suffix.upper()))
    _, store = accepted(files)
    assert set(store.table.record) == {"p1", "p2"}


def test_headers_without_signals_are_left_out(tmp_path):
    "With a note; the others are used."
    folder = toy.database(tmp_path / "in", {"p9.hea": "p9 0 125 2500\n"})
    report, store = accepted(folder)
    assert [f.severity for f in report.findings if f.record == "p9"] == ["note"]
    assert set(store.table.record) == {"p1", "p2", "p3"} and "p9" in flow(store)["skipped"]


# ── Annotations ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("content", [b"", b"\0\0", b"\0\0\0\0"])
def test_an_empty_annotation_file(tmp_path, content):
    "The patient is not lost without a word."
    folder = toy.database(tmp_path / "in", {"p2.atr": content})
    report, store = accepted(folder)
    assert any(f.record == "p2" for f in report.findings)
    assert set(store.table.record) == {"p1", "p3"} and "p2" in flow(store)["without_window"]


def test_other_annotators_and_several_files(tmp_path):
    "Rhythms from one file, beats from another; a third beside them is not read."
    rhythms, beats = [note for note in toy.HALVES if note[1] == "+"], [(100, "N", ""), (1260, "V", "")]
    others = []
    for number in (1, 2, 3):
        others.append(
            {
                f"p{number}.atr": None,
                f"p{number}.ari": toy.annotations(rhythms),
                f"p{number}.qrs": toy.annotations(beats),
                f"p{number}.st": b"\xff" * 10,
            }
        )
    folder = toy.database(tmp_path / "in", *others, spec={"annotator": "ari", "beats_annotator": "qrs"})
    read = read_annotations(folder / "p1", get_database(None, folder))
    assert read[["sample", "symbol"]].values.tolist() == [[10, "+"], [100, "N"], [1250, "+"], [1260, "V"]]
    report, store = accepted(folder)
    assert report.summary["beats"] == 6 and store.table.beats.sum() == 6


@pytest.mark.parametrize("rate", [250, 62.5, 1000, 125.0])
def test_another_time_resolution(tmp_path, rate):
    "The file says how many ticks a second has."
    ticks = [(round(sample * rate / 125), symbol, aux) for sample, symbol, aux in toy.HALVES]
    content = toy.annotations(ticks, before=toy.remark(f"## time resolution: {rate:g}"))
    toy.write(tmp_path, {"p1.hea": toy.header(), "p1.atr": content})
    read = read_annotations(tmp_path / "p1", Database("d", "", {"a": ("MLII",)}, ["(N"]))
    read = read[read.symbol != '"']
    assert read["sample"].tolist() == [round(sample * 125 / rate) for sample, _, _ in ticks]


def test_spans_between_two_symbols(tmp_path):
    "Ventricular fibrillation between [ and ] is no sinus rhythm; where nobody says so, check asks."
    notes = [(0, "+", "(N"), (500, "[", ""), (600, "!", ""), (1000, "]", ""), (1250, "+", "(AFIB")]
    records = [toy.record(f"p{number}", number, notes) for number in (1, 2, 3)]
    vf = {"markers": {**toy.SPEC["markers"], "(VF": "ventricular fibrillation"}, "spans": {"[]": "(VF"}}
    folder = toy.database(tmp_path / "in", *records, spec=vf)
    table = segments(folder / "p1", get_database(None, folder))
    expected = [["(N", 0, 500], ["(VF", 500, 1000], ["(N", 1000, 1250], ["(AFIB", 1250, 2500]]
    assert table[["rhythm", "start", "end"]].values.tolist() == expected
    accepted(folder)
    (folder / "database.json").write_text(json.dumps(toy.SPEC))
    assert re.search(r"'\['|\[ ", check(folder).text())


def test_rhythms_by_symbol(tmp_path):
    "A symbol that begins a rhythm by itself."
    notes = [(0, "+", "(N"), (700, "|", ""), (900, "N", "")]
    folder = toy.database(
        tmp_path / "in",
        *(toy.record(f"p{n}", n, notes) for n in (1, 2, 3)),
        spec={"symbol_markers": {"|": "(AFIB"}},
    )
    table = segments(folder / "p1", get_database(None, folder))
    assert table[["rhythm", "start", "end"]].values.tolist() == [["(N", 0, 700], ["(AFIB", 700, 2500]]


def test_an_unknown_marker(tmp_path):
    "Check and prepare name it."
    refused(toy.database(tmp_path / "in", {"p2.atr": toy.annotations([(5, "+", "(XYZ")])}), "p2", "(XYZ")


def test_no_labelled_second_is_not_ok(tmp_path):
    "Beats alone make no rhythm."
    beats = toy.annotations([(100, "N", ""), (200, "N", "")])
    refused(toy.database(tmp_path / "in", {f"p{number}.atr": beats for number in (1, 2, 3)}))


def test_no_segment_as_long_as_a_window(tmp_path):
    "Labelled, and yet not one window: neither check nor prepare call that well."
    short = toy.annotations([(0, "+", "(N"), (100, "~", ""), (240, "+", "(AFIB"), (480, "+", "(N")])
    folder = toy.database(tmp_path / "in", {f"p{n}.atr": short for n in (1, 2, 3)}, spec={"window_seconds": 19})
    refused(folder, "19 s")
    assert len(prepare(folder, tmp_path / "store", n_jobs=1, progress=False, seconds=1).table)


def test_no_lead_with_a_signal(tmp_path):
    "All electrodes off: check and prepare say so, and not that the windows are too long."
    level = np.zeros((2500, 2))
    refused(toy.database(tmp_path / "in", {f"p{n}.dat": level for n in (1, 2, 3)}), "no window")
    with pytest.raises(DataError, match="no usable lead"):
        prepare(tmp_path / "in", tmp_path / "other", n_jobs=1, progress=False)
    (tmp_path / "in" / "p1.dat").write_bytes(toy.pulses().tobytes())
    _, store = accepted(tmp_path / "in")
    assert set(flow(store)["without_window"]) == {"p2", "p3"}


# ── Other forms: EDF+, BDF+, MATLAB ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ending", ["edf", "bdf"])
def test_edf_with_annotations(tmp_path, ending):
    "Signals within half a step of the converter, each in its own unit; annotations with and without a duration."
    if ending == "edf":
        write, signal_of = edfio.Edf, edfio.EdfSignal
    else:
        write, signal_of = edfio.Bdf, edfio.BdfSignal
    notes = [
        edfio.EdfAnnotation(0, None, "(N"),
        edfio.EdfAnnotation(8.2, 4, "(AFIB"),
        edfio.EdfAnnotation(14, None, "(N"),
    ]
    folder = toy.database(tmp_path / "in", patients=0, spec={"annotator": "edf+"})
    for number in (1, 2, 3):
        wave = toy.pulses(2500, 2, seed=number)
        one = signal_of(wave[:, 0] / 1000, 125, label="MLII", physical_dimension="mV", physical_range=(-4, 4))
        two = signal_of(
            wave[:, 1] * 1.0, 125, label="V1", physical_dimension="uV", physical_range=(-4000, 4000)
        )
        write([one, two], annotations=notes).write(folder / f"p{number}.{ending}")
    header = read_header(folder / "p1")
    assert (header.fs, header.n_samples, header.leads) == (125, 2500, ["MLII", "V1"])
    step = 8 / 2 ** (16 if ending == "edf" else 24)
    np.testing.assert_allclose(
        read_signals(folder / "p1"), toy.pulses(2500, 2, seed=1) / 1000, atol=0.51 * step
    )
    database = get_database(None, folder)
    table = segments(folder / "p1", database)[["rhythm", "start", "end"]].values.tolist()
    assert table == [["(N", 0, 1025], ["(AFIB", 1025, 1525], ["(N", 1750, 2500]], table
    report, store = accepted(folder)
    assert report.summary["records"] == 3 and set(store.table.record) == {"p1", "p2", "p3"}
    seconds = {"N": 8 + 6, "AFIB": 4}
    assert (store.table[store.table.record == "p1"].label.value_counts() * 2).to_dict() == seconds


DX = {"label_source": "record", "markers": {"426783006": "sinus rhythm", "164889003": "atrial fibrillation"}}


def challenge(folder, labels, form="4", **spec):
    "Records as of the Challenges 2020 and 2021: a MATLAB file, and codes in a comment."
    files = {"database.json": toy.SPEC | DX | spec}
    for number, codes in enumerate(labels, 1):
        name = f"A{number:04d}"
        more = f"#Age: 7\n#Sex: Female\n#Dx: {codes}\n#Rx: Unknown\n"
        files[f"{name}.hea"] = toy.header(name, samples="2500", file=f"{name}.mat", fmt="16+24", more=more)
    toy.write(folder, files)
    for number in range(1, len(labels) + 1):
        wave = toy.pulses(2500, 2, seed=number)
        if form == "by hand":
            head = np.array([30, 2, 2500, 0, 4], "<i4").tobytes() + b"val\0"
            (folder / f"A{number:04d}.mat").write_bytes(head + wave.tobytes())
        else:
            scipy.io.savemat(folder / f"A{number:04d}.mat", {"val": wave.T}, format=form)
    return folder


@pytest.mark.parametrize("form", ["by hand", "4", "5"])
def test_matlab_files_with_labels(tmp_path, form):
    "One label per record, from its header; what is read is what was written, whatever the version of the file."
    folder = challenge(tmp_path / "in", ["426783006", "164889003", "426783006", "164889003"], form)
    np.testing.assert_array_equal(read_signals(folder / "A0002"), toy.pulses(2500, 2, seed=2) / 1000)
    np.testing.assert_array_equal(
        read_signals(folder / "A0002", 700, 900), toy.pulses(2500, 2, seed=2)[700:900] / 1000
    )
    _, store = accepted(folder)
    assert store.table.groupby("record").label.agg(["first", "nunique", "size"]).values.tolist() == [
        ["426783006", 1, 10],
        ["164889003", 1, 10],
        ["426783006", 1, 10],
        ["164889003", 1, 10],
    ]


def test_several_labels_of_one_record(tmp_path):
    "An error where no rule says which; the first of the markers, or none of the record."
    labels = ["426783006", "164889003,426783006", "164889003", "59118001, 164889003"]
    refused(challenge(tmp_path / "in", labels), "A0002")
    for rule, second in (("first", {"426783006"}), ("skip", set())):
        folder = challenge(tmp_path / rule / "in", labels, several_labels=rule)
        report, store = accepted(folder)
        found = store.table.groupby("record").label.unique().map(set).to_dict()
        assert found.get("A0002", set()) == second
        assert (
            found["A0001"] == {"426783006"}
            and found["A0003"] == {"164889003"}
            and found["A0004"] == {"164889003"}
        )
        if not second:
            assert "A0002" in flow(store)["skipped"] | flow(store)["without_window"]
        assert "59118001" in report.text()


def test_a_record_without_a_label(tmp_path):
    "It is named, and the others are used."
    folder = challenge(tmp_path / "in", ["426783006", "164889003", "Unknown", "426783006"])
    report = check(folder)
    assert any(f.record == "A0003" for f in report.findings)


# ── Copies ────────────────────────────────────────────────────────────────────────────────────────────────────────


def copies():
    "The recording p1 as another record: (samples, gain)."
    whole = toy.pulses(2500, seed=0)
    rng = np.random.default_rng(9)
    return {
        "the same": (whole, "1000/mV"),
        "trimmed": (whole[310:2310], "1000/mV"),
        "later": (
            np.concatenate([rng.normal(0, 20, (201, 2)).round().astype("<i2"), whole[:2299]]),
            "1000/mV",
        ),
        "other units": (whole, "1000000/V"),
        "rescaled": (whole * 2, "1000/mV"),
        "upside down": (-whole, "1000/mV"),
        "rounded": (np.rint(whole * 0.37), "1000/mV"),
        "moved by a constant": (whole + 100, "1000/mV"),
        "noise of the last digit": (whole + rng.integers(-1, 2, whole.shape), "1000/mV"),
        "trimmed, later and rescaled": (np.concatenate([np.zeros((77, 2)), whole[333:2111] * 3]), "1000/mV"),
    }


@pytest.mark.parametrize("kind", copies())
def test_copies(tmp_path, kind):
    "The same recording is one patient, or there once, so that no fold has it on both sides."
    signal, gain = copies()[kind]
    notes = [(5, "+", "(N"), (1250, "+", "(AFIB")]
    extra = {
        "p4.hea": toy.header("p4", samples=str(len(signal)), gain=gain),
        "p4.dat": signal,
        "p4.atr": toy.annotations(notes),
    }
    folder = toy.database(tmp_path / "in", extra)
    report = check(folder)
    assert report.ok, report.text()
    store = prepare(folder, tmp_path / "store", n_jobs=1, progress=False)
    of_both = store.table[store.table.record.isin(["p1", "p4"])]
    assert of_both.subject.nunique() == 1, f"{kind}: two patients of one recording"
    assert store.table.subject.nunique() == 3
    assert "p4" in json.dumps(store.manifest["flow"])
    for fold in patient_folds(store.table, 3):
        sides = [set(store.table.subject.iloc[rows]) for rows in (fold.train, fold.test)]
        assert not sides[0] & sides[1]


def test_two_patients_are_two_patients(tmp_path):
    "Recordings that are alike, but no copies."
    _, store = accepted(toy.database(tmp_path / "in", patients=5))
    assert store.table.subject.nunique() == 5 and flow(store)["copies"] == {}


# ── Windows of any length, stride and rate ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "fs, seconds, stride",
    [
        ("977", 1.7, None),
        ("512.01", 2, None),
        ("125", 2, 1),
        ("125", 2, 0.25),
        ("360", 1.001, 0.333),
        ("600.615", 2, None),
        ("250.00001", 1.23, None),
        ("99.9", 2, 1.5),
        ("128", 1, 1.5),
    ],
)
def test_windows_of_any_length(tmp_path, fs, seconds, stride):
    "Whole samples, all of one length, none across the end of its rhythm, and folds that stand the audit."
    rate = float(fs)
    half = int(rate * 10)
    notes = [(0, "+", "(N"), (half, "+", "(AFIB")]
    records = [toy.record(f"p{number}", number, notes, 2 * half, rate, fs_text=fs) for number in (1, 2, 3, 4)]
    folder = toy.database(tmp_path / "in", *records)
    _, store = accepted(folder, seconds=seconds, stride=stride)
    table = store.table
    length = int(np.ceil(seconds * rate - 1e-6))
    assert set(table.end - table.start) == {length}
    step = (stride or seconds) * rate
    steps = table.groupby(["record", "segment"]).start.diff().dropna()
    assert np.abs(steps - step).max() <= 1
    if stride is None:
        assert (steps >= length).all(), "windows without a stride share no sample"
    expected = 2 * 4 * int((half - length) // max(step, length if stride is None else step) + 1)
    assert abs(len(table) - expected) <= 8
    assert not ((table.start < half) & (table.end > half)).any()
    folds = make_folds(table, store.classes, Protocol(folds=2))
    assert {fold.split for fold in folds} == {"random", "patient"}
    audit(table, [fold for fold in folds if fold.split == "patient"])
    for fold in folds:
        spans = [table.iloc[rows] for rows in (fold.train, fold.valid, fold.test)]
        for one, other in ((0, 1), (0, 2), (1, 2)):
            both = spans[one].merge(spans[other], on="record")
            assert not ((both.start_x < both.end_y) & (both.start_y < both.end_x)).any(), (
                "one sample on two sides"
            )


# ── Who is a patient ──────────────────────────────────────────────────────────────────────────────────────────────


def test_no_rule_says_who_the_patients_are(tmp_path):
    "Said aloud."
    folder = toy.database(tmp_path / "in")
    report, _ = accepted(folder)
    assert "no rule says who the patients are: each record is counted as one patient" in report.text()


@pytest.mark.parametrize("pattern", ["q(\\d)", "^x", "(?P<a>z)"])
def test_a_pattern_that_matches_nothing(tmp_path, pattern):
    "Seven patients would become as many as there are records."
    refused(toy.database(tmp_path / "in", spec={"subject_pattern": pattern}), "subject_pattern")


def test_a_pattern_that_matches_some(tmp_path):
    "One line that counts them."
    folder = toy.database(tmp_path / "in", spec={"subject_pattern": r"p([12])"})
    report = check(folder)
    text = "\n".join([report.text(), *(finding.text for finding in report.findings)])
    assert re.search(r"\b1 of 3|\b2 of 3", text), text


def test_a_table_that_is_absent(tmp_path):
    "An error that names it."
    spec = {"subject_tables": {"people.csv": "all"}, "subject_columns": {"id": "record"}}
    refused(toy.database(tmp_path / "in", spec=spec), "people.csv")


def test_a_table_of_half_the_records(tmp_path):
    "One line that counts them."
    spec = {"subject_tables": {"people.csv": "all"}, "subject_columns": {"id": "record", "who": "subject"}}
    folder = toy.database(tmp_path / "in", {"people.csv": "id,who\np1,A\np2,A\n"}, spec=spec)
    report = check(folder)
    text = "\n".join([report.text(), *(finding.text for finding in report.findings)])
    assert re.search(r"\b1 of 3|\b2 of 3", text), text
    assert subjects(folder, get_database(None, folder)).set_index("record").subject["p2"] == "A"


def test_records_left_out(tmp_path):
    "With the reason, in the check and in the store."
    folder = toy.database(tmp_path / "in", spec={"skip": {"p2": "the electrode fell off"}})
    report, store = accepted(folder)
    assert "the electrode fell off" in report.text()
    assert set(store.table.record) == {"p1", "p3"} and flow(store)["skipped"] == {
        "p2": "the electrode fell off"
    }


def test_a_rate_that_differs(tmp_path):
    "In prepare too."
    refused(toy.database(tmp_path / "in", spec={"fs": 360}), "360")


@pytest.mark.parametrize(
    "slot, key",
    [
        ("/CS[/", "modalities"),
        ("/CS 1/2/", "modalities"),
        ("/CS", "modalities"),
        ("", "modalities"),
        (3, "modalities"),
        (None, "modalities"),
    ],
)
def test_lead_expressions(tmp_path, slot, key):
    "An expression that does not compile, holds a slash, or lacks its end."
    with pytest.raises(DataError) as raised:
        Database.from_json(json.dumps(toy.SPEC | {"modalities": {"a": [slot]}}))
    one_line(raised.value, key)


@pytest.mark.parametrize(
    "key, value",
    [
        ("continues", "(N"),
        ("fs", "125"),
        ("fs", -1),
        ("fs", True),
        ("markers", "(N"),
        ("markers", {"(N": 3}),
        ("skip", "p1"),
        ("skip", {"p1": 3}),
        ("spans", {"[": "(N"}),
        ("spans", {"[]": "(X"}),
        ("several_labels", "some"),
        ("label_source", "file"),
        ("annotator", "../x"),
        ("annotator", ".atr"),
        ("symbols", [[42, "X"]]),
        ("symbols", [["42", "X", "t"]]),
        ("notes", "a"),
        ("window_seconds", "2"),
        ("window_seconds", 0),
        ("groupings", {"default": {"(X": "a"}}),
        ("subject_tables", "people.csv"),
        ("subject_tables", {"../people.csv": "all"}),
        ("beat_symbols", ["N"]),
        ("subject_pattern", "("),
        ("nosuchkey", 1),
        ("symbol_markers", {"|": "(X"}),
        ("label_pattern", "("),
        ("fits", {"(N": "N"}),
        ("mains", "50"),
        ("subjects", {"p1": 1}),
    ],
)
def test_each_key_by_kind(tmp_path, key, value):
    "The message names the file and the key."
    toy.write(tmp_path, {"database.json": toy.SPEC | {key: value}})
    with pytest.raises(DataError) as raised:
        Database.from_json(tmp_path / "database.json")
    one_line(raised.value, "database.json", key.removesuffix("s"))


# ── Segments that are too short, and those who are lost on the way ────────────────────────────────────────────────


def test_the_flow_of_records_and_segments(tmp_path):
    "Who is lost on the way is counted, in check, in the store, and by name."
    short = toy.annotations([(0, "+", "(N"), (100, "+", "(AFIB"), (200, "+", "(N"), (300, "+", "(AFIB")])
    files = {
        "p4.hea": toy.header("p4"),
        "p4.dat": toy.pulses(seed=8),
        "p4.atr": short,
        "RECORDS": "p1\np2\np3\np4\np5\n",
    }
    folder = toy.database(tmp_path / "in", files, spec={"skip": {"p3": "no consent"}})
    report, store = accepted(folder)
    counted = flow(store)
    assert (counted["listed"], counted["here"], counted["annotated"]) == (5, 4, 3)
    assert set(counted["skipped"]) == {"p3"}
    of_rhythms = store.manifest["flow"]["segments"]
    assert {name: (row["segments"], row["shorter"]) for name, row in of_rhythms.items()} == {
        "(N": (2 + 2, 2),
        "(AFIB": (2 + 2, 1),
    }
    assert report.summary["flow"]["segments"] == of_rhythms
    for rhythm in ("(N", "(AFIB"):
        assert of_rhythms[rhythm]["patients"] == 3
    assert of_rhythms["(N"]["seconds"] == pytest.approx((2 * 1240 + 200) / 125)


# ── What a second round of awkward inputs found ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ["4", "5"])
def test_a_transposed_matrix(tmp_path, form):
    "Samples in rows and leads in columns: refused, whatever the version of the file."
    folder = challenge(tmp_path / "in", ["426783006", "426783006", "164889003"])
    scipy.io.savemat(folder / "A0001.mat", {"val": toy.pulses(2500, 2, seed=1)}, format=form)
    refused(folder, "A0001.mat", "2 x 2500")


def test_a_header_that_forgot_the_offset(tmp_path):
    "The matrix says itself where its numbers begin."
    folder = challenge(tmp_path / "in", ["426783006", "164889003"])
    header = folder / "A0001.hea"
    header.write_text(header.read_text().replace("16+24", "16"))
    np.testing.assert_array_equal(read_signals(folder / "A0001"), toy.pulses(2500, 2, seed=1) / 1000)


def test_records_to_skip(tmp_path):
    "With an ending, as a table may have it; and a name that is not here is said."
    folder = toy.database(tmp_path / "in", spec={"skip": ["p1.hea", "p9"]})
    report, store = accepted(folder)
    assert set(flow(store)["skipped"]) == {"p1"}
    assert '"skip" names p9, but no such record is here' in report.text()
    assert any("p9" in note for note in store.manifest["subject_notes"])


def test_no_mains(tmp_path):
    "A recorder with a battery: no notch."
    _, store = accepted(toy.database(tmp_path / "in", spec={"mains": 0}))
    assert store.manifest["parameters"]["preprocess"]["notch"] is None


@pytest.mark.parametrize("key, value", [("mains", 200), ("window_seconds", 0.004)])
def test_numbers_that_prepare_would_refuse(tmp_path, key, value):
    refused(toy.database(tmp_path / "in", spec={key: value}), "database.json", key)


def test_a_late_beat_of_the_second_file(tmp_path):
    "The file that is at fault is named."
    beats = toy.annotations([(100, "N", ""), (5000, "N", "")])
    folder = toy.database(tmp_path / "in", {"p1.qrs": beats}, spec={"beats_annotator": "qrs"})
    refused(folder, "p1.qrs", "5000 of 2500")


@pytest.mark.parametrize("gain", ["0,5/mV", "1000( 12 )/mV"])
def test_a_gain_that_is_none(tmp_path, gain):
    "The gain is at fault, and not the name of the file before it."
    folder = toy.database(tmp_path / "in", {"p1.hea": toy.header(gain=gain)})
    refused(folder, "p1.hea", "is no gain")


def test_a_time_resolution_with_a_comma(tmp_path):
    notes = toy.remark("## time resolution: 250,5") + toy.annotations()
    refused(toy.database(tmp_path / "in", {"p1.atr": notes}), "p1.atr", "250,5")


def test_a_table_as_excel_writes_it(tmp_path):
    "With a first line for Excel alone."
    spec = {"subject_tables": {"people.csv": "all"}, "subject_columns": {"who": "subject", "id": "record"}}
    table = "sep=;\nid;who\np1;A\np2;A\np3;B\n"
    folder = toy.database(tmp_path / "in", {"people.csv": table}, spec=spec)
    assert subjects(folder, get_database(None, folder)).subject.tolist() == ["A", "A", "B"]
    refused(toy.database(tmp_path / "none", {"people.csv": "id,who\n"}, spec=spec), "people.csv has no row")
    unknown = toy.database(tmp_path / "unknown", {"people.csv": "id,who\np1,?\np2,?\np3,?\n"}, spec=spec)
    refused(unknown, "people.csv", "who the patient is")


def test_a_marker_without_a_name(tmp_path):
    notes = toy.annotations([(0, "+", "(N"), (500, "+", "")])
    refused(toy.database(tmp_path / "in", {"p1.atr": notes}), "a rhythm marker without a name")


def test_the_module_is_a_command():
    "`python -m pediatric_ecg.cli` says what the command says."
    words = [sys.executable, "-m", "pediatric_ecg.cli", "--help"]
    assert "prepare" in subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout
