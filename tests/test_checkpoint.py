"""A run that was stopped goes on as if it had not been."""
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pediatric_ecg.core import DataError, PediatricECGError
from pediatric_ecg.experiments import Protocol
from pediatric_ecg.experiments.run import QUICK, make_folds, scored_labels
from pediatric_ecg.train import TrainConfig, fit

CONFIG = TrainConfig(**{**QUICK["config"], "epochs": 4, "per_group": 4, "accelerator": "cpu"})
CLOCK = ["seconds", "windows_per_s"]


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def labels(simstore):
    return scored_labels(simstore, Protocol())


@pytest.fixture(scope="module")
def fold(simstore, labels):
    return make_folds(simstore.table, labels, Protocol(folds=2))[-1]


@pytest.fixture(scope="module")
def stopped(simstore, fold, labels, tmp_path_factory):
    "A run stopped after its second epoch, by its callback."
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Stop):
        fit(simstore, fold, labels, CONFIG, seed=1, callback=stop_at(1), checkpoint=folder)
    return folder


def stop_at(epoch):
    def callback(seen):
        if seen.epoch == epoch:
            raise Stop

    return callback


def assert_same(result, expected):
    for part in ("model", "objective"):
        one, two = getattr(result, part).state_dict(), getattr(expected, part).state_dict()
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    history, expected_history = result.history.drop(columns=CLOCK), expected.history.drop(columns=CLOCK)
    pd.testing.assert_frame_equal(history, expected_history, check_exact=True)
    assert result.best_epoch == expected.best_epoch


CHANGES = [
    {},
    {"loss": "bcl", "ema": 0.0},
    {"loss": "ldam", "patience": 1},
    {"loss": "focal", "sampling": "class"},
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_stopped_run_goes_on_to_the_same_bits(simstore, fold, labels, tmp_path, change):
    config, folder = replace(CONFIG, **change), tmp_path / "run"
    whole = fit(simstore, fold, labels, config, seed=1)
    with pytest.raises(Stop):
        fit(simstore, fold, labels, config, seed=1, callback=stop_at(1), checkpoint=folder)
    assert [path.name for path in folder.iterdir()] == ["epoch-00002"]
    state, seen = torch.get_rng_state(), []

    def callback(epoch):
        seen.append(epoch.epoch)

    result = fit(simstore, fold, labels, config, seed=1, checkpoint=folder, callback=callback)
    assert_same(result, whole)
    assert seen == list(range(2, len(whole.history))) and torch.equal(state, torch.get_rng_state())
    assert_same(fit(simstore, fold, labels, config, seed=1, checkpoint=folder), whole)  # finished: only read


class Breaking:
    "A store that fails at its n-th batch."

    def __init__(self, store, batches):
        self.store, self.left = store, batches

    def __getattr__(self, name):
        return getattr(self.store, name)

    def batch(self, rows):
        self.left -= 1
        if self.left < 0:
            raise Stop
        return self.store.batch(rows)


def test_stopped_in_mid_epoch_twice(simstore, fold, labels, tmp_path):
    counted, folder = Breaking(simstore, 10**6), tmp_path / "run"
    whole = fit(counted, fold, labels, CONFIG, seed=1)
    per_epoch = (10**6 - counted.left) // CONFIG.epochs
    for reached in (1, 2):
        breaking = Breaking(simstore, per_epoch + per_epoch // 2)
        with pytest.raises(Stop):
            fit(breaking, fold, labels, CONFIG, seed=1, checkpoint=folder)
        assert [path.name for path in folder.iterdir()] == [f"epoch-{reached:05d}"]
    assert_same(fit(simstore, fold, labels, CONFIG, seed=1, checkpoint=folder), whole)


KILLED = """
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from pediatric_ecg.train import TrainConfig, fit
from pediatric_ecg.windows.store import WindowStore

store, inputs, checkpoint, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
rename = os.replace

def killed(part, new):
    if str(new).endswith('epoch-00003'):   # all is written, nothing is renamed
        os.kill(os.getpid(), signal.SIGKILL)
    rename(part, new)

class Fold:
    name = 'f'
    train, valid = (np.load(f'{inputs}/{side}.npy') for side in ('train', 'valid'))

os.replace = killed
config, labels = json.loads(Path(inputs, 'config.json').read_text())
fit(WindowStore(store), Fold, labels, TrainConfig(**config), seed=1, checkpoint=checkpoint)
"""


def test_killed_while_writing(simstore, fold, labels, tmp_path):
    for side in ("train", "valid"):
        np.save(tmp_path / f"{side}.npy", getattr(fold, side))
    (tmp_path / "config.json").write_text(json.dumps([CONFIG.__dict__, labels]))
    whole = fit(simstore, fold, labels, CONFIG, seed=1)
    threads = str(torch.get_num_threads())
    command = [sys.executable, "-c", KILLED, simstore.path, tmp_path, tmp_path / "run", threads]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["epoch-00002", "epoch-00003.partial"]
    assert_same(fit(simstore, fold, labels, CONFIG, seed=1, checkpoint=tmp_path / "run"), whole)


@pytest.mark.parametrize("what", ["seed", "config", "fold", "classes"])
def test_checkpoints_of_another_run_are_refused(simstore, fold, labels, stopped, what):
    others = {
        "seed": 2,
        "config": replace(CONFIG, lr=1e-3),
        "fold": replace(fold, train=fold.train[:-9]),
        "classes": labels[::-1],
    }
    args = dict(store=simstore, fold=fold, classes=labels, config=CONFIG, seed=1)
    args[what] = others[what]
    with pytest.raises(DataError, match="checkpoints of another run .*repeat its settings"):
        fit(**args, checkpoint=stopped)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "chance.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "byte", "gone"])
def test_damage_is_named_with_a_remedy(simstore, fold, labels, stopped, tmp_path, name, damage):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    file = folder / "epoch-00002" / name
    data = bytearray(file.read_bytes())
    data[0 if name == "state.json" else -1] ^= 0xFF
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(data if damage == "byte" else data[: len(data) // 2])
    with pytest.raises(DataError, match=f"{name}: (damaged|missing).*remove the folder of checkpoints") as error:
        fit(simstore, fold, labels, CONFIG, seed=1, checkpoint=folder)
    assert "\n" not in str(error.value)


def written_by_an_earlier_version(stopped, folder, devices):
    "The checkpoint as a version wrote it that had `devices` and set the step size before each step."
    shutil.copytree(stopped, folder)
    file = folder / "epoch-00002" / "state.json"
    state = json.loads(file.read_text())
    state["settings"]["config"]["devices"] = devices
    for group in state["groups"]:
        del group["initial_lr"]
        group["lr"] = 1.0
    file.write_text(json.dumps(state))


def test_a_run_begun_by_an_earlier_version_goes_on(simstore, fold, labels, stopped, tmp_path):
    written_by_an_earlier_version(stopped, tmp_path / "one", devices=1)
    written_by_an_earlier_version(stopped, tmp_path / "two", devices=2)
    whole = fit(simstore, fold, labels, CONFIG, seed=1)
    assert_same(fit(simstore, fold, labels, CONFIG, seed=1, checkpoint=tmp_path / "one"), whole)
    with pytest.raises(PediatricECGError, match="2 processes shared a batch; this version trains with one") as error:
        fit(simstore, fold, labels, CONFIG, seed=1, checkpoint=tmp_path / "two")
    assert "\n" not in str(error.value)


def test_a_folder_of_other_things_is_left_alone(simstore, fold, labels, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    for folder in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(DataError, match="is not a folder of checkpoints"):
            fit(simstore, fold, labels, CONFIG, checkpoint=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
