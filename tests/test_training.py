"""What training may see, and that it is repeatable."""
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from pediatric_ecg.experiments.run import QUICK, Protocol, make_folds, scored_labels
from pediatric_ecg.core import LeakError
from pediatric_ecg.splits.audit import audit
from pediatric_ecg.train.config import TrainConfig
from pediatric_ecg.train.loop import fit, predict

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


def test_the_loss_of_an_epoch_is_the_mean_of_its_windows(simstore, fold):
    "Also where one batch is larger than the epoch."
    labels, f = fold
    loss = fit(simstore, f, labels, replace(CONFIG, loss="ce", epochs=1, batch_size=4096)).history.train_loss[0]
    assert loss == pytest.approx(np.log(len(labels)), rel=0.3), "one step from random weights: near the entropy of a guess"


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


def test_validation_windows_go_through_the_network_once_an_epoch(simstore, fold):
    labels, f = fold
    store, counted = Recording(simstore), []
    store.batch = lambda rows: (counted.append(np.isin(rows, f.valid).sum()), simstore.batch(rows))[1]
    r = fit(store, f, labels, CONFIG)
    assert sum(counted) == CONFIG.epochs * len(r.fitted["early_stopping"])


def test_the_callback_sees_each_epoch_and_changes_nothing(simstore, fold):
    labels, f = fold
    seen = []

    def callback(e):
        torch.randn(3)
        seen.append((e.epoch, e.row["valid_macro_f1"], e.z.shape, len(e.y), e.objective.agcacl.seen.any().item(), predict(e.model, simstore, f.valid[:2]).shape))

    a, b = fit(simstore, f, labels, CONFIG, callback=callback), fit(simstore, f, labels, CONFIG)
    n = len(a.fitted["early_stopping"])
    assert seen == [(i, v, (n, 64), n, True, (2, len(labels))) for i, v in enumerate(a.history.valid_macro_f1)]
    assert all(torch.equal(x, y) for x, y in zip(a.model.state_dict().values(), b.model.state_dict().values()))


@pytest.mark.parametrize("loss", ["ce", "agcacl"])
def test_the_history_holds_the_geometry(simstore, fold, loss):
    labels, f = fold
    columns = ["largest", "rank", "gap", "ratio", "within_rare", *["minority"] * (loss == "agcacl")]  # the rare classes may have no validation patients
    h = fit(simstore, f, labels, replace(CONFIG, loss=loss)).history
    assert h[columns].notna().all(axis=None) and (h["rank"] <= len(labels)).all()
    alone = fit(simstore, replace(f, valid=f.valid[:0]), labels, replace(CONFIG, loss=loss)).history
    assert alone[["ratio", "within_rare"]].isna().all(axis=None)
    assert alone[["largest", "rank"]].notna().all(axis=None) == (loss == "agcacl"), "prototypes are there without validation windows"


def test_patience_ends_training_and_nothing_else(simstore, fold):
    labels, f = fold
    config = replace(CONFIG, epochs=6, per_group=3)
    whole = fit(simstore, f, labels, config)
    for patience in (1, 2):
        r = fit(simstore, f, labels, replace(config, patience=patience))
        best = [whole.history.valid_macro_f1[: i + 1].idxmax() for i in range(6)]
        stop = next((e for e in range(6) if e - best[e] >= patience), 5)
        assert len(r.history) == stop + 1 and r.best_epoch == best[stop]
        assert r.history.valid_macro_f1.tolist() == whole.history.valid_macro_f1[: stop + 1].tolist()
    no_patients = fit(simstore, replace(f, valid=f.valid[:0]), labels, replace(config, patience=1))
    assert len(no_patients.history) == 6


def test_class_sampling_tells_the_loss_and_warns_of_two_corrections(simstore, fold):
    labels, f = fold
    config = replace(CONFIG, sampling="class", epochs=1)
    with pytest.warns(UserWarning, match=r"agcacl is given equal counts and its own correction \(log prior, φ\) does nothing") as caught:
        r = fit(simstore, f, labels, config)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert r.objective.agcacl.class_counts.unique().numel() == 1 and r.objective.classify.shift.unique().numel() == 1
    for quiet in ({"loss": "ce"}, {"loss": "focal"}, {"loss_args": {"prior": 0.0, "beta": 0.0}}):
        fit(simstore, f, labels, replace(config, **quiet))  # warnings are errors here


def test_the_plot_marks_the_chosen_epoch(simstore, fold):
    labels, f = fold
    r = fit(simstore, f, labels, CONFIG)
    loss, score = r.plot().axes
    assert [len(line.get_xdata()) for line in score.lines] == [CONFIG.epochs, 2] and score.lines[1].get_xdata()[0] == r.best_epoch
    assert score.get_ylabel() == "validation macro-F1"
    plt.close("all")


def test_progress_is_one_line_with_loss_score_and_speed(simstore, fold, capsys):
    labels, f = fold
    fit(simstore, f, labels, CONFIG, progress=True)
    err = capsys.readouterr().err
    assert "loss=" in err and "macro_F1=" in err and "windows_s=" in err and "\n" not in err.strip()
