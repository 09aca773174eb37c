"""Annotating: the same signals as in training, segments that tile the record, a file others can read, flat memory."""
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from pediatric_ecg import cli
from pediatric_ecg.annotate import annotate, smooth_rhythms, to_segments, windows_of
from pediatric_ecg.core import DataError, wfdb_quiet
from pediatric_ecg.data import LEIPZIG, read_header, read_signals
from pediatric_ecg.data.headers import lead_slots, record_paths
from pediatric_ecg.nn import RhythmNet, RhythmNetConfig
from pediatric_ecg.windows import Preprocess

CLASSES = ["N", "/A", "/V", "AVRT", "AVNRT"]
PRE = Preprocess()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run folder with random weights: it knows nothing, which is all these tests need."
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("run")
    leads = {modality: list(names) for modality, names in LEIPZIG.modalities.items()}
    model = RhythmNet(RhythmNetConfig(modalities=leads, n_classes=len(CLASSES), seconds=2.0))
    extra = {"classes": CLASSES, "seconds": 2.0, "preprocess": PRE.to_dict(), "database": json.loads(LEIPZIG.to_json())}
    model.save(folder, extra)
    return folder


def write(folder, signals, names, name="r1", fs=977):
    "A WFDB record without annotations."
    folder.mkdir(parents=True, exist_ok=True)
    with wfdb_quiet():
        n = len(names)
        wfdb.wrsamp(name, fs=fs, units=["mV"] * n, sig_name=names, p_signal=signals, fmt=["24"] * n,
                    adc_gain=[2000] * n, baseline=[0] * n, write_dir=str(folder))
    return folder / name


def test_windows_equal_those_of_the_store(simdb, simstore):
    "The network sees in annotate what it saw in training, to the store's float16."
    table = simstore.table
    record = table.record.iloc[0]
    mine = table[(table.record == record) & (table.start % (2 * 977) == 0)]
    x, present = zip(*windows_of(simdb / record, LEIPZIG, PRE, simstore.seconds, 1.0, block_seconds=11.0))
    for row in mine.itertuples():
        k = round(row.start / 977)
        stored, there = simstore.batch([row.Index])
        for m in stored:
            ours = np.concatenate([b[m] for b in x])[k]
            assert (np.concatenate([p[m] for p in present])[k] == there[m][0]).all()
            np.testing.assert_allclose(ours, stored[m][0], atol=1e-3, rtol=1e-3)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(2, 6), st.integers(0, 2**31), st.booleans())
def test_segments_tile_the_record(steps, classes, seed, gaps):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.3), steps)
    if gaps:
        p[rng.random(steps) < 0.3] = np.nan
    path, post = smooth_rhythms(p, 1.0, 2.0)
    np.testing.assert_allclose(post.sum(1), 1, atol=1e-9)
    total = steps + 1.0
    t = to_segments(np.where(np.isnan(p[:, 0]), -1, path), post, [f"c{i}" for i in range(classes)], 1.0, 2.0, total)
    assert t.start_s.iloc[0] == 0 and t.end_s.iloc[-1] == total
    assert (t.start_s.to_numpy()[1:] == t.end_s.to_numpy()[:-1]).all() and (t.end_s > t.start_s).all()
    assert (t.rhythm.to_numpy()[1:] != t.rhythm.to_numpy()[:-1]).all()
    named = t[t.rhythm != ""]
    assert named.probability.between(0, 1).all() and (named.rhythm != named.second_best).all()
    assert (t.rhythm == "").any() == np.isnan(p[:, 0]).any()


@pytest.mark.parametrize("smoothed", [True, False])
def test_files_hold_what_was_found(run, simdb, tmp_path, smoothed):
    record = record_paths(simdb, LEIPZIG)[1]
    before = {f.name: f.stat().st_mtime_ns for f in simdb.iterdir()}
    found = annotate(run, record, tmp_path / "out", smooth=smoothed)
    assert sorted(f.suffix for f in (tmp_path / "out").iterdir()) == [".csv", ".png", ".rhy"]
    with wfdb_quiet():
        back = wfdb.rdann(str(tmp_path / "out" / record.name), "rhy")
    named = found.segments[found.segments.rhythm != ""]
    assert [a.rstrip("\0") for a, s in zip(back.aux_note, back.symbol) if s == "+"] == [f"({r}" for r in named.rhythm]
    fs = read_header(record).fs
    assert [x for x, s in zip(back.sample, back.symbol) if s == "+"] == [round(s * fs) for s in named.start_s]
    table = pd.read_csv(tmp_path / "out" / f"{record.name}.csv", keep_default_na=False)
    assert list(table.columns) == ["start_s", "end_s", "rhythm", "probability", "second_best", "second_probability"]
    assert table.rhythm.tolist() == found.segments.rhythm.tolist()
    assert any("simulated" in n for n in found.notes)
    assert {f.name: f.stat().st_mtime_ns for f in simdb.iterdir()} == before, "the database is only read"


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_a_temperature_changes_confidence_not_the_answer_of_a_window(run, simdb, tmp_path, temperature):
    "Each window for itself: same segments, other probabilities. A run folder without the key counts as T = 1."
    record = record_paths(simdb, LEIPZIG)[0]
    tempered = tmp_path / "run"
    shutil.copytree(run, tempered)
    config = json.loads((run / "config.json").read_text())
    assert "temperature" not in config
    (tempered / "config.json").write_text(json.dumps(config | {"temperature": temperature}))
    as_given, other = (annotate(r, record, tmp_path / "out", smooth=False).segments for r in (run, tempered))
    names = ["start_s", "end_s", "rhythm"]
    pd.testing.assert_frame_equal(other[names], as_given[names])
    assert ((other.probability > as_given.probability) == (temperature < 1)).all()
    smoothed = [annotate(r, record, tmp_path / "out").segments for r in (run, tempered)]
    one, two = smoothed
    assert one.start_s.tolist() != two.start_s.tolist() or not np.allclose(one.probability, two.probability)


def test_leads_in_another_order_and_missing(run, simdb, tmp_path):
    "Channels are chosen by name; what is missing is masked and said."
    record = record_paths(simdb, LEIPZIG)[0]
    header = read_header(record)
    slots = lead_slots(header, LEIPZIG)
    keep = [c for m in LEIPZIG.modalities for c in slots[m] if c is not None and header.leads[c] not in ("V6", "RVA12")]
    signals = read_signals(record)
    names = [header.leads[c] for c in keep]
    a = annotate(run, write(tmp_path / "a", signals[:, keep], names), tmp_path / "out_a")
    b = annotate(run, write(tmp_path / "b", signals[:, keep[::-1]], names[::-1]), tmp_path / "out_b")
    pd.testing.assert_frame_equal(a.segments, b.segments, rtol=1e-5)
    assert any("V6" in n for n in a.notes) and any("RVA12" in n for n in a.notes)


def test_only_surface_leads(run, simdb, tmp_path):
    record = record_paths(simdb, LEIPZIG)[0]
    signals = read_signals(record)[:, :12]
    found = annotate(run, write(tmp_path / "a", signals, list(LEIPZIG.modalities["ecg"])), tmp_path / "out")
    assert any(n.startswith("iegm: no lead") for n in found.notes) and (found.segments.rhythm != "").all()


def test_a_dead_stretch_becomes_unusable(run, tmp_path):
    "Flat on all leads for 20 s: no rhythm there, and a pair of '~' in the file."
    fs, t = 977, np.arange(60 * 977) / 977
    x = np.sin(2 * np.pi * 1.3 * t)[:, None] ** 15 * np.linspace(0.5, 1, 12)
    x[20 * fs : 40 * fs] = 0
    found = annotate(run, write(tmp_path / "a", x, list(LEIPZIG.modalities["ecg"])), tmp_path / "out")
    dead = found.segments[found.segments.rhythm == ""]
    assert len(dead) == 1 and dead.probability.isna().all()
    assert abs(dead.start_s.iloc[0] - 20) <= 1.5 and abs(dead.end_s.iloc[0] - 40) <= 1.5
    with wfdb_quiet():
        back = wfdb.rdann(str(tmp_path / "out" / "r1"), "rhy")
    assert back.symbol.count("~") == 2
    assert back.symbol[back.symbol.index("~") + 2] == "+", "a rhythm begins where the signal is back"


def test_bad_input_is_one_clear_line(run, simdb, tmp_path, capfd):
    record = record_paths(simdb, LEIPZIG)[0]
    flat = write(tmp_path / "flat", np.zeros((5000, 2)), ["I", "II"])
    short = write(tmp_path / "short", np.random.default_rng(0).normal(size=(500, 2)), ["I", "II"])
    other = write(tmp_path / "other", np.random.default_rng(0).normal(size=(5000, 1)), ["ABP"])
    cases = [
        (run, tmp_path / "none", "none.hea"),
        (run, flat, "no lead carries a signal"),
        (run, short, "shorter than one window"),
        (run, other, "ABP"),
        (tmp_path, record, "config.json"),
    ]
    for folder, path, words in cases:
        with pytest.raises(ValueError, match=words):
            annotate(folder, path, tmp_path / "out")
        assert cli.main(["annotate", str(folder), str(path), "--out", str(tmp_path / "out")]) == 2
        out, err = capfd.readouterr()
        assert out == "" and err.count("\n") == 1 and words in err
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


@pytest.mark.parametrize("stride", [0.0001, 2.5, -1])
def test_a_stride_that_skips_is_refused(run, simdb, tmp_path, stride):
    with pytest.raises(DataError, match="stride"):
        annotate(run, record_paths(simdb, LEIPZIG)[0], tmp_path / "out", stride=stride)


def test_memory_does_not_grow_with_the_record(simdb):
    "The largest block is the same however long the record is."
    record = record_paths(simdb, LEIPZIG)[0]
    sizes = {}
    for seconds in (10.0, 20.0):
        blocks = windows_of(record, LEIPZIG, PRE, 2.0, 1.0, block_seconds=seconds)
        sizes[seconds] = max(sum(v.nbytes for v in signals.values()) for signals, _ in blocks)
    assert sizes[20.0] == 2 * sizes[10.0]


@pytest.mark.parametrize("name", ["a, b", "été 1", "rec.1", "数据"])
def test_names_of_all_kinds(run, simdb, tmp_path, name):
    "The outputs are called as the record, in whatever folder."
    record = record_paths(simdb, LEIPZIG)[0]
    signals, names = read_signals(record)[:20000, :2], read_header(record).leads[:2]
    path = write(tmp_path / "a folder, ä", signals, names)
    for file in list(path.parent.iterdir()):
        content = file.read_bytes()
        if file.suffix == ".hea":
            content = content.replace(b"r1", name.encode())
        (file.parent / f"{name}{file.suffix}").write_bytes(content)
        file.unlink()
    for ending in ("", ".hea", ".dat"):
        found = annotate(run, path.parent / f"{name}{ending}", tmp_path / "out, ö")
        assert found.path == tmp_path / "out, ö" / f"{name}.rhy"
    written = sorted(file.name for file in found.path.parent.iterdir())
    assert written == [f"{name}{end}" for end in (".csv", ".png", ".rhy")]
    assert all(str(file).startswith(str(found.path.with_suffix(""))) for file in found.path.parent.iterdir())


@pytest.mark.parametrize("option", [{"stride": 0}, {"stride": float("nan")}, {"dwell": 0}, {"dwell": float("nan")},
                                    {"dwell": -1.0}])
def test_options_that_say_nothing_are_refused(run, simdb, tmp_path, option):
    with pytest.raises(DataError, match="--stride|--dwell"):
        annotate(run, record_paths(simdb, LEIPZIG)[0], tmp_path / "out", **option)


def test_a_gap_is_unusable_time(run, simdb, tmp_path):
    "A null segment between two others: no rhythm there, and none of its windows is shown to the network."
    record = record_paths(simdb, LEIPZIG)[0]
    signals, names = read_signals(record)[: 40 * 977, :3], read_header(record).leads[:3]
    write(tmp_path / "a", signals[: 15 * 977], names, "p1")
    write(tmp_path / "a", signals[25 * 977 :], names, "p2")
    lines = [f"m/3 3 977 {40 * 977}", f"p1 {15 * 977}", f"~ {10 * 977}", f"p2 {15 * 977}"]
    (tmp_path / "a/m.hea").write_text("\n".join(lines) + "\n")
    found = annotate(run, tmp_path / "a/m", tmp_path / "out").segments
    dead = found[found.rhythm == ""]
    assert len(dead) == 1 and abs(dead.start_s.iloc[0] - 15) <= 1.5 and abs(dead.end_s.iloc[0] - 25) <= 1.5
