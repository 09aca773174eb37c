"""The main job end to end, through the command line, on simulated and on real signals."""
import json
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from sklearn.metrics import accuracy_score, fbeta_score, precision_score, recall_score

from pediatric_ecg import cli
from pediatric_ecg.core import DataError, wfdb_quiet
from pediatric_ecg.experiments import Protocol, RunFolder, evaluate_run, run, train_store
from pediatric_ecg.experiments.run import QUICK
from pediatric_ecg.train import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
TINY = TrainConfig(epochs=1, per_group=4, batch_size=8, model={"widths": (16, 16), "heads": 2, "depth": 1})
FAST = {"config": TINY, "protocol": Protocol(folds=2), "n_jobs": 1, "progress": False}
FILES = {
    "metrics.json", "predictions.csv", "floors.csv", "model.safetensors", "config.json", "manifest.json", "report.html",
    "model_card.md"}


def command(*args):
    "Runs the command line as a user would; returns exit code, stdout, stderr."
    words = [Path(sys.executable).with_name("pediatric-ecg"), *map(str, args)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def recomputed(part, labels):
    "The five figures by scikit-learn alone."
    both = part.truth, part.prediction
    macro = dict(labels=labels, average="macro", zero_division=0)
    return {
        "top1": accuracy_score(*both),
        "macro_precision": precision_score(*both, **macro),
        "macro_recall": recall_score(*both, **macro),
        "macro_f1": fbeta_score(*both, beta=1, **macro),
        "macro_f2": fbeta_score(*both, beta=2, **macro),
    }


def check_run(run, simulated):
    "A run folder says what it should, and its metrics are those of its predictions."
    assert FILES <= {p.name for p in run.iterdir()}
    metrics, manifest = (json.loads((run / n).read_text()) for n in ("metrics.json", "manifest.json"))
    predictions = pd.read_csv(run / "predictions.csv", dtype={"truth": str, "prediction": str, "subject": str})
    title = re.search("<h1>(.*?)</h1>", (run / "report.html").read_text(), re.S)[1].lower()
    assert manifest["simulated"] is simulated and ("simulated" in title) is simulated
    for split in ("random", "patient"):
        m, part = metrics[split], predictions[predictions.split == split]
        scored = [c for c, v in m["per_class"].items() if v != "not evaluable"]
        assert set(part.truth) <= set(scored) and len(scored) == m["n_classes"]
        for key, value in recomputed(part, scored).items():
            assert m[key] == pytest.approx(value, abs=1e-12), (split, key)
            low, high = m["ci95"][key]
            assert 0 <= low <= high <= 1
        for c in scored:
            assert m["per_class"][c]["windows"] == (part.truth == c).sum()
            assert m["per_class"][c]["patients"] == part.subject[part.truth == c].nunique()
        assert not part.duplicated(["repeat", "window"]).any(), "each window is predicted once a repeat"
        p = part[[f"p_{c}" for c in scored]].to_numpy()
        assert np.allclose(p.sum(1), 1, atol=1e-4)
    folds = predictions[predictions.split == "patient"].groupby("subject").fold.nunique()
    assert (folds == 1).all(), "no patient is tested in two folds of one repeat"
    return metrics


def test_simulated(simdb, tmp_path, call):
    run_folder = tmp_path / "run"
    code, out, err = command("run", simdb, "--out", run_folder, "--quick", "--epochs", 2, "--jobs", 1)
    assert code == 0, err
    assert str(run_folder / "report.html") in out
    check_run(run_folder, simulated=True)
    before = (run_folder / "metrics.json").read_bytes()
    code, out, _ = call("evaluate", run_folder, "--json")
    assert code == 0 and json.loads(out) == json.loads(before)
    assert (run_folder / "metrics.json").read_bytes() == before
    code, _, err = call("run", simdb, "--out", run_folder, "--quick")
    assert code == 2 and "exists already" in err and (run_folder / "metrics.json").read_bytes() == before


def excerpt(source, name, dest, start, stop):
    "Samples [start, stop) of a record as a record of its own, with the rhythm in force at its start."
    with wfdb_quiet():
        record = wfdb.rdrecord(str(source / name), sampfrom=start, sampto=stop)
        marks = wfdb.rdann(str(source / name), "atr")
        sample, symbol, note = marks.sample, np.array(marks.symbol), np.array(marks.aux_note)
        wfdb.wrsamp(name, fs=record.fs, units=record.units, sig_name=record.sig_name, p_signal=record.p_signal,
                    fmt=["16"] * record.n_sig, write_dir=str(dest))
        before = [n for s, n in zip(sample, note, strict=True) if n.startswith("(") and s <= max(start, sample[0])]
        keep = (sample > start) & (sample < stop) & (sample > sample[0])
        wfdb.wrann(name, "atr", np.r_[0, sample[keep] - start], symbol=["+", *symbol[keep]],
                   aux_note=[before[-1], *note[keep]], write_dir=str(dest))


def test_excerpts_of_mitdb(shared, tmp_path, call):
    (tmp_path / "db").mkdir()
    minutes = {"203": (0, 5), "210": (0, 5), "219": (0, 10), "222": (5, 20)}  # sinus rhythm and atrial fibrillation
    for name, (start, stop) in minutes.items():
        excerpt(shared / "mitdb", name, tmp_path / "db", 360 * 60 * start, 360 * 60 * stop)
    small = ["--epochs", 1, "--set", "model.widths=[16, 16]", "--set", "model.depth=1"]
    code, _, err = call("run", tmp_path / "db", "--out", tmp_path / "run", "--quick", "--jobs", 1, *small)
    assert code == 0, err
    metrics = check_run(tmp_path / "run", simulated=False)
    assert metrics["patient"]["n_patients"] == 4
    page = (tmp_path / "run" / "report.html").read_text()
    assert "electrograms" in page, "the two leads are no electrograms, and the report says so"


def test_two_patients_suffice(shared, small_floors, tmp_path):
    (tmp_path / "db").mkdir()
    for name in ("219", "222"):
        excerpt(shared / "mitdb", name, tmp_path / "db", 360 * 300, 360 * 1200)
    words = ["run", str(tmp_path / "db"), "--out", str(tmp_path / "run"), "--quick", "--jobs", "1"]
    assert cli.main(words) == 0
    check_run(tmp_path / "run", simulated=False)


@pytest.fixture(scope="module")
def one_record(simdb, tmp_path_factory):
    "Copies of one simulated record, to be spoilt."
    def make():
        folder = tmp_path_factory.mktemp("spoilt")
        for ext in ("hea", "dat", "atr"):
            (folder / f"x001.{ext}").write_bytes((simdb / f"x001.{ext}").read_bytes())
        return folder
    return make


def short_signal(folder):
    data = (folder / "x001.dat").read_bytes()
    (folder / "x001.dat").write_bytes(data[: len(data) // 2])
    return "x001.dat"


def unknown_marker(folder):
    with wfdb_quiet():
        wfdb.wrann("x001", "atr", np.array([10, 500]), symbol=["+", "+"], aux_note=["(N", "(XYZ"], fs=977,
                   write_dir=str(folder))
    return "(XYZ"


def no_annotations(folder):
    (folder / "x001.atr").unlink()
    return "atr"


def nothing_there(folder):
    for f in folder.iterdir():
        f.unlink()
    return str(folder)


@pytest.mark.parametrize("spoil", [short_signal, unknown_marker, no_annotations, nothing_there])
def test_bad_input_is_one_line(one_record, tmp_path, call, spoil):
    folder = one_record()
    named = spoil(folder)
    code, _, err = call("run", folder, "--out", tmp_path / "run", "--quick")
    assert code == 2 and len(err.strip().splitlines()) == 1 and named in err, err
    assert not (tmp_path / "run").exists()


def test_unknown_database_and_foreign_folder(simdb, tmp_path, call):
    code, _, err = call("run", simdb, "--out", tmp_path / "run", "--database", "nosuch", "--quick")
    assert code == 2 and "nosuch" in err and len(err.strip().splitlines()) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    code, _, err = call("run", simdb, "--out", tmp_path / "mine", "--quick")
    assert code == 2 and str(tmp_path / "mine") in err
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_an_interrupted_run_continues(simdb, tmp_path, monkeypatch):
    module = import_module("pediatric_ecg.experiments.run")
    calls, whole = [], module.run_fold

    def dies_at_third(*args, **more):
        calls.append(args[1].name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*args, **more)

    monkeypatch.setattr(module, "run_fold", dies_at_third)
    with pytest.raises(KeyboardInterrupt):
        run(simdb, tmp_path / "run", **FAST)
    assert not (tmp_path / "run").exists() and (tmp_path / "run.partial").exists()
    monkeypatch.setattr(module, "run_fold", whole)
    run(simdb, tmp_path / "run", **FAST)
    run(simdb, tmp_path / "at_once", **FAST)
    for name in ("predictions.csv", "metrics.json", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "at_once" / name).read_bytes(), name


def test_quick_leaves_a_given_configuration_alone(simstore, tmp_path):
    out = train_store(simstore, tmp_path / "run", quick=True, config=TINY, n_jobs=1, progress=False)
    made = RunFolder.open(out)
    assert made.manifest.quick and made.config["train"]["epochs"] == 1 and made.config["train"]["batch_size"] == 8
    assert made.manifest.protocol == Protocol(**QUICK["protocol"])


def test_finish_comes_before_the_name(simstore, tmp_path):
    "A run whose report fails is an unfinished one, and the same call goes on."
    seen = []

    def fails(work):
        seen.append(work)
        assert RunFolder.open(work).metrics and not (tmp_path / "run").exists()
        raise DataError("no report")

    with pytest.raises(DataError, match="no report"):
        train_store(simstore, tmp_path / "run", finish=fails, **FAST)
    assert seen == [tmp_path / "run.partial"] and not (tmp_path / "run").exists()
    assert list((tmp_path / "run.partial" / "folds").glob("final.checkpoint/*"))   # no training is lost
    train_store(simstore, tmp_path / "run", finish=lambda work: (work / "report.html").write_text("a report"), **FAST)
    assert (tmp_path / "run" / "report.html").read_text() == "a report"
    assert not (tmp_path / "run" / "folds").exists()


@pytest.fixture(scope="module")
def finished(simstore, tmp_path_factory):
    return train_store(simstore, tmp_path_factory.mktemp("finished") / "run", **FAST)


def test_what_is_written_is_what_is_read(finished, tmp_path):
    "Reading a run and writing its parts elsewhere gives the same values, and the same manifest to the byte."
    one, two = RunFolder.open(finished), RunFolder(tmp_path / "copy")
    names = ("metrics", "manifest", "predictions", "similarity", "history", "examples")
    two.write(**{name: getattr(one, name) for name in names})
    for name in ("manifest.json", "metrics.json", "predictions.csv", "similarity.json", "examples.npz"):
        assert (tmp_path / "copy" / name).read_bytes() == (finished / name).read_bytes(), name
    pd.testing.assert_frame_equal(two.history, one.history)


def test_the_manifest_has_the_names_that_readers_rely_on(finished):
    manifest = json.loads((finished / "manifest.json").read_text())
    assert list(manifest) == [
        "preprocess", "modalities", "title", "simulated", "quick", "notes", "versions", "git", "machine", "threads",
        "database", "protocol", "audit", "corrections", "seeds", "folds_hash", "store", "elapsed_s", "data_sha256",
        "cohort", "windows", "flow", "subject_notes", "pool"]
    assert list(manifest["cohort"][0]) == ["label", "windows", "patients", "scored"]
    assert list(manifest["windows"]) == ["seconds", "n", "patients", "stride", "label", "grouping"]
    assert list(manifest["database"]) == ["name", "title", "citation", "licence"]


@pytest.mark.parametrize(("name", "content", "words"), [
    ("manifest.json", "{", "not readable as JSON"),
    ("manifest.json", "[1]", "names and values"),
    ("manifest.json", '{"cohort": [{"label": "N"}]}', r"cohort\[0\]\['windows'\] is missing"),
    ("manifest.json", '{"cohort": 5}', "cohort: must be a list, not 5"),
    ("manifest.json", '{"protocol": {"folds": 1}}', "folds must be at least 2"),
    ("manifest.json", None, "missing"),
    ("predictions.csv", "", "not readable as a table"),
    ("predictions.csv", "a,b\n1,2\n", "has no column 'split'"),
    ("predictions.csv", None, "missing")])
def test_a_damaged_run_is_refused_in_one_line(finished, tmp_path, name, content, words):
    shutil.copytree(finished, tmp_path / "run")
    if content is None:
        (tmp_path / "run" / name).unlink()
    else:
        (tmp_path / "run" / name).write_text(content)
    with pytest.raises(DataError, match=words) as error:
        evaluate_run(tmp_path / "run")
    assert name in str(error.value) and "\n" not in str(error.value)


def test_export_in_sync():
    done = subprocess.run([sys.executable, ROOT / ".ci" / "check_sync.py"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
