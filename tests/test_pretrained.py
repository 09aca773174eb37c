"""Networks that ship: made from simulated people alone, whole or refused, found by their leads, and honest about it."""
import importlib
import json
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb

from pediatric_ecg import cli
from pediatric_ecg.annotate import annotate, choose_network
from pediatric_ecg.core import DataError, PediatricECGError, digest, shared, wfdb_quiet
from pediatric_ecg.data import read_header
from pediatric_ecg.experiments import pretrain
from pediatric_ecg.experiments.pretrain import NETWORKS, add_threshold
from pediatric_ecg.nn import RhythmNet, RhythmNetConfig
from pediatric_ecg.nn.pretrained import NEVER, halved, write_pretrained
from pediatric_ecg.nn.rhythmnet import pretrained_folder, pretrained_names
from pediatric_ecg.report.known import known
from pediatric_ecg.sim import stand_ins
from pediatric_ecg.train import TrainConfig
from pediatric_ecg.train.people import only_leads, some_leads

SHARED = shared() or Path("absent")
MITDB_FOLDER, IAF = SHARED / "mitdb", SHARED / "iafdb/iaf1_afw"
TINY = TrainConfig(loss="ce", epochs=1, per_group=2, model={"widths": [16, 16], "depth": 1})
SHIPPED = pretrained_names()
needs_weights = pytest.mark.skipif(not SHIPPED, reason="no weights ship yet; `pediatric-ecg pretrain NAME` makes them")


def network_folder(folder, name):
    "A network of random weights in the form in which networks ship: it knows nothing."
    recipe = NETWORKS[name]
    torch.manual_seed(0)
    leads = {modality: list(slots) for modality, slots in recipe.database.modalities.items()}
    classes = list(dict.fromkeys(recipe.database.grouping("default").values()))
    seconds = recipe.database.window_seconds
    model = RhythmNet(RhythmNetConfig(leads, len(classes), seconds=seconds, widths=(16, 16), depth=1))
    extra = {"name": name, "trained_on": {"simulated": 8, "real": 0}, "classes": classes, "seconds": seconds,
             "preprocess": recipe.preprocess.to_dict(), "database": json.loads(recipe.database.to_json())}
    return write_pretrained(model, folder / name, extra, f"# Model card: {name}")


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    "A package whose networks have random weights."
    for name in NETWORKS:
        network_folder(tmp_path / "weights", name)
    monkeypatch.setattr("pediatric_ecg.nn.rhythmnet._weights", lambda: tmp_path / "weights")
    return tmp_path / "weights"


def write(folder, leads, name="r1", fs=250, seconds=30):
    "A WFDB record of made-up beats, without annotations."
    folder.mkdir(parents=True, exist_ok=True)
    t = np.arange(seconds * fs) / fs
    signals = np.sin(2 * np.pi * 1.1 * t)[:, None] ** 15 * np.linspace(0.5, 1, len(leads))
    with wfdb_quiet():
        wfdb.wrsamp(name, fs=fs, units=["mV"] * len(leads), sig_name=list(leads), p_signal=signals,
                    fmt=["16"] * len(leads), write_dir=str(folder))
    return folder / name


@pytest.mark.parametrize("name", NETWORKS)
def test_the_simulator_has_all_that_a_network_names(name):
    database = NETWORKS[name].database
    assert stand_ins(database).missing == ()
    assert database.from_json(database.to_json()) == database


@pytest.mark.parametrize(("leads", "name"), [
    (("MLII", "V1"), "ecg-2"), (("II",), "ecg-2"), (("ECG",), "ecg-2"), (("I", "II", "III"), "ecg-12"),
    (("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"), "ecg-12"),
    (("i", "ii", "iii", "avr", "avl", "avf"), "ecg-12"),
    (("II", "V1", "aVF", "CS12", "CS34", "CS56"), "leipzig"), (("CS12",), "leipzig")])
def test_the_leads_choose_the_network(shipped, tmp_path, leads, name):
    assert choose_network(read_header(write(tmp_path / "db", leads))) == name


def test_annotate_without_a_run_says_who_answered(shipped, tmp_path, capfd):
    record = write(tmp_path / "db", ("MLII", "V1"))
    found = annotate(record, tmp_path / "out")
    assert NEVER in found.notes[0] and "ecg-2" in found.notes[0] and NEVER in str(found)
    with wfdb_quiet():
        back = wfdb.rdann(str(tmp_path / "out" / "r1"), "rhy")
    comment = back.symbol.index('"')
    assert NEVER in back.aux_note[comment] and back.sample[comment] == 1
    named = [text.rstrip("\0")[1:] for text, symbol in zip(back.aux_note, back.symbol) if symbol == "+"]
    assert named == [rhythm for rhythm in found.segments.rhythm if rhythm]
    table = pd.read_csv(tmp_path / "out" / "r1.csv", keep_default_na=False)
    assert table.network.str.contains(NEVER).all() and table.rhythm.tolist() == found.segments.rhythm.tolist()
    assert cli.main(["annotate", str(record), "--out", str(tmp_path / "cli")]) == 0
    out, err = capfd.readouterr()
    assert NEVER in out and err == ""
    assert (tmp_path / "cli" / "r1.csv").read_bytes() == (tmp_path / "out" / "r1.csv").read_bytes()


def test_a_folder_of_weights_is_a_run_too(shipped, tmp_path):
    "And says the same; a network may be chosen by name."
    record = write(tmp_path / "db", ("MLII", "V1"))
    as_run = annotate(shipped / "ecg-12", record, tmp_path / "a")
    by_name = annotate(record=record, out=tmp_path / "b", network="ecg-12")
    pd.testing.assert_frame_equal(as_run.segments, by_name.segments)
    assert as_run.notes == by_name.notes and "ecg-12" in as_run.notes[0]


def test_bad_input_is_one_line(shipped, tmp_path, capfd):
    known, unknown = write(tmp_path / "db", ("II", "V1")), write(tmp_path / "db", ("ABP", "PLETH"), "r2")
    cases = [
        (["annotate", known, "--network", "ecg-3"], "no network 'ecg-3' comes with this package"),
        (["annotate", unknown], "none of its leads (ABP PLETH)"),
        (["annotate", shipped / "ecg-2", known, "--network", "ecg-2"], "leave out RUN"),
        (["annotate", "a", "b", "c"], "a: neither a run folder nor a record is there"),
        (["annotate", tmp_path / "db" / "none"], "none.hea"),
        (["pretrain", "ecg-3"], "no recipe for a network 'ecg-3'"),
        (["pretrain", "ecg-2", "--patients", "3"], "--patients"),
        (["pretrain", "ecg-2", "--seconds", "1", "--patients", "8"], "1"),
    ]
    for arguments, words in cases:
        code = cli.main([*map(str, arguments), "--out", str(tmp_path / "out")])
        out, err = capfd.readouterr()
        assert (code, out, err.count("\n")) == (2, "", 1) and words in err, (arguments, err)
    assert not (tmp_path / "out").exists()
    with pytest.raises(PediatricECGError, match="there are ecg-12, ecg-2, leipzig"):
        RhythmNet.pretrained("Leipzig")
    changed = shipped / "leipzig" / "config.json"
    changed.write_text(changed.read_text().replace("250", "251"))
    assert cli.main(["annotate", str(known), "--network", "leipzig", "--out", str(tmp_path / "out")]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and "its checksum is not the one" in err
    with pytest.raises(DataError, match="checksum"):
        RhythmNet.pretrained("leipzig")


def test_a_package_without_weights_says_how_to_make_them(tmp_path, monkeypatch):
    monkeypatch.setattr("pediatric_ecg.nn.rhythmnet._weights", lambda: tmp_path / "nothing")
    with pytest.raises(PediatricECGError, match="pediatric-ecg pretrain"):
        RhythmNet.pretrained("ecg-2")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "model_card.md"])
def test_one_changed_bit_is_found(tmp_path, file):
    folder = network_folder(tmp_path, "ecg-2")
    whole = bytearray((folder / file).read_bytes())
    whole[len(whole) // 2] ^= 1
    (folder / file).write_bytes(whole)
    with pytest.raises(DataError, match="checksum"):
        RhythmNet.load(folder)
    (folder / file).unlink()
    with pytest.raises(DataError):
        RhythmNet.load(folder)


def test_half_precision_on_disk_is_float32_in_memory(tmp_path):
    torch.manual_seed(3)
    model = RhythmNet(RhythmNetConfig({"ecg": 2}, 5)).eval()
    folder = write_pretrained(model, tmp_path / "x", {}, "card")
    read = RhythmNet.load(folder)
    assert {p.dtype for p in read.parameters()} == {torch.float32}
    windows = {"ecg": torch.randn(8, 2, 1250)}
    assert torch.equal(read(windows).logits, halved(model)(windows).logits)
    assert (folder / "model.safetensors").stat().st_size < 0.65 * 4 * sum(p.numel() for p in model.parameters())


def test_some_leads_takes_only_away():
    rng = np.random.default_rng(1)
    present = {"a": rng.random((500, 5)) < 0.6, "b": rng.random((500, 3)) < 0.6}
    _, masks = some_leads({}, present, 250.0, rng)
    for name, mask in masks.items():
        assert not (mask & ~present[name]).any()
    held = present["a"].any(1) | present["b"].any(1)
    assert ((masks["a"].any(1) | masks["b"].any(1)) == held).all()
    _, masks = only_leads({"a": [2]})({}, present, 250.0, rng)
    assert not masks["b"].any() and not masks["a"][:, [0, 1, 3, 4]].any()
    assert (masks["a"][:, 2] == present["a"][:, 2]).all()


def interrupted(*args, **options):
    "Stands in for `fit`."
    raise KeyboardInterrupt


def test_pretrain_is_repeatable_and_resumes(tmp_path, monkeypatch):
    "Interrupted after its people were simulated, it ends in the same bytes as in one go."
    how = {"patients": 24, "seconds": 12, "config": TINY}
    once = pretrain("ecg-2", tmp_path / "once", **how)
    with monkeypatch.context() as patch:
        patch.setattr(importlib.import_module("pediatric_ecg.experiments.pretrain"), "fit_on_people", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain("ecg-2", tmp_path / "twice", **how)
    assert (tmp_path / "twice.partial" / "people").exists() and not (tmp_path / "twice").exists()
    twice = pretrain("ecg-2", tmp_path / "twice", **how)
    names = sorted(path.name for path in once.iterdir())
    assert names == ["SHA256SUMS", "config.json", "metrics.json", "model.safetensors", "model_card.md"]
    assert {name: digest(once / name) for name in names} == {name: digest(twice / name) for name in names}
    assert json.loads((once / "config.json").read_text())["trained_on"] == {"simulated": 24, "real": 0}


def test_the_threshold_comes_from_people_of_another_seed(tmp_path):
    "Chosen twice it is the same, the weights stay, and the card and the checksums follow."
    folder = pretrain("ecg-2", tmp_path / "net", patients=24, seconds=12, config=TINY)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    config = json.loads(before["config.json"])
    assert 16 <= config["refusal"]["people"] <= 24 and config["refusal"]["seed"] not in (0, config["made_by"]["seed"])
    without = {name: value for name, value in config.items() if name not in ("model", "refusal")}
    write_pretrained(RhythmNet.load(folder), folder, without, "# A card")
    assert known(folder).chosen_on == "" and "is not on file" in " ".join(known(folder).sentences())
    assert add_threshold(folder) == config["refusal"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("refusal", [{"threshold": 2, "people": 40}, {"threshold": 0.5}, "0.5", {
    "threshold": float("nan"), "people": 40}])
def test_a_damaged_threshold_is_one_line(tmp_path, refusal):
    folder = network_folder(tmp_path, "ecg-2")
    config = json.loads((folder / "config.json").read_text())
    model = config.pop("model")
    write_pretrained(RhythmNet.load(folder), folder, config | {"refusal": refusal}, "# A card")
    assert model
    with pytest.raises(DataError, match="config.json: refusal"):
        known(folder)


def test_packaging_ships_the_weights():
    "As data of the package, in the wheel and so in the source distribution."
    setup = (Path(__file__).resolve().parents[1] / "setup.py").read_text()
    assert '"pediatric_ecg.nn": ["weights/*/*"]' in setup
    assert Path(str(files("pediatric_ecg.nn"))).is_dir()


@needs_weights
@pytest.mark.parametrize("name", SHIPPED or ["none"])
def test_shipped_weights(name):
    folder = pretrained_folder(name)
    assert folder == Path(str(files("pediatric_ecg.nn").joinpath("weights", name)))
    assert (folder / "model.safetensors").stat().st_size < 2_000_000
    config = json.loads((folder / "config.json").read_text())
    assert config["trained_on"]["real"] == 0 and config["made_by"]["shift"] < 0.01
    refusal = config["refusal"]
    assert refusal["people"] == 40 and refusal["seed"] != config["made_by"]["seed"]
    about = known(folder)
    assert about.threshold == refusal["threshold"] and 0.3 < about.threshold < 0.9
    assert "the threshold was chosen on answers about 40 simulated people" in " ".join(about.sentences())
    assert f"Below a probability of {about.threshold:.2f} it gives no name" in (folder / "model_card.md").read_text()
    assert config["modalities"] == {m: list(s) for m, s in NETWORKS[name].database.modalities.items()}
    assert "never seen a patient" in (folder / "model_card.md").read_text()
    assert RhythmNet.pretrained(name).config.n_classes == len(config["classes"])


@needs_weights
@pytest.mark.skipif(not (MITDB_FOLDER / "100.dat").exists(), reason="needs the recordings of mitdb")
def test_a_real_record_in_under_a_minute(tmp_path):
    record = tmp_path / "100"
    for ending in (".dat", ".hea"):
        shutil.copy(MITDB_FOLDER / f"100{ending}", record.with_suffix(ending))
    found = annotate(record, tmp_path / "out")
    assert found.elapsed < 60 and NEVER in found.notes[0]


@needs_weights
@pytest.mark.skipif(not (IAF.with_suffix(".dat")).exists(), reason="needs the record iaf1_afw")
def test_electrograms_alone_name_real_fibrillation(tmp_path):
    "154 s of atrial fibrillation, five bipoles and no surface lead: at least 95 % of the time is named AF."
    with wfdb_quiet():
        recorded = wfdb.rdrecord(str(IAF))
        columns = [number for number, lead in enumerate(recorded.sig_name) if lead.startswith("CS")]
        leads = [recorded.sig_name[column] for column in columns]
        wfdb.wrsamp("sinus", fs=recorded.fs, units=["mV"] * len(leads), sig_name=leads, fmt=["16"] * len(leads),
                    p_signal=recorded.p_signal[:, columns], write_dir=str(tmp_path))
    found = annotate(tmp_path / "sinus", tmp_path / "out").segments
    seconds = (found["end_s"] - found["start_s"]).groupby(found["rhythm"]).sum()
    assert len(leads) == 5 and seconds["AF"] > 0.95 * seconds.sum()
