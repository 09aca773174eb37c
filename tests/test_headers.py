"""Headers as they are in the world: text of many hands, units, segments, EDF, lists, and sizes that cannot be."""
import os
import resource
import time
import warnings
from dataclasses import replace
from pathlib import Path

import edfio
import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from watchdog import ends

from pediatric_ecg.core import DataError
from pediatric_ecg.data import LEIPZIG, MITDB, Database, read_header
from pediatric_ecg.data.headers import (
    all_headers,
    check_signal_file,
    find_file,
    lead_slots,
    listing,
    millivolts_per_unit,
    record_name,
    record_paths,
)

TOY = Database("toy", "", {"lead1": ("MLII",), "lead2": ("V1",)}, ["(N"])


def write(folder, name, text, data=0, encoding="utf-8"):
    "A header and its signal file of `data` bytes."
    file = Path(folder, f"{name}.hea")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode(encoding))
    if data:
        file.with_suffix(".dat").write_bytes(bytes(data))
    return file.with_suffix("")


def sentences(header):
    return [text for _, text in header.notes]


# ---------------------------------------------------------------- text


def test_every_header_equals_wfdb(shared):
    "Rate, length, leads, gains, baselines, units, files, formats, first values, checksums."
    n_read = 0
    for database in ("wfdb_fixtures", "mitdb", "leipzig", "iafdb"):
        for file in sorted((shared / database).rglob("*.hea")):
            path = file.with_suffix("")
            try:
                ours = read_header(path)
            except DataError as error:
                assert "missing" in str(error)
                assert file.stem in ("100-no-len", "p000878-2137-10-26-16-57")
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = wfdb.rdheader(str(path), rd_segments=True)
            n_read += 1
            assert ours.file == file and ours.kind == "wfdb"
            assert ours.frame_rate == theirs.fs and ours.fs == theirs.fs * ours.finest
            assert ours.leads == [(name or "").strip() for name in theirs.sig_name]
            assert list(ours.comments) == theirs.comments
            if theirs.sig_len is not None:
                assert ours.n_samples == theirs.sig_len * ours.finest
            if isinstance(theirs, wfdb.MultiRecord):
                lengths = [segment.n_frames for segment in ours.segments if segment.signals]
                names = zip(theirs.seg_name, theirs.seg_len, strict=True)
                assert lengths == [length for name, length in names if name != "~" and length]
                continue
            assert list(ours.gain) == theirs.adc_gain
            assert list(ours.baseline) == theirs.baseline
            assert list(ours.units) == theirs.units
            for mine, other in ((ours.initial, theirs.init_value), (ours.checksums, theirs.checksum)):
                assert [a for a in mine if a is not None] == [b for a, b in zip(mine, other) if a is not None]
            for signal, name, fmt, samples, skew, offset in zip(
                    ours.segments[0].signals if theirs.sig_len else (), theirs.file_name, theirs.fmt,
                    theirs.samps_per_frame, theirs.skew, theirs.byte_offset):
                assert (signal.file, signal.fmt, signal.samples) == (name, fmt, samples)
                assert (signal.skew, signal.offset) == (skew or 0, offset or 0)
    assert n_read == 172


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_of_many_hands(tmp_path, encoding, end):
    lines = ["# Müller, before", "", "  p1 2 125 2500  10:11:12.5\t25/12/1994 ", "#between",
             "\tp1.dat 16\t1000/mV 16 0 -23 -8544 0 Ableitung ä 1  ",
             "p1.dat 16 1000/mV 16 0 -2 -15649 0 V1", "# after"]
    header = read_header(write(tmp_path, "p1", end.join(lines), encoding=encoding))
    assert header.leads == ["Ableitung ä 1", "V1"]
    assert header.comments == ("Müller, before", "between", "after")
    assert (header.fs, header.n_samples, header.notes) == (125, 2500, ())
    assert (header.initial, header.checksums) == ((-23, -2), (-8544, -15649))


@pytest.mark.parametrize("when", ["", "10:11:12", "10:11:12.5 01/02/2006", "10:11 1/2/06", "[10:11:12 01/02/2006]",
                                  "12.5 31/12/2137"])
def test_times_and_dates_are_no_matter(tmp_path, when):
    assert read_header(write(tmp_path, "p1", f"p1 1 125 2500 {when}\np1.dat 16 1000 16 0 1 2 0 V1\n")).notes == ()


@pytest.mark.parametrize("when", ["2006", "32/13/2006", "10:11:12 00/00/0000", "noon", "1:2:3:4 5/6/7/8"])
def test_a_date_of_another_form_is_a_note(tmp_path, when):
    header = read_header(write(tmp_path, "p1", f"p1 1 125 2500 {when}\np1.dat 16 1000 16 0 1 2 0 V1\n"))
    assert header.n_samples == 2500
    assert sentences(header) and all(text.startswith("date not read") for text in sentences(header))


def test_lead_names_are_printable(tmp_path):
    text = "p1 1 125 10\np1.dat 16 1/mV 16 0 1 2 0 ECG\u2028II\x07\xa0a\x0b\n"
    assert read_header(write(tmp_path, "p1", text)).leads == ["ECG II? a"]


def test_names_with_blanks_and_letters(tmp_path):
    for name in ("pat 1", "Müller, Jörg", "子供 2", "a.b", "x=1"):
        path = write(tmp_path, name, f"{name} 1 125 100\n{name}.dat 16 1000/mV 16 0 1 2 0 I\n", 200)
        header = read_header(path)
        assert (header.record, header.fs, header.n_samples) == (name, 125, 100)
        check_signal_file(header)
    names = [record_name(path, tmp_path) for path in all_headers(tmp_path)]
    assert sorted(names) == sorted(["pat 1", "Müller, Jörg", "子供 2", "a.b", "x=1"])
    # A number at the end of a name is no number of signals.
    header = read_header(write(tmp_path, "pat 2", "pat 2 2 125 2500\na 1.dat 16 10 16 0 1 2 0 I\na 1.dat 16 10\n"))
    assert (header.fs, header.n_samples) == (125, 2500)
    assert header.files == (("a 1.dat", 10_000),)
    assert header.segments[0].signals[0].file == "a 1.dat"


def test_a_name_that_ends_in_a_number_is_not_guessed(tmp_path):
    "`pat 1 2 …` above one line is a header that lost a line, not one signal at 2 Hz."
    with pytest.raises(DataError, match="promises 2 leads and describes 1"):
        read_header(write(tmp_path, "pat 1", "pat 1 2 125 2500\np1.dat 16 1000/mV 16 0 1 2 0 I\n"))


def test_differences_start_where_the_header_says(tmp_path):
    text = "p1 3 125 10\na.dat 8 200 8 5\nb.dat 8 200 8 0 0 0 0 I\nc.dat 8 200 8 5 7 3 0 I\n"
    header = read_header(write(tmp_path, "p1", text))
    assert [signal.initial for signal in header.segments[0].signals] == [5, 0, 7]


def test_signal_files_stay_below_the_folder(tmp_path):
    header = read_header(write(tmp_path, "p1", "p1 1 125 100\nsub/p1.dat 16 1000/mV 16 0 1 2 0 I\n"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "p1.dat").write_bytes(bytes(200))
    check_signal_file(header)
    for name in ("../p1.dat", "sub/../../p1.dat", "/etc/passwd", "~root/p1.dat", "a\\b.dat", "C:/p1.dat"):
        with pytest.raises(DataError, match="p1.hea, lead 1.*(leads out of|no name of a file)"):
            read_header(write(tmp_path, "p1", f"p1 1 125 100\n{name} 16 1000/mV 16 0 1 2 0 I\n"))
    (tmp_path / "sub" / "s1.hea").write_text("s1 1 125 100\n../p1.dat 16 1000/mV 16 0 1 2 0 I\n")
    for name in ("../s1", "/s1", "~s1", "sub/s1"):
        with pytest.raises(DataError, match="leads out of|no name of a file"):
            read_header(write(tmp_path, "p1", f"p1/1 1 125 100\n{name} 100\n"))


def test_defaults_of_the_format(tmp_path):
    header = read_header(write(tmp_path, "p1", "p1 2\np1.dat 16\np1.dat 16 100 12 5\n", 400))
    assert (header.fs, header.n_samples, header.gain, header.baseline) == (250, 100, (200, 100), (0, 5))
    assert header.units == ("mV", "mV") and header.leads == ["", ""] and header.sliceable is False
    assert header.initial == header.checksums == (None, None)
    assert [text.split(":")[0] for text in sentences(header)] == ["no gain", "no length", "no sampling rate"]


@pytest.mark.parametrize("gain", ["0", "0.0/mV", "0(0)/mV", "nan/mV", "-inf/mV", "(0)/mV", "/mV"])
def test_a_gain_of_nothing_is_two_hundred(tmp_path, gain):
    header = read_header(write(tmp_path, "p1", f"p1 1 125 2500\np1.dat 16 {gain} 16 0 1 2 0 V1\n"))
    assert header.gain == (200,)
    assert header.notes[0][0] == "V1" and "200 per mV" in header.notes[0][1]


def test_a_negative_gain_stays(tmp_path):
    header = read_header(write(tmp_path, "p1", "p1 1 125 2500\np1.dat 16 -200(3)/mV 16 0 1 2 0 V1\n"))
    assert (header.gain, header.baseline) == ((-200,), (3,))
    assert header.notes == (("V1", "gain -200 is negative: the polarity is as the header says"),)


@pytest.mark.parametrize("text, fact", [
    ("", "it is empty"),
    ("# nothing\n", "it is empty"),
    ("p1\n", "the first line 'p1' is not"),
    ("p1 x y z\n", "no readable WFDB header"),
    ("p1 1 125,5 2500\np1.dat 16\n", "no readable WFDB header"),
    ("p1 1 -125 2500\np1.dat 16\n", "the sampling rate is -125"),
    ("p1 1 0 2500\np1.dat 16\n", "the sampling rate is 0"),
    ("p1 1 1e300 2500\np1.dat 16\n", "the sampling rate is 1e"),
    ("p1 1 nan 2500\np1.dat 16\n", "no readable WFDB header"),
    ("p1 2 125 2500\np1.dat 16\n", "promises 2 leads and describes 1"),
    ("p1 1 125 2500\np1.dat 16\np1.dat 16\n", "promises 1 leads and describes 2"),
    ("p1 99999999 977 9\n", "promises 99,999,999 leads and describes 0"),
    (f"p1 1 125 {10**17}\np1.dat 16\n", "more than any recording has"),
    ("p1 1 125 9" + "0"*5000 + "\np1.dat 16\n", "no readable WFDB header"),
    ("p1/1000000000 2 125\ns1 100\n", "promises 1,000,000,000 segments and describes 1"),
    ("p1 1 125 100\np1.dat 16x1000000000\n", "samples per frame"),
    ("p1 1 125 100\np1.dat\n", "no format"),
    ("p1 1 125 100\np1.dat 99 1000\n", "99 is no format of WFDB"),
    ("p1 1 125 100\np1.dat 16 1000(x)/mV\n", "is no baseline"),
    ("p1 1 125 100\np1.dat 16 ten/mV\n", "is no gain"),
    ("p1 2 125 100\np1.dat 16\np1.dat 212\n", "the formats 16 and 212"),
    ("p1 2 125 100\np1.dat 16+2\np1.dat 16+3\n", "two offsets"),
    ("p1 1 125 100\np1.dat 16" + " "*20_000 + "x\n", "a line of 20,0"),
    ("\x01\0\0\x02", "it is no text"),
])
def test_damaged_headers_are_one_line(tmp_path, text, fact):
    with pytest.raises(DataError) as caught:
        read_header(write(tmp_path, "p1", text))
    assert fact in str(caught.value) and "p1.hea" in str(caught.value) and "\n" not in str(caught.value)


def test_huge_files_are_no_headers(tmp_path):
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with ends():
        with open(tmp_path / "p1.hea", "wb") as stream: # 8 GB with nothing in it
            stream.truncate(8 << 30)
        with open(tmp_path / "p2.hea", "w") as stream:
            stream.write("p2 700000 125 100\n" + "p2.dat 16\n"*700_000)
        with open(tmp_path / "p3.hea", "w") as stream:
            stream.write("p3/200000 1 125\n" + "s1 1\n"*200_000)
        with open(tmp_path / "p4.hea", "w") as stream: # each word could end the name
            stream.write("1 "*4000 + "\n")
        for name in ("p1", "p2", "p3", "p4"):
            with pytest.raises(DataError, match=f"{name}.hea"):
                read_header(tmp_path / name)
        assert len(all_headers(tmp_path)) == 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < 500_000 # kB


NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8).map(
    lambda text: "n" + "".join(letter for letter in text if letter not in "/\\:#~"))
WHOLE = st.integers(-2**31, 2**31)


@st.composite
def fields(draw):
    "One lead: file, format, samples, skew, offset, gain, baseline, units, zero, first, checksum, name."
    gain = draw(st.floats(1e-3, 1e6).map(lambda value: float(f"{value:.6g}")))
    return dict(
        file=draw(NAMES) + draw(st.sampled_from([".dat", " 1.dat", "", "/" + "b.mat"])),
        fmt=draw(st.sampled_from(["8", "16", "24", "32", "61", "80", "160", "212", "310", "311", "508", "516", "524"])),
        samples=draw(st.integers(1, 500)), skew=draw(st.integers(0, 99)), offset=draw(st.integers(0, 999)),
        gain=gain, baseline=draw(WHOLE),
        units=draw(st.sampled_from(["mV", "uV", "µV", "μV", "mmHg", "V", "nV", "m/s"])),
        zero=draw(WHOLE), initial=draw(WHOLE), checksum=draw(st.integers(-2**15, 2**16).filter(bool)),
        name=draw(st.sampled_from(["", "V1", "ECG lead II", "16 x 2", "Fußpunkt (links)"])))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(fields(), min_size=1, max_size=4, unique_by=lambda lead: lead["file"]), st.floats(0.01, 1e4),
       st.integers(1, 10**6), NAMES, st.randoms())
def test_what_is_written_is_read(tmp_path, leads, rate, length, name, random):
    lines = [f"{name} {len(leads)} {rate!r}/{rate!r}(0) {length}"]
    for lead in leads:
        options = [f"x{lead['samples']}", f":{lead['skew']}", f"+{lead['offset']}"]
        random.shuffle(options)
        lines.append(f"{lead['file']} {lead['fmt']}{''.join(options)} "
                     f"{lead['gain']!r}({lead['baseline']})/{lead['units']} "
                     f"16 {lead['zero']} {lead['initial']} {lead['checksum']} 0 {lead['name']}")
        lines.insert(random.randint(0, len(lines)), "# a comment")
    header = read_header(write(tmp_path, f"r{random.random()}", random.choice(["\n", "\r\n"]).join(lines)))
    signals = header.segments[0].signals
    for key in ("file", "fmt", "samples", "skew", "offset", "gain", "baseline", "units", "initial", "checksum", "name"):
        assert [getattr(signal, key) for signal in signals] == [lead[key] for lead in leads]
    voltages = [lead["samples"] for lead in leads if lead["units"] not in ("mmHg", "m/s")]
    finest = max(voltages or [lead["samples"] for lead in leads])
    assert header.fs == rate*finest and header.n_samples == length*finest
    assert header.rates == tuple(rate*lead["samples"] for lead in leads)
    assert header.initial == tuple(lead["initial"] for lead in leads)
    assert [factor is None for factor in header.millivolts] == [lead["units"] in ("mmHg", "m/s") for lead in leads]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_any_text_is_a_header_or_one_line(tmp_path, data):
    good = ["p1 2 125 2500 10:11:12 1/2/2006", "p1/2 1 125", "p1.dat 16x2:1+24 1000(0)/mV 16 0 -23 -8544 0 V1",
            "p1 100", "~ 50", "~ 0 1/mV 16 0 0 0 0 I", "# 69 M", "p1.dat 212 0 11 1024 995 -22131 0 MLII"]
    line = st.sampled_from(good) | st.text(max_size=30) | st.lists(
        st.sampled_from([*" ".join(good).split(), "0", "-1", "1e9", "x", "/", "(", "~", "..", "9"*30]),
        max_size=8).map(" ".join)
    text = "\n".join(data.draw(st.lists(line, max_size=6)))
    content = text.encode(data.draw(st.sampled_from(["utf-8", "utf-16", "utf-8-sig"])), "replace")
    (tmp_path / "p1.dat").write_bytes(bytes(1000))
    path = write(tmp_path, "p1", "")
    Path(f"{path}.hea").write_bytes(content[:data.draw(st.integers(0, len(content)))])
    with ends():
        try:
            header = read_header(path)
            assert len(header.leads) == len(header.millivolts) == len(header.rates) == len(header.gain)
            assert sum(segment.n_samples for segment in header.segments) == header.n_samples
            check_signal_file(header)
        except DataError as error:
            assert "\n" not in str(error)


# ---------------------------------------------------------------- units, rates


def test_units():
    for unit, factor in {"uV": 1e-3, "UV": 1e-3, "\u00b5V": 1e-3, "\u03bcV": 1e-3, "\u00b5v": 1e-3, "microvolt": 1e-3,
                         "MicroVolts": 1e-3, "mV": 1, "MV": 1, "mv": 1, "millivolts": 1, "[mV]": 1, "V": 1e3, "v": 1e3,
                         "Volt": 1e3, "nV": 1e-6, "NV": 1e-6, "nanovolts": 1e-6}.items():
        assert millivolts_per_unit(unit) == factor, unit
    for unit in ("", "mmHg", "degC", "NU", "adu", "none", "bpm", "%", "l/min", "kV", "mVs", "volta", "?V",
                 "V/s", "µ", "m"):
        assert millivolts_per_unit(unit) is None, unit


def test_leads_that_are_no_voltage(shared):
    header = read_header(shared / "cases" / "06" / "p1")
    assert header.millivolts == (1e-3, None) and header.units == ("UV", "mmHg")
    assert header.notes == (("V1", "unit 'mmHg' is no voltage: the lead is not used as an ECG"),)
    assert lead_slots(header, TOY) == {"lead1": [0], "lead2": [None]}
    # A position counts every lead of the file, and a pressure fills none.
    assert lead_slots(header, Database("p", "", {"a": ("#0", "#1")}, ["(N"])) == {"a": [0, None]}
    both = replace(header, millivolts=(None, None))
    with pytest.raises(DataError, match="p1.hea: its leads of 'toy' are no voltages"):
        lead_slots(both, TOY)


def test_slow_patterns_are_named(shared):
    header = read_header(shared / "cases" / "01" / "p1")
    header = replace(header, leads=["a"*40 + "!", "V1"])
    with pytest.raises(DataError, match="modalities: the slot .*takes too long"):
        lead_slots(header, Database("slow", "", {"lead1": ("/^(a|a)*$/",), "lead2": ("V1",)}, ["(N"]))


def test_a_lead_has_its_own_rate(tmp_path):
    text = ("p1 3 10 100\np1.dat 16x25 1/mV 16 0 1 2 0 I\np1.dat 16x50 1/mV 16 0 1 2 0 II\n"
            "p1.dat 16x100 1/mmHg 16 0 1 2 0 P\n")
    header = read_header(write(tmp_path, "p1", text))
    assert (header.fs, header.frame_rate, header.finest, header.n_samples) == (500, 10, 50, 5000)
    assert header.rates == (250, 500, 1000) and header.seconds == 10
    assert header.files == (("p1.dat", 2*175*100),)


@pytest.mark.parametrize("rate, implausible", [(1, True), (49, True), (50, False), (977, False), (60_000, True)])
def test_rates_of_no_ecg_are_noted(tmp_path, rate, implausible):
    header = read_header(write(tmp_path, "p1", f"p1 1 {rate} 100\np1.dat 16 1/mV 16 0 1 2 0 I\n"))
    assert (sentences(header) == [f"a sampling rate of {rate} Hz is implausible for an ECG"]) is implausible


# ---------------------------------------------------------------- cases


def test_the_cases(shared):
    cases = shared / "cases"
    def case(number, name="p1"):
        return read_header(cases / number / name)
    assert (case("03").fs, case("03").n_samples, case("03").rates) == (125, 2500, (125, 125))
    assert case("04").millivolts == (1e-3, 1e-3) and case("04").units == ("\u00b5V", "\u00b5V")
    assert case("08").fs == 600.614990234375
    assert (case("14", "pat 1").fs, case("14", "pat 1").n_samples) == (125, 2500)
    assert case("17").notes == (("", "date not read: '2006'"),) and case("17").n_samples == 2500
    assert case("19").n_samples == 2500 and [part.n_samples for part in case("19").segments] == [1000, 1500]
    assert case("19").notes == (("", "no length: 2,500 is the sum of the segments"),)
    gap = case("20")
    assert [(part.start, part.n_samples, bool(part.signals)) for part in gap.segments] == [
        (0, 1000, True), (1000, 500, False), (1500, 1500, True)]
    assert gap.n_samples == 3000 and gap.leads == ["MLII", "V1"]
    assert (case("25").checksums, case("25").initial) == ((-8544, -15649), (-23, -2))
    for number in ("01", "03", "04", "06", "13", "17", "19", "20"):
        for path in all_headers(cases / number):
            check_signal_file(read_header(path))
    with pytest.raises(DataError, match="b.hea: promises 99,999,999 leads and describes 0"):
        case("31", "b")
    found = listing(cases / "10")
    assert (found.listed, found.missing) == (("p1", "p2", "p3", "p99"), ("p99",))
    assert found.here == ("p1", "p2", "p3") and not found.unlisted
    assert listing(cases / "11").missing == ("pä",)
    assert listing(cases / "13").here == ("p1", "p2", "p3")
    assert listing(cases / "14").here == ("p2", "p3", "pat 1")
    assert [path.name for path in record_paths(cases / "14", TOY)] == ["p2", "p3", "pat 1"]
    assert listing(cases / "07").here == ("again/p1", "p1", "p2", "p3")
    assert listing(cases / "19").here == ("p1", "p2", "p3")


# ---------------------------------------------------------------- segments


def segment(folder, name, leads=("I", "II"), length=100, rate=125, unit="mV", samples=1, data=True):
    lines = [f"{name} {len(leads)} {rate} {length}"]
    lines += [f"{name}.dat 16{f'x{samples}' if samples > 1 else ''} 1000/{unit} 16 0 1 2 0 {lead}" for lead in leads]
    path = write(folder, name, "\n".join(lines))
    if data:
        path.with_suffix(".dat").write_bytes(bytes(2*100*samples*len(leads)))


def test_segments_with_other_leads_and_units(tmp_path):
    segment(tmp_path, "s1", ("I", "II"))
    segment(tmp_path, "s2", ("II", "I"), unit="uV")
    segment(tmp_path, "s3", ("V1",))
    segment(tmp_path, "s4", ("II",), unit="mmHg")
    header = read_header(write(tmp_path, "p1", "p1/6 3 125 500\ns1 100\n~ 50\ns2 100\n~ 50\ns3 100\ns4 100\n"))
    assert header.leads == ["I", "II", "V1"] and header.n_segments == 6 and header.millivolts == (1, 1, 1)
    assert [part.channels for part in header.segments] == [(0, 1), (), (1, 0), (), (2,), (1,)]
    assert [part.signals[0].millivolts for part in header.segments if part.signals] == [1, 1e-3, 1, None]
    assert [part.start for part in header.segments] == [0, 100, 150, 250, 300, 400]
    assert header.files == (("s1.dat", 400), ("s2.dat", 400), ("s3.dat", 200), ("s4.dat", 200))
    check_signal_file(header)
    assert ("II", "unit 'mmHg' is no voltage: the lead is not used as an ECG") in header.notes
    # A layout gives names and order.
    write(tmp_path, "lay", "lay 3 125 0\n~ 0 1/mV 8 0 0 0 0 V1\n~ 0 1/mV 8 0 0 0 0 II\n~ 0 1/mV 8 0 0 0 0 I\n")
    header = read_header(write(tmp_path, "p2", "p2/3 3 125 200\nlay 0\ns1 100\ns2 100\n"))
    assert header.leads == ["V1", "II", "I"] and header.gain == (1, 1000, 1000)
    assert [part.channels for part in header.segments] == [(2, 1), (1, 2)]


def test_leads_of_one_name_keep_their_order(tmp_path):
    segment(tmp_path, "s1", ("ECG", "ECG", "x"))
    segment(tmp_path, "s2", ("x", "ECG", "ECG"))
    header = read_header(write(tmp_path, "p1", "p1/2 3 125 200\ns1 100\ns2 100\n"))
    assert header.leads == ["ECG", "ECG", "x"] and header.segments[1].channels == (2, 0, 1)


def test_segments_that_disagree(tmp_path):
    segment(tmp_path, "s1")
    segment(tmp_path, "s2", length=150)
    segment(tmp_path, "s3", rate=250)
    segment(tmp_path, "s4", samples=2)
    segment(tmp_path, "s 5", length="")
    for text, fact in {
            "p1/2 2 125 200\ns1 100\ns2 100\n": "promises 100 samples of the segment s2, whose own header says 150",
            "p1/2 2 125 200\ns1 100\ns3 100\n": "125 Hz, but its segment s3 says 250 Hz",
            "p1/2 2 125 200\ns1 100\ns4 100\n": "s4.hea: has 2 samples of 'I' per frame, and other segments 1",
            "p1/2 2 125 200\ns1 100\nnone 100\n": "names the segment none.hea, which is missing",
            "p1/2 2 125 300\ns1 100\ns1 100\n": "promises 300 samples, and its segments have 200",
            "p1/3 2 125 200\ns1 100\ns1 100\n": "promises 3 segments and describes 2",
            "p1/2 2 125 200\ns1 100\n~\n": "does not say how long a gap",
            "p1/1 2 125 200\np1 200\n": "itself made of segments"}.items():
        with pytest.raises(DataError) as caught:
            read_header(write(tmp_path, "p1", text))
        assert fact in str(caught.value) and "p1.hea" in str(caught.value) or "s4.hea" in str(caught.value)
    # What only one of both says is believed.
    header = read_header(write(tmp_path, "p1", "p1/3 2\ns1\n~ 7\ns 5 100\n"))
    assert (header.fs, header.n_samples) == (125, 207)
    assert sentences(header) == ["no length: 207 is the sum of the segments", "no sampling rate: 125 Hz is taken"]


def test_a_list_that_names_one_segment_often(tmp_path):
    segment(tmp_path, "s1", tuple(f"L{i}" for i in range(5000)))
    header_text = "p1/20000 5000 125\n" + "s1 100\n"*20_000
    with ends():
        header = read_header(write(tmp_path, "p1", header_text))
        assert header.n_samples == 2_000_000 and len(header.segments) == 20_000


def test_thousands_of_segments_are_fast(tmp_path):
    for number in range(1000):
        segment(tmp_path, f"s{number}", data=False)
    path = write(tmp_path, "p1", "p1/1000 2 125\n" + "".join(f"s{number} 100\n" for number in range(1000)))
    with ends():
        assert read_header(path).n_samples == 100_000
    with ends(.2):  # from the cache
        assert read_header(path).n_segments == 1000
    assert [path.name for path in all_headers(tmp_path)] == ["p1"]


# ---------------------------------------------------------------- signal files


def test_missing_short_and_long_signal_files(tmp_path):
    path = write(tmp_path, "p1", "p1 1 125 100\np1.dat 16 1/mV 16 0 1 2 0 I\n")
    with pytest.raises(DataError, match="p1.dat: missing, though p1.hea names it"):
        check_signal_file(read_header(path))
    for held, fine in ((199, False), (200, True), (712, True)):
        (tmp_path / "p1.dat").write_bytes(bytes(held))
        if fine:
            assert check_signal_file(read_header(path)) == ()
        else:
            with pytest.raises(DataError, match="p1.dat: has 199 bytes where p1.hea promises 200"):
                check_signal_file(read_header(path))
    (tmp_path / "p1.dat").write_bytes(bytes(2000))
    assert check_signal_file(read_header(path)) == ("p1.dat: has 2,000 bytes, 1,800 more than p1.hea promises",)


def test_real_signal_files_have_nothing_left_over(shared):
    for path in [*record_paths(shared / "mitdb", MITDB), shared / "iafdb" / "iaf1_afw"]:
        assert check_signal_file(read_header(path)) == () or path.parent.name == "iafdb"


def test_compressed_files_must_be_possible(shared, tmp_path):
    check_signal_file(read_header(shared / "wfdb_fixtures" / "flac_3_constant"))
    path = write(tmp_path, "p1", "p1 1 125 99999999999\np1.dat 516 1/mV 16 0 1 2 0 I\n", 1000)
    with pytest.raises(DataError, match="p1.dat: has 1,000 bytes where p1.hea promises at least"):
        check_signal_file(read_header(path))


def test_size_of_newer_matlab_files_tells_nothing(tmp_path):
    "Version 4 holds the samples behind 24 bytes; later ones hold whatever they like."
    path = write(tmp_path, "p1", "p1 1 125 1000\np1.mat 16+24 1/mV 16 0 1 2 0 I\n")
    for begin, fine in ((b"\0"*6, False), (b"MATLAB", True)):
        (tmp_path / "p1.mat").write_bytes(begin + bytes(500))
        if fine:
            assert check_signal_file(read_header(path)) == ()
        else:
            with pytest.raises(DataError, match="p1.mat: has 506 bytes where p1.hea promises 2,024"):
                check_signal_file(read_header(path))
    with pytest.raises(DataError, match="the format of its signal file does not tell"):
        read_header(write(tmp_path, "p2", "p2 1 125\np1.mat 16+24 1/mV 16 0 1 2 0 I\n"))


def test_files_in_capitals(tmp_path):
    (tmp_path / "P1.HEA").write_text("p1 1 125 100\np1.dat 16 1/mV 16 0 1 2 0 MLII\n")
    (tmp_path / "P1.DAT").write_bytes(bytes(200))
    (tmp_path / "P1.ATR").write_bytes(bytes(2))
    (tmp_path / "p2.HEA").write_text("p2 1 125 100\np2.dat 16 1/mV 16 0 1 2 0 MLII\n")
    (tmp_path / "p2.DAT").write_bytes(bytes(200))
    assert [path.name for path in all_headers(tmp_path)] == ["P1", "p2"]
    assert [path.name for path in record_paths(tmp_path, TOY)] == ["P1"]
    for path in all_headers(tmp_path):
        check_signal_file(read_header(path))
    assert read_header(tmp_path / "p1").file == tmp_path / "P1.HEA"
    assert find_file(tmp_path, "p1.atr") == tmp_path / "P1.ATR" and find_file(tmp_path, "p3.atr") is None


# ---------------------------------------------------------------- EDF


def edf_file(file, rates=(250, 1), seconds=8, annotations=True, record_seconds=1, units=("uV", "mmHg")):
    "An EDF+ or BDF+ file by edfio."
    kind, signal = (edfio.Bdf, edfio.BdfSignal) if file.suffix.lower() == ".bdf" else (edfio.Edf, edfio.EdfSignal)
    names = [f"ECG {number}" for number in range(len(rates))]
    rng = np.random.default_rng(0)
    extra = {"digital_range": (-8388608, 8388607)} if signal is edfio.BdfSignal else {}
    signals = [signal(rng.normal(0, 100, int(rate*seconds)), rate, label=name, physical_dimension=unit,
                      physical_range=(-3000, 3000), **extra)
               for rate, name, unit in zip(rates, names, units, strict=False)]
    notes = [edfio.EdfAnnotation(1, 2, "(AFIB")] if annotations else None
    kind(signals, annotations=notes, data_record_duration=record_seconds).write(file)
    return file


def times_of(file, onsets, variant=b"EDF+D"):
    "Makes an EDF+C file discontinuous: data record i begins at onsets[i]."
    content = bytearray(file.read_bytes())
    content[192:197] = variant
    n_signals = int(content[252:256])
    samples = [int(content[256 + n_signals*216 + 8*i:][:8]) for i in range(n_signals)]
    width = 3 if file.suffix.lower() == ".bdf" else 2
    begin, size = 256*(n_signals + 1), width*sum(samples)
    at, room = begin + width*sum(samples[:-1]), width*samples[-1]
    for number, onset in enumerate(onsets):
        place = at + number*size
        content[place:place + room] = f"+{onset}\x14\x14\0".encode().ljust(room, b"\0")
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("ending", ["edf", "bdf", "EDF", "BDF"])
def test_edf_equals_edfio(tmp_path, ending):
    file = edf_file(tmp_path / f"p1.{ending}", (256, 128, 1, 500), units=("uV", "mV", "mmHg", ""))
    header = read_header(tmp_path / "p1")
    theirs = edfio.read_bdf(file) if ending.lower() == "bdf" else edfio.read_edf(file)
    assert (header.kind, header.file) == ("edf", file)
    assert header.leads == [signal.label for signal in theirs.signals] == ["ECG 0", "ECG 1", "ECG 2", "ECG 3"]
    assert header.rates == tuple(signal.sampling_frequency for signal in theirs.signals)
    assert header.units == tuple(signal.physical_dimension for signal in theirs.signals)
    assert header.millivolts == (1e-3, 1, None, None)
    assert (header.fs, header.n_samples, header.seconds) == (256, 2048, theirs.duration)
    for gain, baseline, signal in zip(header.gain, header.baseline, theirs.signals, strict=True):
        np.testing.assert_allclose((signal.digital - baseline)/gain, signal.data, atol=1e-9*3000)
    assert header.comments == (f"patient: {theirs.local_patient_identification}",
                               f"recording: {theirs.local_recording_identification}")
    (part,) = header.segments
    assert part.channels == (0, 1, 2, 3, None) and part.signals[4].name.endswith("Annotations")
    assert check_signal_file(header) == () and header.files[0][1] == file.stat().st_size
    # The samples lie where the segment says.
    content = file.read_bytes()[part.signals[0].offset:]
    width = 3 if ending.lower() == "bdf" else 2
    first = int.from_bytes(content[:width], "little", signed=True)
    assert first == theirs.signals[0].digital[0]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=5), st.integers(1, 20), st.booleans(),
       st.sampled_from(["edf", "bdf"]))
def test_random_edf_equals_edfio(tmp_path, rates, seconds, annotations, ending):
    file = edf_file(tmp_path / f"r{time.perf_counter_ns()}.{ending}", rates, seconds, annotations, units=("mV",)*5)
    header = read_header(file.with_suffix(""))
    theirs = edfio.read_bdf(file) if ending == "bdf" else edfio.read_edf(file)
    assert header.rates == tuple(signal.sampling_frequency for signal in theirs.signals)
    assert (header.fs, header.n_samples) == (max(rates), max(rates)*seconds)


@pytest.mark.parametrize("ending", ["edf", "bdf"])
def test_gaps_of_discontinuous_edf(tmp_path, ending):
    variant = ending.upper().encode() + b"+D"
    file = times_of(edf_file(tmp_path / f"p1.{ending}", seconds=5), [0.5, 1.5, 4, 5, 100.25], variant)
    header = read_header(tmp_path / "p1")
    assert [(part.start, part.n_samples, part.first_frame, bool(part.signals)) for part in header.segments] == [
        (0, 500, 0, True), (500, 375, 0, False), (875, 500, 2, True), (1375, 23563, 0, False), (24938, 250, 4, True)]
    assert header.n_samples == 24938 + 250 and header.n_segments == 3
    check_signal_file(header)
    continuous = times_of(edf_file(tmp_path / f"p2.{ending}", seconds=5), [7, 8, 9, 10, 11], variant)
    assert len(read_header(continuous.with_suffix("")).segments) == 1
    for onsets, fact in (([0, 1, 0, 3, 4], "begins before the one before it"), ([0, 1, "x", 3, 4], "has no time"),
                         ([0, 1, 2, 3, 10**11], "more than any recording has")):
        with pytest.raises(DataError, match=fact):
            read_header(times_of(edf_file(tmp_path / f"p3.{ending}", seconds=5), onsets, variant).with_suffix(""))
        file.unlink(missing_ok=True)


def test_damaged_edf_is_one_line(tmp_path):
    good = edf_file(tmp_path / "p1.edf").read_bytes()
    def damaged(at, new):
        return good[:at] + new + good[at + len(new):]
    for content, fact in {
            good[:100]: "no readable EDF", b"": "no readable EDF", good[:600]: "ends within its header",
            b"\0"*1000: "no readable EDF", damaged(252, b"9999"): "does not describe 9,999 signals",
            damaged(252, b"x   "): "the number of signals is 'x', no number",
            damaged(244, b"0       "): "a data record lasts 0 s", damaged(244, b"-1      "): "a data record lasts -1 s",
            damaged(244, b"1e-300  "): "p1.edf", damaged(236, b"99999999"): "p1.edf: has",
            damaged(236, b"nan     "): "the number of data records is 'nan', no number",
            damaged(256 + 3*216, b"-5      "): "samples per data record"}.items():
        (tmp_path / "p1.edf").write_bytes(content)
        os.utime(tmp_path / "p1.edf", ns=(1, hash(fact) % 10**9))
        with pytest.raises(DataError) as caught:
            check_signal_file(read_header(tmp_path / "p1"))
        assert fact in str(caught.value) and "p1.edf" in str(caught.value)
    (tmp_path / "p1.edf").write_bytes(damaged(236, b"-1      "))
    assert read_header(tmp_path / "p1").n_samples == 2000  # its length by its size
    (tmp_path / "p1.edf").write_bytes(damaged(256 + 3*(16 + 80 + 8), b"3000    "))  # a range of nothing
    header = read_header(tmp_path / "p1")
    assert header.millivolts[0] is None and "not calibrated" in header.notes[0][1]


def test_labels_of_edf_are_printable(tmp_path):
    content = bytearray(edf_file(tmp_path / "p1.edf").read_bytes())
    content[256:272] = b"ECG\x07\xe4 II".ljust(16)
    content[8:20] = b"X M \x1b M\xc3\xbcller"[:12]
    (tmp_path / "p2.edf").write_bytes(content)
    header = read_header(tmp_path / "p2")
    assert header.leads[0] == "ECG?ä II" and header.comments[0].startswith("patient: X M ? Mül")


def test_wfdb_wins_and_edf_is_listed(tmp_path):
    edf_file(tmp_path / "p1.edf")
    edf_file(tmp_path / "p2.edf")
    edf_file(tmp_path / "sub.bdf")
    segment(tmp_path, "p1")
    assert [path.name for path in all_headers(tmp_path)] == ["p1", "p2", "sub"]
    assert (read_header(tmp_path / "p1").kind, read_header(tmp_path / "p2").kind) == ("wfdb", "edf")
    inside = Database("e", "", {"a": ("ECG 0",)}, ["(N"], annotator="edf+")
    assert [path.name for path in record_paths(tmp_path, inside)] == ["p2", "sub"]
    # An EDF file that a WFDB header names as its signal file is no record of its own.
    write(tmp_path, "p3", "p3 1 250 100\np2.edf 16+1024 1/uV 16 0 1 2 0 I\n")
    assert [path.name for path in all_headers(tmp_path)] == ["p1", "p3", "sub"]


def test_one_label_per_record_needs_no_annotation_file(tmp_path):
    segment(tmp_path, "p1")
    by_record = Database("c", "", {"a": ("I",)}, ["(N"], label_source="record")
    assert [path.name for path in record_paths(tmp_path, by_record)] == ["p1"]


# ---------------------------------------------------------------- lists


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_lists_of_many_hands(tmp_path, encoding):
    for name in ("p1", "pat 2", "pä, 3", "extra", "x/p4"):
        segment(tmp_path / Path(name).parent, Path(name).name)
    text = "p1\r\npat 2  \n\n pä, 3\rp1\nx/p4.hea\n./p1\ngone 9\n"
    (tmp_path / "RECORDS").write_bytes(text.encode(encoding))
    found = listing(tmp_path)
    assert found.here == ("p1", "pat 2", "pä, 3", "x/p4") and found.missing == ("gone 9",)
    assert found.unlisted == ("extra",) and found.listed == ("gone 9", *found.here)
    assert [record_name(path, tmp_path) for path in all_headers(tmp_path)] == list(found.here)


def test_lists_of_folders(tmp_path):
    "As the Challenge of 2021 lists them: folders, with a list of their own or without."
    for name in ("a/g1/p1", "a/g1/p2", "b/p3", "b/p4"):
        segment(tmp_path / Path(name).parent, Path(name).name)
    (tmp_path / "RECORDS").write_text("a/g1/\nb\n")
    (tmp_path / "a" / "g1" / "RECORDS").write_text("p1\np9\n")
    found = listing(tmp_path)
    assert found.here == ("a/g1/p1", "b/p3", "b/p4")
    assert found.missing == ("a/g1/p9",) and found.unlisted == ("a/g1/p2",)
    (tmp_path / "a" / "g1" / "RECORDS").write_text("../../b/p3\n")
    with pytest.raises(DataError, match="g1/RECORDS.*leads out"):
        all_headers(tmp_path)
    (tmp_path / "RECORDS").write_text(".\n")  # itself
    with pytest.raises(DataError, match="RECORDS: '.' is no name of a file"):
        all_headers(tmp_path)


def test_links_in_lists_do_not_hang(tmp_path):
    segment(tmp_path, "p1")
    segment(tmp_path / "sub", "p2")
    names = [f"loop{number}" for number in range(20)]
    for name in names:
        (tmp_path / name).symlink_to(tmp_path, target_is_directory=True)
        (tmp_path / "sub" / name).symlink_to(tmp_path / "sub", target_is_directory=True)
    (tmp_path / "root").symlink_to("/", target_is_directory=True)
    (tmp_path / "RECORDS").write_text("\n".join(["p1", "sub", "root", *names]))
    (tmp_path / "sub" / "RECORDS").write_text("\n".join(["p2", *names]*50))
    with ends():
        found = listing(tmp_path)
        assert found.here == ("p1", "sub/p2") and len(found.missing) == 41


@pytest.mark.parametrize("name", ["../p1", "/etc/p1", "~/p1", "a/../../p1", "p\0", "a\\p1", "C:/p1"])
def test_names_that_leave_the_folder(tmp_path, name):
    segment(tmp_path, "p1")
    (tmp_path / "RECORDS").write_text(f"p1\n{name}\n")
    with pytest.raises(DataError, match="RECORDS: .*(leads out of|no name of a file)"):
        all_headers(tmp_path)


def test_lists_of_nothing(tmp_path):
    segment(tmp_path, "p1")
    (tmp_path / "RECORDS").write_text("\n\n")
    assert [path.name for path in all_headers(tmp_path)] == ["p1"]  # an empty list is none
    (tmp_path / "RECORDS").write_text("q1\nq2\nq3\nq4\n")
    fact = r"RECORDS: none of the 4 records it lists is here \(q1, q2, q3 …\), and 1 others"
    with pytest.raises(DataError, match=fact):
        all_headers(tmp_path)
    assert listing(tmp_path).missing == ("q1", "q2", "q3", "q4")
    with pytest.raises(DataError, match="no such folder"):
        listing(tmp_path / "nowhere")


def test_hidden_files_links_and_layouts(tmp_path):
    segment(tmp_path, "p1")
    segment(tmp_path / ".trash", "p2")
    segment(tmp_path / "__MACOSX", "p3")
    (tmp_path / "._p1.hea").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        " + bytes(50))
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self.hea").symlink_to(tmp_path / "self.hea")
    os.mkfifo(tmp_path / "pipe.hea")  # nobody writes into it
    write(tmp_path, "layout", "layout 1 125 0\n~ 0 1/mV 8 0 0 0 0 I\n")
    write(tmp_path, "empty", "empty 0 125 0\n")
    assert listing(tmp_path).here == ("empty", "layout", "p1", "pipe", "self")
    for name in ("self", "pipe"):
        with pytest.raises(DataError, match=f"{name}.hea: no such header"):
            read_header(tmp_path / name)
    for name in ("layout", "empty"):
        with pytest.raises(DataError, match=f"{name}.hea: a header without signals"):
            check_signal_file(read_header(tmp_path / name))
    with pytest.raises(DataError, match="._p1.hea: no readable WFDB header"):
        read_header(tmp_path / "._p1")


def test_names_on_disk_that_no_text_can_hold(tmp_path):
    segment(tmp_path, "p1")
    os.rename(tmp_path / "p1.hea", os.fsencode(tmp_path) + b"/p\xe4.hea")
    with pytest.raises(DataError, match="rename"):
        all_headers(tmp_path)
    (tmp_path / "RECORDS").write_text("p1\n")
    segment(tmp_path, "p1")
    assert listing(tmp_path).unlisted == ("p?",)


def test_leipzig_has_39_channel_lists(shared):
    assert lead_slots(read_header(shared / "leipzig" / "x0010"), LEIPZIG)["ecg"] == list(range(12))
