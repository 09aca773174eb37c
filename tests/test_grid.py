"""A grid over processes, over a Dask cluster, and after an interruption: always the same table."""
import io
import json
import re
import shutil
import sys
import time
from contextlib import redirect_stderr
from dataclasses import replace

import joblib
import numpy as np
import pandas as pd
import pytest

from pediatric_ecg.cli import main
from pediatric_ecg.core import DataError
from pediatric_ecg.evaluate import calibrate, conditions, holm, scores
from pediatric_ecg.evaluate.floors import FLOORS
from pediatric_ecg.experiments import RECIPES, Protocol, experiment, grid
from pediatric_ecg.experiments.cells import CellSettings, epochs_bar, permuted, run_fold
from pediatric_ecg.experiments.grid import children, folder_name, folds_of, load_predictions, tabulate_results
from pediatric_ecg.experiments.recipes import FLOOR_SETTINGS, PEER_SETTINGS, Recipe, configure, read_recipe
from pediatric_ecg.experiments.run import make_folds, scored_labels
from pediatric_ecg.train import TrainConfig, fit, predict
from pediatric_ecg.windows import View, prepare

TINY = {"widths": (16, 16), "heads": 2, "depth": 1}
SMALL = {
    "protocol": Protocol(folds=2),
    "config": TrainConfig(epochs=1, per_group=4, batch_size=8, model=TINY),
}
PLAIN = Recipe([{"loss": "agcacl"}, {"loss": "ce"}, {"floor": "intervals"}], **SMALL)


def same_tables(a, b):
    "Every figure to the last digit, but for the seconds that training took."
    one, two = (pd.read_csv(d / "results.csv").drop(columns="train_seconds") for d in (a, b))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert (a / "comparisons.csv").read_text() == (b / "comparisons.csv").read_text()


@pytest.fixture(scope="module")
def plain(simstore, tmp_path_factory):
    "The grid `PLAIN`, computed at once in this process; to be read or copied, not written."
    out = tmp_path_factory.mktemp("plain") / "grid"
    experiment(simstore, out, PLAIN, n_jobs=1, progress=False)
    return out


def test_interrupted_and_whole_grids_are_the_same(simstore, plain, tmp_path, monkeypatch):
    whole, calls = grid.run_fold, []

    def dies_at_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(grid, "run_fold", dies_at_third)
    with pytest.raises(KeyboardInterrupt):
        experiment(simstore, tmp_path / "a", PLAIN, n_jobs=1, progress=False)
    assert not (tmp_path / "a/results.csv").exists()
    monkeypatch.setattr(grid, "run_fold", whole)
    experiment(simstore, tmp_path / "a", PLAIN, n_jobs=1, progress=False)
    same_tables(tmp_path / "a", plain)


@pytest.mark.filterwarnings(  # of Dask's own shutdown
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_two_dask_workers_make_the_same_table(simstore, plain, tmp_path):
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    with cluster, distributed.Client(cluster), joblib.parallel_config("dask"):
        experiment(simstore, tmp_path / "there", PLAIN, progress=False)
    same_tables(plain, tmp_path / "there")


def test_rows_agree_with_the_predictions(simstore, plain):
    table = pd.read_csv(plain / "results.csv")
    labels = scored_labels(simstore, SMALL["protocol"])
    assert list(table)[:3] == ["loss", "floor", "split"], "settings that only some rows have stand before the split too"
    for setting, row in zip(PLAIN.settings(), table.itertuples()):
        p = load_predictions(plain, setting)
        want = scores(p.truth, p.prediction, labels)
        assert row.macro_f1 == pytest.approx(want["macro_f1"]) and row.top1 == pytest.approx(want["top1"])
    d = pd.read_csv(plain / "comparisons.csv")
    for name in ("macro_f1", "top1"):
        for _, family in d.groupby("split"):
            assert family[f"{name}_p_holm"].tolist() == pytest.approx(holm(family[f"{name}_p"]).tolist())
    assert d.macro_f1_difference.tolist() == pytest.approx((table.macro_f1[0] - table.macro_f1[1:]).tolist())


def test_every_recipe_names_settings_that_exist(simstore):
    for name, recipe in RECIPES.items():
        for s in recipe.settings(simstore):
            config, of_cell = configure(recipe.config, s)
            assert isinstance(config, TrainConfig), name
            assert of_cell.floor is None or of_cell.floor in FLOORS
        assert len({folder_name(s) for s in recipe.settings(simstore)}) == len(recipe.settings(simstore)), name


def test_a_grid_of_other_windows_or_conditions_is_refused(simdb, simstore, tmp_path):
    floor = replace(PLAIN, vary=[{"floor": "majority"}])
    experiment(simstore, tmp_path / "g", floor, n_jobs=1, progress=False)
    other = prepare(simdb, tmp_path / "store", seconds=1.0, n_jobs=1, progress=False)
    with pytest.raises(DataError, match="holds a grid with other data"):
        experiment(other, tmp_path / "g", floor, n_jobs=1, progress=False)
    with pytest.raises(DataError, match="holds a grid with other disturbed;"):
        experiment(simstore, tmp_path / "g", replace(floor, disturbed=True), n_jobs=1, progress=False)
    for wrong in ({"epochs": 0}, {"repeats": 0}):
        with pytest.raises(ValueError, match="must be at least 1, not 0"):
            experiment(simstore, tmp_path / "new", floor, progress=False, **wrong)
    assert not (tmp_path / "new").exists()


@pytest.fixture
def no_peers(monkeypatch):
    "As in a fresh installation."
    monkeypatch.setitem(sys.modules, "deepecgkit", None)
    monkeypatch.setitem(sys.modules, "deepecgkit.models", None)


def test_a_grid_of_peers_alone_is_refused_before_the_first_cell(simstore, tmp_path, no_peers):
    peers = replace(PLAIN, vary=PEER_SETTINGS)
    with pytest.raises(ImportError, match=r"pip install 'pediatric_ecg\[bench\]'"):
        experiment(simstore, tmp_path / "g", peers, progress=False)
    assert not (tmp_path / "g").exists()


def test_the_default_recipe_runs_without_peers_and_names_them(simstore, tmp_path, no_peers, monkeypatch):
    "The floors stand for all settings, so that it takes no time."
    short = replace(RECIPES["paper"], vary=PEER_SETTINGS + [{"floor": "majority"}, {"floor": "rr"}])
    monkeypatch.setitem(RECIPES, "paper", short)
    with pytest.warns(UserWarning, match=r"not installed: resnet, crnn \(.*bench"):
        experiment(simstore, tmp_path / "g", progress=False, repeats=1, n_jobs=1)
    assert set(pd.read_csv(tmp_path / "g/results.csv").floor) == {"majority", "rr"}


def test_a_part_of_a_recipe(simstore, tmp_path, capsys):
    out = tmp_path / "g"
    assert main(["experiment", str(simstore.path), "--out", str(out), "--only", "floor=majority,rr", "--split",
                 "patient", "--repeats", "1", "--jobs", "1"]) == 0
    results = pd.read_csv(out / "results.csv")
    assert set(results.floor) == {"majority", "rr"} and set(results.split) == {"patient"}
    printed = capsys.readouterr().out
    assert "95 % intervals" in printed and str(out / "comparisons.csv") in printed
    for floor, macro_f1 in zip(results.floor, results.macro_f1):
        assert re.search(rf"{floor} +patient .* {100 * macro_f1:.1f} \(", printed)


def test_a_recipe_of_a_file(simstore, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"vary": {"floor": ["majority", "rr"]}, "protocol": {"repeats": 1, "folds": 2}}))
    out = tmp_path / "g"
    assert main(["experiment", str(simstore.path), "--out", str(out), "--recipe", str(file), "--jobs", "1",
                 "--set", "epochs=3"]) == 0
    assert set(pd.read_csv(out / "results.csv").floor) == {"majority", "rr"}
    assert json.loads((out / "grid.json").read_text())["config"]["epochs"] == 3


@pytest.mark.parametrize(("content", "words"), [
    ({"varry": {}}, "has no 'varry'"), ({"vary": {"lossy": ["ce"]}}, "setting 'lossy'"),
    ({"splits": ["train"]}, "no split 'train'"), ({"splits": []}, "splits is empty"),
    ({"config": {"epochs": 0}}, "epochs must be at least 1"), ({"protocol": {"fold": 3}}, "protocol has no 'fold'"),
    ({"protocol": {"folds": "3"}}, "protocol: folds"), ({"base": "nosuch"}, "unknown recipe 'nosuch'"),
    ({"vary": {"loss": []}}, "leaves no setting"), ({"disturbed": 1}, "disturbed")])
def test_a_wrong_recipe_file_is_one_line(tmp_path, content, words):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        read_recipe(file)
    assert "\n" not in str(caught.value)


def wait_for(condition):
    "Until the condition holds; ten seconds are the patience of a loaded machine."
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it never came")


def test_the_bar_of_a_grid_counts_the_epochs_on_disk(tmp_path, monkeypatch):
    "What is there before the bar begins counts for the state, and not for the time left."
    monkeypatch.setattr("pediatric_ecg.surroundings.SECONDS_BETWEEN_LINES", 1e-9)
    monkeypatch.setattr("pediatric_ecg.experiments.cells._LOOK", 0.02)
    cells, log = {tmp_path / "a.csv": 4, tmp_path / "b.csv": 4, tmp_path / "done.csv": 2}, io.StringIO()
    (tmp_path / "done.csv").write_text("")
    with redirect_stderr(log), epochs_bar(cells, True, "epochs of 3 cells") as bar:
        assert bar.initial == 2
        (tmp_path / "a.checkpoint" / "epoch-00003").mkdir(parents=True)
        wait_for(lambda: "epochs of 3 cells: 5 of 10" in log.getvalue())
        (tmp_path / "a.checkpoint" / "epoch-00003").rmdir()   # the next one is being written: nothing goes back
        (tmp_path / "b.csv").write_text("")
        wait_for(lambda: "epochs of 3 cells: 9 of 10" in log.getvalue())
    lines = log.getvalue().splitlines()
    assert "1 of 3 trainings finished" in lines[0] and "2 of 3 trainings finished" in lines[-1]
    assert all(" left" in line for line in lines)


def test_permuted_labels_fall_to_chance_and_random_windows_beat_new_patients(simstore, small_floors, tmp_path, capsys):
    out = ["--out", str(tmp_path / "g")]
    assert main(["experiment", str(simstore.path), *out, "--recipe", "checks", "--quick", "--jobs", "1"]) == 0
    assert str(tmp_path / "g" / "results.csv") in capsys.readouterr().out
    t = pd.read_csv(tmp_path / "g/results.csv")
    true = t[t.permute.isna() & t.floor.isna()].set_index("split").macro_f1
    guess = t[t.permute == "windows"].set_index("split").macro_f1
    renamed = t[t.permute == "patients"].set_index("split").macro_f1
    # a guess among six rhythms scores 0.17; eight patients leave it room to be lucky, and a leak would give 0.9
    for split in ("random", "patient"):
        assert guess[split] < 0.4 and true[split] > guess[split] + 0.1, split
    assert true["random"] > true["patient"] + 0.1
    # names that mean nothing can be learnt where the patient is known, and only there
    assert renamed["random"] > 0.5 and renamed["patient"] < 0.3
    d = pd.read_csv(tmp_path / "g/comparisons.csv")
    assert "patients" not in set(d.permute), "another truth has nothing to be paired with"
    assert set(t.floor.dropna()) == {setting["floor"] for setting in FLOOR_SETTINGS} <= set(FLOORS)


def test_no_column_of_a_finished_grid_is_lost_when_a_setting_is_added(simstore, plain, tmp_path):
    shutil.copytree(plain, tmp_path / "g")
    larger = replace(PLAIN, vary=[*PLAIN.vary, {"floor": "majority"}])
    more = pd.read_csv(experiment(simstore, tmp_path / "g", larger, n_jobs=1, progress=False))
    assert len(more) == 4


def test_transfer_goes_from_children_to_adults(simstore):
    young = set(children(simstore))
    labels = scored_labels(simstore, Protocol())
    recipe = Recipe({"loss": ["ce"]}, splits=("transfer",), **SMALL)
    if not young or young == set(simstore.table.subject.astype(str)):
        with pytest.raises(DataError, match="both groups"):
            folds_of(simstore, recipe, labels)
        simstore.manifest["patients"] = []
        for number, subject in enumerate(sorted(simstore.table.subject.astype(str).unique())):
            age = 9.0 if number % 2 else 40.0
            simstore.manifest["patients"].append({"subject": subject, "age": age, "group": ""})
        young = set(children(simstore))
    (fold,) = folds_of(simstore, recipe, labels)
    who = simstore.table.subject.astype(str).to_numpy()
    assert set(who[fold.train]) | set(who[fold.valid]) <= young and not set(who[fold.test]) & young


def test_disturbances_reach_the_test_windows_only(simstore, tmp_path):
    labels = scored_labels(simstore, Protocol())
    fold = make_folds(simstore.table, labels, Protocol(folds=2))[-1]
    p = run_fold(simstore.path, fold, labels, SMALL["config"], 0, tmp_path / "d", CellSettings(), True)
    q = run_fold(simstore.path, fold, labels, SMALL["config"], 0, tmp_path / "c")
    assert set(p.condition) == set(conditions(simstore))
    clean = p[p.condition == "clean"].drop(columns="condition").reset_index(drop=True)
    pd.testing.assert_frame_equal(clean, q)   # the same training


def test_permuted_labels_keep_the_test_labels(simstore):
    labels = scored_labels(simstore, Protocol())
    fold = make_folds(simstore.table, labels, Protocol(folds=2))[-1]
    seen = View(simstore, labels=permuted(simstore, fold, 1, "windows")).table.label.to_numpy()
    true = simstore.table.label.to_numpy()
    assert (seen[fold.test] == true[fold.test]).all() and not (seen[fold.train] == true[fold.train]).all()
    assert (np.sort(seen[fold.valid]) == np.sort(true[fold.valid])).all()


def test_labels_permuted_by_patient_rename_every_window_of_a_patient_alike(simstore):
    labels = scored_labels(simstore, Protocol())
    folds = make_folds(simstore.table, labels, Protocol(folds=2))
    renamed = {name: permuted(simstore, folds[number], 1) for number, name in ((0, "random"), (-1, "patient"))}
    table = simstore.table
    for fold, labels_of in zip((folds[0], folds[-1]), renamed.values(), strict=True):
        rows = np.concatenate([fold.train, fold.valid, fold.test])
        for _, part in table.loc[rows].assign(renamed=labels_of[rows]).groupby("subject"):
            pairs = part[["label", "renamed"]].drop_duplicates()
            assert pairs.label.is_unique and pairs.renamed.is_unique
    with pytest.raises(DataError, match="choose windows or patients"):
        permuted(simstore, folds[0], 1, "beats")


class Recorded(View):
    "A store that remembers which windows were read."

    def __init__(self, store):
        super().__init__(store)
        self.reads = []

    def batch(self, rows):
        self.reads.append(np.asarray(rows))
        return super().batch(rows)


@pytest.mark.parametrize("sampling", ["patient", "class"])
def test_no_test_patient_is_read_before_the_final_evaluation(simstore, sampling):
    labels = scored_labels(simstore, Protocol())
    fold = make_folds(simstore.table, labels, Protocol(folds=2))[-1]
    store = Recorded(simstore)
    result = fit(store, fold, labels, replace(SMALL["config"], loss="ce", sampling=sampling), 0)
    fitted = calibrate(lambda rows: predict(result.model, store, rows), store.codes(labels), fold)
    read = np.unique(np.concatenate(store.reads))
    who = simstore.table.subject.to_numpy()
    assert fitted > 0 and len(read) and not set(who[read]) & set(who[fold.test])
    assert set(read) <= set(fold.train) | set(fold.valid)


def test_unknown_settings_end_in_one_line(simstore, tmp_path):
    with pytest.raises(DataError, match="a setting 'nosuch'"):
        experiment(simstore, tmp_path / "g", Recipe({"nosuch": [1]}, **SMALL), progress=False)
    with pytest.raises(DataError, match="no modality 'meg'"):
        experiment(simstore, tmp_path / "h", Recipe([{"modalities": ["meg"]}], **SMALL), n_jobs=1, progress=False)
    assert not tabulate_results(tmp_path / "h", [{"modalities": ["meg"]}], ["N"]).size
