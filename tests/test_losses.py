"""The rivals of AGCACL against closed forms and naive loops; one call for all objectives."""
import builtins
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pediatric_ecg.losses.agcacl import AGCACL
from pediatric_ecg.losses.geometry import simplex
from pediatric_ecg.losses.contrastive import BCL, PaCo, ProxyAnchor, SupCon, on_sphere
from pediatric_ecg.losses.geometry import unit
from pediatric_ecg.losses.geometry import GeometryLog, diagnose, effective_rank, minority_collapse, simplex_gap, spread
from pediatric_ecg.losses.logits import LDAM, ClassBalanced, Focal, LogitAdjusted, effective_weights, log_prior
from pediatric_ecg.losses.geometry import check_counts
from pediatric_ecg.losses.objectives import OBJECTIVES, make_objective

counts_of = lambda C: st.lists(st.integers(1, 10**6), min_size=C, max_size=C)


@st.composite
def problems(draw, max_batch=9):
    "Counts, logits, embeddings and labels of some shape; classes may be absent from the batch."
    C, d, B = draw(st.integers(2, 6)), draw(st.integers(1, 6)), draw(st.integers(1, max_batch))
    g = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    y = torch.tensor(draw(st.lists(st.integers(0, C - 1), min_size=B, max_size=B)))
    scale = draw(st.sampled_from([1e-3, 1., 30., 6e4]))
    return draw(counts_of(C)), scale*torch.randn(B, C, generator=g).double(), scale*torch.randn(B, d, generator=g).double(), y


# ── formulas, one number at a time ──

@settings(deadline=None, max_examples=40)
@given(problems())
def test_logit_losses_equal_their_formulas(p):
    n, f, _, y = p
    f = (f/f.abs().max()).float(); pi = [v/sum(n) for v in n]
    rows = [(row, c) for row, c in zip(f.tolist(), y.tolist())]
    soft = lambda row, c: math.exp(row[c])/sum(map(math.exp, row))
    mean = lambda vs: sum(vs)/len(rows)
    assert LogitAdjusted(n)(f, y).item() == pytest.approx(mean([-math.log(pi[c]*math.exp(r[c])/sum(q*math.exp(v) for q, v in zip(pi, r))) for r, c in rows]), rel=1e-4, abs=1e-6)
    w = [(1 - .999)/(1 - .999**v) for v in n]; w = [v*len(n)/sum(w) for v in w]
    assert ClassBalanced(n)(f, y).item() == pytest.approx(mean([-w[c]*math.log(soft(r, c)) for r, c in rows]), rel=1e-4)
    assert Focal(n, 1.5)(f, y).item() == pytest.approx(mean([-(1 - soft(r, c))**1.5*math.log(soft(r, c)) for r, c in rows]), rel=1e-3, abs=1e-6)
    d = [v**-.25 for v in n]; d = [.5*v/max(d) for v in d]
    shifted = [([v - d[c]*(k == c) for k, v in enumerate(r)], c) for r, c in rows]
    assert LDAM(n)(f, y).item() == pytest.approx(mean([-math.log(soft(r, c)) for r, c in shifted]), rel=1e-4)


def naive_bcl(z, centres, y, tau):
    u, v = [r/r.norm() for r in z], [r/r.norm() for r in centres]
    total = 0
    for i, c in enumerate(y.tolist()):
        B = {k: [u[j] for j in range(len(y)) if y[j] == k and j != i] + [v[k]] for k in range(len(v))}
        below = sum(sum((u[i] @ b/tau).exp() for b in B[k])/len(B[k]) for k in B)
        total = total - sum(((u[i] @ p/tau).exp()/below).log() for p in B[c])/len(B[c])
    return total/len(y)


def naive_paco(f, z, y, prior, tau, alpha):
    u, f, total = [r/r.norm() for r in z], f + prior, 0
    for i, c in enumerate(y.tolist()):
        below = sum((u[i] @ u[k]/tau).exp() for k in range(len(y)) if k != i) + f[i].exp().sum()
        terms = [(alpha, u[i] @ u[p]/tau) for p in range(len(y)) if p != i and y[p] == c] + [(1., f[i, c])]
        total = total - sum(w*(s - below.log()) for w, s in terms)/sum(w for w, _ in terms)
    return total/len(y)


@settings(deadline=None, max_examples=25)
@given(problems(7))
def test_bcl_and_paco_equal_naive_loops_over_their_formulas(p):
    n, f, z, y = p
    f = f/f.abs().max(); z = z.requires_grad_(); f = f.requires_grad_()
    bcl, paco = BCL(n, z.shape[1], temperature=.3).double(), PaCo(n, z.shape[1], temperature=.3, alpha=.2).double()
    for got, want, by in [(bcl(z, y), naive_bcl(z, bcl.centres, y, .3), (z, bcl.centres)), (paco(f, z, y), naive_paco(f, z, y, log_prior(n), .3, .2), (f, z))]:
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)
        for a, b in zip(torch.autograd.grad(got, by, allow_unused=True), torch.autograd.grad(want, by, allow_unused=True)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6) if b is not None else None


def test_supcon_equals_a_naive_loop_over_its_formula():
    torch.manual_seed(0); z, y = torch.randn(9, 5), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2]); u = F.normalize(z)
    def one(i):
        below = sum((u[i] @ u[k]/.1).exp() for k in range(9) if k != i)
        return np.mean([-((u[i] @ u[p]/.1).exp()/below).log().item() for p in range(9) if p != i and y[p] == y[i]])
    assert SupCon([3, 2, 4], 5)(z, y).item() == pytest.approx(np.mean([one(i) for i in range(9)]), rel=1e-5)


def test_proxyanchor_equals_a_naive_loop_over_its_formula():
    torch.manual_seed(0); z, y = torch.randn(9, 5), torch.tensor([0, 0, 0, 1, 1, 1, 0, 1, 1]); loss = ProxyAnchor([3, 2, 4], 5)
    s = F.normalize(z) @ F.normalize(loss.loss.proxies.detach()).T
    here = y.unique().tolist()
    pos = sum(math.log(1 + sum(math.exp(-32*(s[i, c] - .1)) for i in range(9) if y[i] == c)) for c in here)/len(here)
    neg = sum(math.log(1 + sum(math.exp(32*(s[i, c] + .1)) for i in range(9) if y[i] != c)) for c in range(3))/3
    assert loss(z, y).item() == pytest.approx(pos + neg, rel=1e-5)


# ── all objectives alike ──

@pytest.mark.parametrize('name', OBJECTIVES)
@settings(deadline=None, max_examples=12)
@given(problems())
def test_every_objective_is_finite_with_finite_gradients(name, p):
    n, f, z, y = p
    f, z = f.float().requires_grad_(), z.float().requires_grad_()
    objective = make_objective(name, n, z.shape[1])
    for _ in range(2):
        v = objective(f, z, y)
        assert v.isfinite() and v.ndim == 0 and v >= 0
        for g in torch.autograd.grad(v, (f, z), allow_unused=True): assert g is None or g.isfinite().all()


@pytest.mark.parametrize('name', OBJECTIVES)
def test_every_objective_ignores_the_order_of_the_batch_and_survives_saving(name):
    torch.manual_seed(0); n, f, z, y, p = [50, 9, 3], torch.randn(12, 3), torch.randn(12, 4), torch.arange(12) % 3, torch.randperm(12)
    a, b = make_objective(name, n, 4), make_objective(name, n, 4)
    a(f, z, y); b.load_state_dict(a.state_dict()); a.eval(); b.eval()
    torch.testing.assert_close(a(f, z, y), b(f[p], z[p], y[p]))
    a.set_epoch(0); a.set_epoch(9, 10)


@pytest.mark.parametrize('name', ['ce', 'ce+la', 'cb', 'focal', 'ldam', 'bcl', 'paco', 'agcacl', 'agcacl-plain'])
def test_every_own_objective_is_float32_under_autocast(name):
    torch.manual_seed(0); n, f, z, y = [50, 9, 3], torch.randn(12, 3), torch.randn(12, 4), torch.arange(12) % 3
    a, b = (make_objective(name, n, 4) for _ in 'ab'); b.load_state_dict(a.state_dict())
    with torch.autocast('cpu', torch.bfloat16): a(f.bfloat16(), z.bfloat16(), y); v = a(f.bfloat16(), z.bfloat16(), y)
    b(f.bfloat16().float(), z.bfloat16().float(), y)
    assert v.dtype == torch.float32
    torch.testing.assert_close(v, b(f.bfloat16().float(), z.bfloat16().float(), y))


def test_the_default_objective_has_half_the_log_prior_and_agcacl():
    torch.manual_seed(0); n, f, z, y = [50, 9, 3], torch.randn(12, 3), torch.randn(12, 4), torch.arange(12) % 3
    o = make_objective('agcacl', n, 4, tau=.2, psi='both'); o(f, z, y); o.eval()
    assert isinstance(o.agcacl, AGCACL) and o.agcacl.tau == .2 and o.agcacl.psi == 'both'
    torch.testing.assert_close(o(f, z, y), LogitAdjusted(n, .5)(f, y) + .5*o.agcacl(z, y))


def test_reductions_to_cross_entropy():
    torch.manual_seed(0); f, y = torch.randn(12, 3), torch.arange(12) % 3; ce = F.cross_entropy(f, y)
    for loss in (LogitAdjusted([9, 5, 1], 0), LogitAdjusted([4, 4, 4]), ClassBalanced([9, 5, 1], 0), ClassBalanced([4, 4, 4]), Focal([9, 5, 1], 0), LDAM([9, 5, 1], 0)):
        torch.testing.assert_close(loss(f, y), ce)


def test_ldam_weights_come_late_and_can_be_taken_back():
    torch.manual_seed(0); f, y, loss = torch.randn(12, 3), torch.arange(12) % 3, LDAM([900, 50, 1])
    values = []
    for e in range(10): loss.set_epoch(e, 10); values.append(loss(f, y).item())
    assert len(set(values[:8])) == len(set(values[8:])) == 1 and values[7] != values[8]
    loss.set_epoch(0, 10); assert loss(f, y).item() == values[0]
    early = LDAM([900, 50, 1], drw_epoch=2); early.set_epoch(2); assert early(f, y).item() == values[9]


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
    for n in ([3, 2], (3, 2), np.array([3, 2]), torch.tensor([3, 2]), pd.Series([3, 2], index=['N', 'VT'])): assert check_counts(n).tolist() == [3, 2]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=6, max_size=6))
def test_the_sphere_is_safe_for_any_finite_row(v):
    z = torch.tensor(v).view(2, 3).requires_grad_(); u, length = on_sphere(z)
    norm = z.detach().double().norm(dim=1); none = (norm < 1e-8) | norm.float().isinf()
    torch.testing.assert_close(u.norm(dim=1), (~none).float(), atol=1e-5, rtol=0)
    assert torch.equal(length[:, 0].isinf(), none)
    g, = torch.autograd.grad(unit(z).sum(), z); assert g.isfinite().all()


@pytest.mark.parametrize('name', OBJECTIVES)
def test_misuse_is_named(name):
    f, z, y = torch.randn(4, 3), torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
    with pytest.raises(ValueError, match='class 1 has count 0'): make_objective(name, [3, 0, 2], 5)
    with pytest.raises(ValueError, match='another fold or grouping|logits: shape'): make_objective(name, [3, 2], 5)(f, z, y)
    if name not in ('ce', 'ce+la', 'cb', 'focal', 'ldam'):
        with pytest.raises(ValueError, match='embeddings: shape'): make_objective(name, [3, 2, 1], 7)(f, z, y)


def test_an_unknown_objective_lists_the_known():
    with pytest.raises(ValueError, match='agcacl'): make_objective('triplet', [1, 1], 4)


def test_without_the_bench_extra_the_remedy_is_named(monkeypatch):
    real = builtins.__import__
    def no(name, *a, **k):
        if name.startswith('pytorch_metric_learning'): raise ImportError(name)
        return real(name, *a, **k)
    monkeypatch.setattr(builtins, '__import__', no)
    for name in ('supcon', 'proxyanchor'):
        with pytest.raises(ImportError, match=r'pip install pediatric_ecg\[bench\]'): make_objective(name, [1, 1], 4)
    make_objective('agcacl', [1, 1], 4)


@pytest.mark.parametrize('name', OBJECTIVES)
def test_signatures_tell_the_truth_about_shapes(name):
    beartype, jaxtyped = pytest.importorskip('beartype').beartype, pytest.importorskip('jaxtyping').jaxtyped
    f, z, y, o = torch.randn(12, 3), torch.randn(12, 4), torch.arange(12) % 3, make_objective(name, [9, 5, 2], 4)
    checked = lambda m: jaxtyped(typechecker=beartype)(type(m).forward)
    assert checked(o)(o, f, z, y).ndim == 0
    if name == 'paco': assert checked(o.embed)(o.embed, f, z, y).ndim == 0
    else:
        assert checked(o.classify)(o.classify, f, y).ndim == 0
        assert o.embed is None or checked(o.embed)(o.embed, z, y).ndim == 0


# ── geometry ──

def test_geometry_at_the_simplex_and_when_classes_merge():
    P = simplex(6, 8); n = [90, 80, 70, 3, 2, 1]; merged = P[[0, 1, 2, 3, 3, 3]]
    assert simplex_gap(P @ P.T)['gap'] == pytest.approx(0, abs=1e-9) and effective_rank(P) == pytest.approx(5)
    assert minority_collapse(P @ P.T, n) == pytest.approx(-.2) and minority_collapse(merged @ merged.T, n) == pytest.approx(1)
    assert effective_rank(merged) < 4 and simplex_gap(merged @ merged.T)['largest'] == pytest.approx(1)
    y = torch.arange(6).repeat(4); s = spread(P[y], y, 6)
    assert s['ratio'] == pytest.approx(0, abs=1e-9) and s['between'] == pytest.approx(1.2)


def test_geometry_of_the_seen_alone():
    loss = AGCACL([9, 5, 2, 1], 4); log = GeometryLog([9, 5, 2, 1], loss)
    assert math.isnan(log(0)['gap'])                                                   # nothing seen, nothing claimed
    loss.prototypes[:3] = simplex(3, 4).float(); loss.seen[:3] = True
    row = log(1)
    assert row['gap'] == pytest.approx(0, abs=1e-6) and row['target'] == -.5 and row['rank'] == pytest.approx(2, abs=1e-5) and math.isnan(row['minority'])
    z = simplex(3, 4)[torch.tensor([0, 1, 1])]
    assert diagnose([9, 5, 2, 1], z, torch.tensor([0, 1, 1]))['target'] == -1.
