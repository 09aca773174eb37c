"""Several members in one run: who is asked, what is kept, and that a record is answered by all of them.

One run on a tiny simulated database, with simulated people, serves most tests; its weights mean nothing."""
import json
import re
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pediatric_ecg import cli
from pediatric_ecg.annotate import annotate, to_segments, windows_of
from pediatric_ecg.core import read_json
from pediatric_ecg.data import get_database, read_header
from pediatric_ecg.evaluate.calibration import temper
from pediatric_ecg.evaluate.floors import ALONE, RUN_FLOORS, WindowFeatures, window_features
from pediatric_ecg.evaluate.pool import LEAST_OPINION, MEMBERS, ON_FEATURES, Ensemble, completed, pool
from pediatric_ecg.experiments import Protocol, RunFolder, evaluate_run, train_store
from pediatric_ecg.experiments.cells import fit_members
from pediatric_ecg.experiments.run import (
    ask_floors,
    floors_to_ask,
    folds_with_people,
    make_folds,
    members_of,
    people_beside,
    scored_labels,
)
from pediatric_ecg.explain import explain
from pediatric_ecg.nn import RhythmNet
from pediatric_ecg.report import build_report
from pediatric_ecg.train import TrainConfig
from pediatric_ecg.windows import Preprocess
from pediatric_ecg.windows.people import with_people

TINY = TrainConfig(
    epochs=1, per_group=4, batch_size=16, loss="ce", pretrain_epochs=1,
    model={"widths": (16, 16), "heads": 2, "depth": 1})
TWO = Protocol(folds=2)
PEOPLE = 16
FAST = {"config": TINY, "protocol": TWO, "n_jobs": 1, "progress": False}
KEPT = {
    "network": 0.5, "forest": 0.7, "regression": 0.2, "forest_simulated": 0.3, "regression_simulated": 0.1,
    "simulated": 0.4}


pytestmark = pytest.mark.usefixtures("small_floors", "unpainted")


@pytest.fixture(scope="module")
def pooled(simstore, small_floors, unpainted, tmp_path_factory):
    "A run with all members."
    out = tmp_path_factory.mktemp("pooled") / "run"
    return train_store(simstore, out, simulated=PEOPLE, finish=build_report, **FAST)


@pytest.fixture(scope="module")
def of_patients(simstore, small_floors, unpainted, tmp_path_factory):
    "A run of patients alone."
    return train_store(simstore, tmp_path_factory.mktemp("patients") / "run", **FAST)


@pytest.fixture
def weighted(pooled, tmp_path):
    "A copy of the run in which every member counts."
    run = shutil.copytree(pooled, tmp_path / "weighted")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"pool": KEPT}))
    return run


def test_every_fold_has_weights(pooled, simstore):
    manifest = RunFolder.open(pooled).manifest
    labels = scored_labels(simstore, TWO)
    folds = make_folds(simstore.table, labels, TWO)
    assert set(manifest.pool) == {*(f"{fold.split}-{fold.name}" for fold in folds), "final"}
    for weights in manifest.pool.values():
        assert list(weights) == list(MEMBERS)
        assert all(0 <= weight <= 2 for weight in weights.values())
    assert read_json(pooled / "config.json", dict, "")["pool"] == manifest.pool["final"]
    assert {path.name for path in pooled.iterdir()} >= {
        *(f"{name}.safetensors" for name in ON_FEATURES), "simulated"}


def test_a_run_of_patients_has_members_of_patients(of_patients):
    manifest = RunFolder.open(of_patients).manifest
    assert all(list(weights) == ["network", "forest", "regression"] for weights in manifest.pool.values())
    assert not (of_patients / "forest_simulated.safetensors").exists()
    assert not (of_patients / "simulated").exists()
    alone = RunFolder.open(of_patients).floors
    assert [name for name in ALONE if name in alone] == ["network"]


def test_predictions_are_those_of_all_members_together(pooled, simstore, tmp_path):
    "A fold is trained again; its members are pooled by hand with the weights of the manifest."
    labels, finished = scored_labels(simstore, TWO), RunFolder.open(pooled)
    training, _ = with_people(simstore, labels, PEOPLE, people_beside(pooled), TWO.seed, n_jobs=1)
    fold = folds_with_people(make_folds(simstore.table, labels, TWO), training.table)[-1]
    members = members_of(pooled, simstore, training, labels, TINY, TWO.seed)
    _, answer, fitted = fit_members(training, fold, labels, TINY, TWO.seed, members, checkpoint=tmp_path / "c")
    weights = finished.manifest.pool[f"{fold.split}-{fold.name}"]
    assert answer.weights == weights
    assert set(fitted.fitted["pool"]) <= set(fold.valid) and set(fitted.fitted["on_features"]) <= set(fold.train)

    opinions = answer.opinions(fold.test)
    product = np.prod([(opinions[name] + LEAST_OPINION) ** weight for name, weight in weights.items()], axis=0)
    by_hand = product / product.sum(1, keepdims=True)
    found = finished.predictions
    found = found[(found.split == fold.split) & (found.fold == fold.name)]
    columns = [f"p_{label}" for label in labels]
    np.testing.assert_allclose(found[columns], by_hand, atol=2e-6)
    assert list(found.prediction) == [labels[number] for number in by_hand.argmax(1)]

    alone = finished.floors
    alone = alone[(alone.split == fold.split) & (alone.fold == fold.name)].set_index("window")
    for name in (*ALONE, "forest", "regression"):
        answers = [labels[number] for number in opinions[name].argmax(1)]
        assert list(alone[name][found["window"]]) == answers, name


def test_members_that_are_floors_are_asked_once(pooled, simstore):
    "The floors of a run are what each of them answers when it is fitted by itself."
    labels = scored_labels(simstore, TWO)
    folds = make_folds(simstore.table, labels, TWO)
    features = WindowFeatures.of(simstore, np.flatnonzero(simstore.table["label"].isin(labels)))
    by_itself = ask_floors(simstore, labels, folds, features, 1)
    keys = ["split", "repeat", "window"]
    found = by_itself[keys].merge(RunFolder.open(pooled).floors, on=keys)
    for name in RUN_FLOORS:
        assert list(found[name]) == list(by_itself[name]), name


def test_a_fold_of_one_rhythm_asks_the_floor():
    "Where a member is missing in one fold, its floor is asked for all."
    answered = pd.DataFrame({"by_network": ["N", "N"], "by_forest": ["N", None], "by_regression": ["N", "N"]})
    assert floors_to_ask(answered) == ("majority", "forest", "boosting")
    assert floors_to_ask(answered.fillna("N")) == ("majority", "boosting")


def test_figures_are_computed_again_from_the_files(pooled, tmp_path):
    run = shutil.copytree(pooled, tmp_path / "run")
    before = (run / "metrics.json").read_bytes()
    (run / "metrics.json").write_text("{}")
    metrics = evaluate_run(run)
    assert (run / "metrics.json").read_bytes() == before
    for figures in metrics.values():
        assert set(figures["floors"]) == {*RUN_FLOORS, *ALONE}
    assert not any(column.startswith("by_") for column in pd.read_csv(run / "predictions.csv"))


def by_hand(run, record):
    "Probabilities of the windows of a record, side by side, from the files of a run alone; and its configuration."
    config = json.loads((run / "config.json").read_text())
    classes, weights = config["classes"], config.get("pool", {"network": 1.0})
    network = RhythmNet.load(run).eval()
    preprocess, seconds = Preprocess.from_dict(config["preprocess"]), config["seconds"]
    blocks = windows_of(record, get_database("leipzig"), preprocess, seconds, seconds)
    probabilities = []
    for signals, present in blocks:
        tensors = [{name: torch.from_numpy(array) for name, array in part.items()} for part in (signals, present)]
        with torch.no_grad():
            opinions = {"network": network(*tensors).logits.softmax(-1).numpy()}
            if "simulated" in weights:
                other = RhythmNet.load(run / "simulated").eval()
                known = json.loads((run / "simulated" / "config.json").read_text())["classes"]
                opinion = other(*tensors).logits.softmax(-1).numpy()
                opinions["simulated"] = completed(opinion, known, classes, opinions["network"])
        features = window_features(signals, present, config["fs"]).astype(np.float16).astype(float)
        for name, kind in ON_FEATURES.items():
            if name in weights:
                opinions[name] = kind.load(run / f"{name}.safetensors", len(classes))(features)
        if list(opinions) == ["network"]:
            probabilities.append(opinions["network"])
        else:
            probabilities.append(pool([opinions[name] for name in weights], [*weights.values()]))
    return np.concatenate(probabilities), config


def check_annotation(run, record, out):
    "What `annotate` writes is what the members say by hand."
    probabilities, config = by_hand(run, record)
    probabilities = temper(probabilities, config["temperature"])
    seconds = read_header(record).seconds
    length = config["seconds"]
    expected = to_segments(probabilities.argmax(1), probabilities, config["classes"], length, length, seconds)
    annotate(run, record, out, stride=length, smooth=False, threshold=0.0)
    written = pd.read_csv(out / f"{Path(record).name}.csv", keep_default_na=False)[list(expected)]
    pd.testing.assert_frame_equal(written, expected.round(4), check_dtype=False, atol=2e-4)


def test_a_record_is_annotated_by_all_members(weighted, simdb, tmp_path):
    check_annotation(weighted, simdb / "x001", tmp_path / "out")


def test_a_run_of_the_former_version(of_patients, simdb, tmp_path, capsys):
    "Without `pool` in its files the network answers alone, and report and figures are made as before."
    run = shutil.copytree(of_patients, tmp_path / "former")
    for name in ("config.json", "manifest.json"):
        content = json.loads((run / name).read_text())
        del content["pool"]
        (run / name).write_text(json.dumps(content))
    for name in ("forest", "regression"):
        (run / f"{name}.safetensors").unlink()
    answers = pd.read_csv(run / "floors.csv")
    answers.drop(columns="network").to_csv(run / "floors.csv", index=False)
    assert Ensemble.load(run).weights == {"network": 1.0}
    check_annotation(run, simdb / "x001", tmp_path / "out")
    assert cli.main(["evaluate", str(run)]) == 0 and cli.main(["report", str(run)]) == 0
    assert "members alone" not in capsys.readouterr().out
    page = (run / "report.html").read_text()
    assert "Member alone" not in page and "The answer is pooled" not in page


def test_the_report_says_who_answers(pooled, capsys):
    manifest = RunFolder.open(pooled).manifest
    for name in ("report.html", "model_card.md"):
        text = re.sub(r"\s+", " ", (pooled / name).read_text().replace("\u00a0", " "))
        assert "The answer is pooled from several members" in text, name
        for member, weight in manifest.pool["final"].items():
            folds = [weights[member] for fold, weights in manifest.pool.items() if fold.startswith("patient")]
            assert f"{MEMBERS[member]} {weight:.2f} ({min(folds):.2f}–{max(folds):.2f})" in text, member
        assert "Member" in text and "run − member" in text and "network − floor" not in text
    page = (pooled / "report.html").read_text()
    for title in ALONE.values():
        assert f'<th scope="row">{title}</th>' in page
    assert cli.main(["evaluate", str(pooled)]) == 0
    printed = capsys.readouterr().out
    assert "Macro F1 of members alone" in printed and max(map(len, printed.splitlines()[:-1])) <= 80
    assert "regression_simulated.safetensors, simulated/ and config.json" in (pooled / "model_card.md").read_text()
    assert "in members of their own or beside the real ones" in page


def test_an_explanation_names_the_other_members(weighted, simstore):
    signals, present = simstore.batch([0])
    window = [{name: array[0] for name, array in part.items()} for part in (signals, present)]
    ensemble = Ensemble.load(weighted)
    explanation = explain(ensemble, *window, steps=4)
    assert "its weight is 0.50, beside the random forest 0.70" in explanation.others[0]
    answer = ensemble(signals, present)[0].argmax()
    assert explanation.others[0].endswith("So most of what decides is not explained here.")
    assert (len(explanation.others) == 2) == (answer != explanation.target)
    alone = replace(ensemble, weights={"network": 1.0}, on_features={}, simulated=None, known=())
    assert explain(alone, *window, steps=4).others == explain(ensemble.network, *window, steps=4).others == ()


@pytest.mark.parametrize("name", [
    "forest.safetensors", "regression_simulated.safetensors", "simulated/model.safetensors", "simulated/config.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
def test_a_damaged_member_is_one_line(weighted, simdb, tmp_path, capsys, name, damage):
    file = weighted / name
    content = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(content[:len(content) // 2])
    if damage == "changed":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    code = cli.main(["annotate", str(weighted), str(simdb / "x001"), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and file.name in error
    assert not (tmp_path / "out").exists()


class Killed(BaseException):
    "Stands for a signal that ends the process."


def test_killed_and_continued(pooled, simstore, tmp_path, monkeypatch):
    "Wherever a run is killed, the same call goes on, and its files are those of the run that was not."
    out = tmp_path / "run"
    shutil.copytree(people_beside(pooled), people_beside(out))

    def kill(*args, **kwargs):
        raise Killed

    places = ("fit_on_people", "predict", "ask_floors", "calibrate", "member_file")
    for place in places:
        with monkeypatch.context() as patch:
            patch.setattr(import_module("pediatric_ecg.experiments.run"), place, kill)
            with pytest.raises(Killed):
                train_store(simstore, out, simulated=PEOPLE, **FAST)
        assert not out.exists()
    train_store(simstore, out, simulated=PEOPLE, **FAST)
    names = {path.relative_to(pooled) for path in pooled.rglob("*") if path.is_file()}
    names -= {Path("report.html"), Path("model_card.md")}
    assert names == {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    # these hold the time that the run took, and where its simulated people are kept
    for name in names - {Path("manifest.json"), Path("folds.json"), Path("history.csv")}:
        assert (pooled / name).read_bytes() == (out / name).read_bytes(), name
    assert RunFolder.open(out).manifest.pool == RunFolder.open(pooled).manifest.pool
