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

from pediatric_ecg.core import DataError
from pediatric_ecg.experiments.run import QUICK, Protocol, make_folds, scored_labels
from pediatric_ecg.train.config import TrainConfig
from pediatric_ecg.train.loop import fit

CONFIG = TrainConfig(**{**QUICK["config"], "epochs": 4, "per_group": 4, "accelerator": "cpu"})
CLOCK = ["seconds", "windows_per_s"]


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def fold(simstore):
    labels = scored_labels(simstore, Protocol())
    return labels, make_folds(simstore.table, labels, Protocol(folds=2))[-1]


@pytest.fixture(scope="module")
def stopped(simstore, fold, tmp_path_factory):
    "A run stopped after its second epoch, by its callback."
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Stop):
        fit(simstore, fold[1], fold[0], CONFIG, seed=1, callback=stop_at(1), checkpoint=folder)
    return folder


def stop_at(epoch):
    def callback(e):
        if e.epoch == epoch:
            raise Stop

    return callback


def same(a, b):
    for x, y in ((a.model, b.model), (a.objective, b.objective)):
        one, two = x.state_dict(), y.state_dict()
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    pd.testing.assert_frame_equal(a.history.drop(columns=CLOCK), b.history.drop(columns=CLOCK), check_exact=True)
    assert a.best_epoch == b.best_epoch


@pytest.mark.parametrize("change", [{}, {"loss": "bcl", "ema": 0.0}, {"loss": "ldam", "patience": 1}, {"loss": "focal", "sampling": "class"}])
def test_a_stopped_run_goes_on_to_the_same_bits(simstore, fold, tmp_path, change):
    labels, f = fold
    config, folder = replace(CONFIG, **change), tmp_path / "run"
    whole = fit(simstore, f, labels, config, seed=1)
    with pytest.raises(Stop):
        fit(simstore, f, labels, config, seed=1, callback=stop_at(1), checkpoint=folder)
    assert [p.name for p in folder.iterdir()] == ["epoch-00002"]
    state = torch.get_rng_state()
    seen = []
    same(fit(simstore, f, labels, config, seed=1, checkpoint=folder, callback=lambda e: seen.append(e.epoch)), whole)
    assert seen == list(range(2, len(whole.history))) and torch.equal(state, torch.get_rng_state())
    same(fit(simstore, f, labels, config, seed=1, checkpoint=folder), whole)  # finished: only read


class Breaking:
    "A store that fails at its n-th batch."

    def __init__(self, store, n):
        self.store, self.left = store, n

    def __getattr__(self, name):
        return getattr(self.store, name)

    def batch(self, rows):
        self.left -= 1
        if self.left < 0:
            raise Stop
        return self.store.batch(rows)


def test_stopped_in_mid_epoch_twice(simstore, fold, tmp_path):
    labels, f = fold
    counted = Breaking(simstore, 10**6)
    whole = fit(counted, f, labels, CONFIG, seed=1)
    an_epoch = (10**6 - counted.left) // CONFIG.epochs
    for reached in (1, 2):
        with pytest.raises(Stop):
            fit(Breaking(simstore, an_epoch + an_epoch // 2), f, labels, CONFIG, seed=1, checkpoint=tmp_path / "run")
        assert [p.name for p in (tmp_path / "run").iterdir()] == [f"epoch-{reached:05d}"]
    same(fit(simstore, f, labels, CONFIG, seed=1, checkpoint=tmp_path / "run"), whole)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[4]))
from pediatric_ecg.train.loop import TrainConfig, fit
from pediatric_ecg.windows.prepare import WindowStore
import json
def killed(part, new, rename=os.replace):
    if str(new).endswith('epoch-00003'): os.kill(os.getpid(), signal.SIGKILL)   # all is written, nothing is renamed
    rename(part, new)
os.replace = killed
store = WindowStore(sys.argv[1])
class Fold: name, train, valid = 'f', *(__import__('numpy').load(f'{sys.argv[2]}/{k}.npy') for k in ('train', 'valid'))
config, labels = json.loads(Path(sys.argv[2], 'config.json').read_text())
fit(store, Fold, labels, TrainConfig(**config), seed=1, checkpoint=sys.argv[3])
"""


def test_killed_while_writing(simstore, fold, tmp_path):
    labels, f = fold
    for k in ("train", "valid"):
        np.save(tmp_path / f"{k}.npy", getattr(f, k))
    (tmp_path / "config.json").write_text(json.dumps([CONFIG.__dict__, labels]))
    whole = fit(simstore, f, labels, CONFIG, seed=1)
    threads = str(torch.get_num_threads())
    done = subprocess.run([sys.executable, "-c", KILLED, simstore.path, tmp_path, tmp_path / "run", threads], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["epoch-00002", "epoch-00003.partial"]
    same(fit(simstore, f, labels, CONFIG, seed=1, checkpoint=tmp_path / "run"), whole)


@pytest.mark.parametrize("what", ["seed", "config", "fold", "classes"])
def test_checkpoints_of_another_run_are_refused(simstore, fold, stopped, what):
    labels, f = fold
    args = dict(store=simstore, fold=f, classes=labels, config=CONFIG, seed=1)
    args |= {"seed": {"seed": 2}, "config": {"config": replace(CONFIG, lr=1e-3)}, "fold": {"fold": replace(f, train=f.train[:-9])}, "classes": {"classes": labels[::-1]}}[what]
    with pytest.raises(DataError, match="checkpoints of another run .*repeat its settings"):
        fit(**args, checkpoint=stopped)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "chance.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "byte", "gone"])
def test_damage_is_named_with_a_remedy(simstore, fold, stopped, tmp_path, name, damage):
    labels, f = fold
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    file = folder / "epoch-00002" / name
    data = bytearray(file.read_bytes())
    data[0 if name == "state.json" else -1] ^= 0xFF
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(data if damage == "byte" else data[: len(data) // 2])
    with pytest.raises(DataError, match=f"{name}: (damaged|missing).*remove the folder of checkpoints") as e:
        fit(simstore, f, labels, CONFIG, seed=1, checkpoint=folder)
    assert "\n" not in str(e.value)


def test_a_folder_of_other_things_is_left_alone(simstore, fold, tmp_path):
    labels, f = fold
    (tmp_path / "thesis.tex").write_text("mine")
    for folder in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(DataError, match="is not a folder of checkpoints"):
            fit(simstore, f, labels, CONFIG, checkpoint=folder)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
