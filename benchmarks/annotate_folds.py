"""Ask networks of each fold about the whole records of patients whom they have not seen.

    python benchmarks/annotate_folds.py RUN RECORDS [EPOCHS]

RUN is a run folder with its store, as `pediatric-ecg run RECORDS --out RUN` leaves it; a run keeps the folds, but not
their networks, so that the members of each patient-wise fold are trained again, on the same windows and with the same
settings but for the number of epochs. Then they are asked about every window of the records of their test patients and
of their validation patients, a window each 2.5 s, as `annotate` cuts them. nbs/results/annotate/ keeps the answers; the
notebook `annotate_study` makes its tables of them.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize

from pediatric_ecg.annotate import windows_of
from pediatric_ecg.core import replacing, write_json
from pediatric_ecg.evaluate.calibration import calibrate
from pediatric_ecg.evaluate.floors import WindowFeatures, window_features
from pediatric_ecg.evaluate.pool import Members, completed, pool
from pediatric_ecg.experiments.cells import fit_members
from pediatric_ecg.experiments.run_folder import RunFolder
from pediatric_ecg.nn.rhythmnet import RhythmNet
from pediatric_ecg.splits.folds import load_folds, with_simulated, without_simulated
from pediatric_ecg.train.config import TrainConfig
from pediatric_ecg.train.loop import predict
from pediatric_ecg.train.resident import tensors
from pediatric_ecg.windows.signals import Preprocess
from pediatric_ecg.windows.store import WindowStore
from pediatric_ecg.windows.views import Beside

STEP = 2.5  # s, from window to window
OUT = Path(__file__).resolve().parents[1] / "nbs/results/annotate"
OF_EACH = 20  # windows of each patient and rhythm from which the mean embedding is made


def softmax(network, windows):
    "Probabilities and normalised embeddings of windows and masks as tensors."
    with torch.inference_mode():
        said = network(*windows)
    return said.logits.float().softmax(-1).numpy(), normalize(said.embedding.float(), dim=-1).numpy()


def mean_embeddings(network, store, rows, classes):
    "(classes, d) directions of the mean embedding of each rhythm; each patient counts the same."
    table = store.table.iloc[rows]
    means = np.zeros((len(classes), network.config.embedding))
    for (label, _), part in table.groupby(["label", "subject"]):
        few = part.index[np.linspace(0, len(part) - 1, min(len(part), OF_EACH)).astype(int)].to_numpy()
        of_patient = softmax(network, tensors(store, few))[1].mean(0)
        means[classes.index(label)] += of_patient / np.linalg.norm(of_patient)
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)


class Asked:
    "The members of a fold together, as `Ensemble` asks those of a run; and how near each window is to each rhythm."

    def __init__(self, answer, network, simulated, known, means, classes, fs):
        self.answer, self.network, self.means = answer, network, means
        self.simulated, self.known, self.classes, self.fs = simulated, known, classes, fs

    def __call__(self, signals, present):
        "Probabilities (n, classes) and cosines (n, classes)."
        windows = [{name: torch.from_numpy(array) for name, array in part.items()} for part in (signals, present)]
        own, embedding = softmax(self.network, windows)
        opinions = {"network": own}
        features = window_features(signals, present, self.fs).astype(np.float16).astype(float)
        for name, model in self.answer.on_features.items():
            opinions[name] = model(features)
        if self.simulated is not None:
            opinions["simulated"] = completed(
                softmax(self.simulated, windows)[0], list(self.known), self.classes, own
            )
        weights = [self.answer.weights[name] for name in opinions]
        return pool(np.array([*opinions.values()]), weights), embedding @ self.means.T


def ask(asked, record, database, pre, seconds):
    "Probabilities and cosines of every window of a record; NaN where no lead is usable."
    probabilities, cosines = [], []
    for signals, present in windows_of(record, database, pre, seconds, STEP):
        said, near = asked(signals, present)
        said[~np.concatenate(list(present.values()), 1).any(1)] = np.nan
        probabilities.append(said)
        cosines.append(near)
    return np.concatenate(probabilities), np.concatenate(cosines)


def main(run, records, epochs=8):
    began = time.process_time()
    torch.set_num_threads(1)
    run, records = Path(run), Path(records)
    folder = RunFolder(run)
    config, manifest = folder.config, folder.manifest
    classes, seed = config["classes"], manifest.protocol.seed
    store = WindowStore(run / "store")
    folds = [fold for fold in load_folds(run / "folds.json", store.table) if fold.split == "patient"]
    training, simulated, known = store, None, ()
    if manifest.beside is not None:
        people = WindowStore(run.parent / manifest.beside.folder)
        training = Beside(store, people)
        folds = with_simulated(folds, training.table)
    if (run / "simulated").exists():
        simulated = RhythmNet.load(run / "simulated")
        known = tuple(RunFolder(run / "simulated").config["classes"])
    taking_part = np.flatnonzero(training.table["label"].isin(classes))
    opinion = None
    if simulated is not None:
        rows = taking_part[taking_part < len(store.table)]
        opinion = np.zeros((len(store.table), len(known)), np.float32)
        opinion[rows] = predict(simulated, store, rows)
    members = Members(WindowFeatures.of(training, taking_part), opinion, known)
    settings = replace(TrainConfig(**config["train"]), epochs=epochs)
    pre, seconds = Preprocess.from_dict(config["preprocess"]), float(config["seconds"])
    print(f"prepared after {time.process_time() - began:.0f} s of one core", flush=True)

    of_record = store.table.groupby("record").subject.first()
    asked_somewhere = {subject for fold in folds for subject in store.table.subject.iloc[fold.test]}
    never = set(of_record) - asked_somewhere  # patients with no rhythm that is trained on
    answers, of_folds = [], []
    for number, fold in enumerate(folds):
        result, answer, fold = fit_members(training, fold, classes, settings, seed + fold.repeat, members)
        temperature = calibrate(answer, training.codes(classes), fold)
        patients = without_simulated(fold, training.table)
        means = mean_embeddings(result.model, store, patients.train, classes)
        asked = Asked(answer, result.model, simulated, known, means, classes, store.fs)
        sides = {"test": set(store.table.subject.iloc[fold.test]), "valid": set(store.table.subject.iloc[fold.valid])}
        if number == 0:
            sides["test"] |= never
        for side, subjects in sides.items():
            for record in of_record.index[of_record.isin(subjects)]:
                said, near = ask(asked, records / record, store.database, pre, seconds)
                answers.append((number, side, record, said, near))
        of_folds.append({
            "fold": fold.name, "temperature": temperature, "best_epoch": result.best_epoch, "weights": answer.weights,
            **{side: sorted(subjects) for side, subjects in sides.items()}})
        print(f"{fold.name}: best epoch {result.best_epoch}, {time.process_time() - began:.0f} s of one core", flush=True)

    OUT.mkdir(parents=True, exist_ok=True)
    arrays = {
        "fold": np.concatenate([np.full(len(said), number, np.int8) for number, _, _, said, _ in answers]),
        "is_test": np.concatenate([np.full(len(said), side == "test") for _, side, _, said, _ in answers]),
        "record": np.concatenate([np.full(len(said), int(record), np.int16) for _, _, record, said, _ in answers]),
        "p": np.concatenate([said for *_, said, _ in answers]).astype(np.float16),
        "cosine": np.concatenate([near for *_, near in answers]).astype(np.float16),
    }
    with replacing(OUT / "windows.npz") as aside, open(aside, "wb") as stream:
        np.savez_compressed(stream, **arrays)
    write_json(OUT / "folds.json", {
        "classes": classes, "step": STEP, "seconds": seconds, "epochs": epochs, "folds_hash": manifest.folds_hash,
        "one_core_s": round(time.process_time() - began), "folds": of_folds})


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:4]))
