"""Toy records for tests, written byte by byte: no code of the package makes the input that it is tested with.

The signals are drawn pulses, no heart and no patient.
"""

import json
from pathlib import Path

import numpy as np

# Codes of the MIT annotation format: symbols, and words that are no annotation
CODES = {
    "N": 1,
    "V": 5,
    "A": 8,
    "/": 12,
    "Q": 13,
    "~": 14,
    "|": 16,
    '"': 22,
    "+": 28,
    "!": 31,
    "[": 32,
    "]": 33,
}
SKIP, NUM, SUB, CHN, AUX = 59, 60, 61, 62, 63

SPEC = {
    "name": "toy",
    "title": "Toy database made for tests",
    "modalities": {"lead1": ["MLII"], "lead2": ["V1"]},
    "markers": {"(N": "sinus rhythm", "(AFIB": "atrial fibrillation"},
    "window_seconds": 2,
}
HALVES = (
    (10, "+", "(N"),
    (20, "N", ""),
    (120, "N", ""),
    (1250, "+", "(AFIB"),
    (1300, "N", ""),
    (1390, "N", ""),
)


def word(code, value=0):
    "Two bytes: a code in the upper six bits, a number in the lower ten."
    return (code << 10 | value & 1023).to_bytes(2, "little")


def text(content):
    "The words of an aux text."
    letters = content if isinstance(content, bytes) else content.encode("utf-8")
    return word(AUX, len(letters)) + letters + b"\0" * (len(letters) % 2)


def skip(step):
    "The words of a long step, which may go backwards."
    step %= 1 << 32
    return word(SKIP) + (step >> 16).to_bytes(2, "little") + (step & 0xFFFF).to_bytes(2, "little")


def remark(content):
    "A remark at sample 0, which is how a file says its time resolution."
    return word(CODES['"']) + text(content)


def annotations(notes=HALVES, before=b"", end=True):
    "The bytes of an annotation file: (sample, symbol, aux) in order."
    parts = [before]
    clock = 0
    for sample, symbol, aux in notes:
        step = sample - clock
        if not 0 <= step < 1024:
            parts.append(skip(step))
            step = 0
        parts.append(word(CODES[symbol], step))
        if aux:
            parts.append(text(aux))
        clock = sample
    if end:
        parts.append(word(0))
    return b"".join(parts)


def pulses(samples=2500, leads=2, fs=125, seed=0):
    "Whole numbers that look like beats: (samples, leads), 1000 per mV."
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / fs
    beat = 0.7 + 0.2 * rng.random()
    phase = (time % beat) / beat - 0.4
    columns = []
    for lead in range(leads):
        wave = 900 * np.exp(-((phase / 0.03) ** 2)) * (1 - 0.3 * lead) + 60 * np.sin(2 * np.pi * 0.3 * time)
        columns.append(wave + rng.normal(0, 8, samples))
    return np.rint(np.stack(columns, 1)).astype("<i2")


def header(
    name="p1", fs="125", samples="2500", leads=("MLII", "V1"), gain="1000/mV", file=None, fmt="16", more=""
):
    "The text of a header of one segment; each part may be any text."
    lines = [f"{name} {len(leads)} {fs} {samples}".rstrip()]
    for lead in leads:
        lines.append(f"{file or name + '.dat'} {fmt} {gain} 16 0 0 0 0 {lead}")
    return "\n".join(lines) + "\n" + more


def write(folder, files):
    "Write files by name; text as UTF-8, anything else that is not bytes as JSON. Returns the folder."
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, np.ndarray):
            content = content.astype("<i2").tobytes()
        elif isinstance(content, dict):
            content = json.dumps(content, ensure_ascii=False)
        if isinstance(content, str):
            content = content.encode("utf-8")
        file.write_bytes(content)
    return folder


def record(name="p1", seed=0, notes=HALVES, samples=2500, fs=125, fs_text="", **parts):
    "The three files of a record."
    return {
        f"{name}.hea": header(name, fs_text or str(fs), str(samples), **parts),
        f"{name}.dat": pulses(samples, len(parts.get("leads", "ab")), fs, seed),
        f"{name}.atr": annotations(notes),
    }


def database(folder, *others, spec=None, patients=3):
    "A folder of toy records and their specification, with other files on top. Returns the folder."
    files = {"database.json": {**SPEC, **(spec or {})}}
    for number in range(patients):
        files |= record(f"p{number + 1}", seed=number)
    for other in others:
        files |= other
    return write(folder, {name: content for name, content in files.items() if content is not None})


def decode(content):
    "The annotations of a file as (sample, code, aux), by the description of the format and nothing else."
    rows, clock, at = [], 0, 0
    while at + 2 <= len(content):
        value = int.from_bytes(content[at : at + 2], "little")
        code, number = value >> 10, value & 1023
        at += 2
        if value == 0:
            break
        if code == SKIP:
            high, low = (int.from_bytes(content[i : i + 2], "little") for i in (at, at + 2))
            step = high << 16 | low
            clock += step - (1 << 32) if step >= 1 << 31 else step
            at += 4
        elif code == AUX:
            if rows:
                sample, symbol, _ = rows.pop()
                rows.append((sample, symbol, content[at : at + number]))
            at += number + number % 2
        elif code < SKIP:
            clock += number
            rows.append((clock, code, b""))
    return rows
