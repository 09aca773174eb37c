"""A made-up run folder, for pages and tests of the report: the form of a result without its meaning.

Its predictions come from a seeded random number generator and its signals are drawn pulses.
Its title says "made up", and so does every page made from it.
"""
import json
from pathlib import Path

import numpy as np
import pandas as pd

from pediatric_ecg.evaluate import summarise

LABELS = ["N", "/A", "/V", "AVNRT", "AVRT"]
ONE_PATIENT_ALONE = "AFL"  # a rhythm that only the cohort names: it is not evaluable
LEADS = {"ecg": ["I", "II", "V1", "V6"], "iegm": ["ABL12", "RVA12", "CS12", "CS90"]}
FLOW = {
    "records": {
        "listed": 16,
        "here": 15,
        "annotated": 14,
        "labelled": 13,
        "with_windows": 12,
        "skipped": {"m15": "left out by the specification"},
        "copies": {},
        "without_window": {"m12": "no segment as long as a window", "m13": "no rhythm marker"},
    },
    "segments": {
        "(N": {"segments": 40, "seconds": 900.0, "patients": 12, "shorter": 2},
        "(AVNRT": {"segments": 30, "seconds": 80.5, "patients": 4, "shorter": 21},
    },
}
SUBJECT_NOTES = ["no rule says who the patients are: each record is counted as one patient"]
STEP = 1954  # samples from window to window, at the original rate


def no_picture(*_):
    """Stands for `data_uri`, for tests of words: figures are made and described, but not painted.

    Painting takes two thirds of the time of a page."""
    return "data:image/svg+xml;base64,"


def made_up_predictions(labels, seed=0, patients=12):
    """Predictions of no classifier at all, as predictions.csv.

    Each patient has the first rhythm and one or two of the others.
    Both protocols judge the same windows. On "random" the true class gets a strong push in every patient;
    on "patient" the push differs from patient to patient, so some are read well and some badly.
    """
    rng = np.random.default_rng(seed)
    push = {"random": np.full(patients, 3.5), "patient": rng.uniform(0.2, 3, patients)}
    tables = []
    for patient in range(patients):
        held = [0] + [label for label in range(1, len(labels)) if (patient + label) % 3 == 0]
        windows = rng.integers(5, 40, len(held)) * (1 + 2 * (np.array(held) == 0))
        truth = np.repeat(held, windows)
        for split, strength in push.items():
            tables.append(
                _predictions_of(rng, labels, truth, patient, split, strength[patient], seed)
            )
    return pd.concat(tables, ignore_index=True)


def _predictions_of(rng, labels, truth, patient, split, strength, seed):
    "The windows of one patient in one split."
    count = len(truth)
    logits = rng.normal(size=(count, len(labels)))
    logits[np.arange(count), truth] += strength
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    names = np.array(labels)
    table = pd.DataFrame(
        {
            "split": split,
            "repeat": 0,
            "fold": patient % 3,
            "seed": seed,
            "window": 1000 * patient + np.arange(count),
            "record": f"m{patient:02d}",
            "subject": f"{patient:02d}",
            "start": STEP * np.arange(count),
            "end": STEP * np.arange(1, count + 1),
            "truth": names[truth],
            "prediction": names[probabilities.argmax(1)],
        }
    )
    columns = {f"p_{label}": probabilities[:, j].round(6) for j, label in enumerate(labels)}
    return table.assign(**columns, temperature=0.6 + 0.1 * (patient % 3))


def made_up_history(seed=0, epochs=12):
    "Training curves of no training at all, with the geometry of no classes, as history.csv."
    rng = np.random.default_rng(seed)
    tables = []
    for split, floor in (("random", 0.1), ("patient", 0.4)):
        for fold in range(3):
            tables.append(_training(rng, split, fold, floor + 0.05 * fold, epochs))
    return pd.concat(tables, ignore_index=True)


def _training(rng, split, fold, floor, epochs):
    "The curves of one fold; its loss falls to the floor."
    epoch = np.arange(epochs)
    loss = floor + 1.4 * np.exp(-epoch / 3)
    nearness = floor + 0.8 * np.exp(-epoch / 4) + 0.05 * rng.random(epochs)
    return pd.DataFrame(
        {
            "mean": -0.25 + 0.1 * nearness,
            "largest": -0.25 + nearness,
            "gap": nearness,
            "target": -0.25,
            "rank": 4 - nearness,
            "rank_target": 4.0,
            "minority": -0.25 + 0.8 * nearness,
            "within": 0.5 * nearness,
            "within_rare": 0.6 * nearness,
            "between": 1.2,
            "ratio": 0.5 * nearness / 1.2,
            "split": split,
            "fold": fold,
            "epoch": epoch,
            "best": epochs - 1,
            "train_loss": loss,
            "valid_loss": loss + 0.1 + 0.03 * rng.random(epochs),
            "valid_macro_f1": (1 - floor) * (1 - np.exp(-(epoch + 1) / 4))
            + 0.02 * rng.random(epochs),
            "seconds": 0.5,
        }
    )


def made_up_windows(labels, leads, count=6, fs=250.0, seconds=2.0, seed=0):
    "Example windows of no recording at all, pulses on a grid, as examples.npz."
    rng = np.random.default_rng(seed)
    time = np.arange(int(fs * seconds)) / fs
    names = np.array(labels)
    truth = np.arange(count) % len(labels)
    probabilities = rng.dirichlet(np.ones(len(labels)), count)
    probabilities[np.arange(0, count, 2), truth[::2]] += 2  # every second window is named rightly
    probabilities /= probabilities.sum(1, keepdims=True)
    arrays = {
        "truth": names[truth],
        "prediction": names[probabilities.argmax(1)],
        "p": probabilities,
        "fs": np.array(fs),
        "start": np.arange(count) * STEP,
        "record": np.array([f"m{i:02d}" for i in range(count)]),
        "subject": np.array([f"{i:02d}" for i in range(count)]),
    }
    beat = 0.35 + 0.4 * rng.random(count)  # seconds from pulse to pulse
    for modality, slots in leads.items():
        width, lag = (0.012, 0.02) if modality == "ecg" else (0.004, 0.03)
        delay = lag * np.arange(len(slots))[None, :, None] / 4
        phase = (time[None, None] - delay) % beat[:, None, None] - 0.15
        height = rng.uniform(0.3, 1.2, (count, len(slots), 1))
        pulses = height * np.exp(-(phase**2) / 2 / width**2)
        noise = 0.01 * rng.normal(size=(count, len(slots), len(time)))
        arrays[modality] = (pulses + noise).astype(np.float32)
        arrays[f"present_{modality}"] = np.ones((count, len(slots)), bool)
    return arrays


def made_up_run(folder, seed=0):
    "Writes a run folder of the right form, called made up in its title. Returns the folder."
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    predictions = made_up_predictions(LABELS, seed)
    predictions.to_csv(folder / "predictions.csv", index=False)
    made_up_history(seed).to_csv(folder / "history.csv", index=False)
    np.savez_compressed(folder / "examples.npz", **made_up_windows(LABELS, LEADS, seed=seed))
    metrics = {}
    for split, table in predictions.groupby("split"):
        metrics[split] = summarise(
            table, [*LABELS, ONE_PATIENT_ALONE], not_evaluable=[ONE_PATIENT_ALONE]
        )
    config = {
        "classes": LABELS,
        "model": {},
        "train": {},
        "temperature": 0.7,
        "database": {"fs": 977.0},
    }
    files = {
        "metrics": metrics,
        "similarity": _similarity(),
        "config": config,
        "manifest": _manifest(predictions, seed),
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    return folder


def _similarity():
    "A simplex in which two rhythms, AVNRT and AVRT, stand too close."
    target = -1 / (len(LABELS) - 1)
    cosines = np.where(np.eye(len(LABELS)) > 0, 1, target)
    cosines[3, 4] = cosines[4, 3] = 0.4
    return {
        "classes": LABELS,
        "S": cosines.tolist(),
        "phi": [1.0] * len(LABELS),
        "psi": cosines.tolist(),
        "target": target,
        "seen": [True] * len(LABELS),
    }


def _manifest(predictions, seed):
    "A manifest that says on every line that nothing stands behind it."
    patient_wise = predictions[predictions.split == "patient"].groupby("truth")
    counts = patient_wise.agg(windows=("window", "nunique"), patients=("subject", "nunique"))
    cohort = []
    for label in LABELS:
        windows, patients = int(counts.windows[label]), int(counts.patients[label])
        cohort.append({"label": label, "windows": windows, "patients": patients, "scored": True})
    cohort.append({"label": ONE_PATIENT_ALONE, "windows": 18, "patients": 1, "scored": False})
    return {
        "title": "made up for this page: numbers from a random number generator",
        "simulated": True,
        "quick": False,
        "notes": [
            "Made up for this page: no signal, no patient and no network stand behind any number."
        ],
        "database": {
            "name": "madeup",
            "title": "no database (made up for this page)",
            "citation": "none",
            "licence": "none",
        },
        "versions": {},
        "seeds": [seed],
        "folds_hash": "none",
        "git": "none",
        "data_sha256": "none",
        "preprocess": {},
        "windows": {
            "seconds": 2.0,
            "stride": 2.0,
            "label": "marker",
            "grouping": "default",
            "n": len(predictions) // 2,
            "patients": 12,
        },
        "cohort": cohort,
        "modalities": LEADS,
        "elapsed_s": 0.0,
        "flow": FLOW,
        "subject_notes": SUBJECT_NOTES,
        "protocol": {"folds": 3, "repeats": 1, "min_patients": 2, "seed": seed},
    }
