"The same recording under another name is found by content, whatever was done to it; strangers are not taken for one."
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb
from scipy import signal

from pediatric_ecg.data import LEIPZIG, MITDB, Database, read_annotations, read_header, read_signals
from pediatric_ecg.data.annotations import write_annotations
from pediatric_ecg.data.headers import record_paths
from pediatric_ecg.splits import audit, patient_folds
from pediatric_ecg.windows import Preprocess, prepare
from pediatric_ecg.windows.copies import _same_piece, same_recording, suspicions
from pediatric_ecg.windows.leads import Leads

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")


def write_copy(path, new, change=None, first=0, last=None, fs=None, fmt="24", gain=2000., database=LEIPZIG):
    "A part of a record under another name, changed."
    header = read_header(path)
    signals = read_signals(path)[first:last]
    signals = signals if change is None else change(signals)
    rate = header.fs if fs is None else fs
    new.parent.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(new.name, fs=rate, units=["mV"]*len(header.leads), sig_name=list(header.leads), p_signal=signals,
                fmt=[fmt]*len(header.leads), adc_gain=[gain]*len(header.leads), baseline=[0]*len(header.leads),
                write_dir=str(new.parent))
    annotations = read_annotations(path, database)
    before = annotations[annotations["sample"] < first]
    rhythm = before[before.symbol == "+"].iloc[-1:]
    annotations = annotations[annotations["sample"] >= first]
    if len(rhythm):
        annotations = pd.concat([rhythm.assign(sample=first), annotations])
    annotations["sample"] = ((annotations["sample"] - first)*rate/header.fs).astype(int)
    write_annotations(new, annotations[annotations["sample"] < len(signals)], database)


CHANGES = {
    "as it is": {},
    "shifted baseline": {"change": lambda signals: signals + 1.3},
    "rescaled": {"change": lambda signals: .4*signals},
    "turned over": {"change": lambda signals: -signals},
    "trimmed": {"first": 12_345, "last": -7001},
    "a piece": {"first": 40_000, "last": 40_000 + 25*977},
    "coarser": {"fmt": "16", "gain": 100.},
    "leads in another order": None,
    "trimmed, rescaled and shifted": {"change": lambda signals: -3*signals - 2, "first": 3001},
    "at another rate": {"change": lambda signals: signal.resample_poly(signals, 500, 977), "fs": 500},
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_copy_is_found(simdb, tmp_path, name):
    db = shutil.copytree(simdb, tmp_path/"db", ignore=shutil.ignore_patterns("RECORDS"))
    path = record_paths(db, LEIPZIG)[2]
    if name == "leads in another order":
        header, signals = read_header(path), read_signals(path)
        order = np.argsort(header.leads)
        (db/"again").mkdir()
        wfdb.wrsamp("z1", fs=977, units=["mV"]*len(order), sig_name=[header.leads[lead] for lead in order],
                    p_signal=signals[:, order], fmt=["24"]*len(order), write_dir=str(db/"again"))
        write_annotations(db/"again/z1", read_annotations(path, LEIPZIG), LEIPZIG)
    else:
        write_copy(path, db/"again/z1", **CHANGES[name])
    store = prepare(db, tmp_path/"s", replace(LEIPZIG, fs=None), progress=False)
    assert store.manifest["flow"]["records"]["copies"] == {"again/z1": f"same recording as {path.name}"}
    assert "again/z1" not in set(store.table.record) and len(store) == store.manifest["windows"]
    audit(store.table, patient_folds(store.table, 3))


def test_people_of_copies_are_one(simdb, tmp_path):
    "The other records of the name that a copy had are of the same patient."
    db = shutil.copytree(simdb, tmp_path/"db", ignore=shutil.ignore_patterns("RECORDS"))
    first, second, third = record_paths(db, LEIPZIG)[:3]
    write_copy(first, db/"again/z1", first=5000)
    subjects = {"again/z1": "Zoe", third.name: "Zoe", first.name: "Anna", second.name: "Bo"}
    database = replace(LEIPZIG, subjects=subjects, subject_pattern="")
    names = [first.name, second.name, third.name, "again/z1"]
    store = prepare(db, tmp_path/"s", database, records=names, progress=False)
    people = store.table.groupby("record").subject.first().to_dict()
    assert people == {first.name: "Anna", second.name: "Bo", third.name: "Anna"}
    assert store.manifest["subjects"] == 2
    assert sorted(person["subject"] for person in store.manifest["patients"] if person["subject"] in
                  ("Anna", "Bo", "Zoe")) == ["Anna", "Bo"]


def test_an_interrupted_run_ends_with_the_same_bytes(simdb, tmp_path):
    db = shutil.copytree(simdb, tmp_path/"db", ignore=shutil.ignore_patterns("RECORDS"))
    write_copy(record_paths(db, LEIPZIG)[0], db/"again/z1", first=5000)
    one, two = (prepare(db, tmp_path/name, LEIPZIG, n_jobs=jobs, progress=False) for name, jobs in (("a", 1), ("b", 2)))
    for file in ("windows.csv", "ecg.npy", "iegm.npy", "manifest.json"):
        assert (one.path/file).read_bytes() == (two.path/file).read_bytes()


STEADY = Database("steady", "Pacemakers", {"ecg": ("II",)}, {"(P": "paced"})


def paced(seed, seconds=60, noise=.005, height=1.):
    "A pacemaker at exactly 75 beats per minute: the beats are alike, the noise is not."
    time = np.arange(360*seconds)/360
    beat = np.exp(-.5*((np.mod(time, .8) - .3)/.02)**2) - .3*np.exp(-.5*((np.mod(time, .8) - .36)/.03)**2)
    return height*beat + noise*np.random.default_rng(seed).normal(size=len(time))


def write_steady(folder, name, signal):
    folder.mkdir(exist_ok=True)
    wfdb.wrsamp(name, fs=360, units=["mV"], sig_name=["II"], p_signal=signal[:, None], fmt=["16"], adc_gain=[2000.],
                baseline=[0], write_dir=str(folder))
    wfdb.wrann(name, "atr", np.array([1]), symbol=["+"], aux_note=["(P"], write_dir=str(folder))


def test_steady_pacing_of_two_people_is_no_copy(tmp_path):
    for number in range(6):
        write_steady(tmp_path/"db", f"p{number}", paced(number, height=1 + .1*(number % 2)))
    store = prepare(tmp_path/"db", tmp_path/"s", STEADY, progress=False)
    assert store.manifest["flow"]["records"]["copies"] == {}


def test_steady_pacing_twice_is_a_copy(tmp_path):
    for number in range(3):
        write_steady(tmp_path/"db", f"p{number}", paced(number))
    write_steady(tmp_path/"db", "p9", -2*paced(1) + .3)
    store = prepare(tmp_path/"db", tmp_path/"s", STEADY, progress=False)
    assert store.manifest["flow"]["records"]["copies"] == {"p9": "same recording as p1"}


def test_one_also_looks_where_the_suspicion_arose(simdb, tmp_path):
    "Begin, middle and end are the same; what was exchanged between them is found where one is told to look."
    path = record_paths(simdb, LEIPZIG)[0]

    def exchanged(signals):
        fs = round(read_header(path).fs)
        changed = signals.copy()
        changed[13*fs:20*fs] = signals[20*fs:13*fs:-1]
        return changed

    write_copy(path, tmp_path/"copy", exchanged)
    one, other = (Leads(place, LEIPZIG, Preprocess()) for place in (path, tmp_path/"copy"))
    assert one.header.seconds > 60
    assert same_recording(one, other, 0.)
    assert same_recording(one, other, 0., around=50.)
    assert not same_recording(one, other, 0., around=12.)


def test_a_level_lead_proves_nothing_and_hides_no_other():
    "Of two leads the first may be level: the second decides."
    rng = np.random.default_rng(1)
    moving, level = signal.resample_poly(rng.normal(size=260), 10, 1), np.zeros(2600)
    mine = np.stack([level, moving])[:, 8:2508]
    assert _same_piece(mine, np.stack([level, moving]), 250.0, 8.0) is True
    assert _same_piece(mine, np.stack([level, moving[::-1]]), 250.0, 8.0) is False
    assert _same_piece(mine[:1], np.stack([level]), 250.0, 8.0) is None


def test_every_pair_of_many_copies_is_suspected():
    "Equal entries are compared with their later neighbours too, not with the next one alone; and each pair once."
    marks = np.zeros(50, [("entry", "<u8"), ("time", "<f8")])
    marks["entry"], marks["time"] = np.arange(50), np.arange(50)
    later = marks.copy()
    later["time"] += 7
    found = {(one, other): lag for one, other, lag, _ in suspicions([marks, later, marks, marks])}
    assert found == {(0, 1): -7, (0, 2): 0, (0, 3): 0, (1, 2): 7, (1, 3): 7, (2, 3): 0}


def test_real_records_are_not_taken_for_copies(shared, tmp_path):
    store = prepare(shared/"mitdb", tmp_path/"s", MITDB, progress=False)
    assert store.manifest["flow"]["records"]["copies"] == {} and len(store) == 16691


def test_a_copy_of_a_real_record(shared, tmp_path):
    db = tmp_path/"db"
    db.mkdir()
    for name in ("100", "201", "202"):
        for ending in (".hea", ".dat", ".atr"):
            shutil.copy(shared/"mitdb"/f"{name}{ending}", db/f"{name}{ending}")
    write_copy(db/"100", db/"copy/part", lambda signals: -.5*signals + 4, 100_001, 300_000, fmt="16", gain=1000.,
               database=MITDB)
    store = prepare(db, tmp_path/"s", MITDB, progress=False)
    assert store.manifest["flow"]["records"]["copies"] == {"copy/part": "same recording as 100"}
    assert set(store.table.subject[store.table.record == "202"]) == {"201"}


def test_the_case(shared, tmp_path):
    case = shared/"cases/07"
    database = next(Path(case).rglob("database.json"), None)
    store = prepare(case, tmp_path/"s", database, progress=False)
    assert store.manifest["flow"]["records"]["copies"] and store.table.record.nunique() < len(
        store.manifest["records"])
