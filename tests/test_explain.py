"""Explanations: complete, silent about what is absent, and about the network rather than the input."""
import numpy as np
import pytest
import torch

from pediatric_ecg.explain import after_scale, draw, draw_cross, explain, randomised, share_correlation
from pediatric_ecg.nn import RhythmNet, RhythmNetConfig

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
