"""Simulated people in training beside patients: where they stand, what they change, and that a run says so.

A small stub makes the simulated people where a test needs them in a second; the population itself has its own tests.
"""
import json
import re
import shutil
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch

import pediatric_ecg.sim
from pediatric_ecg import cli
from pediatric_ecg.core import DataError, LeakError
from pediatric_ecg.data import LEIPZIG
from pediatric_ecg.experiments import Protocol, RunFolder, experiment, run, train_store
from pediatric_ecg.experiments.recipes import Recipe
from pediatric_ecg.experiments.run import make_folds, people_beside, scored_labels
from pediatric_ecg.sim import simulate
from pediatric_ecg.splits import audit
from pediatric_ecg.splits.folds import load_folds, with_simulated
from pediatric_ecg.train import TrainConfig, fit
from pediatric_ecg.windows import WindowStore, prepare
from pediatric_ecg.windows.people import with_people

pytestmark = pytest.mark.usefixtures("small_floors", "unpainted")
SMALL = TrainConfig(
    epochs=1, per_group=4, batch_size=16, loss="ce", model={"widths": [16, 16], "depth": 1, "heads": 2})
TWO = Protocol(folds=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "Windows of six simulated children, who play the patients."
    folder = tmp_path_factory.mktemp("patients")
    return prepare(simulate(folder / "db", patients=6, seconds=60, seed=1), folder / "store", n_jobs=1, progress=False)


@pytest.fixture
def population(monkeypatch):
    "A population of children of the simulator, made with other seeds; `calls` counts how often it was asked for."
    stub = ModuleType("pediatric_ecg.sim.population")
    stub.calls = []

    class StandIns:
        leads = {slot: (slot,) for slots in LEIPZIG.modalities.values() for slot in slots}
        rhythms = {marker: (marker,) for marker in LEIPZIG.markers}
        missing = ()

    def simulate_people(out, database, patients, seconds=240, seed=0, n_jobs=1, **others):
        stub.calls.append(patients)
        return simulate(out, patients=patients, seconds=40, seed=seed + 1000)

    stub.stand_ins = lambda database: StandIns
    stub.simulate_people = simulate_people
    stub.simulated_form = lambda database: database
    stub.StandIns = StandIns
    monkeypatch.setitem(sys.modules, "pediatric_ecg.sim.population", stub)
    monkeypatch.setattr(pediatric_ecg.sim, "population", stub, raising=False)
    return stub


def files(folder):
    "Name → bytes of the files of a run that hold its result."
    return {name: (folder / name).read_bytes() for name in ("predictions.csv", "metrics.json", "model.safetensors")}


def test_nobody_simulated_changes_nothing(store, tmp_path):
    "`simulated=0` is a training without simulated people, to the last bit, and nothing is made for it."
    for name, more in (("one", {}), ("other", {"simulated": 0})):
        train_store(store, tmp_path / name, SMALL, TWO, n_jobs=1, progress=False, **more)
    assert files(tmp_path / "one") == files(tmp_path / "other")
    assert not people_beside(tmp_path / "other").exists()
    assert "beside" not in json.loads((tmp_path / "other" / "manifest.json").read_text())


def test_simulated_people_are_trained_on_and_nothing_else(store, population, tmp_path):
    labels = scored_labels(store, TWO)
    both, about = with_people(store, labels, 5, tmp_path / "people", n_jobs=1)
    assert population.calls == [5]
    assert both.table[: len(store)].drop(columns="simulated").equals(store.table)
    folds = make_folds(store.table, labels, TWO)
    joined = with_simulated(folds, both.table)
    simulated = both.table.simulated.to_numpy()
    for fold, alone in zip(joined, folds, strict=True):
        assert simulated[fold.train].sum() == simulated.sum()
        assert np.array_equal(fold.train[~simulated[fold.train]], alone.train)
        assert np.array_equal(fold.test, alone.test) and np.array_equal(fold.valid, alone.valid)
    for side in ("valid", "test"):
        fold = joined[-1]
        row = np.flatnonzero(simulated)[0]
        moved = replace(fold, train=np.setdiff1d(fold.train, [row]), **{side: np.r_[getattr(fold, side), row]})
        with pytest.raises(LeakError, match=rf"row {row} of record .* is simulated and stands in {side} beside real"):
            audit(both.table, [moved], allow=("subject",))


def test_batches_of_both_kinds_are_those_of_their_stores(store, population, tmp_path):
    both, _ = with_people(store, store.classes, 5, tmp_path / "people", n_jobs=1)
    rng = np.random.default_rng(0)
    people = WindowStore(both.people.path)
    for _ in range(20):
        rows = rng.integers(0, len(both), 9)
        signals, present = both.batch(rows)
        for position, row in enumerate(rows):
            source, place = (store, row) if row < len(store) else (people, both.rows[row - len(store)])
            one, there = source.batch([place])
            for name in signals:
                assert np.array_equal(signals[name][position], one[name][0])
                assert np.array_equal(present[name][position], there[name][0])
                assert both.table.label[row] == source.table.label[place]


def test_what_the_loss_is_told_is_of_the_patients(store, population, tmp_path):
    "Scale of the leads and class counts do not change with simulated people; the weights do."
    labels = scored_labels(store, TWO)
    both, _ = with_people(store, labels, 5, tmp_path / "people", n_jobs=1)
    fold = make_folds(store.table, labels, TWO)[-1]
    config = replace(SMALL, loss="agcacl", simulated_share=0.5)
    alone = fit(store, fold, labels, config)
    mixed = fit(both, with_simulated([fold], both.table)[0], labels, config)
    states = [result.model.state_dict() for result in (alone, mixed)]
    scales = [name for name in states[0] if name.startswith("scale.")]
    assert scales and all(torch.equal(states[0][name], states[1][name]) for name in scales)
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert torch.equal(alone.objective.agcacl.phi, mixed.objective.agcacl.phi)
    assert np.array_equal(alone.fitted["class_counts"], mixed.fitted["class_counts"])
    assert mixed.objective.agcacl.patients > alone.objective.agcacl.patients, "simulated people have prototypes too"


def test_a_run_says_so_everywhere(store, population, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["train", store.path, "--out", out, "--quick", "--jobs", 1, "--simulated", 5, "--loss", "ce",
             "--epochs", 1, "--set", "per_group=4"]
    assert cli.main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    finished = RunFolder.open(out)
    about = finished.manifest.beside
    assert about.patients == 5 and about.seed == 0 and len(about.digest) == 64
    frozen = json.loads((out / "folds.json").read_text()) if (out / "folds.json").exists() else None
    if frozen is not None:
        assert frozen["simulated"]["digest"] == about.digest
        assert len(load_folds(out / "folds.json", store.table)) == 4
    assert "5 simulated patients" in printed and "no figure counts them" in printed
    title = re.search("<h1>(.*?)</h1>", (out / "report.html").read_text(), re.S)[1]
    assert re.search(r"trained on \d+ of its own and 5 simulated patients", title)
    card = (out / "model_card.md").read_text()
    assert "5 simulated patients" in card and about.digest[:16] in card
    assert json.loads((out / "config.json").read_text())["simulated_patients"] == 5
    tested = set(finished.predictions.subject)
    assert tested <= set(store.table.subject), "only patients are judged"
    assert finished.metrics["patient"]["n_patients"] == len(tested)


def test_nobody_can_stand_for_it(store, population, tmp_path):
    "A database without stand-ins is trained without, and the manifest says so."
    population.StandIns.leads = {}
    population.StandIns.missing = ("no simulated lead stands for 'ABP' of pressure",)
    train_store(store, tmp_path / "run", SMALL, TWO, n_jobs=1, progress=False, simulated=5)
    about = RunFolder.open(tmp_path / "run").manifest.beside
    assert about.patients == 0 and population.calls == []
    assert about.sentences() == [
        "5 simulated people were asked for, but none could be trained on.",
        "Trained without: no simulated lead stands for 'ABP' of pressure."]


class Killed(BaseException):
    "Stands for a signal that ends the process."


def test_killed_and_continued(store, population, tmp_path, monkeypatch):
    "Whenever a run is killed, the same call goes on and gives the same bytes; simulated people are made once."
    def call(out):
        return train_store(store, tmp_path / out, SMALL, TWO, n_jobs=1, progress=False, simulated=4)

    def kill(*args, **kwargs):
        raise Killed

    call("whole")
    places = (
        ("sim.population.simulate_people", 1), ("windows.people.prepare", 2), ("experiments.cells.predictions_of", 2))
    for place, made in places:
        with monkeypatch.context() as patch:
            if place.startswith("sim"):
                patch.setattr(population, "simulate_people", kill)
            else:
                patch.setattr(f"pediatric_ecg.{place}", kill)
            with pytest.raises(Killed):
                call("killed")
        assert len(population.calls) == made, "made once, whatever happens after it"
    call("killed")
    assert population.calls == [4, 4]
    assert files(tmp_path / "whole") == files(tmp_path / "killed")


def test_another_number_is_not_blocked(store, population, tmp_path):
    "After a call that failed, the corrected call is not in the way of what the first one made."
    with pytest.raises(DataError, match="whole number"):
        train_store(store, tmp_path / "run", SMALL, TWO, simulated=-1)
    assert not list(tmp_path.iterdir())
    for number in (3, 4):
        with_people(store, store.classes, number, people_beside(tmp_path / "run"), n_jobs=1)
    assert len(list(people_beside(tmp_path / "run").iterdir())) == 2
    train_store(store, tmp_path / "run", SMALL, TWO, n_jobs=1, progress=False, simulated=4)
    assert population.calls == [3, 4]


def test_grid_beside_people(store, population, tmp_path):
    recipe = Recipe({"loss": ["ce"]}, config=SMALL, protocol=TWO, splits=("patient",))
    few = Recipe([{"loss": "ce"}, {"shots": 1}, {"floor": "majority"}], config=SMALL, protocol=TWO, splits=("patient",))
    table = pd.read_csv(experiment(store, tmp_path / "grid", few, n_jobs=1, progress=False, simulated=4))
    assert len(table) == 3
    about = json.loads((tmp_path / "grid" / "simulated.json").read_text())
    assert about["patients"] == 4
    with pytest.raises(DataError, match="simulated"):
        experiment(store, tmp_path / "grid", recipe, n_jobs=1, progress=False)


def test_from_records_to_a_report(population, tmp_path):
    "`run` on a folder of records; its store is that of a run without simulated people."
    records = simulate(tmp_path / "db", patients=5, seconds=60, seed=1)
    out = run(records, tmp_path / "run", config=SMALL, protocol=TWO, n_jobs=1, progress=False, simulated=3)
    assert RunFolder.open(out).manifest.beside.patients == 3
    assert not (tmp_path / "run.simulated").joinpath("records").exists()
    shutil.rmtree(out)
    run(records, tmp_path / "run", config=SMALL, protocol=TWO, n_jobs=1, progress=False, simulated=3)
    assert population.calls == [3]


@pytest.mark.parametrize("number", ["-1", "2.5", "many", "1000000"])
def test_no_number(number, store, tmp_path, capsys):
    for words in (["train", store.path], ["experiment", store.path], ["run", store.path]):
        code = cli.main([*map(str, words), "--out", str(tmp_path / "out"), "--simulated", number])
        error = capsys.readouterr().err
        assert code == 2 and error.count("\n") == 1 and "--simulated" in error
    assert not list(tmp_path.iterdir())


def test_the_population_itself(store, tmp_path):
    "With the real population, in the form of Leipzig."
    pytest.importorskip("pediatric_ecg.sim.population")
    both, about = with_people(store, store.classes, 3, tmp_path / "people", n_jobs=1)
    assert about.patients == 3 and about.missing == []
    assert both.people.manifest["simulated"] and set(both.table.subject[both.table.simulated]) == {
        f"simulated-{number:05d}" for number in (1, 2, 3)}
