"""Files that a user or an earlier run may have damaged: one error that names the file and says what to do.

Every file of a store, a run, its network and a checkpoint is damaged in many ways. What is read afterwards is a
result or a `DataError` on one line with the name of the file and a remedy, and it comes soon.
"""
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from made_up_run import made_up_run
from watchdog import ends

from pediatric_ecg.core import DataError
from pediatric_ecg.evaluate.pool import Ensemble, Forest
from pediatric_ecg.experiments import RunFolder
from pediatric_ecg.nn import RhythmNet, RhythmNetConfig
from pediatric_ecg.splits import Fold
from pediatric_ecg.splits.folds import load_folds, save_folds
from pediatric_ecg.train._checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pediatric_ecg.windows import WindowStore
from pediatric_ecg.windows.store import StoreWriter

SPEC = {"name": "toy", "title": "Toy", "modalities": {"ecg": ["I", "II"]}, "markers": {"(N": "sinus", "(AFIB": "AF"}}


def whole_store(folder):
    "A store of four windows with all keys of a manifest."
    parameters = {"database": SPEC, "seconds": 0.02, "preprocess": {}}
    with StoreWriter(folder, parameters) as writer:
        writer.begin()
        np.arange(40, dtype=np.float16).tofile(f"{writer.part(0)}.ecg")
        rows = {"record": "0010", "subject": ["007"] * 2 + ["NA"] * 2, "start": range(0, 20, 5), "end": range(5, 25, 5),
                "rhythm": "(N", "label": "N", "present_ecg": "11", "hash": "a"}
        pd.DataFrame(rows).to_csv(f"{writer.part(0)}.csv", index=False)
        about = {"title": "a toy", "simulated": True, "classes": ["N"], "modalities": {"ecg": ["I", "II"]},
                 "fs": 250.0, "seconds": 0.02, "length": 5, "records": [], "patients": []}
        writer.finish([0], {"ecg": (2, 5)}, about)
    return folder


def read_store(folder):
    store = WindowStore(folder)
    assert store.database.markers
    store.batch([0, 1])
    return store


def read_run(folder, parts=("predictions", "history", "examples", "classes")):
    run = RunFolder.open(folder)
    for part in ("metrics", "manifest", "config", "similarity", "splits", *parts):
        getattr(run, part)
    return run


def read_json_of_run(folder):
    "A run without its tables and arrays, which take longer."
    return read_run(folder, ())


def whole_network(folder):
    "A small network with what `annotate` wants to know."
    config = RhythmNetConfig({"ecg": 2}, 2, seconds=1.0, widths=(8, 8), depth=1, heads=1, embedding=4)
    RhythmNet(config).save(folder, {"classes": ["N", "AF"], "seconds": 1.0, "preprocess": {}, "database": SPEC})
    return folder


def small_forest():
    "One tree with two leaves, for two classes."
    return Forest(
        roots=np.zeros(1, np.int32), below=np.array([[1, 2], [1, 1], [2, 2]], np.int32), feature=np.zeros(3, np.int32),
        threshold=np.array([0.5, 0.0, 0.0]), absent=np.zeros(3, np.int8), leaf=np.float32([[0, 0], [1, 0], [0, 1]]),
        columns=np.array([3], np.int32))


def whole_members(folder):
    "A small network with the other members of a run."
    config = RhythmNetConfig({"ecg": 2}, 2, seconds=1.0, widths=(8, 8), depth=1, heads=1, embedding=4)
    weights = dict.fromkeys(("network", "forest", "forest_simulated", "simulated"), 0.5)
    RhythmNet(config).save(folder, {"classes": ["N", "AF"], "pool": weights})
    RhythmNet(config).save(folder / "simulated", {"classes": ["AF", "N"]})
    for name in ("forest", "forest_simulated"):
        small_forest().save(folder / f"{name}.safetensors")
    return folder


def read_members(folder):
    "All members answer."
    members = Ensemble.load(folder)
    answer = members({"ecg": np.ones((3, 2, 250), np.float32)}, {"ecg": np.ones((3, 2), bool)})
    assert np.allclose(answer.sum(1), 1)


def whole_checkpoint(folder):
    state = {"step": 3, "history": [], "best": [0, [0.5]], "rng": {}}
    weights = {"model": {"a": torch.zeros(2)}}
    chance = {"torch": torch.zeros(8, dtype=torch.uint8)}
    optimizer = {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]}
    save_checkpoint(folder, Checkpoint(3, weights, optimizer, chance, state), {"seed": 0})
    return folder


def whole_folds(folder):
    names = {"record": "a", "subject": list("aabb"), "label": "N"}
    table = pd.DataFrame({**names, "start": range(4), "end": range(1, 5)})
    folder.mkdir()
    fold = Fold("patient-0", "patient", 0, np.array([0, 1]), np.array([], int), np.array([2, 3]))
    save_folds(folder / "folds.json", [fold], table)
    return folder


# What is made, and how it is read
KINDS = {
    "store": (whole_store, read_store),
    "run": (made_up_run, read_run),
    "network": (whole_network, RhythmNet.load),
    "members": (whole_members, read_members),
    "checkpoint": (whole_checkpoint, lambda folder: load_checkpoint(folder, {"seed": 0})),
    "folds": (whole_folds, lambda folder: load_folds(folder / "folds.json")),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    "One undamaged folder of each kind."
    folder = tmp_path_factory.mktemp("whole")
    return {name: make(folder / name) for name, (make, _) in KINDS.items()}


def ends_well(read, folder, file):
    "A result, or one line that names the file and what to do, within five seconds."
    with ends():
        try:
            read(folder)
            refused = False
        except DataError as error:
            text = str(error)
            # A value may be right in itself and contradict another file, which is named then
            named = any(path.name in text for path in [file, *folder.rglob("*.*")])
            named = named or f"{folder}: checkpoints of" in text
            assert named and "\n" not in text and len(text) < 1500, text
            assert any(separator in text for separator in ("; ", ": name", ": copy")), text
            refused = True
    return refused


BYTES = {
    "empty": lambda content: b"",
    "half": lambda content: content[:len(content) // 2],
    "all but one": lambda content: content[:-2],
    "binary": lambda content: bytes(range(256)) * 20,
    "zeros": lambda content: bytes(len(content)),
    "doubled": lambda content: content + content,
    "one byte": lambda content: content[:len(content) // 3] + b"\xff" + content[len(content) // 3 + 1:],
    "nested": lambda content: b"[" * 100_000,
    "nested names": lambda content: b'{"a":' * 100_000,
    "another kind": lambda content: b"[1]",
    "a number": lambda content: b"1" * 5000,
    "nothing": lambda content: b"null",
    "no names": lambda content: b"{}",
    "one name twice": lambda content: b'{"a": 1, "a": 2}',
}
# Bytes that are a file of the right kind still, or of which nobody could know: a result is right too
MAY_PASS = {"all but one", "one byte", "no names", "one name twice", "doubled"}


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("damage", list(BYTES))
def test_damaged_bytes(originals, tmp_path, kind, damage):
    read = KINDS[kind][1]
    for original in sorted(path for path in originals[kind].rglob("*") if path.is_file()):
        place = original.relative_to(originals[kind])
        folder = shutil.copytree(originals[kind], tmp_path / "-".join([kind, *place.parts]))
        file = folder / place
        file.write_bytes(BYTES[damage](file.read_bytes()))
        refused = ends_well(read, folder, file)
        assert refused or damage in MAY_PASS, file.name


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("instead", ["folder", "pipe", "nothing", "link to nowhere"])
def test_something_else_in_its_place(originals, tmp_path, kind, instead):
    "A folder, a pipe, nothing: a pipe would keep its reader waiting for ever."
    import os

    read = KINDS[kind][1]
    for original in sorted(path for path in originals[kind].rglob("*") if path.is_file()):
        place = original.relative_to(originals[kind])
        folder = shutil.copytree(originals[kind], tmp_path / "-".join([kind, *place.parts]))
        file = folder / place
        file.unlink()
        if instead == "folder":
            file.mkdir()
        elif instead == "pipe":
            os.mkfifo(file)
        elif instead == "link to nowhere":
            file.symlink_to(tmp_path / "nowhere")
        refused = optional = None
        try:
            refused = ends_well(read, folder, file)
        except AssertionError:
            # Without its manifest a folder is no store, whatever else is in it
            optional = file.name == "manifest.json" and kind == "store" and instead in ("nothing", "link to nowhere")
            assert optional
        may_lack = file.name in ("config.json", "similarity.json", "history.csv", "examples.npz") and kind == "run"
        assert refused or optional or (may_lack and instead in ("nothing", "link to nowhere")), file


VALUES = [None, True, 0, -1, 2.5, 10**400, float("nan"), float("inf"), "text", "",
          [], ["a"], [[1]], {}, {"a": 1}, [None]]


def leaves(content, path=()):
    "The place of every value of a JSON file, not deeper than four names."
    yield path
    if isinstance(content, dict) and len(path) < 4:
        for key, value in list(content.items())[:20]:
            yield from leaves(value, (*path, key))
    elif isinstance(content, list) and content and len(path) < 4:
        yield from leaves(content[0], (*path, 0))


def changed(content, path, value, remove=False):
    "A copy in which the value at one place is another, or gone."
    content = json.loads(json.dumps(content))
    if not path:
        return value
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    if remove:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return content


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_value_of_another_kind(originals, tmp_path, kind):
    "Each value of each JSON file is replaced by values of every kind, and removed."
    read = read_json_of_run if kind == "run" else KINDS[kind][1]
    folder = shutil.copytree(originals[kind], tmp_path / kind)
    chosen = np.random.default_rng(0)
    for file in sorted(folder.rglob("*.json")):
        content = json.loads(file.read_text())
        places = list(leaves(content))
        for path in places:
            some = chosen.choice(len(VALUES), 4, replace=False) if len(places) > 20 else range(len(VALUES))
            for number in some:
                file.write_text(json.dumps(changed(content, path, VALUES[number])))
                ends_well(read, folder, file)
            if path:
                file.write_text(json.dumps(changed(content, path, None, remove=True)))
                ends_well(read, folder, file)
        file.write_text(json.dumps(content))
    read(folder)


CELLS = ["", "text", "1e999", "-1", '"', "9" * 400, "\0", "a,b", "é"]


@pytest.mark.parametrize("kind", ["store", "run"])
def test_every_column_of_another_kind(originals, tmp_path, kind):
    "One cell of each column of each table is replaced; a column is removed, a row cut off."
    read = KINDS[kind][1]
    folder = shutil.copytree(originals[kind], tmp_path / kind)
    for file in sorted(folder.glob("*.csv")):
        whole = file.read_text()
        lines = whole.splitlines()[:20]
        names = lines[0].split(",")
        for column in range(len(names)):
            for cell in CELLS if kind == "store" else CELLS[:4]:
                cells = lines[1].split(",")
                cells[column] = cell
                file.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
                ends_well(read, folder, file)
            without = [",".join(cell for k, cell in enumerate(line.split(",")) if k != column) for line in lines]
            file.write_text("\n".join(without) + "\n")
            ends_well(read, folder, file)
        file.write_text("\n".join([*lines[:-1], lines[-1].split(",")[0]]))
        assert ends_well(read, folder, file) or kind == "run"
        file.write_text(whole)


@pytest.mark.parametrize("change", [
    {"widths": [4096] * 20, "depth": 100}, {"depth": 10**12}, {"seconds": 1e12}, {"stem_kernel": 10**12}, {"heads": 0},
    {"embedding": 10**12}, {"n_classes": 10**12}, {"modalities": {"ecg": 10**12}},
    {"modalities": {"../x": 2, "pop": 1}},
    {"modalities": {"ecg": ["I"] * 5000}}, {"fs": "250"}, {"widths": "88"}, {"ff": 10**9}, {"n_classes": 3}])
def test_networks_that_fit_no_memory(originals, tmp_path, change):
    "A configuration of a billion tokens or weights is refused before memory is taken."
    folder = shutil.copytree(originals["network"], tmp_path / "network")
    file = folder / "config.json"
    content = json.loads(file.read_text())
    content["model"] |= change
    file.write_text(json.dumps(content))
    assert ends_well(RhythmNet.load, folder, file)


def test_weights_of_another_network(originals, tmp_path):
    folder = shutil.copytree(originals["network"], tmp_path / "network")
    config = RhythmNetConfig({"ecg": 3}, 5, seconds=1.0, widths=(16, 16), depth=1, heads=1)
    RhythmNet(config).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    with pytest.raises(DataError, match="model.safetensors does not fit .*config.json .*: copy both files"):
        RhythmNet.load(folder)


def test_arrays_that_promise_too_much(originals, tmp_path):
    "The first line of an array may promise a terabyte, and names of a manifest may lead out of the folder."
    folder = shutil.copytree(originals["store"], tmp_path / "store")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "windows.csv").write_text((folder / "windows.csv").read_text().splitlines()[0] + "\n")
    huge = {**manifest, "windows": 0, "length": 2**31 - 1}
    (folder / "manifest.json").write_text(json.dumps(huge))
    with open(folder / "ecg.npy", "wb") as stream:
        described = {"descr": "<f2", "fortran_order": False, "shape": (0, 2, 2**31 - 1)}
        np.lib.format.write_array_header_1_0(stream, described)
    assert len(WindowStore(folder)) == 0
    with open(folder / "ecg.npy", "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {**described, "shape": (10**12, 2, 5)})
    with pytest.raises(DataError, match="ecg.npy"):
        WindowStore(folder)
    (folder / "ecg.npy").write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{")  # a first line of two gigabytes
    with pytest.raises(DataError, match="ecg.npy: not readable as an array"):
        WindowStore(folder)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "windows": 0, "modalities": {"../../x": ["I"]}}))
    with pytest.raises(DataError, match="manifest.json: the name '../../x.npy' leads out of the folder"):
        WindowStore(folder)
