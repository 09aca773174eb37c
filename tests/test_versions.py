"""What an earlier version wrote, this one reads, goes on from, and comes to the same figures (fixtures/make.py)."""
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pediatric_ecg.experiments import RunFolder, evaluate_run, train_store
from pediatric_ecg.nn import RhythmNet
from pediatric_ecg.report import build_report
from pediatric_ecg.windows import WindowStore

FIXTURES = Path(__file__).with_name("fixtures")
VERSIONS = sorted(folder.name for folder in FIXTURES.iterdir() if (folder / "store").is_dir())

# How far another machine may be from these files. On the one that made them every bit is the same.
SAMPLES_MV = 5e-3  # of the windows, which are kept in half precision
PROBABILITY = 0.02  # of an answer
FIGURE = 0.05  # of a macro figure: one answer of about twenty may change
WEIGHT = 0.01


def load_make():
    "The script that makes fixtures."
    spec = importlib.util.spec_from_file_location("make_fixtures", FIXTURES / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = load_make()


@pytest.fixture(params=VERSIONS)
def fixture(request, tmp_path):
    "A copy of the files of one version."
    return shutil.copytree(FIXTURES / request.param, tmp_path / "fixture")


def test_there_is_a_fixture_and_it_is_small():
    assert VERSIONS
    for version in VERSIONS:
        files = [file for file in (FIXTURES / version).rglob("*") if file.is_file()]
        assert sum(file.stat().st_size for file in files) < 300_000, version
        for file in files:
            assert b"/tmp/" not in file.read_bytes(), f"{file}: a path of one machine"


def test_every_part_is_read(fixture):
    "Store, tables, figures, weights and members; figures computed anew are those that were written."
    store, run = WindowStore(fixture / "store"), RunFolder.open(fixture / "run")
    signals, present = store.batch(np.arange(len(store)))
    assert np.isfinite(signals["ecg"]).all() and present["ecg"].any(1).all()
    written = json.loads((fixture / "run" / "metrics.json").read_text())
    assert run.manifest.protocol == make.PROTOCOL and run.manifest.simulated
    assert len(run.history) and len(run.floors) and len(run.examples["truth"])
    network = RhythmNet.load(fixture / "run")
    with torch.no_grad():
        logits = network({name: torch.from_numpy(part) for name, part in signals.items()}).logits
    assert logits.shape == (len(store), len(run.config["classes"])) and logits.isfinite().all()
    assert {file.stem for file in (fixture / "run").glob("*.safetensors")} >= {"model", "forest", "regression"}
    metrics = evaluate_run(fixture / "run")
    for split in written:
        assert metrics[split]["macro_f1"] == pytest.approx(written[split]["macro_f1"], abs=1e-12)
        assert metrics[split]["ci95"]["top1"] == pytest.approx(written[split]["ci95"]["top1"], abs=1e-9)


def test_a_report_can_be_written(fixture):
    page = build_report(fixture / "run").read_text()
    assert "simulated" in page and "How it was made" in page


def test_a_training_goes_on(fixture, tmp_path):
    "From the epoch at which the earlier version stopped, to the weights of a training that did not stop."
    store = WindowStore(fixture / "store")
    went_on = make.goes_on(store, fixture / "run", fixture / make.TRAINING)
    whole = make.goes_on(store, fixture / "run", tmp_path / "whole")
    assert went_on.history.epoch.tolist() == whole.history.epoch.tolist() == list(range(make.CONFIG.epochs))
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(went_on.model.state_dict()[name], tensor, rtol=0, atol=WEIGHT)


def test_golden_store(fixture, tmp_path):
    "The simulator and the preparation give the windows of the fixture."
    store, golden = make.make_store(tmp_path), WindowStore(fixture / "store")
    columns = ["record", "subject", "start", "end", "rhythm", "label"]
    pd.testing.assert_frame_equal(store.table[columns], golden.table[columns])
    rows = np.arange(len(golden))
    (signals, present), (of_golden, present_in_golden) = store.batch(rows), golden.batch(rows)
    assert (present["ecg"] == present_in_golden["ecg"]).all()
    np.testing.assert_allclose(signals["ecg"], of_golden["ecg"], atol=SAMPLES_MV)


def test_golden_run(fixture, tmp_path, monkeypatch):
    "Folds, members and figures of a run on the store of the fixture."
    for name in ("forest", "boosting"):
        monkeypatch.setitem(make.floors.MODELS, name, make.floors.MODELS[name])
    make.small_models()
    train_store(fixture / "store", tmp_path / "run", make.CONFIG, make.PROTOCOL, n_jobs=1, progress=False)
    run, golden = RunFolder.open(tmp_path / "run"), RunFolder.open(fixture / "run")
    assert run.manifest.folds_hash == golden.manifest.folds_hash
    keys = ["split", "window", "record", "subject", "truth"]
    assert run.predictions[keys].equals(golden.predictions[keys])
    for column in golden.predictions:
        if column.startswith("p_"):
            np.testing.assert_allclose(run.predictions[column], golden.predictions[column], atol=PROBABILITY)
    for split, figures in golden.metrics.items():
        for name in ("top1", "macro_f1"):
            assert run.metrics[split][name] == pytest.approx(figures[name], abs=FIGURE), (split, name)
