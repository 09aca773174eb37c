"""What training may see, and that it is repeatable."""
from dataclasses import replace

import numpy as np
import pytest
import torch

from pediatric_ecg.experiments import QUICK, Protocol, make_folds, scored_labels
from pediatric_ecg.splits import LeakError, audit
from pediatric_ecg.training import TrainConfig, fit, predict

CONFIG = TrainConfig(**{**QUICK["config"], "epochs": 2})


class Recording:
    "A store that remembers which rows were read."

    def __init__(self, store):
        self.store, self.read = store, set()

    def __getattr__(self, name):
        return getattr(self.store, name)

    def batch(self, rows):
        self.read |= set(np.asarray(rows).tolist())
        return self.store.batch(rows)


@pytest.fixture(scope="module")
def fold(simstore):
    labels = scored_labels(simstore, Protocol())
    return labels, make_folds(simstore.table, labels, Protocol(folds=2))[-1]


def test_no_test_window_is_read(simstore, fold):
    labels, f = fold
    store = Recording(simstore)
    fit(store, f, labels, CONFIG)
    assert store.read and not store.read & set(f.test.tolist())
    assert store.read <= set(f.train.tolist()) | set(f.valid.tolist())


def test_same_seed_same_network(simstore, fold):
    labels, f = fold
    state = torch.random.get_rng_state()
    a, b, c = (fit(simstore, f, labels, CONFIG, seed=s).model.state_dict() for s in (1, 1, 2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)
    assert torch.equal(state, torch.random.get_rng_state()), "the caller's random state is left alone"


def test_training_declares_what_it_fitted_and_a_lie_is_found(simstore, fold):
    labels, f = fold
    fitted = fit(simstore, f, labels, CONFIG).fitted
    audit(simstore.table, [replace(f, fitted=fitted)], require=("normaliser", "class_counts", "prototypes", "early_stopping"))
    for name in fitted:
        with pytest.raises(LeakError):
            audit(simstore.table, [replace(f, fitted={**fitted, name: np.r_[fitted[name], f.test[:1]]})])


def test_without_validation_patients_the_last_epoch_counts(simstore, fold):
    labels, f = fold
    r = fit(simstore, replace(f, valid=np.array([], dtype=np.int64)), labels, CONFIG)
    assert r.best_epoch == CONFIG.epochs - 1 and r.history.valid_macro_f1.isna().all()
    assert predict(r.model, simstore, f.test[:3]).shape == (3, len(labels))
    with pytest.raises(ValueError, match="no training windows"):
        fit(simstore, replace(f, train=np.array([], dtype=np.int64)), labels, CONFIG)


@pytest.mark.parametrize("loss", ["ce", "ce+la", "cb", "focal", "ldam", "bcl", "paco", "agcacl-plain", "agcacl"])
def test_every_loss_trains(simstore, fold, loss):
    labels, f = fold
    r = fit(simstore, f, labels, replace(CONFIG, loss=loss, epochs=1))
    assert np.isfinite(r.history.train_loss).all()


@pytest.mark.parametrize("model", [{"fusion": k} for k in ("mean", "concat", "early", "late")] + [{"depth": 0}, {"norm": "group"}])
def test_every_switch_of_the_network_trains(simstore, fold, model):
    labels, f = fold
    r = fit(simstore, f, labels, replace(CONFIG, model=model, epochs=1))
    assert np.isfinite(r.history.train_loss).all()


@pytest.mark.parametrize("network", ["resnet", "resnet:ecg", "inceptiontime:iegm", "crnn:ecg"])
def test_peers_train_behind_the_same_call(simstore, fold, network):
    pytest.importorskip("deepecgkit")
    labels, f = fold
    small = replace(CONFIG, network=network, loss="agcacl", per_group=2, epochs=1)
    r = fit(simstore, f, labels, small)
    assert type(r.model).__name__ == "Peer" and np.isfinite(r.history.train_loss).all()
    assert predict(r.model, simstore, f.test[:3]).shape == (3, len(labels))
    with pytest.raises(ValueError, match="only must be one of ecg, iegm"):
        fit(simstore, f, labels, replace(small, network="resnet:lead1"))


@pytest.mark.parametrize("network", ["resnext", "resnet:", "rhythmnet:ecg", ""])
def test_an_unknown_network_is_refused_at_once(network):
    with pytest.raises(ValueError, match="network must be rhythmnet or one of resnet"):
        TrainConfig(network=network)
