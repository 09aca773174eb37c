"""What training may see, and that it is repeatable."""
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from pediatric_ecg.core import LeakError, PediatricECGError
from pediatric_ecg.experiments import Protocol
from pediatric_ecg.experiments.run import QUICK, make_folds, scored_labels
from pediatric_ecg.losses import OBJECTIVES
from pediatric_ecg.splits import audit
from pediatric_ecg.train import TrainConfig, fit, predict
from pediatric_ecg.train.config import make_model

CONFIG = TrainConfig(**{**QUICK["config"], "epochs": 2})


class Recording:
    "A store that remembers which rows were read."

    def __init__(self, store):
        self.store, self.read = store, []

    def __getattr__(self, name):
        return getattr(self.store, name)

    def batch(self, rows):
        self.read.append(np.asarray(rows))
        return self.store.batch(rows)


@pytest.fixture(scope="module")
def labels(simstore):
    return scored_labels(simstore, Protocol())


@pytest.fixture(scope="module")
def fold(simstore, labels):
    return make_folds(simstore.table, labels, Protocol(folds=2))[-1]


def same_weights(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_no_test_window_is_read(simstore, fold, labels):
    store = Recording(simstore)
    fit(store, fold, labels, CONFIG)
    read = set(np.concatenate(store.read).tolist())
    assert read and not read & set(fold.test.tolist())
    assert read <= set(fold.train.tolist()) | set(fold.valid.tolist())


def test_same_seed_same_network(simstore, fold, labels):
    state = torch.random.get_rng_state()
    first, again, other = (fit(simstore, fold, labels, CONFIG, seed=seed).model for seed in (1, 1, 2))
    assert same_weights(first, again)
    assert not same_weights(first, other)
    assert torch.equal(state, torch.random.get_rng_state()), "the caller's random state is left alone"


def test_training_declares_what_it_fitted_and_a_lie_is_found(simstore, fold, labels):
    fitted = fit(simstore, fold, labels, CONFIG).fitted
    required = ("normaliser", "class_counts", "prototypes", "early_stopping")
    assert set(fitted) == set(required)
    audit(simstore.table, [replace(fold, fitted=fitted)], require=required)
    for name in fitted:
        lie = {**fitted, name: np.r_[fitted[name], fold.test[:1]]}
        with pytest.raises(LeakError):
            audit(simstore.table, [replace(fold, fitted=lie)])


def test_the_loss_of_an_epoch_is_the_mean_of_its_windows(simstore, fold, labels):
    "Also where one batch is larger than the epoch."
    config = replace(CONFIG, loss="ce", epochs=1, batch_size=4096)
    loss = fit(simstore, fold, labels, config).history.train_loss[0]
    guess = np.log(len(labels))
    assert loss == pytest.approx(guess, rel=0.3), "one step from random weights: near the entropy of a guess"


def test_without_validation_patients_the_last_epoch_counts(simstore, fold, labels):
    nobody = np.array([], dtype=np.int64)
    result = fit(simstore, replace(fold, valid=nobody), labels, CONFIG)
    assert result.best_epoch == CONFIG.epochs - 1 and result.history.valid_macro_f1.isna().all()
    assert predict(result.model, simstore, fold.test[:3]).shape == (3, len(labels))
    with pytest.raises(ValueError, match="no training windows"):
        fit(simstore, replace(fold, train=nobody), labels, CONFIG)


TRAINED = ["ce", "ce+la", "cb", "focal", "ldam", "ldam-cosine", "bcl", "paco", "agcacl-plain", "agcacl"]


@pytest.mark.parametrize("loss", TRAINED)
def test_every_loss_trains(simstore, fold, labels, loss):
    result = fit(simstore, fold, labels, replace(CONFIG, loss=loss, epochs=1))
    assert np.isfinite(result.history.train_loss).all()


@pytest.mark.parametrize("loss", list(OBJECTIVES))
def test_the_head_follows_from_the_loss(simstore, labels, loss):
    "The cosine head for the loss that is made for cosines, and nothing else for it; any head for the others."
    kinds = {}
    for chosen in (None, "linear", "cosine"):
        model = {} if chosen is None else {"head": chosen}
        if loss == "ldam-cosine" and chosen == "linear":
            with pytest.raises(PediatricECGError, match="needs the cosine head, not model.head 'linear'") as caught:
                TrainConfig(loss=loss, model=model)
            assert "\n" not in str(caught.value)
            continue
        network = make_model(simstore, labels, TrainConfig(loss=loss, model=model))
        kinds[chosen] = type(network.heads[0]).__name__
        assert network.config.head == ("cosine" if kinds[chosen] == "CosineLinear" else "linear")
    assert kinds[None] == ("CosineLinear" if loss == "ldam-cosine" else "Linear")
    assert kinds["cosine"] == "CosineLinear" and kinds.get("linear", "Linear") == "Linear"


@pytest.mark.parametrize("network", ["resnet", "crnn:ecg"])
def test_a_peer_has_no_cosine_head(network):
    with pytest.raises(PediatricECGError, match=f"which network '{network}' does not have$") as caught:
        TrainConfig(loss="ldam-cosine", network=network)
    assert "\n" not in str(caught.value)
    TrainConfig(loss="ldam", network=network)


SWITCHES = [{"fusion": name} for name in ("mean", "concat", "early", "late")] + [{"depth": 0}, {"norm": "group"}]


@pytest.mark.parametrize("model", SWITCHES)
def test_every_switch_of_the_network_trains(simstore, fold, labels, model):
    result = fit(simstore, fold, labels, replace(CONFIG, model=model, epochs=1))
    assert np.isfinite(result.history.train_loss).all()


@pytest.mark.parametrize("network", ["resnet", "resnet:ecg", "inceptiontime:iegm", "crnn:ecg"])
def test_peers_train_behind_the_same_call(simstore, fold, labels, network):
    pytest.importorskip("deepecgkit")
    small = replace(CONFIG, network=network, loss="agcacl", per_group=2, epochs=1)
    result = fit(simstore, fold, labels, small)
    assert type(result.model).__name__ == "Peer" and np.isfinite(result.history.train_loss).all()
    assert predict(result.model, simstore, fold.test[:3]).shape == (3, len(labels))
    with pytest.raises(ValueError, match="only must be one of ecg, iegm"):
        fit(simstore, fold, labels, replace(small, network="resnet:lead1"))


@pytest.mark.parametrize("network", ["resnext", "resnet:", "rhythmnet:ecg", ""])
def test_an_unknown_network_is_refused_at_once(network):
    with pytest.raises(ValueError, match="network must be rhythmnet or one of resnet"):
        TrainConfig(network=network)


def test_validation_windows_go_through_the_network_once_an_epoch(simstore, fold, labels):
    store = Recording(simstore)
    result = fit(store, fold, labels, CONFIG)
    validated = sum(np.isin(rows, fold.valid).sum() for rows in store.read)
    assert validated == CONFIG.epochs * len(result.fitted["early_stopping"])


def test_the_callback_sees_each_epoch_and_changes_nothing(simstore, fold, labels):
    seen = []

    def callback(epoch):
        torch.randn(3)
        prototypes = epoch.objective.agcacl.seen.any().item()
        shape = predict(epoch.model, simstore, fold.valid[:2]).shape
        seen.append((epoch.epoch, epoch.row["valid_macro_f1"], epoch.z.shape, len(epoch.y), prototypes, shape))

    watched = fit(simstore, fold, labels, CONFIG, callback=callback)
    alone = fit(simstore, fold, labels, CONFIG)
    windows = len(watched.fitted["early_stopping"])
    expected = []
    for number, score in enumerate(watched.history.valid_macro_f1):
        expected.append((number, score, (windows, 64), windows, True, (2, len(labels))))
    assert seen == expected
    assert same_weights(watched.model, alone.model)


@pytest.mark.parametrize("loss", ["ce", "agcacl"])
def test_the_history_holds_the_geometry(simstore, fold, labels, loss):
    columns = ["largest", "rank", "gap", "ratio", "within_rare"]
    prototypes = ["proto_largest", "proto_rank", "proto_minority"] if loss == "agcacl" else []
    history = fit(simstore, fold, labels, replace(CONFIG, loss=loss)).history
    assert history[columns + prototypes].notna().all(axis=None) and (history["rank"] <= len(labels)).all()
    alone = fit(simstore, replace(fold, valid=fold.valid[:0]), labels, replace(CONFIG, loss=loss)).history
    assert alone[["ratio", "within_rare"]].isna().all(axis=None)
    assert alone[prototypes].notna().all(axis=None), "prototypes are there without validation windows"


def test_patience_ends_training_and_nothing_else(simstore, fold, labels):
    config = replace(CONFIG, epochs=6, per_group=3)
    whole = fit(simstore, fold, labels, config)
    scores = whole.history.valid_macro_f1
    best = [scores[: epoch + 1].idxmax() for epoch in range(6)]
    for patience in (1, 2):
        result = fit(simstore, fold, labels, replace(config, patience=patience))
        stop = next((epoch for epoch in range(6) if epoch - best[epoch] >= patience), 5)
        assert len(result.history) == stop + 1 and result.best_epoch == best[stop]
        assert result.history.valid_macro_f1.tolist() == scores[: stop + 1].tolist()
    no_patients = fit(simstore, replace(fold, valid=fold.valid[:0]), labels, replace(config, patience=1))
    assert len(no_patients.history) == 6


def test_class_sampling_tells_the_loss_and_warns_of_two_corrections(simstore, fold, labels):
    config = replace(CONFIG, sampling="class", epochs=1)
    words = r"agcacl is given equal counts and its own correction \(log prior, φ\) does nothing"
    with pytest.warns(UserWarning, match=words) as caught:
        result = fit(simstore, fold, labels, config)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert result.objective.agcacl.class_counts.unique().numel() == 1
    assert result.objective.classify.shift.unique().numel() == 1
    for quiet in ({"loss": "ce"}, {"loss": "focal"}, {"loss_args": {"prior": 0.0, "beta": 0.0}}):
        fit(simstore, fold, labels, replace(config, **quiet))  # warnings are errors here


def test_the_plot_marks_the_chosen_epoch(simstore, fold, labels):
    result = fit(simstore, fold, labels, CONFIG)
    loss, score = result.plot().axes
    assert [len(line.get_xdata()) for line in score.lines] == [CONFIG.epochs, 2]
    assert score.lines[1].get_xdata()[0] == result.best_epoch
    assert score.get_ylabel() == "validation macro-F1"
    plt.close("all")


def test_progress_in_a_log_is_a_plain_line_with_loss_score_and_speed(simstore, fold, labels, capsys, monkeypatch):
    monkeypatch.setattr("pediatric_ecg.surroundings.SECONDS_BETWEEN_LINES", 1e-9)
    fit(simstore, fold, labels, CONFIG, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == CONFIG.epochs and "\r" not in "".join(lines)
    for number, line in enumerate(lines, 1):
        assert line.startswith(f"epochs: {number} of {CONFIG.epochs}, ") and " left" in line
        assert "loss=" in line and "macro_F1=" in line and "windows_s=" in line
    monkeypatch.setattr("pediatric_ecg.surroundings.SECONDS_BETWEEN_LINES", 60.0)
    fit(simstore, fold, labels, CONFIG, progress=True)
    assert capsys.readouterr().err == "", "over before anybody could wonder"
