"""Windows are the same wherever they lie."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pediatric_ecg.experiments import Protocol
from pediatric_ecg.experiments.run import make_folds, scored_labels
from pediatric_ecg.train import TrainConfig, fit
from pediatric_ecg.train.loop import outputs
from pediatric_ecg.train.resident import Resident, tensors

EXACT = TrainConfig(epochs=2, per_group=6, batch_size=16, accelerator="cpu", model={"norm": "group", "dropout": 0.0})


@pytest.fixture(scope="module")
def labels(simstore):
    return scored_labels(simstore, Protocol())


@pytest.fixture(scope="module")
def fold(simstore, labels):
    return make_folds(simstore.table, labels, Protocol(folds=2))[-1]


def test_resident_windows_train_the_same_network(simstore, fold, labels, monkeypatch):
    one = fit(simstore, fold, labels, EXACT).model.state_dict()
    rows = []

    def resident(store, wanted, device):
        rows.append(wanted)
        return Resident(store, wanted, device)

    monkeypatch.setattr("pediatric_ecg.train.loop.on_device", resident)
    two = fit(simstore, fold, labels, EXACT).model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert len(rows) == 1 and not set(rows[0].tolist()) & set(fold.test.tolist())


@given(data=st.data())
@settings(deadline=None, max_examples=20)
def test_resident_windows_are_the_stored_ones(simstore, data):
    rows = np.array(data.draw(st.lists(st.integers(0, len(simstore) - 1), min_size=1, max_size=40)))
    resident = Resident(simstore, rows, "cpu", chunk=data.draw(st.integers(1, 50)))
    chosen = np.array(data.draw(st.lists(st.sampled_from(rows.tolist()), max_size=10)), dtype=np.int64)
    for here, there in zip(tensors(resident, chosen), tensors(simstore, chosen)):
        for name in there:
            assert torch.equal(here[name], there[name]) and here[name].dtype == there[name].dtype
    absent = np.setdiff1d(np.arange(len(simstore)), rows)
    with pytest.raises(KeyError, match="is not among those on cpu"):
        resident.tensors(absent[:1])


class Disturbed:
    "A store whose signals are no numbers of half precision."

    def __init__(self, store):
        self.store = store

    def __getattr__(self, name):
        return getattr(self.store, name)

    def batch(self, rows):
        signals, present = self.store.batch(rows)
        return {name: signal * np.float32(1.1) for name, signal in signals.items()}, present


def test_windows_keep_single_precision_where_they_need_it(simstore):
    store, rows = Disturbed(simstore), np.arange(20)
    resident = Resident(store, rows, "cpu", chunk=7)
    assert {signal.dtype for signal in resident.signals.values()} == {torch.float32}
    assert {signal.dtype for signal in Resident(simstore, rows, "cpu").signals.values()} == {torch.float16}
    for here, there in zip(tensors(resident, rows), tensors(store, rows)):
        assert all(torch.equal(here[name], there[name]) for name in there)


def test_outputs_of_resident_windows(simstore, fold, labels):
    model = fit(simstore, fold, labels, replace(EXACT, epochs=1)).model
    resident = outputs(model, Resident(simstore, fold.valid, "cpu"), fold.valid)
    for here, there in zip(resident, outputs(model, simstore, fold.valid)):
        assert torch.equal(here, there)
