"""Explanations: complete, silent about what is absent, and about the network rather than the input."""
import json

import numpy as np
import pytest
import torch

from pediatric_ecg import cli
from pediatric_ecg.data import LEIPZIG
from pediatric_ecg.data.headers import record_paths
from pediatric_ecg.explain import (
    after_scale,
    decisive,
    deletion,
    draw,
    draw_cross,
    explain,
    explain_record,
    randomised,
    share_correlation,
    words,
)
from pediatric_ecg.nn import RhythmNet, RhythmNetConfig
from pediatric_ecg.report.render import minus
from pediatric_ecg.windows import Preprocess

LEADS = {"ecg": ["I", "II", "V1"], "iegm": ["CS12", "CS90"]}


def network(**kw):
    torch.manual_seed(3)
    kw = dict(modalities=LEADS, n_classes=3, seconds=1.0, widths=(16, 32, 32), heads=2, depth=1) | kw
    return RhythmNet(RhythmNetConfig(**kw)).eval()


@pytest.fixture
def window():
    rng = np.random.default_rng(0)
    return {m: rng.normal(size=(len(v), 250)).astype(np.float32) for m, v in LEADS.items()}


@pytest.mark.parametrize("kw", [
    {}, {"normalise": "train"}, {"fusion": "mean", "cross_attention": False}, {"fusion": "late"}, {"fusion": "early"},
    {"depth": 0}])
def test_shares_add_up_to_the_contrast(window, kw):
    "The completeness axiom, for every way of fusion."
    e = explain(network(**kw), window, target=0, against=1, steps=256)
    assert abs(e.gap) < 0.02 * max(sum(np.abs(a).sum() for a in e.shares.values()), 1e-3)
    assert sum(a.sum() for a in e.shares.values()) == pytest.approx(e.contrast - e.baseline + e.gap, abs=1e-4)


def test_the_contrast_is_that_of_the_network(window):
    net = network()
    logits = net({m: torch.from_numpy(v)[None] for m, v in window.items()}).logits[0].detach()
    e = explain(net, window)
    assert e.target == int(logits.argmax())
    assert e.contrast == pytest.approx(float(logits[e.target] - logits[e.against]), abs=1e-5)
    back = explain(net, window, target=e.against, against=e.target)
    for m in LEADS:
        np.testing.assert_allclose(back.shares[m], -e.shares[m], atol=1e-5)


def test_explaining_leaves_the_network_as_it_was(window):
    net = network().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    explain(net, window)
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_absent_leads_have_no_share(window):
    e = explain(network(), window, present={"ecg": [True, False, True], "iegm": [False, False]})
    assert not e.shares["ecg"][1].any() and not e.shares["iegm"].any() and e.weights["iegm"] == 0
    assert e.shares["ecg"][0].any()


def test_random_weights_change_the_picture(window):
    net = network()
    e = explain(net, window, target=0, against=1)
    assert share_correlation(e, explain(net, window, target=0, against=1, steps=96)) > 0.95
    assert max(share_correlation(e, explain(randomised(net, s), window, target=0, against=1)) for s in range(3)) < 0.9


def test_without_scale_equals_with(window):
    net = network()
    x = {m: 7.0 * torch.from_numpy(v)[None] for m, v in window.items()}
    signals, masks = net.inputs(x)
    inner = after_scale(net)(dict(zip(LEADS, signals)), dict(zip(LEADS, masks)))
    torch.testing.assert_close(inner.logits, net(x).logits)


def test_pictures(window):
    e = explain(network(), window, present={"ecg": [True, True, False]})
    assert "Why" in draw(e, 250, LEADS, ["N", "AVRT", "AVNRT"])._suptitle.get_text()
    assert len(draw_cross(e).axes) == 4
    with pytest.raises(ValueError, match="no cross-attention"):
        draw_cross(explain(network(cross_attention=False), window))


@pytest.mark.parametrize("target, against", [(0, 0), (5, 0), (0, -1)])
def test_unknown_classes(window, target, against):
    with pytest.raises(ValueError, match="two different"):
        explain(network(), window, target=target, against=against)


def test_words_follow_the_numbers(window):
    "Both sides of the question, the leads in the order of their shares, nothing of absent leads."
    present = {"ecg": [True, True, False]}
    e = explain(network(), window, present=present, target=0, against=1)
    back = explain(network(), window, present=present, target=1, against=0)
    classes = ["N", "AVRT", "AVNRT"]
    one, other = (words(side, 250, LEADS, classes, {"N": "sinus rhythm"}) for side in (e, back))
    assert "sinus rhythm (N)" in one[0] and "AVRT" in one[0], "by its name first, then by its label"
    preferred = "N" if e.contrast > 0 else "AVRT"
    assert f"leans to {preferred}" in one[0] and f"leans to {preferred}" in other[0]
    assert minus(f"{e.contrast:+.1f}") in one[0]
    assert any("does not give" in line for line in (one if e.contrast <= 0 else other))
    by_lead = dict(zip([*LEADS["ecg"], *LEADS["iegm"]], np.concatenate([*e.by_lead().values()])))
    assert "V1" not in " ".join(one)
    del by_lead["V1"]
    best = max(by_lead, key=by_lead.get)
    assert any(line.startswith(minus(f"Most for N speak: {best} {by_lead[best]:+.1f}")) for line in one)
    share = sum(abs(by_lead[lead]) for lead in LEADS["iegm"]) / sum(map(abs, by_lead.values()))
    assert any(f"{100 * share:.0f} % lie on catheters" in line for line in one)
    centre, within = decisive(e, 250)
    assert 0 < centre < 1 and 0 < within <= 1


def test_deletion_takes_away_what_is_red(window):
    net = network()
    e = explain(net, window, target=0, against=1)
    red, chance = deletion(net, e)
    assert red < e.contrast and red < chance
    against, _ = deletion(net, explain(net, window, target=1, against=0))
    assert against < -e.contrast


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run folder with random weights."
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("run")
    leads = {modality: list(names) for modality, names in LEIPZIG.modalities.items()}
    model = RhythmNet(RhythmNetConfig(modalities=leads, n_classes=3, seconds=2.0, widths=(16, 32), heads=2, depth=1))
    database = json.loads(LEIPZIG.to_json())
    model.save(folder, {"classes": ["N", "AVRT", "AVNRT"], "seconds": 2.0, "preprocess": Preprocess().to_dict(),
                        "database": database})
    return folder


def test_a_record_is_explained_from_the_command_line(run, simdb, tmp_path, capfd):
    record = record_paths(simdb, LEIPZIG)[0]
    arguments = ["explain", str(run), f"{record}.hea", "--at", "3", "--out", str(tmp_path / "why")]
    assert cli.main([*arguments, "--rhythm", "AVRT", "--against", "AVNRT"]) == 0
    out, err = capfd.readouterr()
    picture, text = (tmp_path / "why" / f"{record.name}.3s.{ending}" for ending in ("png", "txt"))
    assert err == "" and picture.read_bytes().startswith(b"\x89PNG")
    said = text.read_text()
    for words_ in ("3 s to 5 s", "for research only", "The answer is", "random weights", "without a tenth by chance",
                   "Asked for"):
        assert words_ in said and words_ in out
    again = explain_record(run, record, tmp_path / "again", 3.0, "AVRT", "AVNRT")
    assert again.path.read_bytes() == picture.read_bytes() and "\n".join(again.lines) in said


def test_bad_input_is_one_line(run, simdb, tmp_path, capfd):
    record = record_paths(simdb, LEIPZIG)[0]
    answer = explain_record(run, record, tmp_path / "answer").explanation.target
    answer = ["N", "AVRT", "AVNRT"][answer]
    cases = [
        ([run, record, "--at", "1e6"], "begins between 0 and"),
        ([run, record, "--at", "nan"], "--at"),
        ([run, record, "--at", "-1"], "--at"),
        ([run, record, "--rhythm", "VFL"], "--rhythm VFL: this network knows N, AVRT, AVNRT"),
        ([run, record, "--against", "VFL"], "--against VFL"),
        ([run, record, "--rhythm", "N", "--against", "N"], "--rhythm N and --against N: the same rhythm"),
        ([run, record, "--against", answer], f"--against {answer}: this is the answer itself"),
        ([run, tmp_path / "none"], "none.hea"),
        ([tmp_path, record], "config.json"),
    ]
    for arguments, expected in cases:
        code = cli.main(["explain", *map(str, arguments), "--out", str(tmp_path / "out")])
        out, err = capfd.readouterr()
        assert (code, out, err.count("\n")) == (2, "", 1) and expected in err, (arguments, err)
    assert not (tmp_path / "out").exists()
