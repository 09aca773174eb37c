"""A fuzzer: files as nobody meant them. Each ends in a result or in one clear line, soon, and in its folder.

`tests/test_fuzz.py` runs the short form, the same cases each time. The longer form draws others with each seed:

    python tests/fuzz.py --cases 21000 --seed 1
"""

import argparse
import faulthandler
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import toy
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import pediatric_ecg
from pediatric_ecg.core import PediatricECGError
from pediatric_ecg.data import (
    LEIPZIG,
    MITDB,
    Database,
    check,
    get_database,
    read_annotations,
    read_header,
    read_signals,
    subjects,
)
from pediatric_ecg.data.headers import all_headers, check_signal_file, lead_slots, record_paths
from pediatric_ecg.data.rhythms import segment_frame
from pediatric_ecg.windows import Preprocess, WindowStore, prepare
from pediatric_ecg.windows.store import StoreWriter

SECONDS = 5  # that a case may take
BYTES = 10**9  # of memory that a case may ask for
LONGEST = 2000  # letters of a message
PACKAGE = Path(pediatric_ecg.__file__).parent


# ── What must hold ────────────────────────────────────────────────────────────────────────────────────────────────


class Fault(AssertionError):
    "A case that ended otherwise than it must; `place` is where, to tell one fault from another."

    def __init__(self, text, place):
        super().__init__(text)
        self.place = place


class Overtime(BaseException):
    "Raised by the clock; no `except Exception` catches it."


def require(condition, text):
    "A property of a result."
    if not condition:
        raise Fault(text, text.split(":")[0])


class Watch:
    "Files that are opened, made, renamed or removed outside of the room that a case is given."

    def __init__(self):
        self.room = None
        self.seen = []
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.room is None or event not in (
            "open",
            "os.mkdir",
            "os.remove",
            "os.rename",
            "os.rmdir",
            "os.symlink",
        ):
            return
        if (
            event != "open"
            and any(isinstance(part, int) and part >= 0 for part in arguments[-2:])
            and event != "os.mkdir"
        ):
            return  # relative to a folder that was opened before, as shutil.rmtree does it
        writes = event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        for path in arguments[: 2 if event in ("os.rename", "os.symlink") else 1]:
            if isinstance(path, (str, bytes, os.PathLike)) and not self.allowed(os.fsdecode(path), writes):
                self.seen.append(f"{event} {os.fsdecode(path)!r}")

    def allowed(self, path, writes):
        "Whether a case may do that."
        path = os.path.normpath(os.path.join(os.getcwd(), path))
        if path == self.room or path.startswith(self.room + os.sep) or "__pycache__" in path:
            return True
        beside = path.startswith(os.path.dirname(self.room) + os.sep)
        if writes:
            # A file that needs a repair to be read is copied to where temporary files belong
            return path == os.devnull or path.startswith(tempfile.gettempdir() + os.sep) and not beside
        # Python and its libraries read files of their own
        return not beside and not path.startswith(("/etc/passwd", "/abs"))


watch = Watch()


def _ring(number, frame):
    raise Overtime


def _silence():
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)


def _address_space():
    "Bytes of memory that the process has asked for."
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def attempt(call, room, seconds=SECONDS):
    "Call with the folder, on a clock, in bounded memory. Raises `Fault` where it ends otherwise than it must."
    room = Path(room)
    # Time of the processor: a busy machine makes no fault. What waits is stopped by the clock on the wall.
    before = [signal.signal(number, _ring) for number in (signal.SIGPROF, signal.SIGALRM)]
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + BYTES, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 12 * seconds)
    watch.room, watch.seen = str(room), []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call(room)
    except Fault:
        raise
    except PediatricECGError as error:
        _silence()
        _one_line(error, room)
    except Overtime as error:
        raise Fault(f"takes longer than {seconds} s", _place(error)) from None
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        raise Fault(f"{type(error).__name__}: {error}"[:400], _place(error)) from error
    finally:
        watch.room = None
        _silence()
        signal.signal(signal.SIGPROF, before[0])
        signal.signal(signal.SIGALRM, before[1])
        resource.setrlimit(resource.RLIMIT_AS, limits)
    if watch.seen:
        raise Fault(f"leaves its folder: {watch.seen[:3]}", f"leaves {watch.seen[0].split()[0]}")


def _place(error):
    "The last line of the package in a traceback."
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if str(PACKAGE) in frame.filename]
    if not frames:
        return type(error).__name__
    return f"{type(error).__name__} {Path(frames[-1].filename).relative_to(PACKAGE)} {frames[-1].name}"


def _one_line(error, room):
    "A message is one line that names a file of the folder, or a key."
    message = str(error)
    place = _place(error)
    if not message.strip() or "\n" in message or "\r" in message or len(message) > LONGEST:
        raise Fault(f"no single short line: {message[:300]!r}", f"line {place}") from error
    if "MemoryError" in message or "can't allocate" in message:
        raise Fault(f"out of memory: {message[:300]!r}", f"memory {place}") from error
    names = [
        str(room),
        *(path.name for path in room.rglob("*")),
        *(path.stem for path in room.rglob("*.hea")),
    ]
    if not any(name in message for name in names) and not re.search("['\"]|config|database", message):
        raise Fault(f"names neither file nor key: {message[:300]!r}", f"nameless {place}") from error


# ── Bytes and texts as they should not be ─────────────────────────────────────────────────────────────────────────

TOKENS = (
    "", "0", "-1", "1", "2", "7", "1e308", "1e-320", "nan", "inf", "-inf", "99999999", "99999999999999999999",
    "9" * 400, "9" * 5000, "0x10", "٣", "²", "1_000", "1.5", "+5", "-0", "1e5", "~", "..", "../up", "/etc/passwd",
    "/abs/x", "~root", "C:\\x", "a b", "a,b", "ü", "µV", "μV", "uV", "V", "mmHg", "%s", "{}", '"', "'", "#", "p1",
    "p1.dat", "p1_1", "x" * 300, "\0", "\x1b[31m", "\u2028", "\ufeff", "0/", "1/1", "16x0", "16x-1",
    "16x99999999", "16:99999999", "16+99999999999", "16x4", "212", "8", "24", "32", "508", "524", "311", "1(5)/mV",
    "0/mV", "-200/mV", "nan/mV", "200(9999999999)/mV", "12:30:00", "99:99:99", "24/12/1989", "31/02/2000",
    "12345678901",
)  # fmt: skip
NASTY = st.sampled_from(TOKENS)


@st.composite
def mutated(draw, content, head=None):
    "Bytes with some of them changed, cut out, doubled or put in; within the first `head` if given."
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        within = min(head or len(content), len(content))
        at = draw(st.integers(0, within))
        how = draw(st.integers(0, 5))
        if how == 0 and at < len(content):
            content[at] = draw(st.integers(0, 255))
        elif how == 1:
            content[at:at] = draw(st.binary(max_size=8))
        elif how == 2:
            del content[at : at + draw(st.integers(1, 40))]
        elif how == 3:
            del content[at:]
        elif how == 4:
            content[at:at] = content[at : at + draw(st.integers(1, 300))]
        else:
            content[at : at + draw(st.integers(0, 8))] = draw(NASTY).encode("utf-8", "replace")
    return bytes(content)


@st.composite
def reworded(draw, texts, separators=r"[\s/:x+()]"):
    "A text with some of its words or lines exchanged."
    words = re.split(f"({separators})", draw(st.sampled_from(texts)))
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2]))):
        at = draw(st.integers(0, (len(words) - 1) // 2)) * 2
        words[at] = draw(st.one_of(NASTY, st.sampled_from(words[::2])))
    lines = "".join(words).split("\n")
    how = draw(st.integers(0, 15))
    at = draw(st.integers(0, len(lines) - 1))
    if how == 0:
        del lines[at]
    elif how == 1:
        lines.insert(at, lines[draw(st.integers(0, len(lines) - 1))])
    elif how == 2:
        lines.insert(at, draw(st.sampled_from(["", "#", "# Dx: 1,2", "  ", "#" * 3000, "\t# a", "ü"])))
    content = "\n".join(lines)
    encoding = draw(st.sampled_from([*["utf-8"] * 9, "utf-8-sig", "latin-1", "utf-16"]))
    content = content.encode(encoding, "replace")
    if draw(st.integers(0, 7)) == 0:
        content = draw(mutated(content))
    return content


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.sampled_from([10**6, 10**12, -(10**12), 2**63, 10**30]),
    st.floats(allow_nan=False),
    NASTY,
    st.sampled_from([[], {}, [[]], [None], {"": ""}, {"a": {"b": 1}}, ["a", 1], [{}]]),
    st.sampled_from(
        [
            "(",
            "[[",
            "(a+)+$",
            "(?P<age>",
            "/[/",
            "/CS 1/2/",
            "/^CS/",
            "CS 1/2",
            "#0",
            "#99999999999",
            "|",
            "//",
            "/a",
            r"(\d+",
            "(N",
            "(AFIB",
            "[]",
            "atr",
            ".atr",
            "../x",
            "edf+",
            "record",
            "first",
            "skip",
        ]
    ),
)


def _places(value, path=()):
    "All places of a nested value, as keys from its root."
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in pairs:
        yield from _places(part, (*path, key))


@st.composite
def misjudged(draw, texts):
    "A JSON file in which some values are of another kind, absent, or too many."
    value = json.loads(draw(st.sampled_from(texts)))
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(list(_places(value))))
        if not path:
            continue
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        how = draw(st.integers(0, 4))
        if how == 0:
            del holder[path[-1]]
        elif how == 1 and isinstance(holder, dict):
            holder[draw(NASTY)] = holder[path[-1]]
        else:
            holder[path[-1]] = deepcopy(draw(VALUES))  # or a later edit would change the strategy
    content = json.dumps(value, ensure_ascii=draw(st.booleans())).encode("utf-8", "replace")
    how = draw(st.integers(0, 12))
    if how == 0:
        content = draw(mutated(content))
    elif how == 1:
        content = draw(
            st.sampled_from(
                [
                    b"",
                    b"[]",
                    b"null",
                    b"3",
                    b'"a"',
                    b"[" * 100_000,
                    b'{"a":' * 100_000,
                    b"NaN",
                    b"\xff\xfe{\x00}\x00",
                    b"{}",
                    b'{"name": "a", "name": "b"}',
                ]
            )
        )
    elif how == 2:
        content = b"\xef\xbb\xbf" + content
    return content


# ── The targets ───────────────────────────────────────────────────────────────────────────────────────────────────

DATA = toy.pulses(200, 2).tobytes()
HEADERS = (
    toy.header(samples="200"),
    toy.header(samples=""),
    "p1 2 360 200\np1.dat 212 200 11 1024 995 -22131 0 MLII\np1.dat 212 200 11 1024 1011 20052 0 V5\n"
    "# 69 M 1085 1629 x1\n# Aldomet, Inderal\n",
    "# before\np1 2 125 200 12:30:00 24/12/1989\np1.dat 16 1/µV 16 0 0 0 0 MLII\np1.dat 16 1/mmHg 16 0 0 0 0 ART\n",
    "p1 2 1 20\np1.dat 16x10 1000/mV 16 0 0 0 0 MLII\np1.dat 16x10 1000/mV 16 0 0 0 0 V1\n",
    "p1 2 25 20\np1.dat 16x4 1000/mV 16 0 0 0 0 MLII\np1.dat 16x2 1000/mV 16 0 0 0 0 V1\n",
    "p1 1 125/250(10) 50\np1.dat 16:2+24 1000(12)/mV 16 0 0 0 0 a lead, with ü\n",
    "p1/2 2 125 200\np1_1 100\np1_2 100\n",
    "p1/3 2 125 250\np1_1 100\n~ 50\np1_2 100\n",
    "p1/3 2 125 200\np1_0 0\np1_1 100\np1_2 100\n",
    "p1/2 2 125\np1_1 100\np1_2 100\n",
    "p1 1 125 100\np1.dat 8 1000/mV 16 0 0 0 0 MLII\n",
    "p1 2 125 100\np1.dat 24 0 16 0 0 0 0 MLII\np1.dat 24\n",
    "p1 1 512.01 100\np1.dat 80\n#Dx: 426783006,164889003\n#Age: 7\n",
    "p1 0 125 100\n",
    "p1 3 125 90\np1.dat 310 200\np1.dat 310 200\np1.dat 310 200\n",
    "p1 1 125 100\nsub/p1.dat 16 1000/mV 16 0 0 0 0 V1\n",
)
SEGMENT = "p1_{} 2 125 100\np1_{}.dat 16 1000/mV 16 0 0 0 0 MLII\np1_{}.dat 16 1000/mV 16 0 0 0 0 V1\n"
TOY = Database(
    "toy", "", {"lead1": ("MLII|V5", "/^CS/"), "lead2": ("V1|#1",)}, {"(N": "sinus", "(AFIB": "fibrillation"}
)


@st.composite
def header_files(draw):
    "A header, its segments and signal files; one or two of them are damaged."
    files = {"p1.hea": draw(reworded(HEADERS))}
    segments = [SEGMENT.replace("{}", str(number)) for number in range(3)]
    layout = "p1_0 2 125 0\n~ 0 1000/mV 16 0 0 0 0 MLII\n~ 0 1000/mV 16 0 0 0 0 V1\n"
    if b"p1_1" in files["p1.hea"] or draw(st.integers(0, 9)) == 0:
        files |= {
            "p1_0.hea": layout.encode(),
            "p1_1.hea": segments[1].encode(),
            "p1_2.hea": segments[2].encode(),
            "p1_1.dat": DATA[:400],
            "p1_2.dat": DATA[400:],
        }
        broken = draw(st.sampled_from(["p1_0.hea", "p1_1.hea", "p1_2.hea", "", "", ""]))
        if broken:
            files[broken] = draw(reworded([files[broken].decode()]))
    length = draw(st.sampled_from([*[len(DATA)] * 8, 0, 1, 100, None]))
    if length is not None:
        files["p1.dat"] = DATA[:length]
        files["sub/p1.dat"] = DATA[:length]
    return files


def read_record(room):
    "A header, and the signals that it speaks of: whole, and a part that must equal the same part of the whole."
    header = read_header(room / "p1")
    require(np.isfinite(header.fs) and header.fs > 0, f"rate: {header.fs}")
    require(isinstance(header.n_samples, int) and header.n_samples >= 0, f"samples: {header.n_samples}")
    columns = (header.leads, header.units, header.gain, getattr(header, "millivolts", header.units))
    require(len({len(column) for column in columns}) == 1, f"columns of the header: {columns}")
    lead_slots(header, TOY)
    check_signal_file(header)
    whole = read_signals(room / "p1", 0, 400)
    length = min(400, header.n_samples)
    require(
        whole.shape == (length, len(header.leads)), f"shape: {whole.shape} of {length} × {len(header.leads)}"
    )
    require(whole.dtype == np.float64, f"kind of number: {whole.dtype}")
    if length > 40:
        part = read_signals(room / "p1", 11, 37)
        require(
            np.array_equal(part, whole[11:37], equal_nan=True), "a part is not the same part of the whole"
        )


BYTES_OF = {
    "16": 2,
    "212": 1.5,
    "24": 3,
    "32": 4,
    "8": 1,
    "80": 1,
    "61": 2,
    "160": 2,
    "310": 4 / 3,
    "311": 4 / 3,
}
FACTORS = {"mV": 1, "uV": 1e-3, "V": 1e3, "nV": 1e-6, "": 1}  # to mV
ODD_UNITS = ("mmHg", "degC")


@st.composite
def signal_files(draw):
    "A header as it may be, with signals of its format: one or two files, several samples per frame, an offset."
    number = draw(st.integers(1, 3))
    frames = draw(st.integers(2, 60))
    fmt = draw(st.sampled_from(list(BYTES_OF)))
    several = draw(st.integers(0, 3)) == 0 and number > 1
    offset = draw(st.sampled_from([0, 0, 0, 24, 7]))
    lines, sizes = [], {}
    for lead in range(number):
        samples = draw(st.sampled_from([1, 1, 1, 2, 4]))
        gain = draw(st.sampled_from(["200", "1000.5", "-50", "1", "0", "2e2"]))
        baseline = draw(st.sampled_from(["", "", "(0)", "(12)", "(-5)"]))
        units = draw(st.sampled_from([*FACTORS, "mV", "mV", *ODD_UNITS]))
        name = f"p1{'ab'[lead > 0] if several else ''}.dat"
        zero = draw(st.sampled_from(["0", "0", "1024", "-7"]))
        line = f"{name} {fmt}{f'x{samples}' * (samples > 1)}{f'+{offset}' * (offset > 0)}"
        fields = [f"{gain}{baseline}{f'/{units}' * (units != '')}", "12", zero, "0", "0", "0", f"lead {lead}"]
        # Without a first value format 8 begins at the zero of the converter; wfdb lets it begin at 0
        shown = draw(st.sampled_from([7, 7, 7, 1, 3])) if fmt != "8" else 7
        lines.append(" ".join([line, *fields[:shown]]))
        sizes[name] = sizes.get(name, 0) + samples
    length = draw(
        st.sampled_from([f" {frames}", f" {frames}", f" {frames} 12:30:00", f" {frames} 12:30:00 24/12/1989"])
    )
    text = "\n".join(
        [f"p1 {number} {draw(st.sampled_from(['125', '360', '999.5', '250/50(3)']))}{length}", *lines, "# a"]
    )
    files = {"p1.hea": text.encode()}
    seed = draw(st.integers(0, 2**16))
    for name, samples in sizes.items():
        content = np.random.default_rng(seed).bytes(
            4 * int(np.ceil(samples * frames * BYTES_OF[fmt] / 4)) + 8
        )
        if fmt == "311":  # three samples of ten bits in four bytes; wfdb takes eleven for the third
            content = (np.frombuffer(content, "<u4") & 0x3FFFFFFF).tobytes()
        files[name] = bytes(offset) + content
    return files


def read_as_wfdb(room):
    "The signals are those that wfdb reads, in millivolts, each sample of a slower lead repeated."
    import wfdb

    whole = read_signals(room / "p1")
    header = read_header(room / "p1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            record = wfdb.rdrecord(str(room / "p1"), smooth_frames=False)
        except Exception:  # what wfdb cannot read is no oracle
            return
    require(
        record.fs * header.finest == header.fs or header.finest == 1,
        f"rate: {header.fs}, by wfdb {record.fs}",
    )
    for lead, theirs in enumerate(record.e_p_signal):
        factor = FACTORS.get(record.units[lead])
        require((header.millivolts[lead] is None) == (factor is None), f"unit: {record.units[lead]}")
        ticks = record.sig_len * header.finest
        expected = theirs[np.arange(ticks) * len(theirs) // ticks] * (factor or 1)
        require(whole.shape[0] == ticks, f"length: {whole.shape[0]}, by wfdb {ticks}")
        same = np.allclose(whole[:, lead], expected, rtol=1e-9, atol=1e-12, equal_nan=True)
        require(same, f"values: of lead {lead}: {whole[:5, lead]}, by wfdb {expected[:5]}")
    part = read_signals(room / "p1", 1, 2 + ticks // 2)
    require(
        np.array_equal(part, whole[1 : 2 + ticks // 2], equal_nan=True),
        "a part is not the same part of the whole",
    )


NOTES = st.lists(
    st.tuples(
        st.integers(-40, 300),
        st.sampled_from("NNV~+++[]|"),
        st.sampled_from(
            [
                "",
                "(N",
                "(AFIB",
                "(N\0",
                "(ü",
                "(",
                "(VT",
                "## time resolution: 250",
                "a, b",
                "\udcff",
                " (N ",
                "(AFIB" * 40,
            ]
        ),
    ),
    max_size=8,
)
REMARKS = (
    "## time resolution: 125",
    "## time resolution: 250.5",
    "## time resolution: 0",
    "## time resolution: -1",
    "## time resolution: nan",
    "## time resolution: 1e300",
    "## time resolution: ",
    "## reviewed twice",
    "## annotation type definitions",
    "42 X Tachycardias",
    "99 N x",
    "1 N normal",
    "42 X",
    "42",
    "-1 Q a",
    "## end of definitions",
    "##",
    "# a",
)


@st.composite
def annotation_files(draw):
    "Words of the format in any order, valid beginnings, and damaged files."
    how = draw(st.integers(0, 3))
    content = b"".join(toy.remark(text) for text in draw(st.lists(st.sampled_from(REMARKS), max_size=4)))
    if how == 0:
        pairs = st.tuples(st.integers(0, 63), st.integers(0, 1023))
        content += b"".join(toy.word(code, value) for code, value in draw(st.lists(pairs, max_size=20)))
    elif how == 1:
        content = draw(st.binary(max_size=60))
    else:
        steps = draw(NOTES)
        clock, notes = 0, []
        for step, symbol, aux in steps:
            clock += step
            notes.append((clock, symbol, aux.encode("utf-8", "surrogateescape")[:255]))
        content += toy.annotations(notes, end=draw(st.booleans()))
        if how == 3:
            content = draw(mutated(content))
    files = {"p1.hea": draw(st.sampled_from(HEADERS[:1] + HEADERS[4:6])).encode(), "p1.atr": content}
    if draw(st.integers(0, 5)) == 0:
        files["p1.qrs"] = draw(mutated(toy.annotations()))
    return files


VOCABULARIES = (
    TOY,
    LEIPZIG,
    MITDB,
    Database(
        "spans",
        "",
        {"a": ("MLII",)},
        {"(N": "n", "(VF": "vf"},
        spans={"[]": "(VF"},
        first_marker="(N",
        symbol_markers={"|": "(N"},
        beats_annotator="qrs",
        unusable_pair="~",
    ),
)


def same_as_decoded(room):
    "Annotations without remarks are those of a decoder of a few lines."
    content = (room / "p1.atr").read_bytes()
    decoded = toy.decode(content)
    symbols = {code: symbol for symbol, code in toy.CODES.items()}
    plain = read_header(room / "p1").finest == 1 and all(
        code in symbols and code != 22 for _, code, _ in decoded
    )
    if not plain or b"##" in content:
        return
    notes = read_annotations(room / "p1", TOY)
    require(
        notes["sample"].tolist() == [sample for sample, _, _ in decoded],
        f"samples: {notes['sample'].tolist()}",
    )
    require(list(notes.symbol) == [symbols[code] for _, code, _ in decoded], f"symbols: {list(notes.symbol)}")
    texts = [aux.split(b"\0")[0].strip() for _, _, aux in decoded]
    require(
        [text.isascii() and text.decode() or None for text in texts]
        == [text if part.isascii() and text else None for text, part in zip(notes.aux, texts, strict=True)],
        f"aux: {texts}",
    )


def read_notes(room):
    "The annotations of a record, and its segments by several vocabularies."
    length = read_header(room / "p1").n_samples
    try:
        same_as_decoded(room)
    except PediatricECGError as error:
        _one_line(error, room)
    for database in VOCABULARIES:
        if database.beats_annotator and not (room / "p1.qrs").is_file():
            continue
        try:
            notes = read_annotations(room / "p1", database)
            require(notes["sample"].dtype == np.int64, f"kind of sample numbers: {notes['sample'].dtype}")
            require(all(isinstance(text, str) for text in notes.aux), "aux is no text")
            require(all(isinstance(text, str) for text in notes.symbol), "a symbol is no text")
            table = segment_frame(notes, length, database, where=str(room / "p1.atr"))
            require((table.end > table.start).all(), "an empty segment")
            require(
                (table.start >= 0).all() and (table.end <= length).all(), "a segment outside of the record"
            )
        except PediatricECGError as error:
            _one_line(error, room)


@st.composite
def record_lists(draw):
    "A list of records and some of them."
    names = st.one_of(
        st.sampled_from(["p1", "p1", "sub/p2", "p1 ", " p1", "p 3", "p1.hea", "pü", "."]), NASTY
    )
    lines = draw(st.lists(names, max_size=5))
    content = draw(st.sampled_from(["\n", "\r\n", "\r", " "])).join(lines)
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "latin-1", "utf-16", "cp1252"]))
    content = content.encode(encoding, "replace")
    if draw(st.booleans()):
        content = draw(mutated(content))
    files = {"RECORDS": content}
    for name in draw(st.sampled_from([["p1"], ["p1", "sub/p2"], ["p1", "p 3", "pü"], []])):
        files |= {
            f"{name}.hea": toy.header(name.split("/")[-1], samples="200").encode(),
            f"{name}.atr": toy.annotations(),
        }
    if draw(st.integers(0, 5)) == 0:
        files["._p1.hea"] = b"\0\5\x16\7"
    return files


def list_records(room):
    "The records of a folder, the annotated ones, and whose they are."
    for path in all_headers(room):
        require(path.resolve().is_relative_to(room.resolve()), f"outside of the folder: {path}")
    record_paths(room, TOY)
    people = subjects(room, TOY)
    require(people.record.is_unique, "a record stands twice in the table of subjects")


TABLE = "record,subject,age,gender\np1,A,7.5,F\np2,A,.14.3,M\np3,B,,\n"
LABELS = "record,symbol,aux_note\np1,+,(N\np1,N,\np1,V,\np2,+,(AFIB\np2,N,\n"
SUMS = "".join(f"{'0123456789abcdef' * 4}  {name}\n" for name in ("p1.hea", "p2.hea", "sub/p9.dat"))
PEOPLE = Database("people", "", {"a": ("MLII",)}, {"(N": "n"}, subject_tables={"people.csv": "all"})


@st.composite
def tables(draw):
    "A table of subjects, and a list of checksums."
    files = {f"p{number}.hea": toy.header(f"p{number}").encode() for number in (1, 2, 3)}
    files["people.csv"] = draw(
        reworded([TABLE, TABLE.replace(",", ";"), TABLE.replace("p1", "p1 ")], r"[\s,;]")
    )
    if draw(st.integers(0, 3)) == 0:
        files["SHA256SUMS.txt"] = draw(reworded([SUMS], r"[\s]"))
    if draw(st.integers(0, 3)) == 0:
        files["labels.csv"] = draw(reworded([LABELS], r"[\s,]"))
    return files


def read_tables(room):
    "Subjects by a table; each record once."
    from pediatric_ecg.data.annotations import read_label_table
    from pediatric_ecg.data.check import check_files
    from pediatric_ecg.data.rhythms import label_segments
    from pediatric_ecg.sim.studies import read_labels

    if (room / "labels.csv").is_file():
        for read in (read_labels, lambda file: label_segments(read_label_table(file), TOY)):
            try:
                read(room / "labels.csv")
            except PediatricECGError as error:
                _one_line(error, room)
    try:
        people = subjects(room, PEOPLE)
        require(people.record.is_unique, "a record stands twice in the table of subjects")
        require(people.age.dtype == np.float64, f"kind of age: {people.age.dtype}")
        require(all(isinstance(name, str) and name for name in people.subject), "a subject without a name")
    except PediatricECGError as error:
        _one_line(error, room)
    check_files(room, PEOPLE)


def _specifications():
    "Specifications that hold, as a user might begin with."
    toy_spec = toy.SPEC | {
        "groupings": {"default": {"(N": "N"}},
        "subject_pattern": r"p(\d)",
        "fs": 125,
        "symbols": [[42, "X", "other"]],
        "fits": {"(N": ["N"]},
        "neutral": ["V"],
        "skip": {"p9": "broken"},
        "spans": {"[]": "(AFIB"},
        "mains": 60,
        "symbol_markers": {"|": "(N"},
        "aliases": {"(NSR": "(N"},
        "notes": ["a note"],
        "size_mb": 1.5,
        "subject_tables": {"people.csv": "all"},
        "subject_columns": {"id": "record"},
        "records": r"p\d",
        "errata": {"flat p1 *": "known"},
        "comment_pattern": r"(?P<age>\d+) (?P<gender>[MF])",
        "beats_annotator": "qrs",
    }
    by_record = toy.SPEC | {
        "label_source": "record",
        "label_pattern": r"^\s*Dx:\s*(.*)$",
        "several_labels": "first",
        "label_separator": ",",
        "markers": {"426783006": "sinus rhythm", "164889003": "atrial fibrillation"},
    }
    return [
        json.dumps(toy_spec),
        json.dumps(by_record),
        json.dumps(toy.SPEC),
        MITDB.to_json(),
        LEIPZIG.to_json(),
    ]


@st.composite
def specifications(draw):
    "A specification and a record for it."
    header = draw(st.sampled_from([HEADERS[0], HEADERS[2], HEADERS[13]]))
    return {
        "database.json": draw(misjudged(_specifications())),
        "p1.hea": header.encode(),
        "p1.atr": toy.annotations(),
        "p1.qrs": toy.annotations(),
        "p1.dat": DATA,
        "people.csv": b"id,age\np1,3\n",
    }


def use_specification(room):
    "A specification is read, written back, and used on one record."
    database = get_database(None, room)
    require(Database.from_json(database.to_json()) == database, "written and read again it is another")
    header = read_header(room / "p1")
    lead_slots(header, database)
    subjects(room, database)
    report = check(room, database, signals=False)
    require(isinstance(report.text(), str), "no text")


def _begin(folder):
    "A store and a run that were begun and interrupted."
    toy.database(folder / "db", patients=2)
    finish, StoreWriter.finish = StoreWriter.finish, _interrupted
    try:
        prepare(folder / "db", folder / "store", n_jobs=1, progress=False)
    except InterruptedError:
        pass
    finally:
        StoreWriter.finish = finish
    toy.write(
        folder / "run.partial",
        {"settings.json": {"seconds": 2.0, "quick": True}, "folds.json": {"folds": {}}},
    )


def _interrupted(*arguments):
    raise InterruptedError


@lru_cache
def _template(kind):
    "The files of a small store, of a run folder, or of a network, by name."
    from made_up_run import made_up_run

    from pediatric_ecg.nn import RhythmNet, RhythmNetConfig

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if kind == "store":
            toy.database(folder / "in", patients=2)
            prepare(folder / "in", folder / "out", n_jobs=1, progress=False)
        elif kind == "run":
            made_up_run(folder / "out")
        elif kind == "partial":
            _begin(folder / "out")
        else:
            model = RhythmNet(RhythmNetConfig({"lead1": 1, "lead2": 1}, 2))
            extra = {
                "classes": ["N", "AFIB"],
                "seconds": 2.0,
                "fs": 250.0,
                "temperature": 1.0,
                "preprocess": Preprocess().to_dict(),
                "database": toy.SPEC,
                "train": {},
                "modalities": {},
            }
            extra["pool"] = dict.fromkeys(("network", "forest", "simulated"), 0.5)
            model.save(folder / "out", extra)
            model.save(folder / "out" / "simulated", {"classes": ["N", "AFIB"]})
            _small_forest().save(folder / "out" / "forest.safetensors")
            toy.database(folder / "out" / "db", patients=1)
        files = [path for path in sorted((folder / "out").rglob("*")) if path.is_file()]
        return {path.relative_to(folder / "out").as_posix(): path.read_bytes() for path in files}


def _small_forest():
    "One tree with two leaves, for two classes."
    from pediatric_ecg.evaluate.pool import Forest

    return Forest(
        roots=np.zeros(1, np.int32),
        below=np.array([[1, 2], [1, 1], [2, 2]], np.int32),
        feature=np.zeros(3, np.int32),
        threshold=np.array([0.5, 0.0, 0.0]),
        absent=np.zeros(3, np.int8),
        leaf=np.float32([[0, 0], [1, 0], [0, 1]]),
        columns=np.array([3], np.int32),
    )


@st.composite
def damaged(draw, kind, choices):
    "One file of a folder that an earlier command wrote, damaged; the other files are `_template`'s."
    name = draw(st.sampled_from([name for name in _template(kind) if re.fullmatch(choices, name)]))
    content = _template(kind)[name]
    if name.endswith(".json"):
        content = draw(misjudged([content.decode()]))
    elif name.endswith(".csv") and draw(st.booleans()):
        text = "\n".join(content.decode().split("\n")[:30])
        content = draw(reworded([text], "[\n,]"))
    else:
        content = draw(mutated(content, head=draw(st.sampled_from([16, 200, 2000]))))
    if draw(st.integers(0, 30)) == 0:
        content = b""
    return {name: content}


def open_store(room):
    "A store is opened, its windows are read, its specification too."
    store = WindowStore(room)
    require(len(store) == len(store.table) == len(store.labels), "lengths differ")
    if len(store):
        x, present = store.batch([0, len(store) - 1])
        for modality, leads in store.modalities.items():
            require(x[modality].shape == (2, len(leads), store.length), f"shape: {x[modality].shape}")
            require(
                present[modality].shape == (2, len(leads)), f"shape of the mask: {present[modality].shape}"
            )
    require(bool(repr(store)), "no words for the store")
    require(store.database.name is not None, "no name")


def open_run(room):
    "A run folder is opened, all that it holds is read, and now and then the page is written anew."
    from pediatric_ecg.experiments import RunFolder, evaluate_run
    from pediatric_ecg.report import build_report, text_table

    run = RunFolder.open(room)
    parts = [
        run.metrics,
        run.manifest,
        run.predictions,
        run.config,
        run.similarity,
        run.history,
        run.examples,
    ]
    require(len(parts) == 7 and isinstance(run.classes, list) and isinstance(run.splits, list), "no lists")
    text_table(run.metrics)
    size = sum(path.stat().st_size for path in room.iterdir())
    if size % 16 == 0:
        evaluate_run(room)
    elif size % 32 == 1:
        build_report(room)


def load_network(room):
    "A network is loaded with the other members of its run, and they name the rhythms of a record where they can."
    from pediatric_ecg.annotate import annotate
    from pediatric_ecg.evaluate.pool import Ensemble

    Ensemble.load(room)
    if (room / "config.json").stat().st_size % 4 == 0:
        annotate(room, room / "db" / "p1", room / "out")


def go_on(room):
    "An interrupted store and an interrupted run are continued."
    from pediatric_ecg.experiments.run_folder import unfinished_run

    try:
        with unfinished_run(room / "run", {"seconds": 2.0, "quick": True}):
            pass
    except PediatricECGError as error:
        _one_line(error, room)
    (room / "store.partial" / "parts" / "00001.json").unlink(missing_ok=True)
    store = prepare(room / "db", room / "store", n_jobs=1, progress=False)
    require(len(store) == 18, f"windows: {len(store)}")


@lru_cache
def _edf():
    "A small file with annotations in EDF+."
    import edfio

    signals = [
        edfio.EdfSignal(
            toy.pulses(500, 1)[:, 0] / 1000,
            125,
            label="MLII",
            physical_dimension="mV",
            physical_range=(-4, 4),
        ),
        edfio.EdfSignal(
            toy.pulses(1000, 1)[:, 0] / 1.0,
            250,
            label="V1",
            physical_dimension="uV",
            physical_range=(-4000, 4000),
        ),
    ]
    notes = [edfio.EdfAnnotation(0, None, "(N"), edfio.EdfAnnotation(1.5, 2, "(AFIB")]
    with tempfile.TemporaryDirectory() as folder:
        edfio.Edf(signals, annotations=notes).write(Path(folder) / "p1.edf")
        return (Path(folder) / "p1.edf").read_bytes()


@st.composite
def edf_files(draw):
    "An EDF+ file; mostly its header is damaged, whose fields are texts of known width."
    content = bytearray(_edf())
    if draw(st.booleans()):
        return {
            "p1.edf": draw(mutated(bytes(content), head=draw(st.sampled_from([256, 1100, len(content)]))))
        }
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.sampled_from([0, 8, 88, 168, 176, 184, 192, 236, 244, 252, *range(256, 1024, 8)]))
        words = draw(NASTY).encode("ascii", "replace")[:8].ljust(8)
        content[at : at + 8] = words
    return {"p1.edf": bytes(content)}


def read_edf(room):
    "The header, signals and annotations of a file in EDF+."
    database = Database("e", "", {"a": ("MLII",)}, {"(N": "n", "(AFIB": "f"}, annotator="edf+")
    read_record(room)
    notes = read_annotations(room / "p1", database)
    segment_frame(notes, read_header(room / "p1").n_samples, database, where=str(room / "p1.edf"))


@st.composite
def folders(draw):
    "A small database with one or two files damaged."
    files = {}
    for number in (1, 2):
        files |= toy.record(f"p{number}", number, [(5, "+", "(N"), (300, "+", "(AFIB"), (320, "N", "")], 600)
    files = {name: part.encode() if isinstance(part, str) else bytes(part) for name, part in files.items()}
    files["database.json"] = json.dumps(
        toy.SPEC | {"subject_tables": {"people.csv": "all"}} if draw(st.booleans()) else toy.SPEC
    ).encode()
    if b"people" in files["database.json"]:
        files["people.csv"] = TABLE.encode()
    for name in draw(
        st.lists(
            st.sampled_from(["p1.hea", "p1.atr", "p1.dat", "people.csv", "RECORDS"]), min_size=1, max_size=2
        )
    ):
        if name == "p1.hea":
            files[name] = draw(reworded([files[name].decode("utf-8", "replace"), HEADERS[5]]))
        elif name == "p1.atr":
            files[name] = draw(annotation_files())[name]
        elif name == "p1.dat":
            files[name] = draw(mutated(files[name], head=3000))
        elif name == "people.csv" and name in files:
            files[name] = draw(reworded([TABLE], r"[\s,]"))
        elif name == "RECORDS":
            files[name] = draw(record_lists())[name]
    return {f"db/{name}": content for name, content in files.items()}


def check_and_prepare(room):
    "What the check accepts is prepared, and what it refuses is not."
    report = None
    try:
        report = check(room / "db")
    except PediatricECGError as error:
        _one_line(error, room)
    try:
        store = prepare(room / "db", room / "store", n_jobs=1, progress=False)
    except PediatricECGError as error:
        _one_line(error, room)
        require(report is None or not report.ok, f"check says ok, prepare refuses: {str(error)[:200]}")
        return
    require(report is not None, "check refuses, prepare does not")
    require(report.ok, f"check finds an error, prepare none: {report.text()[-300:]}")
    for array in store.arrays.values():
        require(np.isfinite(np.asarray(array, np.float32)).all(), "a stored window holds no number")


@dataclass(frozen=True)
class Target:
    "A kind of file: how to draw cases, and what is done with them."

    cases: st.SearchStrategy  # name of a file → its bytes
    call: Callable  # of the folder
    share: int  # of the cases of the longer form, in thousands
    template: str = ""  # files that lie under those of the case
    seconds: float = SECONDS  # that a case may take


TARGETS = {
    "headers": Target(header_files(), read_record, 6),
    "signals": Target(signal_files(), read_as_wfdb, 2),
    "annotations": Target(annotation_files(), read_notes, 4),
    "records": Target(record_lists(), list_records, 2),
    "tables": Target(tables(), read_tables, 2),
    "specifications": Target(specifications(), use_specification, 3),
    "stores": Target(st.deferred(lambda: damaged("store", ".*")), open_store, 2, "store"),
    "runs": Target(
        st.deferred(lambda: damaged("run", ".*")), open_run, 1, "run", 30
    ),  # a page takes some seconds
    "unfinished": Target(
        st.deferred(lambda: damaged("partial", "store.partial.*0.*|.*parameters.json|run.partial.*")),
        go_on,
        1,
        "partial",
    ),
    "networks": Target(
        st.deferred(lambda: damaged("network", "config.json|model.*|forest.*|simulated/.*")), load_network, 1, "network"
    ),
    "edf": Target(st.deferred(edf_files), read_edf, 1),
    "folders": Target(folders(), check_and_prepare, 1),
}


def try_case(name, case, where):
    "One case in a folder of its own inside of `where`, which is removed again. Raises `Fault`."
    target = TARGETS[name]
    # A path of its own: what was read is remembered by path, time and size
    parent = Path(tempfile.mkdtemp(dir=where))
    try:
        files = {**(_template(target.template) if target.template else {})}
        for file, content in case.items():
            files[file] = content(files[file]) if callable(content) else content
        room = toy.write(parent / "room", files)
        (parent / "outside.hea").write_text("outside 1 125 10\n")
        attempt(target.call, room, target.seconds)
        beside = sorted(path.name for path in parent.iterdir())
        require(beside == ["outside.hea", "room"], f"made beside the folder: {beside}")
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def warm_up():
    "Load what is loaded late, so that no case pays for it."
    import matplotlib

    matplotlib.use("agg")
    with tempfile.TemporaryDirectory() as folder:
        for name, target in TARGETS.items():
            if target.template:
                # Not watched: libraries make folders of their own when they are loaded
                target.call(toy.write(Path(folder) / name, _template(target.template)))


def with_json(**changes):
    "A function that changes values of a JSON file; what becomes None goes."

    def change(content):
        value = {**json.loads(content), **changes}
        return json.dumps({key: part for key, part in value.items() if part is not None}).encode()

    return change


def with_model(**changes):
    "A function that changes the model in the settings of a network."

    def change(content):
        value = json.loads(content)
        return json.dumps({**value, "model": {**value["model"], **changes}}).encode()

    return change


def replaced(old, new):
    "A function that exchanges bytes."
    return lambda content: content.replace(old, new)


def _records(content):
    return {"RECORDS": content, "p1.hea": HEADERS[0].encode(), "p1.atr": toy.annotations()}


def _notes(content):
    return {"p1.hea": HEADERS[0].encode(), "p1.atr": content}


def _specification(content):
    if isinstance(content, dict):
        content = json.dumps(toy.SPEC | content).encode()
    return {
        "database.json": content,
        "p1.hea": HEADERS[0].encode(),
        "p1.atr": toy.annotations(),
        "p1.dat": DATA,
    }


def _small_database(**changed):
    files = {"database.json": json.dumps(toy.SPEC).encode()}
    for number in (1, 2):
        files |= toy.record(f"p{number}", number, [(5, "+", "(N"), (300, "+", "(AFIB")], 600)
    files |= {name.replace("_", "."): content for name, content in changed.items()}
    return {
        f"db/{name}": part.encode() if isinstance(part, str) else bytes(part) for name, part in files.items()
    }


DEEP = b"[" * 100_000
PEOPLE_OF = {"p1.hea": toy.header().encode(), "p2.hea": toy.header("p2").encode()}

# What the fuzzer found once: name of the target and the files of the case, or what is done with those of the template
FOUND = [
    ("headers", {"p1.hea": b"\xef\xbb\xbfp1 2 125 200"}),
    ("headers", {"p1.hea": b"p1 1 125 100\np1.dat 16 1000/mV 16 0 0 0 0 " + b"9" * 5000, "p1.dat": DATA}),
    ("records", _records(b"\xff1")),
    ("records", _records(b"p1\n" + b"x" * 300)),
    ("records", _records(b"p1\n" + b"9" * 5000)),
    ("tables", PEOPLE_OF | {"people.csv": b"record;subject;age;\np1;A;7.5;F\n# Dx: 1,2\np2;A\n"}),
    (
        "tables",
        PEOPLE_OF | {"people.csv": b"record,subject,age,gender\np1 ,A,7.5,F\np2,B,,V\np2,A,.14.3,M\n,,\n"},
    ),
    ("tables", PEOPLE_OF | {"people.csv": b"record,subject\np1,\np2,A\n"}),
    ("tables", PEOPLE_OF | {"people.csv": b"record," + b"#" * 5000 + b"\np1,\n"}),
    ("tables", PEOPLE_OF | {"people.csv": TABLE.encode(), "SHA256SUMS.txt": SUMS.encode() + b"\xfc\n"}),
    ("annotations", _notes(toy.remark("## time resolution: \x03") + toy.annotations([(0, "+", "(N")]))),
    ("annotations", _notes(b"\x17|)\xc7\x98\xb3C\xc8\0\0")),
    ("specifications", _specification({"modalities": {"lead2": [None]}})),
    ("specifications", _specification({"markers": "\ufeff"})),
    ("specifications", _specification({"fits": {"(N": [["N"]]}})),
    ("specifications", _specification({"subject_tables": 3})),
    ("specifications", _specification({"9" * 5000: 3})),
    ("specifications", _specification(DEEP)),
    ("stores", {"lead1.npy": b""}),
    ("stores", {"lead1.npy": replaced(b"}", b" ")}),
    ("stores", {"windows.csv": replaced(b"\n1,", b"\n1,1,1,1,1,1,1,")}),
    ("stores", {"windows.csv": replaced(b"p1", b"\x90")}),
    ("stores", {"windows.csv": replaced(b"present_lead2", b"p1_1")}),
    ("stores", {"manifest.json": with_json(modalities={"lead1": 4.3e15, "lead2": ["V1"]})}),
    ("stores", {"manifest.json": with_json(classes=[True, "AFIB"])}),
    ("stores", {"manifest.json": with_json(seconds=None)}),
    ("stores", {"manifest.json": with_json(parameters={"database": False})}),
    ("stores", {"manifest.json": DEEP}),
    ("runs", {"config.json": with_json(classes=["N", "/A", ["a", 1], 3])}),
    ("runs", {"history.csv": replaced(b"target", b"tar\x03et")}),
    ("runs", {"similarity.json": b'{"a":' * 100_000}),
    ("runs", {"predictions.csv": replaced(b"\npatient,", b"\nother,")}),
    ("stores", {"lead1.npy": replaced(b"NUMPY\x01\x00v\x00", b"NUMPY\x02\x00v\x00ff")}),
    ("unfinished", {"store.partial/parts/00000.csv": b"r"}),
    ("unfinished", {"store.partial/parts/00000.csv": b""}),
    ("unfinished", {"store.partial/parts/00000.json": replaced(b'"(N": {', b'"524": {')}),
    ("unfinished", {"store.partial/parts/00000.json": replaced(b"19.9", b'"19.9"')}),
    ("unfinished", {"store.partial/parts/00000.lead1": b"\0"}),
    ("unfinished", {"store.partial/parameters.json": DEEP}),
    ("unfinished", {"run.partial/settings.json": DEEP}),
    ("annotations", _notes(b"^\xfd^\xfd")),
    ("headers", {"p1.hea": b"p1 1 125 100\np1.dat 16 1/" + b"9" * 5000 + b" 16 0 0 0 0 V1", "p1.dat": DATA}),
    ("networks", {"config.json": DEEP}),
    ("networks", {"config.json": with_json(seconds=None)}),
    ("networks", {"config.json": with_json(classes=["N"])}),
    ("networks", {"config.json": with_model(ff=10**12)}),
    ("networks", {"config.json": with_model(widths=[64, 10**6])}),
    ("networks", {"config.json": with_json(preprocess={"fs": 250.0, "band": [0.5, 1e12]})}),
    ("folders", _small_database(p1_atr=toy.annotations([(5, "+", "(N"), (2628, "N", "")]))),
    ("folders", _small_database(p1_atr=b"", p2_atr=toy.annotations([(500, "+", "(N")]))),
    ("folders", _small_database(RECORDS=b"\xff1")),
    ("records", _records(b"p1 16x0 p 3 \x1b[31m sub/p2" + b"9" * 5000)),
    ("records", _records(b"p1\n" + b"x/" * 3000)),
    ("tables", PEOPLE_OF | {"people.csv": b"9" * 5000 + b",subject\np1,A\n"}),
    ("runs", {"metrics.json": replaced(b'"f1": ', b'"f1_": ')}),
    ("runs", {"metrics.json": replaced(b'"f1": 0', b'"f1": null, "f1_": 0')}),
    ("unfinished", {"store.partial/parts/00000.json": replaced(b'{"segments": ', b'{"nan": ')}),
    ("unfinished", {"store.partial/parts/00000.json": replaced(b'"shorter": 0', b'"shorter": []')}),
    ("unfinished", {"store.partial/parts/00000.json": replaced(b'"windows without a usable lead"', b'"a"')}),
]


# ── The longer form ───────────────────────────────────────────────────────────────────────────────────────────────


def run_long(name, cases, number, where):
    "Try many cases of a target. Returns how many, the seconds, and the shortest case of each fault by its place."
    tried, faults, slowest = 0, {}, 0.0

    @seed(number)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(TARGETS[name].cases)
    def search(case):
        nonlocal tried, slowest
        tried += 1
        start = time.perf_counter()
        faulthandler.dump_traceback_later(600, exit=True)
        try:
            try_case(name, case, where)
        except Fault as fault:
            size = sum(map(len, case.values()))
            count, shortest, text, least = faults.get(fault.place, (0, case, str(fault), size))
            if size <= least:
                shortest, text, least = case, str(fault), size
            faults[fault.place] = (count + 1, shortest, text, least)
        slowest = max(slowest, time.perf_counter() - start)

    start = time.perf_counter()
    search()
    faulthandler.cancel_dump_traceback_later()
    return tried, time.perf_counter() - start, slowest, faults


def main():
    "The longer form; exit code 1 if a case ended otherwise than it must."
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=21_000, help="in all, shared out over the targets")
    parser.add_argument("--seed", type=int, default=0, help="other cases with each")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one; may be repeated")
    arguments = parser.parse_args()
    names = arguments.target or list(TARGETS)
    shares = sum(TARGETS[name].share for name in names)
    warm_up()
    total, found = Counter(), {}
    with tempfile.TemporaryDirectory() as where:
        for name in names:
            cases = -(-arguments.cases * TARGETS[name].share // shares)
            tried, seconds, slowest, faults = run_long(name, cases, arguments.seed, where)
            total.update(cases=tried, faults=len(faults))
            found[name] = faults
            print(
                f"{name:16}{tried:7,} cases {seconds:7.1f} s, slowest {slowest:5.2f} s, {len(faults)} faults",
                flush=True,
            )
    print(f"{'in all':16}{total['cases']:7,} cases, {total['faults']} faults")
    for name, faults in found.items():
        for place, (count, case, text, _) in faults.items():
            base = TARGETS[name].template
            print(f"\n{name}, {count} times, {place}\n  {text}")
            for file, part in case.items():
                if (not base or part != _template(base).get(file)) and not file.endswith(
                    ("p1.dat", "p1.qrs")
                ):
                    print(f"    {file}: {part[:400]!r}{'…' * (len(part) > 400)}")
    return 1 if total["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
