"""The network's promises.

Masks, independence, permutation of leads, gradients, precision, compilation, export, files, shapes.
"""
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pediatric_ecg.nn import Encoder, RhythmNet, RhythmNetConfig
from pediatric_ecg.nn.encoders import LeadScale, receptive_field
from pediatric_ecg.nn.fusion import FUSIONS
from pediatric_ecg.nn.periodicity import activity, autocorrelation, bin_lags, in_bins, log_lags
from pediatric_ecg.nn.rhythmnet import HEADS
from pediatric_ecg.nn.transformer import POSITIONS

LEADS = {'ecg': 12, 'iegm': 7}


def make(seed=0, leads=LEADS, n_classes=9, **changes):
    "A fresh network in evaluation mode."
    torch.manual_seed(seed)
    return RhythmNet(RhythmNetConfig(dict(leads), n_classes, **changes)).eval()


def windows(batch=3, length=500, leads=LEADS, seed=0):
    "Random windows and full masks."
    generator = torch.Generator().manual_seed(seed)
    x = {name: torch.randn(batch, num_leads, length, generator=generator) for name, num_leads in leads.items()}
    return x, {name: torch.ones(batch, num_leads, dtype=torch.bool) for name, num_leads in leads.items()}


def filled(x, present, value):
    "The windows with a value in every lead that is absent."
    return {name: torch.where(present[name][..., None], values, value) for name, values in x.items()}


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second))


OF_TOKENS = [name for name, fusion_class in FUSIONS.items() if fusion_class is not None]
SETTINGS = [
    *[dict(fusion=name) for name in FUSIONS],
    *[dict(fusion=name, cross_attention=False) for name in OF_TOKENS],
    dict(depth=0),
    dict(pooling='mean'),
    dict(normalise='train'),
    dict(norm='group'),
    *[dict(positions=name) for name in POSITIONS],
]


@pytest.mark.parametrize('changes', SETTINGS, ids=str)
@pytest.mark.parametrize('junk', [0., 1e30, torch.inf, torch.nan], ids=str)
def test_absent_lead_has_no_influence_to_the_bit(changes, junk):
    net, (x, present) = make(**changes), windows()
    present['iegm'][0, 2] = False
    present['iegm'][1] = False
    present['ecg'][2] = False
    with torch.no_grad():
        base = net(x, present)
        out = net(filled(x, present, junk), present)
    assert same(base, out)
    assert base.weights[1].tolist() == [1., 0.] and base.weights[2].tolist() == [0., 1.]
    assert all(torch.isfinite(tensor).all() for tensor in base)


def test_absent_lead_gets_no_gradient():
    net, (x, present) = make(), windows()
    present['iegm'][:, 2] = False
    x['iegm'][:, 2] = torch.nan
    x['iegm'].requires_grad_()
    net(x, present).logits.square().sum().backward()
    gradient = x['iegm'].grad
    assert (gradient[:, 2] == 0).all() and torch.isfinite(gradient).all()
    assert gradient[:, 3].abs().max() > 0
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize('fusion', FUSIONS)
def test_nothing_present_is_finite_and_constant(fusion):
    net, (x, present) = make(fusion=fusion), windows()
    for mask in present.values():
        mask[:] = False
    out = net(x, present)
    assert torch.isfinite(out.logits).all() and (out.weights == 0).all()
    torch.testing.assert_close(out.logits, out.logits[:1].expand_as(out.logits))


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_any_mask_any_values(data):
    net, (x, present) = make(), windows(2)
    for name, num_leads in LEADS.items():
        of_a_window = st.lists(st.booleans(), min_size=num_leads, max_size=num_leads)
        present[name] = torch.tensor(data.draw(st.lists(of_a_window, min_size=2, max_size=2)))
    value = data.draw(st.floats(width=32))
    with torch.no_grad():
        assert same(net(x, present), net(filled(x, present, value), present))


def test_modality_left_out_equals_modality_absent():
    net, (x, present) = make(), windows()
    present['iegm'][:] = False
    assert same(net({'ecg': x['ecg']}), net(x, present))


@pytest.mark.parametrize('fusion', FUSIONS)
def test_independent_of_batch_composition(fusion):
    net, (x, present) = make(fusion=fusion), windows(5)
    present['iegm'][1] = False
    whole = net(x, present)
    other_x, other_present = windows(5, seed=9)
    for name in x:
        other_x[name][1], other_present[name][1] = x[name][1], present[name][1]
    in_other_company = net(other_x, other_present)
    alone = net({name: values[1:2] for name, values in x.items()}, {name: mask[1:2] for name, mask in present.items()})
    for first, second, third in zip(whole, in_other_company, alone):
        torch.testing.assert_close(first[1], second[1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(first[1], third[0], atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=10)
@given(st.permutations(range(7)))
def test_permuting_leads_with_their_weights_changes_nothing(order):
    net, (x, present) = make(), windows()
    present['iegm'][0, 1] = False
    net.fit_scale(x, present)
    out, order = net(x, present), torch.tensor(order)
    stem, scale = net.encoders['iegm'].stem, net.scale['iegm']
    with torch.no_grad():
        stem.weight.copy_(stem.weight[:, order].clone())
        scale.scale.copy_(scale.scale[order].clone())
    again = net(x | {'iegm': x['iegm'][:, order]}, present | {'iegm': present['iegm'][:, order]})
    for first, second in zip(out, again):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('changes', SETTINGS, ids=str)
def test_gradients_reach_every_parameter(changes):
    net, (x, present) = make(dropout=0., **changes).train(), windows(8)
    out = net(x, present)
    (F.cross_entropy(out.logits, torch.arange(8)) + out.embedding.square().mean()).backward()
    silent = []
    for name, parameter in net.named_parameters():
        if parameter.grad is None or not parameter.grad.abs().max() > 0:
            silent.append(name)
    assert set(silent) <= {'transformer.table'}
    if net.transformer.table is not None:
        in_use = net.transformer.table.grad[:16]
        assert in_use.abs().min(1).values.max() > 0


def test_same_seed_same_weights_and_training():
    def train(seed):
        net, (x, _) = make(seed).train(), windows(8)
        torch.manual_seed(seed)
        optimiser = torch.optim.AdamW(net.parameters(), 1e-3)
        for _ in range(3):
            optimiser.zero_grad()
            F.cross_entropy(net(x).logits, torch.arange(8)).backward()
            optimiser.step()
        return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])
    assert torch.equal(train(0), train(0))
    assert not torch.equal(train(0), train(1))


def test_overfits_32_windows():
    net, (x, _) = make(dropout=0.).train(), windows(32, 128)
    labels = torch.randint(0, 9, (32,), generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        loss = F.cross_entropy(net(x).logits, labels)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.01


@pytest.mark.parametrize('leads', [LEADS, {'lead1': 1, 'lead2': 1}, {'a': 2, 'b': 8, 'c': 16}], ids=str)
def test_bfloat16_agrees_with_float32(leads):
    # 0.03 in the logits of a fresh network, whose standard deviation is about 0.5.
    # Leads 2, 8 and 12 are those where a strided bfloat16 convolution on AMX is wrong.
    net, (x, present) = make(leads=leads), windows(16, leads=leads)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        half = net(x, present)
    full = net(x, present)
    assert (half.logits.float() - full.logits).abs().max() < 0.03
    assert (half.weights.float() - full.weights).abs().max() < 0.01
    with torch.autocast('cpu', torch.bfloat16):
        F.cross_entropy(net(x, present).logits, torch.arange(16) % 9).backward()
    assert all(parameter.dtype == torch.float32 for parameter in net.parameters())


@pytest.mark.parametrize('fusion', ['semantic', 'late'])
def test_compiles_without_graph_breaks(fusion):
    net, (x, present) = make(fusion=fusion), windows()
    present['iegm'][1] = False
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend='aot_eager')
    with torch.no_grad():
        for first, second in zip(net(x, present), compiled(x, present)):
            torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


def test_export_of_the_inference_path():
    net, (x, present) = make(), windows()
    batch = torch.export.Dim('batch', min=2, max=4096)
    free = {name: {0: batch} for name in x}
    exported = torch.export.export(net, (x, present), dynamic_shapes=(free, free)).module()
    other_x, other_present = windows(7, seed=3)
    other_present['iegm'][2] = False
    with torch.no_grad():
        for first, second in zip(net(other_x, other_present), exported(other_x, other_present)):
            torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_more_modalities_and_any_length():
    net = make(leads={'a': 2, 'b': 3, 'c': 1})
    for length in (200, 333, 1250, 5000):
        x, present = windows(2, length, net.config.leads)
        present['b'][0] = False
        out = net(x, present)
        assert out.weights[0, 1] == 0
        torch.testing.assert_close(out.weights.sum(1), torch.ones(2))
        assert same(out, net(filled(x, present, torch.nan), present))


def test_attention_maps_are_the_ones_used():
    net, (x, present) = make(), windows()
    present['iegm'][1] = False
    maps = net.attention(x, present)
    assert torch.equal(maps['weights'], net(x, present).weights)
    for weights in [*maps['transformer'], maps['pool'], maps['cross']['ecg'][:1], maps['cross']['iegm']]:
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert (maps['cross']['ecg'][1] == 0).all()
    block = net.fusion.cross[0]
    ecg, iegm = net.tokens(net.inputs(x, present)[0])
    available = present['iegm'].any(1)[:, None].expand(-1, iegm.shape[1])
    value = block.v(block.norm_kv(iegm)).unflatten(-1, (block.heads, -1)).transpose(1, 2)
    answer = block.out((maps['cross']['ecg'] @ value).transpose(1, 2).flatten(2))
    by_hand = ecg + answer * available[:, :1, None]
    torch.testing.assert_close(block(ecg, iegm, available), by_hand, atol=1e-5, rtol=1e-4)


def test_scale_is_fitted_on_present_leads_only_and_saved(tmp_path):
    net, (x, present) = make(), windows(20)
    x['iegm'][:, 3] = torch.nan
    present['iegm'][:, 3] = False
    net.fit_scale({name: .1*values for name, values in x.items()}, present)
    assert net.scale['iegm'].scale[3] == 1
    expected = torch.full((12,), .1*(2/np.pi)**.5)
    torch.testing.assert_close(net.scale['ecg'].scale, expected, atol=.01, rtol=0.)
    net.save(tmp_path)
    assert same(RhythmNet.load(tmp_path)(x, present), net(x, present))


@settings(deadline=None, max_examples=20)
@given(st.floats(.01, 100), st.integers(0, 10**6))
def test_window_gain_makes_amplitude_irrelevant(gain, seed):
    x = torch.randn(2, 3, 300, generator=torch.Generator().manual_seed(seed))
    present = torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(LeadScale(3)(gain*x, present), LeadScale(3)(x, present), atol=1e-4, rtol=1e-4)


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 3), st.sampled_from([3, 5, 7]), st.sampled_from([2, 4, 8]), st.integers(1, 4))
def test_receptive_field_is_what_the_gradient_reaches(stages, kernel, stride, strides_in_kernel):
    encoder = Encoder(1, (2,)*(stages + 1), stride*strides_in_kernel, stride, kernel)
    for module in list(encoder.modules()):
        for name, child in module.named_children():
            if isinstance(child, (torch.nn.BatchNorm1d, torch.nn.GroupNorm)):
                setattr(module, name, torch.nn.Identity())
    for parameter in encoder.parameters():
        torch.nn.init.constant_(parameter, .1)
    field, step = receptive_field(encoder)[-1][1:]
    x = torch.ones(1, 1, 2*field + 4*step, requires_grad=True, dtype=torch.float64)
    tokens = encoder.double()(x)
    tokens[0, tokens.shape[1]//2].sum().backward()
    seen = x.grad[0, 0].nonzero().flatten()
    assert seen[-1] - seen[0] + 1 == field


def test_files_are_whole_or_absent(tmp_path, monkeypatch):
    def broken(*arguments):
        raise OSError('disk full')
    make().save(tmp_path)
    before = (tmp_path/'model.safetensors').read_bytes()
    monkeypatch.setattr('pediatric_ecg.core.os.replace', broken)
    with pytest.raises(OSError, match='disk full'):
        make(1).save(tmp_path)
    assert (tmp_path/'model.safetensors').read_bytes() == before


def cut_short(run):
    weights = run/'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-100])


def of_another_network(run):
    make(depth=1).save(run.parent/'other')
    os.replace(run.parent/'other'/'model.safetensors', run/'model.safetensors')


@pytest.mark.parametrize('harm, named', [
    (lambda run: (run/'config.json').unlink(), 'config.json is missing'),
    (lambda run: (run/'model.safetensors').unlink(), 'model.safetensors is missing'),
    (lambda run: (run/'config.json').write_text('not json'), 'config.json: not readable as JSON'),
    (lambda run: (run/'config.json').write_text('[1]'), 'config.json: must be names and values'),
    (lambda run: (run/'config.json').write_text('{"model": {"n_classes": 2}}'), 'config.json does not describe'),
    (lambda run: (run/'model.safetensors').write_bytes(b'1234567890'), 'model.safetensors does not fit'),
    (cut_short, 'model.safetensors does not fit'),
    (of_another_network, 'model.safetensors does not fit'),
])
def test_load_names_what_is_wrong(tmp_path, harm, named):
    run = tmp_path/'run'
    make().save(run, {'classes': ['N']})
    harm(run)
    with pytest.raises(ValueError, match=named):
        RhythmNet.load(run)


def test_refuses_another_number_of_leads():
    net = make(leads={'ecg': ['I', 'II'], 'iegm': ['CS12', 'CS34']})
    with pytest.raises(ValueError, match='built for 2 leads'):
        net({'ecg': torch.randn(1, 3, 500)})


@pytest.mark.parametrize('name, choices', [('fusion', FUSIONS), ('positions', POSITIONS), ('head', HEADS)])
def test_an_unknown_choice_is_answered_by_the_registry(name, choices):
    with pytest.raises(ValueError, match=f'{name} must be one of {", ".join(choices)}, not'):
        RhythmNetConfig(LEADS, 2, **{name: 'magic'})


def test_budget():
    for leads, seconds in ((LEADS, 2), ({'lead1': 1, 'lead2': 1}, 5)):
        *blocks, total = make(leads=leads).summary(seconds)
        assert total['block'] == 'total' and total['parameters'] <= 1_000_000 and total['multiply_adds'] <= 15e6
        for key in ('parameters', 'multiply_adds'):
            assert sum(block[key] for block in blocks) == total[key]


def run_python(code):
    "Output of some code in a process of its own."
    command = [sys.executable, '-W', 'ignore', '-c', textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_shapes_in_signatures_are_true():
    "Every jaxtyping annotation of the package, checked at run time by beartype in a process of its own."
    pytest.importorskip('beartype')
    printed = run_python('''
        from importlib import import_module
        from jaxtyping import install_import_hook
        from pkgutil import iter_modules
        with install_import_hook('pediatric_ecg.nn', 'beartype.beartype'):   # the package and every module in it
            import torch
            import pediatric_ecg.nn
            for module in iter_modules(pediatric_ecg.nn.__path__, 'pediatric_ecg.nn.'):
                loader = import_module(module.name).__spec__.loader
                assert 'jaxtyping' in type(loader).__module__, f'{module.name} is not checked'
                print('checked')
        from jaxtyping import TypeCheckError
        from pediatric_ecg.nn import RhythmNet, RhythmNetConfig
        from pediatric_ecg.nn.fusion import FUSIONS
        x = {'ecg': torch.randn(2, 12, 300), 'iegm': torch.randn(2, 7, 300)}
        present = {name: torch.ones(values.shape[:2], dtype=torch.bool) for name, values in x.items()}
        for fusion in FUSIONS:
            for changes in ({}, dict(pooling='mean', positions='sinusoidal', cross_attention=False), dict(depth=0)):
                net = RhythmNet(RhythmNetConfig({'ecg': 12, 'iegm': 7}, 5, fusion=fusion, **changes))
                net.fit_scale(x, present)(x, present)
                net.attention(x, present)
                net.summary(1.)
        no_time = dict(ecg=torch.randn(2, 12))
        no_floats = dict(ecg=torch.zeros(2, 12, 300, dtype=torch.int64))
        unequal = dict(ecg=torch.randn(2, 12, 300), iegm=torch.randn(3, 7, 300))
        for wrong in (no_time, no_floats, unequal):
            try:
                net(wrong)
            except (TypeCheckError, ValueError):
                print('refused')
    ''').split()
    assert printed.count('checked') >= 6
    assert printed.count('refused') >= 2


@pytest.mark.parametrize('peak', [1, 2, 3])
def test_height_of_a_peak_does_not_depend_on_the_rate_by_chance(peak):
    "A regular rhythm of 71 to 100 beats per minute: what the bins see of the peak is its top, about 1."
    fs, times = 250, np.arange(1250)/250
    lags = log_lags(fs, 5.)
    points, seen = bin_lags(lags), []
    for interval in np.arange(.6, .851, .005):
        since = times[:, None] - np.arange(.3, 5, interval)
        lead = (since*np.exp(-(since/.012)**2)).sum(1)
        curve = autocorrelation(activity(torch.tensor(lead, dtype=torch.float32)[None, None], fs))[0]
        nearest = (lags - fs*peak*interval).abs().argsort()[:2]
        seen.append(in_bins(curve, points)[nearest].max().item())
    assert min(seen) > .93 and max(seen) < 1.06


def test_the_cosine_head_is_bounded_and_blind_to_length(tmp_path):
    "Logits are 30 cosines: what margins of LDAM need. It is saved and loaded like the linear one."
    torch.manual_seed(0)
    net = RhythmNet(RhythmNetConfig({'ecg': 2}, 3, seconds=2., head='cosine')).eval()
    x = {'ecg': torch.randn(4, 2, 500)}
    present = {'ecg': torch.ones(4, 2, dtype=torch.bool)}
    out = net(x, present)
    assert out.logits.abs().max() <= 30 + 1e-4
    torch.testing.assert_close(net.heads[0](7*out.features), out.logits, rtol=1e-4, atol=1e-4)
    assert not net.heads[0].bias.requires_grad and (net.heads[0].bias == 0).all()
    net.save(tmp_path/'net')
    torch.testing.assert_close(RhythmNet.load(tmp_path/'net')(x, present).logits, out.logits)
