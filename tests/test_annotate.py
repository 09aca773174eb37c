"""Annotating: the same signals as in training, segments that tile the record, a file others can read, flat memory."""
import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb
from edfio import read_edf
from hypothesis import given, settings
from hypothesis import strategies as st

from pediatric_ecg import cli
from pediatric_ecg.annotate import (
    NONE,
    RESEARCH,
    annotate,
    annotate_all,
    is_record,
    read_config,
    records_of,
    refuse,
    smooth_rhythms,
    to_segments,
    window_at,
    windows_of,
)
from pediatric_ecg.core import DataError, digest, shared, wfdb_quiet
from pediatric_ecg.data import LEIPZIG, read_header, read_signals
from pediatric_ecg.data.headers import lead_slots, record_paths
from pediatric_ecg.experiments import RunFolder
from pediatric_ecg.experiments.run_folder import Manifest
from pediatric_ecg.nn import RhythmNet, RhythmNetConfig
from pediatric_ecg.nn.rhythmnet import pretrained_folder
from pediatric_ecg.windows import Preprocess

CLASSES = ["N", "/A", "/V", "AVRT", "AVNRT"]
PRE = Preprocess()
MITDB_FOLDER = (shared() or Path("absent")) / "mitdb"


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
    assert sorted(f.suffix for f in (tmp_path / "out").iterdir()) == [".csv", ".edf", ".png", ".rhy"]
    with wfdb_quiet():
        back = wfdb.rdann(str(tmp_path / "out" / record.name), "rhy")
    named = found.segments[found.segments.rhythm != ""]
    assert [a.rstrip("\0") for a, s in zip(back.aux_note, back.symbol) if s == "+"] == [f"({r}" for r in named.rhythm]
    fs = read_header(record).fs
    assert [x for x, s in zip(back.sample, back.symbol) if s == "+"] == [round(s * fs) for s in named.start_s]
    table = pd.read_csv(tmp_path / "out" / f"{record.name}.csv", keep_default_na=False)
    assert list(table.columns) == [
        "start_s", "end_s", "rhythm", "probability", "second_best", "second_probability",
        "precision", "precision_low", "precision_high", "network"]
    assert table.network.str.endswith(RESEARCH).all()
    assert RESEARCH in back.aux_note[back.symbol.index('"')]
    viewed = read_edf(tmp_path / "out" / f"{record.name}.rhythms.edf").annotations
    spans = [(note.onset, note.duration) for note in viewed if note.duration is not None]
    np.testing.assert_allclose(spans, np.stack([named.start_s, named.end_s - named.start_s], 1), atol=1e-4)
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
    few = annotate(run, write(tmp_path / "b", signals[:, :2], ["I", "II"]), tmp_path / "out")
    lacking = "17 of the 19 leads of the network are not in this record"
    assert any(lacking in note for note in few.notes) and not any("of the network" in note for note in found.notes)


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
        (run, other, "none of its leads (ABP) is known to"),
        (tmp_path, record, "config.json"),
    ]
    for folder, path, words in cases:
        with pytest.raises(ValueError, match=re.escape(words)):
            annotate(folder, path, tmp_path / "out")
        assert cli.main(["annotate", str(folder), str(path), "--out", str(tmp_path / "out")]) == 2
        out, err = capfd.readouterr()
        assert out == "" and err.count("\n") == 1 and words in err
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True
    (tmp_path / "file").write_text("dear diary")
    wrong = [
        ([run, record, "--out", tmp_path / "file"], "is a file"),
        ([run, record, "--out", tmp_path / "file" / "below"], "is a file"),
        ([run, "--out", tmp_path / "out"], "is a run"),
        ([run, record, "--network", "ecg-2", "--out", tmp_path / "out"], "--network")]
    wrong += [([run, record, "--out", tmp_path / "out", *option], option[0]) for option in (
        ("--dwell", "0"), ("--dwell", "nan"), ("--threshold", "2"), ("--threshold", "nan"), ("--stride", "3"))]
    for arguments, words in wrong:
        assert cli.main(["annotate", *map(str, arguments)]) == 2
        out, err = capfd.readouterr()
        assert out == "" and err.count("\n") == 1 and words in err, (arguments, err)
    assert not (tmp_path / "out").exists() and (tmp_path / "file").read_text() == "dear diary"


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
    assert written == [f"{name}{end}" for end in (".csv", ".png", ".rhy", ".rhythms.edf")]
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


def with_answers(run, folder, sure=0.9, right=1.0, **manifest):
    "A run with random weights and with answers about unseen patients, of which a share was right at one probability."
    shutil.copytree(run, folder)
    rng = np.random.default_rng(0)
    truth = np.repeat(CLASSES, 40)
    is_right = rng.random(len(truth)) < right
    prediction = np.where(is_right, truth, np.where(truth == CLASSES[0], CLASSES[1], CLASSES[0]))
    answers = pd.DataFrame({
        "split": "patient", "repeat": 0, "fold": "f", "window": np.arange(len(truth)), "record": "r9",
        "subject": [f"s{number % 5}" for number in range(len(truth))], "start": 0, "end": 1, "truth": truth,
        "prediction": prediction})
    rest = (1 - sure) / (len(CLASSES) - 1)
    for label in CLASSES:
        answers[f"p_{label}"] = np.where(prediction == label, sure, rest)
    figures = {"precision": 0.25, "recall": 0.5, "f1": 0.4, "f2": 0.4, "windows": 40, "patients": 5,
               "ci95": {"precision": [0.1, 0.6]}}
    scored = {"top1": 0.7, **{f"macro_{name}": 0.5 for name in ("precision", "recall", "f1", "f2")},
              "per_class": {label: figures for label in CLASSES}}
    cohort = [{"label": label, "windows": 40, "patients": 5} for label in [*CLASSES, "VFL"]]
    content = {"cohort": cohort, **manifest}
    RunFolder(folder).write(
        metrics={"patient": scored, "random": scored | {"top1": 0.97}}, predictions=answers,
        manifest=Manifest.from_dict(content))
    return folder


def test_what_a_network_is_stands_in_every_file(run, simdb, tmp_path):
    "How often a name was right, a quick run, simulated hearts, another version, and what it can never answer."
    record = record_paths(simdb, LEIPZIG)[0]
    known = with_answers(run, tmp_path / "known", quick=True, simulated=True, versions={"pediatric_ecg": "0.0.1"})
    found = annotate(known, record, tmp_path / "out")
    named = found.segments[~found.segments.rhythm.isin(["", NONE])]
    assert (named.precision == 0.25).all() and (named.precision_high == 0.6).all()
    text = str(found)
    for words in ("a quick run", "simulated hearts only", "version 0.0.1", "can never answer: VFL", "25 % (10–60)"):
        assert words in text, words
    table = pd.read_csv(found.path.with_suffix(".csv"), keep_default_na=False)
    comments = read_edf(tmp_path / "out" / f"{record.name}.rhythms.edf").annotations
    with wfdb_quiet():
        back = wfdb.rdann(str(tmp_path / "out" / record.name), "rhy")
    for words in ("a quick run", "simulated hearts only", RESEARCH):
        assert words in table.network[0]
        assert any(words in note.text for note in comments)
        assert any(words in aux for aux in back.aux_note)


@pytest.mark.parametrize("right, refuses", [(0.95, False), (0.2, True)])
def test_no_name_is_given_where_answers_are_mostly_wrong(run, simdb, tmp_path, right, refuses):
    "Random weights are never sure: whether they are asked at all depends on the answers on file."
    record = record_paths(simdb, LEIPZIG)[0]
    known = with_answers(run, tmp_path / "known", right=right)
    found = annotate(known, record, tmp_path / "out")
    assert (found.segments.rhythm == NONE).all() == refuses
    if refuses:
        assert found.segments.probability.isna().all() and found.segments.second_best.isin(CLASSES).all()
        assert NONE in str(found) and "cross-validated answers about 5 patients" in str(found)
    always = annotate(known, record, tmp_path / "always", threshold=0.0).segments
    pd.testing.assert_frame_equal(
        always.iloc[:, :6], annotate(run, record, tmp_path / "bare").segments.iloc[:, :6])
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(DataError, match="--threshold"):
            annotate(known, record, tmp_path / "out", threshold=threshold)


def test_a_learnt_record_is_known_again(run, simdb, tmp_path):
    "By the checksum of its signals, also under another name; a stranger of the same name by its name."
    record = record_paths(simdb, LEIPZIG)[0]
    known = with_answers(run, tmp_path / "known")
    manifest = json.loads((known / "manifest.json").read_text())
    assert "was in the training" not in str(annotate(known, record, tmp_path / "out"))
    answers = pd.read_csv(known / "predictions.csv")
    answers.assign(record=record.name).to_csv(known / "predictions.csv", index=False)
    assert f"a record called {record.name} was in the training" in str(annotate(known, record, tmp_path / "out"))
    files = {file.name: digest(file) for file in simdb.glob(f"{record.name}.*")}
    (known / "store").mkdir()
    store = {"format": 1, "parameters": {}, "records": [{"record": record.name, "sources": files}]}
    (known / "store" / "manifest.json").write_text(json.dumps(store))
    for file in simdb.glob(f"{record.name}.*"):
        content = file.read_bytes()
        if file.suffix == ".hea":
            content = content.replace(record.name.encode(), b"copied")
        (tmp_path / f"copied{file.suffix}").write_bytes(content)
    for path in (record, tmp_path / "copied"):
        found = annotate(known, path, tmp_path / "out")
        assert f"in the training, as {record.name}" in str(found) and "97 %" in str(found) and "70 %" in str(found)
    assert manifest == json.loads((known / "manifest.json").read_text())


def test_a_reference_beside_the_record_is_compared(run, simdb, tmp_path):
    record = record_paths(simdb, LEIPZIG)[0]
    text = str(annotate(run, record, tmp_path / "out"))
    assert "named as in the reference beside the record" in text
    (tmp_path / "db").mkdir()
    for file in simdb.glob(f"{record.name}.*"):
        shutil.copy(file, tmp_path / "db")
    (tmp_path / "db" / f"{record.name}.atr").write_bytes(b"no annotation")
    copied = tmp_path / "db" / record.name
    assert "reference annotation .atr is not shown" in str(annotate(run, copied, tmp_path / "out"))
    (tmp_path / "db" / f"{record.name}.atr").unlink()
    assert not any("reference" in note for note in annotate(run, copied, tmp_path / "out").notes)


def test_several_records_and_folders(run, simdb, tmp_path, capfd):
    "Each record as if it were alone; all are checked before the first is read."
    paths = record_paths(simdb, LEIPZIG)[:2]
    folder = tmp_path / "db"
    folder.mkdir()
    for path in paths:
        for file in simdb.glob(f"{path.name}.*"):
            shutil.copy(file, folder)
    alone = [annotate(run, path, tmp_path / "alone").segments for path in paths]
    for places in ([folder], [folder / f"{paths[0].name}.hea", folder / f"{paths[1].name}.dat"]):
        for expected, found in zip(alone, annotate_all(run, places, tmp_path / "out"), strict=True):
            pd.testing.assert_frame_equal(expected, found.segments)
    assert cli.main(["annotate", str(run), str(folder), "--out", str(tmp_path / "cli"), "--dwell", "3"]) == 0
    out, _ = capfd.readouterr()
    assert out.count("times real time") == 2 and out.count("and nothing else") == 1
    assert len(list((tmp_path / "cli").glob("*.rhythms.edf"))) == 2
    short = write(tmp_path / "short", np.random.default_rng(0).normal(size=(500, 2)), ["I", "II"])
    assert cli.main(["annotate", str(run), str(folder), str(short), "--out", str(tmp_path / "none")]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and "shorter than one window" in err and not (tmp_path / "none").exists()
    twin = write(tmp_path / "twin", np.zeros((5000, 2)), ["I", "II"], name=paths[0].name)
    with pytest.raises(DataError, match="the same name"):
        records_of([folder, twin])
    assert is_record(folder) and is_record(paths[0]) and not is_record(run) and not is_record(tmp_path / "none")


def test_none_of_these_needs_a_stretch():
    "One unsure window keeps its neighbours' name; a segment that is unsure throughout gets none."
    p = np.tile([0.94, 0.04, 0.02], (60, 1))
    p[10] = 1 / 3
    p[20:50] = [0.1, 0.55, 0.35]
    path, _ = smooth_rhythms(p, 1.0, 2.0)
    path[55:] = -1
    found = refuse(path, p, 0.7)
    assert (found[:20] == 0).all() and (found[20:50] == 3).all() and (found[55:] == -1).all()
    assert (refuse(path, p, 0.0) == path).all() and (refuse(path, p, 1.0)[:55] == 3).all()


@pytest.mark.parametrize("block", [7.0, 11.0, 1000.0])
def test_windows_do_not_depend_on_the_block(simdb, block):
    record = record_paths(simdb, LEIPZIG)[0]
    whole = list(windows_of(record, LEIPZIG, PRE, 2.0, 1.0))
    pieces = list(windows_of(record, LEIPZIG, PRE, 2.0, 1.0, block_seconds=block))
    for name in LEIPZIG.modalities:
        one, other = (np.concatenate([signals[name] for signals, _ in blocks]) for blocks in (whole, pieces))
        np.testing.assert_allclose(one, other, atol=1e-6)
        signals, present = window_at(record, LEIPZIG, PRE, 2.0, 3.0)
        np.testing.assert_allclose(signals[name], one[3], atol=1e-6)


@pytest.mark.parametrize("block", [7.0, 1000.0])
def test_files_do_not_depend_on_the_block(run, simdb, tmp_path, monkeypatch, block):
    "The annotation is equal byte by byte, and so are the spans; a probability may round otherwise."
    record = record_paths(simdb, LEIPZIG)[0]
    annotate(run, record, tmp_path / "whole")
    monkeypatch.setattr("pediatric_ecg.annotate.windows_of", partial(windows_of, block_seconds=block))
    annotate(run, record, tmp_path / "pieces")
    folders = [tmp_path / "whole", tmp_path / "pieces"]
    one, other = (next(folder.glob("*.rhy")).read_bytes() for folder in folders)
    assert one == other
    one, other = (pd.read_csv(next(folder.glob("*.csv"))) for folder in folders)
    pd.testing.assert_frame_equal(one, other, rtol=0, atol=2e-4)


def test_noise_alone_is_unusable_time(run, simdb, tmp_path):
    "Half a record of white noise gets no rhythm; all of it is one line, and nothing is written."
    record = record_paths(simdb, LEIPZIG)[0]
    signals, names = read_signals(record)[: 40 * 977, :3], read_header(record).leads[:3]
    noise = np.random.default_rng(0).normal(0, 0.1, signals.shape)
    half = np.where(np.arange(len(signals))[:, None] < 20 * 977, signals, noise)
    found = annotate(run, write(tmp_path / "a", half, names), tmp_path / "out").segments
    silent = (found.end_s - found.start_s)[found.rhythm == ""]
    assert abs(silent.sum() - 20) <= 1.5 and found.rhythm.iloc[0] != ""
    one_lead = np.c_[noise[:, :2], signals[:, 2]]
    found = annotate(run, write(tmp_path / "b", one_lead, names), tmp_path / "out").segments
    assert (found.rhythm != "").all(), "one lead with beats keeps a window"
    with pytest.raises(DataError, match="nothing but noise"):
        annotate(run, write(tmp_path / "c", noise, names), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_record_without_signal_does_not_keep_the_others_from_their_names(run, simdb, tmp_path, capfd):
    "The flat one lies in the middle: the others are annotated, and one line says what is missing."
    record = record_paths(simdb, LEIPZIG)[0]
    signals, names = read_signals(record)[: 10 * 977, :2], read_header(record).leads[:2]
    for name, part in (("r1", signals), ("r2", 0 * signals), ("r3", signals)):
        write(tmp_path / "db", part, names, name=name)
    assert cli.main(["annotate", str(run), str(tmp_path / "db"), "--out", str(tmp_path / "out")]) == 2
    out, err = capfd.readouterr()
    assert err.startswith("pediatric-ecg: error: 1 of 3 records were left out, the others are annotated")
    assert "r2" in err
    assert err.count("\n") == 1 and "knows 5 rhythms" in out
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.rhy")) == ["r1", "r3"]


@pytest.mark.skipif(not (MITDB_FOLDER / "207.dat").exists(), reason="needs the recordings of mitdb")
@pytest.mark.parametrize("name", ["106", "112", "203", "207", "208", "209", "232"])
def test_no_window_of_a_patient_is_taken_for_noise(name, monkeypatch):
    "Records with noisy leads, slow rhythms and ventricular flutter; in all 48 records none is lost of 34,608 windows."
    config = read_config(pretrained_folder("ecg-2"))
    arguments = (MITDB_FOLDER / name, config["database"], config["preprocess"], 5.0, 2.5)

    def held():
        "How many windows have a lead that is shown."
        return sum(sum(present.values()).any(1).sum() for _, present in windows_of(*arguments))

    found = held()
    monkeypatch.setattr("pediatric_ecg.annotate.only_noise", lambda y, fs: np.zeros(y.shape[:-1], bool))
    assert found == held()


def test_a_threshold_of_the_user_comes_from_nowhere_else(run, simdb, tmp_path):
    "The note tells whose threshold it was."
    record = record_paths(simdb, LEIPZIG)[0]
    answered = with_answers(run, tmp_path / "run", sure=0.99, right=0.2)
    own = " ".join(annotate(answered, record, tmp_path / "a").notes)
    given = " ".join(annotate(answered, record, tmp_path / "b", threshold=1.0).notes)
    assert "chosen on cross-validated answers" in own
    assert f"{NONE}: segments whose mean probability is below 1.00" in given and "chosen on" not in given


def test_a_slow_recording_is_said(run, tmp_path):
    "Another rate is resampled; what it cannot hold is a note."
    rng = np.random.default_rng(0)
    slow = write(tmp_path / "a", rng.normal(size=(3000, 2)), ["I", "II"], fs=60)
    assert "recorded at 60 Hz: it holds nothing above 30 Hz" in str(annotate(run, slow, tmp_path / "out"))


def test_a_changed_model_file_is_one_line(run, simdb, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(run, changed)
    weights = bytearray((changed / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (changed / "model.safetensors").write_bytes(bytes(weights))
    with pytest.raises(DataError, match="its checksum is not the one in config.json"):
        annotate(changed, record_paths(simdb, LEIPZIG)[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()
