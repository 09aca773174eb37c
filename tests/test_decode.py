"""Bytes of signal files into numbers: against plain loops, against wfdb, against edfio, and on damaged files."""
import os
import shutil
import stat
import tempfile
from pathlib import Path

import edfio
import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from pediatric_ecg.core import DataError
from pediatric_ecg.data import _decode
from pediatric_ecg.data._decode import SignalFile, decode, digital, sums

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wfdb")  # wfdb 4.3 under pandas 3.1
quick = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
BITS = {"8": 8, "16": 16, "24": 24, "32": 32, "61": 16, "80": 8, "160": 16, "212": 12, "310": 10, "311": 10,
        "edf": 16, "bdf": 24}
INVALID = {fmt: -1 << bits - 1 for fmt, bits in BITS.items() if fmt not in ("8", "edf", "bdf")}


# --- the oracle: one sample after the other -----------------------------------------------------------------

def encode(fmt, values):
    "The bytes of a train of integers, by the words of the WFDB manual."
    content = bytearray()
    if fmt == "8":
        raise AssertionError("format 8 needs the signals apart")
    if fmt in ("16", "24", "32", "edf", "bdf"):
        for value in values:
            content += int(value).to_bytes(BITS[fmt] // 8, "little", signed=True)
    elif fmt == "61":
        for value in values:
            content += int(value).to_bytes(2, "big", signed=True)
    elif fmt in ("80", "160"):
        for value in values:
            content += int(value + (1 << BITS[fmt] - 1)).to_bytes(BITS[fmt] // 8, "little")
    elif fmt == "212":
        odd = len(values) % 2
        values = [*values, 0] if odd else values
        for first, second in zip(values[::2], values[1::2], strict=True):
            first, second = int(first) & 0xfff, int(second) & 0xfff
            content += bytes([first & 0xff, first >> 8 | second >> 8 << 4, second & 0xff])
        if odd:  # the last byte of a lone sample's pair may be absent
            content = content[:-1]
    else:
        lone = len(values) % 3
        values = [*values, *[0] * (-len(values) % 3)]
        for start in range(0, len(values), 3):
            first, second, third = (int(value) & 0x3ff for value in values[start:start + 3])
            if fmt == "310":
                low = first << 1 | (third & 0x1f) << 11
                high = second << 1 | third >> 5 << 11
                content += low.to_bytes(2, "little") + high.to_bytes(2, "little")
            else:
                content += (first | second << 10 | third << 20).to_bytes(4, "little")
        if lone:  # and so the bytes behind the last sample
            content = content[:{"310": (0, -2, 0), "311": (0, -2, -1)}[fmt][lone] or None]
    return bytes(content)


def differences(values):
    "Format 8 of one signal: values clipped to what one byte per step can follow, and their differences."
    steps = np.clip(np.diff(values, prepend=values[:1]), -128, 127)
    return values[0] + np.cumsum(steps), steps


def in_frames(signals, samples, n_frames):
    "The train of samples of a file, frame by frame, signal by signal."
    train = []
    for frame in range(n_frames):
        for signal, count in zip(signals, samples, strict=True):
            for sample in range(count):
                train.append(int(signal[frame * count + sample]))
    return train


def make_file(folder, fmt, samples, n_frames, offset, seed):
    "A random file and the integers of each signal."
    rng = np.random.default_rng(seed)
    top = 1 << BITS[fmt] - 1
    signals = [rng.integers(-top, top, n_frames * count) for count in samples]
    for signal in signals:
        signal[rng.random(len(signal)) < 0.1] = -top
    initial = ()
    if fmt == "8":
        initial = tuple(int(signal[0]) for signal in signals)
        both = [differences(signal) for signal in signals]
        signals = [values for values, _ in both]
        content = bytes(step & 0xff for step in in_frames([steps for _, steps in both], samples, n_frames))
    else:
        content = encode(fmt, in_frames(signals, samples, n_frames))
    file = Path(folder) / "signal.dat"
    file.write_bytes(rng.bytes(offset) + content)
    return SignalFile(file, fmt, tuple(samples), n_frames, offset, initial), signals


def millivolts(values, fmt, gain, baseline, factor):
    "One after the other, in Python's own numbers."
    result = []
    for value in values:
        missing = value == INVALID.get(fmt)
        result.append(float("nan") if missing else (int(value) - baseline) / gain * factor)
    return result


@quick
@given(fmt=st.sampled_from(sorted(BITS)), samples=st.lists(st.integers(1, 5), min_size=1, max_size=4),
       n_frames=st.integers(1, 60), offset=st.sampled_from([0, 1, 24, 513]), seed=st.integers(0, 99), data=st.data())
def test_every_format_equals_plain_loops(fmt, samples, n_frames, offset, seed, data):
    with tempfile.TemporaryDirectory() as folder:
        file, signals = make_file(folder, fmt, samples, n_frames, offset, seed)
        start = data.draw(st.integers(0, n_frames - 1))
        stop = data.draw(st.integers(start, n_frames))
        place = data.draw(st.integers(0, len(samples) - 1))
        places = [other for other in range(len(samples)) if samples[other] == samples[place]]
        places = data.draw(st.permutations(places))
        gain = [data.draw(st.sampled_from([200.0, -1.5, 1e-9, 3e12])) for _ in places]
        baseline = [data.draw(st.sampled_from([0, -7, 10**9])) for _ in places]
        factor = [data.draw(st.sampled_from([1.0, 1e-3, 1e3])) for _ in places]
        result = decode(file, places, start, stop, gain, baseline, factor)
        assert result.shape == (len(places), (stop - start) * samples[place])
        for row, other in enumerate(places):
            part = slice(start * samples[other], stop * samples[other])
            np.testing.assert_array_equal(digital(file, other, start, stop), signals[other][part])
            expected = millivolts(signals[other][part], fmt, gain[row], baseline[row], factor[row])
            np.testing.assert_array_equal(result[row], expected)
        for (first, checksum), signal in zip(sums(file), signals, strict=True):
            total = sum(int(value) for value in signal)
            assert first == signal[0]
            assert -32768 <= checksum < 32768 and (checksum - total) % 65536 == 0


@pytest.mark.parametrize("fmt", sorted(BITS))
def test_pieces_and_blocks_leave_no_seam(fmt, tmp_path, monkeypatch):
    "With tiny pieces, chunks and blocks every border is crossed in a short file."
    file, signals = make_file(tmp_path, fmt, (2, 3, 2), 41, 3, 5)
    for chunk, piece in ((1, 1), (64, 16), (1 << 20, 35)):
        monkeypatch.setattr(_decode, "_CHUNK", chunk)
        monkeypatch.setattr(_decode, "_PIECE", piece)
        monkeypatch.setattr(_decode, "_block_frames", lambda signals: 6)
        _decode._sums.cache_clear()
        _decode._block.cache_clear()
        for start, stop in ((0, 41), (1, 41), (5, 7), (6, 12), (11, 40), (40, 41)):
            for place, signal in enumerate(signals):
                count = file.samples[place]
                np.testing.assert_array_equal(digital(file, place, start, stop), signal[start * count:stop * count])
        total = [sum(int(value) for value in signal) % 65536 for signal in signals]
        assert [checksum % 65536 for _, checksum in sums(file)] == total
    _decode._sums.cache_clear()
    _decode._block.cache_clear()


@quick
@given(fmt=st.sampled_from(["508", "516", "524"]), k=st.integers(1, 3), n=st.integers(1, 400), data=st.data())
def test_compressed_files_in_part(fmt, k, n, data):
    top = 1 << int(fmt) - 500 - 1
    values = np.random.default_rng(n).integers(-top, top, (n, k))
    start = data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start, n))
    with tempfile.TemporaryDirectory() as folder:
        wfdb.wrsamp("r", fs=1, units=["mV"] * k, sig_name=[str(i) for i in range(k)], d_signal=values, fmt=[fmt] * k,
                    adc_gain=[1.0] * k, baseline=[0] * k, write_dir=folder)
        file = SignalFile(Path(folder) / "r.dat", fmt, (1,) * k, n)
        for place in range(k):
            np.testing.assert_array_equal(digital(file, place, start, stop), values[start:stop, place])
        longer = SignalFile(file.file, fmt, (1,) * k, n + 1)
        with pytest.raises(DataError, match=r"r\.dat: cannot be decoded as format"):
            sums(longer)


# --- EDF, BDF, MATLAB ---------------------------------------------------------------------------------------

@quick
@given(rates=st.lists(st.sampled_from([1, 10, 256, 977]), min_size=1, max_size=4), seconds=st.integers(1, 5),
       kind=st.sampled_from(["edf", "bdf"]), seed=st.integers(0, 50))
def test_edf_and_bdf_written_by_edfio(rates, seconds, kind, seed):
    rng = np.random.default_rng(seed)
    signal, whole, read = {"edf": (edfio.EdfSignal, edfio.Edf, edfio.read_edf),
                           "bdf": (edfio.BdfSignal, edfio.Bdf, edfio.read_bdf)}[kind]
    leads = [signal(rng.normal(size=rate * seconds), rate, label=str(i), physical_range=(-7, 6))
             for i, rate in enumerate(rates)]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/r.{kind}"
        written = whole(leads, data_record_duration=1)
        written.write(path)
        by_edfio = read(path)
        file = SignalFile(Path(path), kind, tuple(rates), seconds, 256 * (1 + len(rates)))
        for place, lead in enumerate(by_edfio.signals):
            np.testing.assert_array_equal(digital(file, place), lead.digital)
            step = (lead.physical_max - lead.physical_min) / (lead.digital_max - lead.digital_min)
            zero = lead.digital_min - lead.physical_min / step
            result = decode(file, [place], 0, seconds, [1 / step], [zero], [1.0])[0]
            np.testing.assert_allclose(result, lead.data, rtol=0, atol=1e-12)


@pytest.mark.parametrize("version", ["4", "5"])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float64])
def test_matlab_files_whatever_their_version(version, dtype, tmp_path):
    values = np.random.default_rng(3).integers(-32768, 32768, (3, 400)).astype(dtype)
    savemat(tmp_path / "r.mat", {"val": values}, format=version)
    file = SignalFile(tmp_path / "r.mat", "16", (1, 1, 1), 400, 24)
    for place in range(3):
        np.testing.assert_array_equal(digital(file, place, 7, 300), values[place, 7:300])
    result = decode(file, [2, 0], 5, 90, [2.0, -2.0], [1, 0], [1.0, 1.0])
    expected = values[2, 5:90].astype(float)
    np.testing.assert_array_equal(result[0], np.where(expected == -32768, np.nan, (expected - 1) / 2))
    total = values.astype(np.int64).sum(axis=1)
    for (_, checksum), expected in zip(sums(file), total, strict=True):
        assert (checksum - expected) % 65536 == 0


def test_matlab_files_that_are_not_what_the_header_says(tmp_path):
    file = tmp_path / "r.mat"
    values = np.zeros((2, 10), np.int16)
    signals = SignalFile(file, "16", (1, 1), 10, 24)
    for content, says in (({"val": values.T}, "no matrix 'val' of 2 x 10 but {'val': (10, 2)}"),
                          ({"val": values + 1j}, "holds no real numbers"),
                          ({"other": values}, "no matrix 'val'")):
        savemat(file, content)
        with pytest.raises(DataError, match=r"r\.mat: ") as error:
            sums(signals)
        assert says in str(error.value)
    savemat(file, {"val": values})
    file.write_bytes(file.read_bytes()[:150])
    with pytest.raises(DataError, match=r"r\.mat: not readable as MATLAB"):
        sums(signals)
    file.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n")
    with pytest.raises(DataError, match=r"r\.mat: .*7\.3.*save it with -v6"):
        sums(signals)
    # a header in MATLAB's own units may hold what is no number: it stays that
    savemat(file, {"val": np.array([[1.5, np.nan, np.inf], [0, 1, 2]])})
    result = decode(SignalFile(file, "16", (1, 1), 3, 24), [0], 0, 3, [2.0], [0], [1.0])
    np.testing.assert_array_equal(result, [[0.75, np.nan, np.inf]])
    assert sums(SignalFile(file, "16", (1, 1), 3, 24)) == [None, None]


# --- what is wrong with a file -------------------------------------------------------------------------------

@pytest.mark.parametrize("fmt", sorted(BITS))
def test_files_that_end_early_are_named_before_memory_is_taken(fmt, tmp_path):
    file, _ = make_file(tmp_path, fmt, (1, 2), 9, 0, 1)
    longer = SignalFile(file.file, fmt, (1, 2), 10**13, 0)
    for call in (lambda: decode(longer, [0], 0, 10**13, [1.0], [0], [1.0]), lambda: digital(longer, 1),
                 lambda: sums(longer)):
        with pytest.raises(DataError, match=r"signal\.dat"):
            call()


@pytest.mark.parametrize("fmt", sorted(BITS))
@pytest.mark.parametrize("n_frames", range(1, 8))
def test_one_byte_less_is_too_few(fmt, n_frames, tmp_path):
    """A file without its last byte, and one frame more than there is.

    Of a file of four bytes wfdb 4.3 makes any number of samples in formats 310 and 311, by repeating them.
    """
    file, signals = make_file(tmp_path, fmt, (1,), n_frames, 0, 1)
    np.testing.assert_array_equal(digital(file, 0), signals[0])
    with pytest.raises(DataError, match=r"signal\.dat: ends at byte"):
        digital(SignalFile(file.file, fmt, (1,), n_frames + 2, 0), 0)
    file.file.write_bytes(file.file.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"signal\.dat: ends at byte"):
        digital(file, 0)


def test_no_file_no_folder_no_pipe(tmp_path):
    signals = SignalFile(tmp_path / "r.dat", "16", (1,), 5)
    with pytest.raises(DataError, match=r"r\.dat: cannot be read \(No such file"):
        sums(signals)
    (tmp_path / "r.dat").mkdir()
    with pytest.raises(DataError, match=r"r\.dat: is no file"):
        sums(signals)
    (tmp_path / "r.dat").rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "r.dat")
        with pytest.raises(DataError, match=r"r\.dat: is no file"):
            sums(signals)
    with pytest.raises(DataError, match="cannot be read"):
        sums(SignalFile(Path("nul\0byte"), "16", (1,), 5))


def test_a_file_without_permission(tmp_path, monkeypatch):
    file, _ = make_file(tmp_path, "16", (1,), 9, 0, 1)
    file.file.chmod(0)
    if os.access(file.file, os.R_OK):  # root reads everything
        def refuse(*arguments, **options):
            raise PermissionError(13, "Permission denied")
        monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DataError, match=r"signal\.dat: cannot be read \(Permission denied\)"):
        sums(file)
    monkeypatch.undo()
    file.file.chmod(stat.S_IRUSR | stat.S_IWUSR)


def test_a_file_that_shrinks_while_it_is_read(tmp_path, monkeypatch):
    file, _ = make_file(tmp_path, "16", (1,), 9000, 0, 1)
    monkeypatch.setattr(_decode, "_CHUNK", 1000)
    monkeypatch.setattr(_decode, "_PIECE", 100)
    pieces = _decode._pieces(file, 0, 9000)
    next(pieces)
    file.file.write_bytes(b"\0" * 300)
    with pytest.raises(DataError, match=r"signal\.dat: ends at byte"):
        list(pieces)


def compressed(folder, seed):
    "A compressed file and its integers."
    values = np.random.default_rng(seed).integers(-3000, 3000, (90, 2))
    wfdb.wrsamp("c", fs=1, units=["mV"] * 2, sig_name=["a", "b"], d_signal=values, fmt=["516"] * 2,
                adc_gain=[1.0] * 2, baseline=[0] * 2, write_dir=str(folder))
    return SignalFile(Path(folder) / "c.dat", "516", (1, 1), 90), values


def test_a_changed_file_is_decoded_again(tmp_path):
    file, values = compressed(tmp_path, 1)
    np.testing.assert_array_equal(digital(file, 0), values[:, 0])
    again, values = compressed(tmp_path, 2)
    os.utime(again.file, (1, 1))
    assert again == file
    np.testing.assert_array_equal(digital(again, 0), values[:, 0])


def test_windows_of_a_compressed_file_decode_it_once(tmp_path):
    file, values = compressed(tmp_path, 1)
    _decode._block.cache_clear()
    for start in range(0, 80, 10):
        np.testing.assert_array_equal(digital(file, 1, start, start + 10), values[start:start + 10, 1])
    assert _decode._block.cache_info().misses == 1


def test_where_links_fail_the_file_is_copied(tmp_path, monkeypatch):
    file, values = compressed(tmp_path, 1)

    def refuse(*arguments):
        raise OSError(1, "Operation not permitted")
    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(os, "link", refuse)
    np.testing.assert_array_equal(digital(file, 1), values[:, 1])
    _decode._block.cache_clear()
    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(DataError, match=r"c\.dat: cannot be read"):
        digital(file, 1)


def test_names_that_wfdb_cannot_read(tmp_path):
    file, values = compressed(tmp_path, 1)
    odd = tmp_path / "ein Ordner, mit ä #"
    odd.mkdir()
    moved = SignalFile(Path(shutil.move(file.file, odd / "x y.dat")), "516", (1, 1), 90)
    np.testing.assert_array_equal(digital(moved, 0), values[:, 0])


def test_unknown_formats_and_mixed_rates(tmp_path):
    file, _ = make_file(tmp_path, "16", (1, 2), 9, 0, 1)
    with pytest.raises(DataError, match=r"signal\.dat: signal format 17 is not known"):
        sums(SignalFile(file.file, "17", (1,), 9))
    with pytest.raises(DataError, match="different rates"):
        decode(file, [0, 1], 0, 9, [1.0] * 2, [0] * 2, [1.0] * 2)
    with pytest.raises(DataError, match="compressed signals of different rates"):
        sums(SignalFile(file.file, "516", (1, 2), 9))
    with pytest.raises(DataError, match="frames 3 to 10 asked of a file of 9"):
        digital(file, 0, 3, 10)
