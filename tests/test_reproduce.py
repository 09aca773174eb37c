"""A run made again: bit-equal where everything is the same, and what differs where something is not."""
import json
import shutil
from importlib import import_module

import pandas as pd
import pytest
import torch

from pediatric_ecg import cli
from pediatric_ecg.core import DataError
from pediatric_ecg.experiments import Protocol, reproduce, run, train_store
from pediatric_ecg.experiments.reproduce import check_reproduction
from pediatric_ecg.sim import simulate
from pediatric_ecg.train import TrainConfig

pytestmark = pytest.mark.usefixtures("small_floors")
SMALL = TrainConfig(epochs=1, per_group=4, batch_size=16, loss="ce", model={"widths": [8, 8], "depth": 1, "heads": 2})
HOW = {"config": SMALL, "protocol": Protocol(folds=2, seed=5), "n_jobs": 1, "progress": False}


@pytest.fixture(scope="module")
def made(small_floors, tmp_path_factory):
    "Records, and a run of them."
    folder = tmp_path_factory.mktemp("made")
    records = simulate(folder / "records", patients=6, seconds=24, seed=2, progress=False)
    return records, run(records, folder / "run", seconds=2.0, stride=1.0, quick=True, **HOW)


def test_every_bit_is_the_same(made):
    records, first = made
    found = reproduce(first, n_jobs=1, progress=False)
    assert found.equal and found.circumstances == [] and found.notes == []
    names = set(found.files)
    assert names > {"store/windows.csv", "store/ecg.npy", "folds.json", "predictions.csv", "floors.csv", "metrics.json",
                    "model.safetensors", "history.csv", "config.json", "manifest.json"}
    assert found.text() == f"bit-equal: all {len(names)} files of {first}, made again from {records}"
    assert not list(first.parent.glob("run.again*"))


def test_kept_and_printed(made, tmp_path, capsys):
    first = shutil.copytree(made[1], tmp_path / "run")
    metrics = json.loads((first / "metrics.json").read_text())
    metrics["random"]["top1"] = 0.125
    (first / "metrics.json").write_text(json.dumps(metrics))
    code = cli.main(["reproduce", str(first), "--out", str(tmp_path / "kept"), "--jobs", "1"])
    printed = capsys.readouterr().out
    assert code == 1 and (tmp_path / "kept" / "metrics.json").exists()
    assert "not bit-equal: 1 of" in printed and "metrics.json: random.top1: 0.125, now" in printed
    assert "as far as they are recorded" in printed


def test_the_number_of_threads_is_that_of_the_manifest(made, tmp_path, monkeypatch):
    "It is set for the second run, and set back; a run that does not say it is named."
    first = shutil.copytree(made[1], tmp_path / "run")
    manifest = json.loads((first / "manifest.json").read_text())
    assert manifest["threads"] == torch.get_num_threads() and manifest["machine"]["device"] == "cpu"
    manifest["threads"] = torch.get_num_threads() + 1
    (first / "manifest.json").write_text(json.dumps(manifest))
    seen = []

    def instead(folder, out, **settings):
        seen.append(torch.get_num_threads())
        shutil.copytree(made[1], out)

    monkeypatch.setattr(import_module("pediatric_ecg.experiments.reproduce"), "run", instead)
    before = torch.get_num_threads()
    found = reproduce(first, n_jobs=1)
    assert seen == [before + 1] and torch.get_num_threads() == before
    assert found.circumstances == [f"threads: {before + 1}, now {before}"]
    del manifest["threads"]
    (first / "manifest.json").write_text(json.dumps(manifest))
    assert "does not say in how many threads" in reproduce(first, n_jobs=1).text()


def test_another_record_is_named(made, tmp_path):
    records, first = made
    others = shutil.copytree(records, tmp_path / "records")
    simulated = simulate(tmp_path / "other", patients=6, seconds=24, seed=3, progress=False)
    for file in simulated.glob("x003.*"):
        shutil.copy(file, others)
    found = reproduce(first, records=others, n_jobs=1, progress=False)
    assert not found.equal and found.files["store/ecg.npy"]
    assert "files of the records x003" in found.circumstances
    assert any(words.startswith("data_sha256") for words in found.circumstances)


def test_a_run_that_was_trained_on_a_store(made, tmp_path):
    records, first = made
    store = shutil.copytree(first / "store", tmp_path / "store")
    trained = train_store(store, tmp_path / "trained", quick=True, **HOW)
    found = reproduce(trained, n_jobs=1, progress=False)
    assert found.equal and "taken from the store as they are" in found.text()
    found = reproduce(trained, records=records, n_jobs=1, progress=False)
    assert found.equal and found.files["store/ecg.npy"] == "" and found.notes == []
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["store", "trained"]
    table = (store / "windows.csv").read_text()
    (store / "windows.csv").write_text(table.replace("x001", "x009"))
    with pytest.raises(DataError, match="windows.csv: is not what prepare wrote; prepare the store again"):
        reproduce(trained)


@pytest.mark.parametrize("what", ["records", "protocol", "train", "no run"])
def test_what_cannot_be_made_again_is_one_line(made, tmp_path, capsys, what):
    first = shutil.copytree(made[1], tmp_path / "run")
    name = "config" if what == "train" else "manifest"
    content = json.loads((first / f"{name}.json").read_text())
    if what == "records":
        content["folder"] = str(tmp_path / "gone")
    if what in ("protocol", "train"):
        del content[what]
    (first / f"{name}.json").write_text(json.dumps(content))
    place = tmp_path if what == "no run" else first
    code = cli.main(["reproduce", str(place)])
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1
    words = {"records": "--records", "protocol": "run it anew", "train": "run it anew", "no run": "missing"}
    assert words[what] in error
    assert not list(tmp_path.glob("*again*"))


def test_two_runs_are_compared_file_by_file(made, tmp_path):
    "Missing files, other answers, other weights; where and when is no difference."
    one, other = (shutil.copytree(made[1], tmp_path / name) for name in ("one", "other"))
    assert check_reproduction(one, other).equal
    table = pd.read_csv(other / "history.csv")
    table.assign(seconds=9.0, windows_per_s=1.0).to_csv(other / "history.csv", index=False)
    assert check_reproduction(one, other).equal
    (other / "similarity.json").unlink()
    (other / "more.txt").write_text("more")
    found = check_reproduction(one, other)
    assert found.files["similarity.json"] == "is missing in the second run"
    assert found.files["more.txt"] == "is in the second run alone"
    network = bytearray((other / "model.safetensors").read_bytes())
    network[-2] ^= 1
    (other / "model.safetensors").write_bytes(network)
    assert "1 of" in check_reproduction(one, other).files["model.safetensors"]
