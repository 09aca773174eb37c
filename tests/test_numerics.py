"""How far precision, threads, batches and blocks may move a number: every bound is stated here and held."""
import numpy as np
import pytest
import torch
from toy import HALVES, SPEC, annotations, header, pulses, write

from pediatric_ecg.data import Database
from pediatric_ecg.nn import RhythmNet, RhythmNetConfig
from pediatric_ecg.train import predict
from pediatric_ecg.windows import prepare
from pediatric_ecg.windows.leads import ABSURD_MV

# Largest change of a probability
OTHER_ORDER = 1e-5  # other threads or another batch: the same numbers, added in another order
SINGLE = 1e-4  # the network in single instead of double precision
HALF = 2e-2  # windows kept in half instead of single precision
BLOCK_MV = 1e-5  # of a sample: records read in blocks of another length, whose sums begin elsewhere

CLASSES = 5


@pytest.fixture(scope="module")
def records(simdb):
    names = sorted(path.stem for path in simdb.glob("*.hea"))[:2]
    return simdb, names


@pytest.fixture(scope="module")
def stores(records, tmp_path_factory):
    "The same windows in half and in single precision; single in blocks of another length."
    folder, names = records
    place = tmp_path_factory.mktemp("numerics")
    how = {"records": names, "n_jobs": 1, "progress": False}
    return {
        dtype: prepare(folder, place / dtype, dtype=dtype, block_seconds=seconds, **how)
        for dtype, seconds in (("float16", 600.0), ("float32", 11.0))}


@pytest.fixture(scope="module")
def network(stores):
    "A network as it is drawn, its head made sharper so that rounding shows."
    torch.manual_seed(0)
    store = stores["float32"]
    modalities = {name: list(leads) for name, leads in store.modalities.items()}
    shape = RhythmNetConfig(modalities, CLASSES, fs=store.fs, seconds=store.seconds, widths=(16, 16), depth=1, heads=2)
    model = RhythmNet(shape)
    with torch.no_grad():
        list(model.parameters())[-2].mul_(20)
    return model.eval()


def test_half_precision_moves_a_sample_by_its_bound(stores):
    half, single = (stores[dtype].arrays for dtype in ("float16", "float32"))
    for name in single:
        exact = single[name].astype(np.float64)
        bound = np.maximum(np.abs(exact) / 2048, 3e-8)
        assert (np.abs(half[name].astype(np.float64) - exact) <= bound).all()


def test_half_precision_moves_an_answer_by_little(stores, network):
    rows = np.arange(len(stores["float32"]))
    answers = [predict(network, stores[dtype], rows) for dtype in ("float32", "float16")]
    assert 0 < np.abs(answers[0] - answers[1]).max() < HALF


def test_single_against_double_precision(stores, network):
    signals, present = stores["float32"].batch(np.arange(len(stores["float32"])))
    masks = {name: torch.from_numpy(part) for name, part in present.items()}
    answers = []
    for dtype in (torch.float32, torch.float64):
        windows = {name: torch.from_numpy(part).to(dtype) for name, part in signals.items()}
        with torch.no_grad():
            answers.append(network.to(dtype)(windows, masks).logits.softmax(-1).double())
    network.to(torch.float32)
    assert 0 < (answers[0] - answers[1]).abs().max() < SINGLE


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_batches_of_any_size(stores, network, batch_size):
    store = stores["float32"]
    rows = np.arange(min(40, len(store)))
    whole = predict(network, store, rows, batch_size=len(rows))
    assert np.abs(predict(network, store, rows, batch_size=batch_size) - whole).max() < OTHER_ORDER


def test_one_thread_and_two(stores, network):
    store, before = stores["float32"], torch.get_num_threads()
    rows, answers = np.arange(len(store)), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            answers.append(predict(network, store, rows))
    finally:
        torch.set_num_threads(before)
    assert np.abs(answers[0] - answers[1]).max() < OTHER_ORDER


def test_blocks_of_any_length_move_a_sample_by_less_than_is_kept(records, stores, tmp_path):
    folder, names = records
    how = {"records": names, "n_jobs": 1, "progress": False}
    again = prepare(folder, tmp_path / "s", dtype="float32", block_seconds=600.0, **how)
    for name in stores["float32"].arrays:
        assert np.abs(again.arrays[name] - stores["float32"].arrays[name]).max() < BLOCK_MV


def record(folder, samples):
    "A record of two leads, 32 bits per sample, 1000 units per mV."
    files = {"p1.hea": header(fmt="32"), "p1.dat": samples.astype("<i4").tobytes(), "p1.atr": annotations(HALVES)}
    return write(folder, {"database.json": SPEC, **files})


def windows_of(folder, out):
    store = prepare(folder, out, database=Database.from_json(str(SPEC).replace("'", '"')), n_jobs=1, progress=False)
    return store, store.batch(np.arange(len(store)))


@pytest.mark.parametrize("value", [2**31 - 1, -(2**31) + 1])
def test_an_absurd_sample_is_bridged(tmp_path, value):
    "Two million millivolts for one sample: the windows are those of a record without it, but for a hair."
    samples = pulses().astype(np.int64)
    clean, (of_clean, _) = windows_of(record(tmp_path / "clean", samples), tmp_path / "a")
    samples[600, 0] = value
    assert abs(value) / 1000 > ABSURD_MV
    store, (signals, present) = windows_of(record(tmp_path / "absurd", samples), tmp_path / "b")
    assert len(store) == len(clean) and present["lead1"].all()
    assert np.abs(signals["lead1"] - of_clean["lead1"]).max() < 0.1
    np.testing.assert_array_equal(signals["lead2"], of_clean["lead2"])


def test_an_absurd_stretch_is_unusable_time_and_named(tmp_path):
    "Half a second of it: the windows that hold it are marked as having a gap, the others are as they were."
    samples = pulses().astype(np.int64)
    _, (of_clean, _) = windows_of(record(tmp_path / "clean", samples), tmp_path / "a")
    samples[600:660, 0] = 2**31 - 1
    store, (signals, present) = windows_of(record(tmp_path / "absurd", samples), tmp_path / "b")
    hit = ((store.table.start < 660) & (store.table.end > 600)).to_numpy()
    assert hit.any() and not hit.all()
    assert not present["lead1"][hit].any() and present["lead1"][~hit].all() and present["lead2"].all()
    assert (store.table["gap_lead1"][hit] == "1").all() and (store.table["gap_lead1"][~hit] == "0").all()
    assert np.isfinite(signals["lead1"]).all()
    far = ~((store.table.start < 660 + 250) & (store.table.end > 600 - 250)).to_numpy()
    assert np.abs(signals["lead1"][far] - of_clean["lead1"][far]).max() < 0.05
