"""From Python: an estimator of scikit-learn, a network as ONNX, what mistakes cost, and sets that hold the truth."""
import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.utils.estimator_checks import check_estimator

from pediatric_ecg.classifier import EXPECTED_TO_FAIL, RhythmClassifier, validation_rows
from pediatric_ecg.core import DataError
from pediatric_ecg.evaluate.conformal import RhythmSets, coverage_by_patient, patient_threshold, sets_of_others
from pediatric_ecg.evaluate.costs import cheapest, cost_matrix, mean_cost, read_costs
from pediatric_ecg.nn import RhythmNet, RhythmNetConfig
from pediatric_ecg.onnx_export import export_onnx

TINY = {"model.widths": [8, 8], "model.heads": 1, "model.depth": 0, "model.embedding": 8, "per_group": 10}


def test_the_checks_of_scikit_learn():
    "All pass but those that are named with their reason, and each of these fails indeed."
    classifier = RhythmClassifier(epochs=1, settings=TINY)
    found = check_estimator(classifier, expected_failed_checks=EXPECTED_TO_FAIL, on_fail=None, on_skip=None)
    status = {}
    for result in found:
        status.setdefault(result["status"], set()).add(result["check_name"])
    assert len(status["passed"]) > 35
    assert status.get("failed", set()) == set(), [(r["check_name"], r["exception"]) for r in found
                                                  if r["status"] == "failed"]
    assert status.get("xfail", set()) == set(EXPECTED_TO_FAIL)


@pytest.fixture(scope="module")
def beats():
    "Simulated by hand: slow and fast rows of pulses in two leads, eight patients who differ in height."
    random_state = np.random.default_rng(0)
    signals, rhythms, patients = [], [], []
    for patient in range(8):
        height = random_state.uniform(0.5, 2)
        for window in range(12):
            name = ("slow", "fast")[window % 2]
            time = np.arange(500)
            pulses = np.exp(-(((time + random_state.integers(250)) % (250 if name == "slow" else 90)) ** 2) / 50)
            signals.append(np.outer([1, -0.5], height * pulses) + 0.02 * random_state.normal(size=(2, 500)))
            rhythms.append(name)
            patients.append(f"p{patient}")
    return np.array(signals), np.array(rhythms), np.array(patients)


@pytest.fixture(scope="module")
def fitted(beats):
    X, y, patients = beats
    known = patients < "p6"
    settings = TINY | {"model.widths": [16, 16], "lr": 0.01}
    classifier = RhythmClassifier(leads=["I", "II"], epochs=15, settings=settings, random_state=0)
    return classifier.fit(X[known], y[known], groups=patients[known])


def test_new_patients_are_named_and_a_saved_classifier_says_the_same(beats, fitted, tmp_path):
    X, y, patients = beats
    new = patients >= "p6"
    assert fitted.score(X[new], y[new]) > 0.8
    again = RhythmClassifier.load(fitted.save(tmp_path / "c"))
    assert np.array_equal(again.predict_proba(X), fitted.predict_proba(X))
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    config["fitted"]["labels"] = ["slow"]
    (tmp_path / "c" / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="its labels are not those"):
        RhythmClassifier.load(tmp_path / "c")


def test_validation_windows_are_of_patients_of_their_own(beats):
    _, y, patients = beats
    codes, who = (np.unique(values, return_inverse=True)[1] for values in (y, patients))
    for seed in range(20):
        rows = validation_rows(codes, who, 0.25, seed)
        others = np.setdiff1d(np.arange(len(y)), rows)
        assert 0 < len(rows) <= 0.25 * len(y)
        assert not set(who[rows]) & set(who[others]) and set(codes[others]) == {0, 1}
    assert len(validation_rows(codes, np.zeros_like(who), 0.5, 0)) == 0, "a single patient cannot be spared"


def test_onnx_says_what_torch_says(tmp_path, fitted, beats):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(1)
    config = RhythmNetConfig({"ecg": 2, "iegm": 3}, 3, seconds=2.0, widths=(16, 16), heads=2)
    network = RhythmNet(config).eval()
    network.save(tmp_path / "run", {"classes": ["N", "AVRT", "VT"], "temperature": 0.7})
    session = onnxruntime.InferenceSession(export_onnx(tmp_path / "run", tmp_path / "n.onnx"))
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["N", "AVRT", "VT"]
    for count in (1, 5):
        x = {name: torch.randn(count, leads, 500) for name, leads in config.leads.items()}
        there = {name: torch.rand(count, leads) > 0.4 for name, leads in config.leads.items()}
        with torch.no_grad():
            out = network(x, there)
        given = {name: part.numpy() for name, part in x.items()}
        given |= {f"{name}_present": part.numpy() for name, part in there.items()}
        probability, embedding = session.run(["probability", "embedding"], given)
        assert np.abs(probability - (out.logits / 0.7).softmax(-1).numpy()).max() < 1e-5
        assert np.abs(embedding - out.embedding.numpy()).max() < 1e-5 * max(1, np.abs(embedding).max())
    saved = fitted.save(tmp_path / "classifier")
    session = onnxruntime.InferenceSession(export_onnx(saved, tmp_path / "c.onnx"))
    X = beats[0][:9].astype(np.float32)
    said = session.run(["probability"], {"ecg": X, "ecg_present": np.ones((9, 2), bool)})[0]
    assert np.abs(said - fitted.predict_proba(X)).max() < 1e-5


def test_costs_of_equal_weight_are_one_minus_the_accuracy(tmp_path):
    random_state = np.random.default_rng(3)
    classes = ["N", "AVRT", "VT"]
    table = pd.DataFrame({"subject": random_state.integers(9, size=300).astype(str),
                          "truth": random_state.choice(classes, 300), "prediction": random_state.choice(classes, 300)})
    equal = pd.DataFrame(1 - np.eye(3), index=classes, columns=classes)
    assert mean_cost(table, equal)["cost"] == pytest.approx((table.truth != table.prediction).mean())
    costs = cost_matrix(classes)
    expected = np.mean([costs.loc[truth, said] for truth, said in zip(table.truth, table.prediction)])
    found = mean_cost(table, costs)
    assert found["cost"] == pytest.approx(expected) and found["ci95"][0] < expected < found["ci95"][1]
    probability = random_state.dirichlet(np.ones(3), 50)
    assert list(cheapest(probability, equal)) == [classes[k] for k in probability.argmax(1)]
    one_by_one = [classes[min(range(3), key=lambda j, p=p: sum(p[i] * costs.iloc[i, j] for i in range(3)))]
                  for p in probability]
    assert list(cheapest(probability, costs)) == one_by_one
    (tmp_path / "c.csv").write_text("truth,N,VT\nN,0,.5\nVT,1,.1\n")
    with pytest.raises(DataError, match="c.csv: costs: the right answer costs nothing"):
        read_costs(tmp_path / "c.csv")


def by_hand(score, subject, alpha):
    "The definition, read aloud."
    people = sorted(set(subject))
    for t in sorted(score):
        reached = sum(np.mean(score[subject == name] <= t) for name in people) / (len(people) + 1)
        if reached >= 1 - alpha - 1e-9:
            return t
    return np.inf


def test_the_threshold_is_that_of_the_definition():
    random_state = np.random.default_rng(0)
    for _ in range(30):
        subject = random_state.integers(random_state.integers(2, 15), size=80)
        score, alpha = random_state.random(80).round(2), random_state.choice([0.05, 0.1, 0.3])
        assert patient_threshold(score, subject, alpha) == by_hand(score, subject, alpha)


def test_sets_cover_a_new_patient_as_promised():
    "Made-up patients of unequal difficulty, 400 studies of 19: exactly the promise on average, within its error."
    covered = []
    for study in range(400):
        random_state = np.random.default_rng(study)
        hard = random_state.normal(size=20)
        subject = np.repeat(np.arange(20), 15)
        lacking = 1 / (1 + np.exp(2 - 1.5 * hard[subject] - random_state.normal(size=300)))
        table = pd.DataFrame({"subject": subject.astype(str), "truth": "N", "p_N": 1 - lacking, "p_VT": lacking})
        new = table.subject == "19"
        sets = RhythmSets.fit(table[~new], ["N", "VT"]).of(table[new])
        covered.append(coverage_by_patient(table[new], sets).coverage.item())
    error = np.std(covered) / np.sqrt(len(covered))
    assert 0.9 - 2 * error < np.mean(covered) < 0.95 + 2 * error


def test_each_patient_is_judged_by_the_others():
    random_state = np.random.default_rng(5)
    p = random_state.dirichlet([4, 1, 1], 240)
    table = pd.DataFrame(p, columns=["p_N", "p_AF", "p_VT"])
    table = table.assign(subject=np.repeat([f"s{k}" for k in range(12)], 20))
    table = table.assign(truth=random_state.choice(["N", "AF"], 240))
    sets = sets_of_others(table, ["N", "AF", "VT"])
    own = table.subject == "s3"
    expected = RhythmSets.fit(table[~own], ["N", "AF", "VT"]).of(table[own])
    assert sets[own].equals(expected)
    assert sets_of_others(table, ["N", "AF", "VT"], by_rhythm=True).VT.all(), "nobody holds VT: it is never ruled out"
