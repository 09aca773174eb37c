"""The rivals of AGCACL against closed forms and loops; one call for all objectives; the measures of a class space."""
import builtins
import importlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pediatric_ecg import losses
from pediatric_ecg.losses import (
    AGCACL,
    BCL,
    LDAM,
    OBJECTIVES,
    ClassBalanced,
    Focal,
    LogitAdjusted,
    PaCo,
    PatientAGCACL,
    ProxyAnchor,
    SupCon,
    diagnose,
    make_objective,
    simplex,
)
from pediatric_ecg.losses.geometry import (
    GeometryLog,
    check_counts,
    effective_rank,
    minority_collapse,
    simplex_gap,
    spread,
    unit,
)
from pediatric_ecg.losses.logits import effective_weights, log_prior

NBS = Path(__file__).parents[1]/'nbs'
ON_LOGITS = ['ce', 'ce+la', 'cb', 'focal', 'ldam', 'ldam-cosine']


@st.composite
def problems(draw, max_batch=9):
    "Counts, logits, embeddings and labels of some shape; classes may be absent from the batch."
    C, d, B = draw(st.integers(2, 6)), draw(st.integers(1, 6)), draw(st.integers(1, max_batch))
    g = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    y = torch.tensor(draw(st.lists(st.integers(0, C - 1), min_size=B, max_size=B)))
    scale = draw(st.sampled_from([1e-3, 1., 30., 6e4]))
    counts = draw(st.lists(st.integers(1, 10**6), min_size=C, max_size=C))
    f, z = (scale*torch.randn(B, width, generator=g).double() for width in (C, d))
    return counts, f, z, y


def small():
    "Counts, logits, embeddings and labels: three classes, twelve samples."
    torch.manual_seed(0)
    return [50, 9, 3], torch.randn(12, 3), torch.randn(12, 4), torch.arange(12) % 3


# ── formulas, one number at a time ──

def softmax(row, c):
    return math.exp(row[c])/sum(map(math.exp, row))


@settings(deadline=None, max_examples=40)
@given(problems())
def test_logit_losses_equal_their_formulas(problem):
    n, f, _, y = problem
    f = (f/f.abs().max()).float()
    rows = list(zip(f.tolist(), y.tolist()))

    def mean(values):
        return sum(values)/len(rows)

    def adjusted(row, c):
        return -math.log(n[c]*math.exp(row[c])/sum(k*math.exp(v) for k, v in zip(n, row)))

    expected = mean([adjusted(row, c) for row, c in rows])
    assert LogitAdjusted(n)(f, y).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)

    w = [(1 - .999)/(1 - .999**v) for v in n]
    w = [v*len(n)/sum(w) for v in w]
    expected = mean([-w[c]*math.log(softmax(row, c)) for row, c in rows])
    assert ClassBalanced(n)(f, y).item() == pytest.approx(expected, rel=1e-4)

    expected = mean([-(1 - softmax(row, c))**1.5*math.log(softmax(row, c)) for row, c in rows])
    assert Focal(n, 1.5)(f, y).item() == pytest.approx(expected, rel=1e-3, abs=1e-6)

    margin = [v**-.25 for v in n]
    margin = [.5*v/max(margin) for v in margin]
    shifted = [([v - margin[c]*(k == c) for k, v in enumerate(row)], c) for row, c in rows]
    expected = mean([-math.log(softmax(row, c)) for row, c in shifted])
    assert LDAM(n)(f, y).item() == pytest.approx(expected, rel=1e-4)


def naive_bcl(z, centres, y, tau):
    "The formula of the notebook, with loops."
    samples = [row/row.norm() for row in z]
    centres = [row/row.norm() for row in centres]
    total = 0
    for i, label in enumerate(y.tolist()):
        members = {}
        for c, centre in enumerate(centres):
            members[c] = [samples[j] for j in range(len(y)) if y[j] == c and j != i] + [centre]
        denominator = 0
        for keys in members.values():
            denominator = denominator + sum((samples[i] @ key/tau).exp() for key in keys)/len(keys)
        positives = members[label]
        total = total - sum(((samples[i] @ key/tau).exp()/denominator).log() for key in positives)/len(positives)
    return total/len(y)


def naive_paco(f, z, y, prior, tau, alpha):
    "The formula of the notebook, with loops."
    samples, f, total = [row/row.norm() for row in z], f + prior, 0
    for i, label in enumerate(y.tolist()):
        others = [k for k in range(len(y)) if k != i]
        denominator = sum((samples[i] @ samples[k]/tau).exp() for k in others) + f[i].exp().sum()
        terms = [(alpha, samples[i] @ samples[k]/tau) for k in others if y[k] == label] + [(1., f[i, label])]
        total = total - sum(w*(s - denominator.log()) for w, s in terms)/sum(w for w, _ in terms)
    return total/len(y)


@settings(deadline=None, max_examples=25)
@given(problems(7))
def test_bcl_and_paco_equal_naive_loops_over_their_formulas(problem):
    n, f, z, y = problem
    f, z = (f/f.abs().max()).requires_grad_(), z.requires_grad_()
    bcl = BCL(n, z.shape[1], temperature=.3).double()
    paco = PaCo(n, z.shape[1], temperature=.3, alpha=.2).double()
    cases = [
        (bcl(z, y), naive_bcl(z, bcl.centres, y, .3), (z, bcl.centres)),
        (paco(f, z, y), naive_paco(f, z, y, log_prior(n), .3, .2), (f, z)),
    ]
    for got, expected, inputs in cases:
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)
        ours = torch.autograd.grad(got, inputs, allow_unused=True)
        theirs = torch.autograd.grad(expected, inputs, allow_unused=True)
        for a, b in zip(ours, theirs):
            if b is not None:
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_supcon_equals_a_naive_loop_over_its_formula():
    torch.manual_seed(0)
    z, y = torch.randn(9, 5), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    u = F.normalize(z)

    def one(i):
        others = [k for k in range(9) if k != i]
        denominator = sum((u[i] @ u[k]/.1).exp() for k in others)
        return np.mean([-((u[i] @ u[k]/.1).exp()/denominator).log().item() for k in others if y[k] == y[i]])

    assert SupCon([3, 2, 4], 5)(z, y).item() == pytest.approx(np.mean([one(i) for i in range(9)]), rel=1e-5)


def test_proxyanchor_equals_a_naive_loop_over_its_formula():
    torch.manual_seed(0)
    z, y, loss = torch.randn(9, 5), torch.tensor([0, 0, 0, 1, 1, 1, 0, 1, 1]), ProxyAnchor([3, 2, 4], 5)
    s = F.normalize(z) @ F.normalize(loss.loss.proxies.detach()).T
    present = y.unique().tolist()
    positive = negative = 0
    for c in present:
        positive += math.log(1 + sum(math.exp(-32*(s[i, c] - .1)) for i in range(9) if y[i] == c))/len(present)
    for c in range(3):
        negative += math.log(1 + sum(math.exp(32*(s[i, c] + .1)) for i in range(9) if y[i] != c))/3
    assert loss(z, y).item() == pytest.approx(positive + negative, rel=1e-5)


# ── all objectives alike ──

@pytest.mark.filterwarnings('ignore:dim=')
@pytest.mark.parametrize('name', OBJECTIVES)
@settings(deadline=None, max_examples=12)
@given(problems())
def test_every_objective_is_finite_with_finite_gradients(name, problem):
    n, f, z, y = problem
    f, z = f.float().requires_grad_(), z.float().requires_grad_()
    objective = make_objective(name, n, z.shape[1])
    for _ in range(2):
        value = objective(f, z, y)
        assert value.isfinite() and value.ndim == 0 and value >= 0
        for gradient in torch.autograd.grad(value, (f, z), allow_unused=True):
            assert gradient is None or gradient.isfinite().all()


@pytest.mark.parametrize('name', OBJECTIVES)
def test_every_objective_ignores_the_order_of_the_batch_and_survives_saving(name):
    n, f, z, y = small()
    order = torch.randperm(12)
    a, b = make_objective(name, n, 4), make_objective(name, n, 4)
    a(f, z, y)
    b.load_state_dict(a.state_dict())
    a.eval()
    b.eval()
    torch.testing.assert_close(a(f, z, y), b(f[order], z[order], y[order]))
    a.set_epoch(0)
    a.set_epoch(9, 10)


@pytest.mark.parametrize('name', OBJECTIVES)
def test_every_objective_may_be_told_the_patients(name):
    n, f, z, y = small()
    objective = make_objective(name, n, 4, patients=5)
    assert objective(f, z, y, torch.arange(12) % 5).isfinite()
    assert isinstance(objective.agcacl, PatientAGCACL) == OBJECTIVES[name].uses_patients


@pytest.mark.parametrize('name', ['ce', 'ce+la', 'cb', 'focal', 'ldam', 'bcl', 'paco', 'agcacl', 'agcacl-plain'])
def test_every_own_objective_is_float32_under_autocast(name):
    n, f, z, y = small()
    a, b = make_objective(name, n, 4), make_objective(name, n, 4)
    b.load_state_dict(a.state_dict())
    with torch.autocast('cpu', torch.bfloat16):
        a(f.bfloat16(), z.bfloat16(), y)
        value = a(f.bfloat16(), z.bfloat16(), y)
    b(f.bfloat16().float(), z.bfloat16().float(), y)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, b(f.bfloat16().float(), z.bfloat16().float(), y))


def test_the_default_objective_has_half_the_log_prior_and_agcacl():
    n, f, z, y = small()
    objective = make_objective('agcacl', n, 4, tau=.2, psi='both')
    objective(f, z, y)
    objective.eval()
    assert isinstance(objective.agcacl, AGCACL) and objective.agcacl.tau == .2 and objective.agcacl.psi == 'both'
    torch.testing.assert_close(objective(f, z, y), LogitAdjusted(n, .5)(f, y) + .5*objective.agcacl(z, y))


# ── the registry ──

@pytest.mark.parametrize('name', OBJECTIVES)
def test_the_registry_tells_the_truth(name):
    "Whether the class counts matter shows in the value, not only in the flag."
    _, f, z, y = small()
    registered = OBJECTIVES[name]
    assert registered.description and registered.description == registered.description.strip('. ')
    values = []
    for n in ([50, 9, 3], [9, 9, 9]):
        torch.manual_seed(0)
        objective = make_objective(name, n, 4)
        objective.set_epoch(9, 10)
        values.append(objective(f, z, y).item())
    assert (values[0] != values[1]) == registered.uses_counts
    assert bool(make_objective(name, [50, 9, 3], 4).count_terms()) == registered.uses_counts
    assert make_objective(name, [9, 9, 9], 4).count_terms() == []


@pytest.mark.parametrize('name, options, terms', [
    ('agcacl', {}, ['log prior', 'φ']), ('agcacl', {'prior': 0.}, ['φ']), ('agcacl', {'beta': 0.}, ['log prior']),
    ('ce', {}, []), ('ce+la', {}, ['log prior']), ('cb', {}, ['class weights']), ('paco', {}, ['log prior']),
    ('ldam', {}, ['margins', 'deferred class weights']), ('bcl', {}, ['log prior']), ('focal', {}, [])])
def test_what_corrects_for_class_counts_is_named(name, options, terms):
    assert make_objective(name, [50, 9, 3], 4, **options).count_terms() == terms


def test_reductions_to_cross_entropy():
    _, f, _, y = small()
    plain = [
        LogitAdjusted([9, 5, 1], 0), LogitAdjusted([4, 4, 4]), ClassBalanced([9, 5, 1], 0), ClassBalanced([4, 4, 4]),
        Focal([9, 5, 1], 0), LDAM([9, 5, 1], 0),
    ]
    for loss in plain:
        torch.testing.assert_close(loss(f, y), F.cross_entropy(f, y))


def test_ldam_weights_come_late_and_can_be_taken_back():
    _, f, _, y = small()
    loss, values = LDAM([900, 50, 1]), []
    for epoch in range(10):
        loss.set_epoch(epoch, 10)
        values.append(loss(f, y).item())
    assert len(set(values[:8])) == len(set(values[8:])) == 1 and values[7] != values[8]
    loss.set_epoch(0, 10)
    assert loss(f, y).item() == values[0]
    early = LDAM([900, 50, 1], drw_epoch=2)
    early.set_epoch(2)
    assert early(f, y).item() == values[9]


# ── counts, sphere, misuse ──

@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=30), st.floats(0, 1))
def test_effective_weights_have_mean_one_and_never_favour_the_frequent(n, beta):
    w = effective_weights(n, beta)
    assert w.mean().item() == pytest.approx(1) and (w > 0).all()
    order = np.argsort(n, kind='stable')
    assert (w[order].diff() <= 1e-9*w.max()).all()


def test_counts_come_in_any_form():
    pd = pytest.importorskip('pandas')
    for n in ([3, 2], (3, 2), np.array([3, 2]), torch.tensor([3, 2]), pd.Series([3, 2], index=['N', 'VT'])):
        assert check_counts(n).tolist() == [3, 2]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=6, max_size=6))
def test_the_sphere_is_safe_for_any_finite_row(values):
    z = torch.tensor(values).view(2, 3).requires_grad_()
    u, exact = unit(z), z.detach().double()
    length = exact.norm(dim=1, keepdim=True)
    short = length < 1e-8
    expected = torch.where(short, torch.zeros_like(exact), exact/length)
    near_the_limit = (length/1e-8 - 1).abs() < 1e-6
    torch.testing.assert_close(u.double()*~near_the_limit, expected*~near_the_limit, atol=1e-6, rtol=0)
    gradient, = torch.autograd.grad(u.sum(), z)
    assert gradient.isfinite().all()
    assert (gradient[(short & ~near_the_limit)[:, 0]] == 0).all()


def test_the_sphere_lifts_half_precision_and_keeps_double():
    z = torch.tensor([[3., 4.], [0., 0.]])
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        u, wanted = unit(z.to(dtype)), torch.promote_types(dtype, torch.float32)
        assert u.dtype == wanted
        torch.testing.assert_close(u, torch.tensor([[.6, .8], [0, 0]], dtype=wanted))
    assert unit(torch.tensor([[math.nan, 1.], [math.inf, 1.]])).isnan().any(1).all()
    assert torch.autograd.gradcheck(unit, torch.randn(5, 3).double().requires_grad_())


@pytest.mark.parametrize('name', OBJECTIVES)
def test_misuse_is_named(name):
    f, z, y = torch.randn(4, 3), torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
    with pytest.raises(ValueError, match='class 1 has count 0'):
        make_objective(name, [3, 0, 2], 5)
    with pytest.raises(ValueError, match='another fold or grouping|logits: shape'):
        make_objective(name, [3, 2], 5)(f, z, y)
    if name not in ON_LOGITS:
        with pytest.raises(ValueError, match='embeddings: shape'):
            make_objective(name, [3, 2, 1], 7)(f, z, y)


def test_an_unknown_objective_lists_the_known():
    with pytest.raises(ValueError, match='agcacl'):
        make_objective('triplet', [1, 1], 4)


def test_without_the_bench_extra_the_remedy_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.startswith('pytorch_metric_learning'):
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, '__import__', without)
    for name in ('supcon', 'proxyanchor'):
        with pytest.raises(ImportError, match=r'pip install pediatric_ecg\[bench\]'):
            make_objective(name, [1, 1], 4)
    make_objective('agcacl', [1, 1], 4)


@pytest.mark.parametrize('name', OBJECTIVES)
def test_signatures_tell_the_truth_about_shapes(name):
    beartype, jaxtyped = pytest.importorskip('beartype').beartype, pytest.importorskip('jaxtyping').jaxtyped
    f, z, y = torch.randn(12, 3), torch.randn(12, 4), torch.arange(12) % 3
    objective = make_objective(name, [9, 5, 2], 4)

    def checked(loss, *arguments):
        return jaxtyped(typechecker=beartype)(type(loss).forward)(loss, *arguments)

    assert checked(objective, f, z, y).ndim == 0
    if name.startswith('paco'):
        assert checked(objective.embed, f, z, y).ndim == 0
    else:
        assert checked(objective.classify, f, y).ndim == 0
        assert objective.embed is None or checked(objective.embed, z, y).ndim == 0


# ── the face ──

def test_the_face_is_what_it_says_and_needs_no_optional_package():
    assert all(hasattr(losses, name) for name in losses.__all__)
    code = ("import sys; sys.modules['pytorch_metric_learning'] = None; from pediatric_ecg.losses import *; "
            "AGCACL([10, 5], 16); print(OBJECTIVES['agcacl'].description)")
    done = subprocess.run([sys.executable, '-W', 'error', '-c', code], capture_output=True, text=True)
    assert done.returncode == 0 and 'AGCACL' in done.stdout, done.stderr


def test_the_face_loads_no_records_no_tables_and_no_simulator():
    "Whoever takes a loss into a project of their own gets torch and the losses, not our way of reading records."
    code = """
import sys
import pediatric_ecg.losses
print(' '.join(sys.modules))
"""
    done = subprocess.run([sys.executable, '-W', 'error', '-c', code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert 'pediatric_ecg.losses.objectives' in loaded and 'torch' in loaded
    foreign = {'wfdb', 'pandas'} | {f'pediatric_ecg.{name}' for name in ('data', 'sim', 'windows', 'splits', 'train')}
    found = [name for name in loaded if name in foreign or any(name.startswith(f'{top}.') for top in foreign)]
    assert found == []


@pytest.mark.parametrize('name', ['geometry', 'logits', 'contrastive', 'agcacl', 'agcacl_patients', 'objectives'])
def test_every_module_says_what_it_is(name):
    assert importlib.import_module(f'pediatric_ecg.losses.{name}').__doc__


# ── geometry ──

def test_geometry_at_the_simplex_and_when_classes_merge():
    P, n = simplex(6, 8), [90, 80, 70, 3, 2, 1]
    merged = P[[0, 1, 2, 3, 3, 3]]
    assert simplex_gap(P @ P.T)['gap'] == pytest.approx(0, abs=1e-9) and effective_rank(P) == pytest.approx(5)
    assert minority_collapse(P @ P.T, n) == pytest.approx(-.2)
    assert minority_collapse(merged @ merged.T, n) == pytest.approx(1)
    assert effective_rank(merged) < 4 and simplex_gap(merged @ merged.T)['largest'] == pytest.approx(1)
    y = torch.arange(6).repeat(4)
    measured = spread(P[y], y, 6)
    assert measured['ratio'] == pytest.approx(0, abs=1e-9) and measured['between'] == pytest.approx(1.2)


@pytest.mark.parametrize('keeper', [
    AGCACL([9, 5, 2, 1], 4), PatientAGCACL([9, 5, 2, 1], 4, 2),
    SimpleNamespace(prototypes=torch.zeros(4, 4), seen=torch.zeros(4, dtype=torch.bool))])
def test_geometry_of_the_seen_alone(keeper):
    "Of anything that keeps `prototypes` and `seen`."
    log = GeometryLog([9, 5, 2, 1], keeper)
    assert math.isnan(log(0)['proto_gap'])                                             # nothing seen, nothing claimed
    keeper.prototypes[:3] = simplex(3, 4).float()
    keeper.seen[:3] = True
    row = log(1)
    assert row['proto_gap'] == pytest.approx(0, abs=1e-6) and row['proto_target'] == -.5
    assert row['proto_rank'] == pytest.approx(2, abs=1e-5) and math.isnan(row['proto_minority'])
    y = torch.tensor([0, 1, 1])
    assert diagnose([9, 5, 2, 1], simplex(3, 4)[y], y)['target'] == -1.


def test_prototypes_do_not_touch_the_ruler_by_which_losses_are_compared():
    "Class means of the embeddings are measured with and without a loss that keeps prototypes."
    y, loss = torch.arange(4).repeat(5), AGCACL([9, 5, 2, 1], 6)
    z, trained = (torch.randn(20, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    loss(trained, y)
    alone, beside = diagnose([9, 5, 2, 1], z, y), diagnose([9, 5, 2, 1], z, y, loss)
    assert {key: beside[key] for key in alone} == alone
    assert set(beside) - set(alone) == {f'proto_{key}' for key in (
        'mean', 'largest', 'gap', 'target', 'rank', 'rank_target', 'minority')}
    assert beside['proto_largest'] == pytest.approx(diagnose([9, 5, 2, 1], trained, y)['largest'], abs=1e-6)


def test_paco_remembers_earlier_batches_in_training_alone():
    "The queue is among the keys; evaluation reads it and leaves it as it is."
    _, f, z, y = small()
    counts = [50, 9, 2]
    with_queue, without = PaCo(counts, z.shape[1], queue=20), PaCo(counts, z.shape[1])
    torch.testing.assert_close(with_queue(f, z, y), without(f, z, y))          # nothing in it yet
    assert (with_queue.queue_labels[:12] == y).all() and (with_queue.queue_labels[12:] == -1).all()
    torch.testing.assert_close(with_queue.queue[:12], unit(z.detach()))
    assert with_queue(f, z, y) > without(f, z, y)                              # more keys in the denominator
    before = with_queue.state_dict()['queue'].clone()
    with_queue.eval()(f, z, y)
    assert torch.equal(before, with_queue.queue)


@pytest.mark.parametrize('name', list(OBJECTIVES))
def test_own_parameters_have_a_step_size_of_their_own(name):
    "Whatever has parameters says by how much its steps are larger than the network's."
    for module in make_objective(name, [50, 9, 2], 8).modules():
        if list(module.parameters(recurse=False)) and not hasattr(module, 'lr_factor'):
            assert name.startswith('proxyanchor')                              # the library's, inside one that says so


# ── references ──

def bibliography():
    "Keys of the references."
    keys = re.findall(r'^@\w+\{(\w+),', (NBS/'references.bib').read_text(encoding='utf-8'), re.M)
    assert len(keys) == len(set(keys))
    assert 'bibliography: references.bib' in (NBS/'_quarto.yml').read_text(encoding='utf-8')
    return set(keys)


def prose(notebook):
    "The markdown of a notebook."
    cells = json.loads(notebook.read_text(encoding='utf-8'))['cells']
    return ' '.join(''.join(cell['source']) for cell in cells if cell['cell_type'] == 'markdown')


def cited(text):
    return set(re.findall(r'(?<![\w`])@([a-z]+\d{4}\w*)', text))


@pytest.mark.parametrize('folder', ['losses', 'nn', 'train', 'tutorials'])
def test_every_chapter_cites_and_every_citation_is_in_the_bibliography(folder):
    "Every chapter of the losses and the networks; elsewhere whoever cites."
    keys = bibliography()
    for notebook in sorted((NBS/folder).glob('*.ipynb')):
        found = cited(prose(notebook))
        assert found <= keys, f'{notebook.name}: {found - keys}'
        if folder in ('losses', 'nn'):
            assert found or notebook.stem == '06_pretrained', notebook.name


def test_the_relatives_of_the_loss_are_named_by_what_sets_them_apart():
    "The table says of each: prototypes, negatives, the tail, the geometry."
    lines = [line for line in prose(NBS/'losses'/'03_agcacl.ipynb').splitlines() if line.startswith('|')]
    start = lines.index('| loss | prototypes | negatives | what it does about the tail | geometry |')
    rows = [line.strip('| ').split(' | ') for line in lines[start + 2:]]
    assert all(len(row) == 5 for row in rows)
    for row in rows:
        assert cited(row[0]) or 'AGCACL' in row[0], row[0]
        assert re.match(r'\**(learnt|followed|fixed|none|the linear head|means|clusters)', row[1]), row
    named = cited(' '.join(row[0] + row[4] for row in rows))
    assert named >= {
        'ming2023exploit', 'graf2021dissecting', 'li2022targeted', 'yang2022inducing', 'ren2020balanced',
        'wang2021seesaw', 'kini2021label', 'wang2017normface', 'wang2018cosface', 'menon2021long', 'zhu2022balanced',
        'cui2021parametric', 'khosla2020supervised', 'kim2020proxy'}


def test_measures_of_degenerate_classes():
    "No direction has rank 0; the ratio of spreads is a quotient; a simplex of the classes seen has one rank less."
    assert effective_rank(torch.zeros(3, 4)) == 0 and effective_rank(torch.zeros(0, 4)) == 0
    z = torch.tensor([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0], [0.2, 1.0]])
    found = spread(z, torch.tensor([0, 0, 1, 1]), 2)
    assert found["ratio"] == pytest.approx(found["within"].mean() / found["between"]) and found["ratio"] < 0.1
    measures = diagnose([5, 4, 3, 2], torch.eye(4), torch.arange(4))
    assert measures["rank_target"] == 3


def test_the_weight_of_the_embedding_loss_is_a_half():
    "Where none is asked for."
    assert losses.objectives.Objective(None).weight == make_objective("supcon", [3, 2], 4).weight == 0.5
