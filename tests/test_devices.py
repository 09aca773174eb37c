"""Two processes give what one gives, and windows are the same wherever they lie."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pediatric_ecg.train.devices import Resident, own_part, tensors
from pediatric_ecg.experiments.run import Protocol, make_folds, scored_labels
from pediatric_ecg.train.config import TrainConfig
from pediatric_ecg.train.loop import fit, outputs

EXACT = TrainConfig(epochs=2, per_group=6, batch_size=16, accelerator="cpu", model={"norm": "group", "dropout": 0.0})


@pytest.fixture(scope="module")
def fold(simstore):
    labels = scored_labels(simstore, Protocol())
    return labels, make_folds(simstore.table, labels, Protocol(folds=2))[-1]


def key_bias(name, value):
    "Biases of attention keys have no gradient but rounding, see the notebook on training."
    value = value.clone()
    if name.endswith(".k.bias"):
        value[:] = 0
    if name.endswith("qkv.bias"):
        value[len(value) // 3 : 2 * len(value) // 3] = 0
    return value


@pytest.mark.parametrize("change", [{"loss": "agcacl", "precision": "64-true"}, {"loss": "ce", "epochs": 1}])
def test_two_processes_equal_one(simstore, fold, tmp_path, change):
    labels, f = fold
    config = replace(EXACT, **change)
    one = fit(simstore, f, labels, config)
    two = fit(simstore, f, labels, replace(config, devices=2), checkpoint=tmp_path / "run")
    a, b = ({k: v if "precision" in change else key_bias(k, v) for k, v in r.model.state_dict().items()} for r in (one, two))
    bound = 1e-10 if "precision" in change else 3e-5   # in 32 bits Adam turns the rounding of a sum into steps: the equality itself is the 64-bit case
    assert max(float((a[k].double() - b[k].double()).abs().max()) for k in a) <= bound
    for column in ("train_loss", "valid_loss", "valid_macro_f1", "largest"):
        np.testing.assert_allclose(two.history[column], one.history[column], rtol=0, atol=1e-5)
    for k, v in one.objective.state_dict().items():
        assert torch.allclose(v, two.objective.state_dict()[k], rtol=0, atol=1e-5), k
    assert two.best_epoch == one.best_epoch and [p.name for p in (tmp_path / "run").iterdir()] == [f"epoch-{config.epochs:05d}"]


def test_what_would_depend_on_the_number_of_processes_is_refused(simstore, fold):
    labels, f = fold
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="--set model.norm=group"):
        fit(simstore, f, labels, replace(EXACT, devices=2, model={}))
    with pytest.raises(ValueError, match="use devices=1"):
        fit(simstore, f, labels, replace(EXACT, devices=2, batch_size=1000))
    with pytest.raises(ValueError, match="multiple of devices"):
        replace(EXACT, devices=3)
    assert torch.equal(state, torch.get_rng_state())


def test_resident_windows_train_the_same_network(simstore, fold, monkeypatch):
    labels, f = fold
    one = fit(simstore, f, labels, EXACT)
    rows = []

    def resident(store, wanted, device):
        rows.append(wanted)
        return Resident(store, wanted, device)

    monkeypatch.setattr("pediatric_ecg.train.loop.on_device", resident)
    two = fit(simstore, f, labels, EXACT)
    assert all(torch.equal(x, y) for x, y in zip(one.model.state_dict().values(), two.model.state_dict().values()))
    assert len(rows) == 1 and not set(rows[0].tolist()) & set(f.test.tolist())


@given(data=st.data())
@settings(deadline=None, max_examples=20)
def test_resident_windows_are_the_stored_ones(simstore, data):
    rows = np.array(data.draw(st.lists(st.integers(0, len(simstore) - 1), min_size=1, max_size=40)))
    here = Resident(simstore, rows, "cpu", chunk=data.draw(st.integers(1, 50)))
    pick = np.array(data.draw(st.lists(st.sampled_from(rows.tolist()), max_size=10)), dtype=np.int64)
    for a, b in zip(tensors(here, pick), tensors(simstore, pick)):
        assert all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in b)
    absent = np.setdiff1d(np.arange(len(simstore)), rows)
    with pytest.raises(KeyError, match="is not among those on cpu"):
        here.tensors(absent[:1])


def test_outputs_of_resident_windows(simstore, fold):
    labels, f = fold
    model = fit(simstore, f, labels, replace(EXACT, epochs=1)).model
    for a, b in zip(outputs(model, Resident(simstore, f.valid, "cpu"), f.valid), outputs(model, simstore, f.valid)):
        assert torch.equal(a, b)


@given(windows=st.integers(1, 12), processes=st.integers(1, 4))
@settings(deadline=None, max_examples=20)
def test_parts_of_a_batch_are_the_batch(windows, processes):
    from types import SimpleNamespace

    x = torch.arange(windows * processes)
    parts = [own_part(SimpleNamespace(world_size=processes, global_rank=r), {"ecg": x}, x) for r in range(processes)]
    assert torch.equal(torch.cat([p[0]["ecg"] for p in parts]), x) and {len(p[1]) for p in parts} == {windows}
