"""AGCACL against exact oracles. Each check the design lists is a test of its own."""
import math
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pediatric_ecg.losses.agcacl import AGCACL
from pediatric_ecg.losses.geometry import simplex, simplex_cosine
from pediatric_ecg.train.devices import in_processes

PSI = ['negatives', 'anchor', 'both', 'none']
f64 = torch.float64


def ready(counts, dim, seen=None, seed=0, dtype=f64, **kw):
    "An AGCACL whose prototypes are random unit vectors, as if trained; unseen ones are zero."
    loss = AGCACL(counts, dim, **kw).to(dtype)
    g = torch.Generator().manual_seed(seed)
    seen = torch.ones(len(counts), dtype=torch.bool) if seen is None else torch.as_tensor(seen)
    loss.prototypes.copy_(F.normalize(torch.randn(len(counts), dim, generator=g, dtype=f64), dim=1)*seen[:, None])
    loss.seen.copy_(seen)
    return loss


def batch(n, dim, n_classes, seed=1, dtype=f64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=g, dtype=dtype, requires_grad=True), torch.randint(n_classes, (n,), generator=g)


def naive(z, y, P, seen, counts, tau=.1, beta=.999, eta=1., phi_max=10., geometry=1., psi='negatives', gamma=1., weight=None, **_):
    "The formulas of the design, one sample and one class at a time, in Python floats and float64 scalars that carry gradients."
    C, t = len(counts), -1/(len(counts) - 1)
    phi = [(1 - beta)/(1 - beta**n) if beta < 1 else 1/n for n in counts]
    phi = [min(p/(sum(phi)/C), phi_max) for p in phi]
    P = [[float(v) for v in row] for row in P]
    dot = lambda a, b: sum(u*v for u, v in zip(a, b))
    h = [[max(0., (dot(P[a], P[b]) - t)/(1 - t)) if a != b and seen[a] and seen[b] else 0. for b in range(C)] for a in range(C)]
    unit = [row/row.norm() for row in z]
    w = [1.]*len(y) if weight is None else [float(v) for v in weight]
    num, den = torch.zeros((), dtype=f64), 0.
    for u, c, wi in zip(unit, y.tolist(), w):
        if not seen[c]: continue
        e = [torch.exp(dot(u, P[k])/tau)*(math.exp(eta*h[c][k]) if psi in ('negatives', 'both') else 1.) for k in range(C) if seen[k] or k == c]
        own = torch.exp(dot(u, P[c])/tau)
        a = wi*phi[c]*(1 + gamma*max(h[c]) if psi in ('anchor', 'both') else 1.)
        num, den = num - a*torch.log(own/sum(e)), den + a
    total = num/den if den else num
    terms = []
    for c in range(C):
        rows = [(u, wi) for u, k, wi in zip(unit, y.tolist(), w) if k == c]
        if not seen[c] or not sum(wi for _, wi in rows): continue
        mu = sum(u*wi for u, wi in rows)/sum(wi for _, wi in rows)
        terms += [torch.relu(dot(mu, P[k]) - t)**2 for k in range(C) if k != c and seen[k]]
    return total + geometry*sum(terms)/len(terms) if terms and geometry else total


# ── reductions to known losses ──

def test_without_phi_and_psi_it_is_the_normalised_softmax():
    loss, (z, y) = ready([50, 5, 500], 6, beta=0, psi='none', geometry=0, tau=.2), batch(20, 6, 3)
    torch.testing.assert_close(loss(z, y), F.cross_entropy(F.normalize(z) @ ready([1, 1, 1], 6).prototypes.T/.2, y))


def test_without_psi_it_is_weighted_cross_entropy():
    loss, (z, y) = ready([50, 5, 500], 6, psi='none', geometry=0), batch(20, 6, 3)
    P = loss.prototypes.clone()
    torch.testing.assert_close(loss(z, y), F.cross_entropy(F.normalize(z) @ P.T/.1, y, weight=loss.phi))


def test_psi_of_the_counts_is_logit_adjustment():
    n = torch.tensor([50., 5., 500.], dtype=f64)

    class Adjusted(AGCACL):
        def psi_matrix(self): return n/n[:, None]              # ψ_yc = n_c / n_y

    loss, (z, y) = Adjusted(n, 6, beta=0, geometry=0).double(), batch(20, 6, 3)
    loss.prototypes.copy_(ready([1, 1, 1], 6).prototypes); loss.seen.fill_(True)
    P = loss.prototypes.clone()
    torch.testing.assert_close(loss(z, y), F.cross_entropy(F.normalize(z) @ P.T/.1 + (n/n.sum()).log(), y))


@pytest.mark.parametrize('C', [2, 3, 9, 100])
@pytest.mark.parametrize('psi', PSI)
def test_at_the_simplex_the_loss_is_known(C, psi):
    tau, corners = .1, simplex(C, max(C - 1, 4))
    loss = AGCACL([10]*C, corners.shape[1], tau=tau, psi=psi).double()
    loss.prototypes.copy_(corners); loss.seen.fill_(True)
    y = torch.arange(C).repeat(2)
    expected = math.log(1 + (C - 1)*math.exp(-(1/tau)*(1 + 1/(C - 1))))
    assert loss(5*corners[y], y).item() == pytest.approx(expected, rel=1e-6, abs=1e-12)
    torch.testing.assert_close(loss.psi_matrix(), torch.ones(C, C, dtype=f64), atol=1e-12, rtol=0)
    assert loss.similarity()[0, 1].item() == pytest.approx(simplex_cosine(C), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=6), st.floats(.1, 5), st.floats(0, 2), st.sampled_from(['negatives', 'none']), st.integers(0, 10**6))
def test_no_placement_is_below_the_simplex_where_classes_weigh_the_same_in_total(counts, tau, size, psi, seed):
    "The bound proved in the notebook: φ = 1/b makes the totals equal, whatever the counts; samples and prototypes anywhere."
    C, g = len(counts), torch.Generator().manual_seed(seed)
    loss = ready(counts, 8, tau=tau, psi=psi, beta=1, phi_max=1e9).eval()
    noise = lambda n: size*torch.randn(n, 8, generator=g, dtype=f64)
    loss.prototypes.copy_(F.normalize(simplex(C, 8) + noise(C)))
    y = torch.arange(C).repeat_interleave(torch.tensor(counts))
    floor = math.log1p((C - 1)*math.exp(-C/((C - 1)*tau)))
    assert loss(simplex(C, 8)[y] + noise(len(y)), y).item() >= floor*(1 - 1e-6)


# ── the double loop and the gradients ──

SETTINGS = [dict(psi=p, eta=2., gamma=.7, tau=.15) for p in PSI] + [dict(geometry=0), dict(beta=0), dict(beta=1, phi_max=1.5), dict(eta=0), dict(geometry=3., tau=1.)]


@pytest.mark.parametrize('kw', SETTINGS)
@pytest.mark.parametrize('seen', [[1, 1, 1, 1, 1], [1, 0, 1, 1, 0]])
def test_double_loop_in_float64(kw, seen):
    counts, (z, y) = [900, 40, 7, 300, 1], batch(11, 4, 5)
    loss = ready(counts, 4, seen, **kw)
    P, weight = loss.prototypes.clone(), torch.linspace(0, 2, 11, dtype=f64)
    for w in (None, weight):
        loss.prototypes.copy_(P); loss.seen.copy_(torch.tensor(seen))
        expected = naive(z, y, P, seen, counts, weight=w, **kw)
        got = loss(z, y, w)
        torch.testing.assert_close(got, expected, rtol=2e-7, atol=0)      # phi is float32 in its buffer
        g1, = torch.autograd.grad(expected, z); g2, = torch.autograd.grad(got, z)
        torch.testing.assert_close(g2, g1, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize('psi', PSI)
def test_gradcheck(psi):
    loss, (z, y) = ready([90, 4, 7], 4, psi=psi).eval(), batch(6, 4, 3)
    assert torch.autograd.gradcheck(lambda z: loss(z, y), z)
    assert torch.autograd.gradcheck(lambda z: loss(z, y, torch.arange(6.)), z)


def test_the_gradient_reaches_z_through_the_class_means():
    "With the softmax silent (τ → ∞), what is left is the geometry term's gradient, (2/(K n_y)) Σ_c relu(μ_y·P_c − t) P_c on the sphere."
    loss, (z, y) = ready([5, 5, 5], 4, tau=1e9).eval(), batch(9, 4, 3)
    g, = torch.autograd.grad(loss(z, y), z)
    u = F.normalize(z.detach()); P = loss.prototypes
    mu = torch.stack([u[y == c].mean(0) for c in range(3)])
    excess = (mu @ P.T + .5).relu()*(1 - torch.eye(3))
    v = 2*excess[y] @ P/(6*torch.bincount(y)[y])[:, None]
    torch.testing.assert_close(g, (v - u*(u*v).sum(1, keepdim=True))/z.detach().norm(dim=1, keepdim=True), rtol=1e-5, atol=1e-8)


def test_there_is_no_second_derivative():
    loss, (z, y) = ready([5, 5], 4), batch(6, 4, 2)
    g, = torch.autograd.grad(loss(z, y), z, create_graph=True)
    with pytest.raises(RuntimeError, match='does not require grad'): g.sum().backward()


# ── symmetries ──

def test_the_order_of_the_batch_does_not_matter():
    (z, y), p = batch(20, 6, 3), torch.randperm(20)
    a, b = ready([9, 5, 2], 6), ready([9, 5, 2], 6)
    torch.testing.assert_close(a(z, y), b(z[p], y[p]))
    torch.testing.assert_close(a.prototypes, b.prototypes)


def test_relabelling_the_classes_does_not_matter():
    counts, (z, y), p = torch.tensor([9., 5., 2., 70.]), batch(20, 6, 4), torch.tensor([2, 0, 3, 1])
    a, b = ready(counts, 6), AGCACL(counts[p], 6).double()          # class c of b is class p[c] of a
    b.prototypes.copy_(a.prototypes[p]); b.seen.fill_(True)
    torch.testing.assert_close(a(z, y), b(z, p.argsort()[y]))
    torch.testing.assert_close(a.prototypes[p], b.prototypes)


def test_rotating_the_sphere_does_not_matter():
    (z, y), a, b = batch(20, 6, 3), ready([9, 5, 2], 6), ready([9, 5, 2], 6)
    Q = torch.linalg.qr(torch.randn(6, 6, dtype=f64))[0]
    b.prototypes.copy_(a.prototypes @ Q)
    torch.testing.assert_close(a(z, y), b(z @ Q, y))
    torch.testing.assert_close(a.prototypes @ Q, b.prototypes)


def test_the_length_of_an_embedding_does_not_matter():
    (z, y), loss = batch(20, 6, 3), ready([9, 5, 2], 6).eval()
    torch.testing.assert_close(loss(z, y), loss(z*torch.logspace(-6, 30, 20, dtype=f64)[:, None], y))


# ── thin batches ──

def test_one_sample_a_class():
    loss, (z, _) = ready([9, 5, 2], 6), batch(3, 6, 3)
    v = loss(z, torch.arange(3)); v.backward()
    assert v.isfinite() and v > 0 and z.grad.abs().sum(1).gt(0).all()


def test_absent_classes_keep_their_prototypes_and_stay_negatives():
    loss, (z, _) = ready([9, 5, 2], 6), batch(8, 6, 3)
    P, y = loss.prototypes.clone(), torch.zeros(8, dtype=torch.long)
    v = loss(z, y)
    torch.testing.assert_close(v, naive(z, y, P, [1, 1, 1], [9, 5, 2]), rtol=1e-6, atol=0)
    assert torch.equal(loss.prototypes[1:], P[1:]) and not torch.equal(loss.prototypes[0], P[0])


def test_a_batch_of_one_and_of_none():
    loss, (z, y) = ready([9, 5, 2], 6), batch(1, 6, 3)
    v = loss(z, y); v.backward()
    assert v.isfinite() and z.grad.isfinite().all()
    P = loss.prototypes.clone()
    assert loss(torch.zeros(0, 6, requires_grad=True), torch.zeros(0, dtype=torch.long)) == 0
    assert torch.equal(loss.prototypes, P)


def test_a_class_takes_part_from_the_step_after_its_first():
    loss, (z, y) = AGCACL([9, 5, 2], 6).double(), batch(8, 6, 3)
    v = loss(z, y % 2); v.backward()
    assert v == 0 and (z.grad == 0).all() and loss.seen.tolist() == [True, True, False]        # nothing to compare with yet
    u = F.normalize(z.detach())
    torch.testing.assert_close(loss.prototypes[0], F.normalize(u[y % 2 == 0].mean(0), dim=0))  # then: the first mean
    P, two = loss.prototypes.clone(), torch.tensor([2]*8)
    torch.testing.assert_close(loss(z, y % 2), naive(z, y % 2, P, [1, 1, 0], [9, 5, 2]), rtol=1e-6, atol=0)
    z.grad = None; loss(z, two).backward()
    assert (z.grad == 0).all() and loss.seen.all()
    assert loss(z, two) > 0


# ── weights ──

def test_whole_number_weights_are_repetitions():
    a, b, (z, y) = ready([9, 5, 2], 6), ready([9, 5, 2], 6), batch(8, 6, 3)
    k = torch.tensor([1, 2, 0, 3, 1, 1, 0, 2])
    torch.testing.assert_close(a(z, y, k.double()), b(z.repeat_interleave(k, 0), y.repeat_interleave(k)))
    torch.testing.assert_close(a.prototypes, b.prototypes)


def test_weights_of_zero_are_an_empty_batch():
    loss, (z, y) = ready([9, 5, 2], 6), batch(8, 6, 3)
    P = loss.prototypes.clone(); v = loss(z, y, torch.zeros(8)); v.backward()
    assert v == 0 and (z.grad == 0).all() and torch.equal(P, loss.prototypes)


# ── the ingredients, each left out ──

def test_phi_is_divided_by_its_mean_and_then_bounded():
    counts, beta = np.array([10000, 100, 10, 1]), .9999
    e = (1 - beta)/(1 - beta**counts); e = e/e.mean()
    np.testing.assert_allclose(AGCACL(counts, 2, beta=beta, phi_max=1e9).phi, e, rtol=1e-5)
    np.testing.assert_allclose(AGCACL(counts, 2, beta=beta, phi_max=2.).phi, np.minimum(e, 2), rtol=1e-5)
    assert AGCACL(counts, 2, beta=beta, phi_max=2.).phi.mean() < 1           # bounding comes last, nothing is divided again


def test_leaving_geometry_out_takes_away_its_term():
    (z, y), a, b = batch(20, 6, 3), ready([9, 5, 2], 6), ready([9, 5, 2], 6, geometry=0)
    P = a.prototypes.clone()
    mu = torch.stack([F.normalize(z)[y == c].mean(0) for c in range(3)])
    G = ((mu @ P.T + .5).relu()**2)[~torch.eye(3, dtype=bool)].mean()
    torch.testing.assert_close(a(z, y) - b(z, y), G)


def test_leaving_psi_out_lowers_the_loss_where_classes_are_near():
    (z, y), (a, b) = batch(20, 6, 3), (ready([9, 5, 2], 6, psi=p, geometry=0).eval() for p in ('negatives', 'none'))
    assert (a.psi_matrix() >= 1).all() and (a.psi_matrix().diagonal() == 1).all() and (b.psi_matrix() == 1).all()
    assert a(z, y) > b(z, y)
    a.prototypes.copy_(simplex(3, 6)); b.prototypes.copy_(simplex(3, 6))
    torch.testing.assert_close(a(z, y), b(z, y))                              # and not at all at the simplex


def test_leaving_phi_out_weighs_all_samples_alike():
    z, y = batch(20, 6, 3)
    one = torch.stack([ready([900, 50, 2], 6, geometry=0).eval()(z[i:i + 1], y[i:i + 1]) for i in range(20)])   # φ cancels in a batch of one
    a, b = ready([900, 50, 2], 6, geometry=0).eval(), ready([900, 50, 2], 6, geometry=0, beta=0).eval()
    torch.testing.assert_close(b(z, y), one.mean())
    torch.testing.assert_close(a(z, y), (one*a.phi[y]).sum()/a.phi[y].sum())


def test_the_anchor_reading_weighs_the_class_with_a_near_neighbour():
    a = AGCACL([5, 5, 5], 2, psi='anchor', gamma=2.)
    a.prototypes.copy_(torch.tensor([[1., 0], [1, 0], [-1, 0]])); a.seen.fill_(True)
    torch.testing.assert_close(a.anchor_weights(), a.phi*torch.tensor([3., 3., 1.]))
    assert (a.psi_matrix() == 1).all()


# ── state ──

def test_the_prototypes_move_after_the_loss_by_the_formula():
    loss, (z, y) = ready([9, 5, 2], 6, momentum=.7), batch(20, 6, 3)
    P = loss.prototypes.clone()
    expected = loss.eval()(z, y)
    assert loss.train()(z, y) == expected
    mu = torch.stack([F.normalize(z.detach())[y == c].mean(0) for c in range(3)])
    torch.testing.assert_close(loss.prototypes, F.normalize(.7*P + .3*mu, dim=1))


def test_evaluation_changes_nothing():
    loss, (z, y) = ready([9, 5, 2], 6, seen=[1, 1, 0]).eval(), batch(20, 6, 3)
    before = {k: v.clone() for k, v in loss.state_dict().items()}
    loss(z, y); loss(z, y)
    assert all(torch.equal(v, before[k]) for k, v in loss.state_dict().items())


def test_state_dict_round_trip():
    a, b, (z, y) = AGCACL([9, 5, 2], 6), AGCACL([9, 5, 2], 6), batch(20, 6, 3, dtype=torch.float32)
    a(z, y); b.load_state_dict(a.state_dict())
    assert a(z, y) == b(z, y) and torch.equal(a.prototypes, b.prototypes)
    assert set(a.state_dict()) == {'prototypes', 'seen', 'phi', 'class_counts'}


def test_prototypes_of_another_training_fold_are_refused():
    state = AGCACL([9, 5, 2], 6).state_dict()
    for counts in ([9, 5, 3], [9, 5]):
        with pytest.raises(RuntimeError, match='another training fold'): AGCACL(counts, 6).load_state_dict(state)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_leaves_buffers_and_loss_in_float32(dtype):
    a, b, (z, y) = AGCACL([9, 5, 2], 6), AGCACL([9, 5, 2], 6), batch(20, 6, 3, dtype=torch.float32)
    z = z.detach().to(dtype).requires_grad_()
    with torch.autocast('cpu', torch.bfloat16): a(z, y); v = a(z, y); S = a.similarity()
    b(z.detach().float(), y); w = b(z.detach().float(), y)
    assert v.dtype == S.dtype == a.prototypes.dtype == a.phi.dtype == torch.float32 and torch.equal(v, w)
    v.backward(); assert z.grad.dtype == dtype and z.grad.isfinite().all()


def test_a_model_cast_to_bfloat16_keeps_a_moving_average_in_float32():
    "In bfloat16 m = 0.999 rounds every step away."
    stuck = torch.ones(1, dtype=torch.bfloat16)
    for _ in range(100): stuck = .999*stuck + .001*-1
    assert stuck == 1
    loss = ready([5, 5], 2, dtype=torch.float32, momentum=.999).bfloat16()
    assert loss.prototypes.dtype == loss.phi.dtype == torch.float32
    loss.prototypes.copy_(torch.tensor([[1., 0], [0, 1]]))
    for _ in range(100): loss(torch.tensor([[0., 1.]]), torch.tensor([0]))
    assert .05 < loss.prototypes[0, 1] < .15


def test_half_precision_never_overflows():
    "e^{1/τ} is beyond float16 below τ = 0.09; so are squares of its larger numbers."
    loss = ready([5, 5, 5], 8, dtype=torch.float32, tau=.01)
    z = torch.tensor([65504., -65504., 1e-4])[:, None].expand(3, 8).to(torch.float16).requires_grad_()
    v = loss(z, torch.arange(3)); v.backward()
    assert v.isfinite() and z.grad.isfinite().all() and loss.prototypes.isfinite().all()


def test_a_row_without_direction_is_not_pushed_and_not_averaged_in():
    loss, (z, y) = ready([9, 5, 2], 6), batch(8, 6, 3)
    with torch.no_grad(): z[0] = 0
    v = loss(z, y); v.backward()
    assert v.isfinite() and (z.grad[0] == 0).all() and (z.grad[1:] != 0).any(1).all()


def test_non_finite_embeddings_show_in_the_loss_and_never_reach_the_prototypes():
    for bad in (math.nan, math.inf):
        loss, (z, y) = ready([9, 5, 2], 6), batch(8, 6, 3)
        P = loss.prototypes.clone()
        with torch.no_grad(): z[0, 0] = bad
        assert loss(z, y).isnan() and torch.equal(loss.prototypes[y[0]], P[y[0]])
        assert loss.prototypes.isfinite().all() and loss(*batch(8, 6, 3)).isfinite()


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_finite_in_finite_out(data):
    C, d, B = data.draw(st.integers(2, 8)), data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    counts = data.draw(st.lists(st.integers(1, 10**6), min_size=C, max_size=C))
    number = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from([0., 1e-45, -1e-30, 1., 65504., 3.4e38])
    z = torch.tensor(data.draw(st.lists(number, min_size=B*d, max_size=B*d))).view(B, d).requires_grad_()
    y = torch.tensor(data.draw(st.lists(st.integers(0, C - 1), min_size=B, max_size=B)))
    loss = AGCACL(counts, d, tau=data.draw(st.sampled_from([.01, .1, 1.])), eta=data.draw(st.sampled_from([0., 1., 80.])), beta=data.draw(st.sampled_from([0., .999, .999999, 1.])),
                  psi=data.draw(st.sampled_from(PSI)), momentum=data.draw(st.sampled_from([0., .9, .9999])))
    for _ in range(3):
        v = loss(z, y)
        g, = torch.autograd.grad(v, z)
        assert v.isfinite() and v >= 0 and g.isfinite().all()
        length = loss.prototypes.norm(dim=1)
        torch.testing.assert_close(length, loss.seen.float(), atol=1e-5, rtol=0)
    assert loss.phi.isfinite().all() and (loss.phi > 0).all() and (loss.phi <= 10).all()


# ── machines ──

def _part(folder, sizes):
    "Three steps of one of two processes, each with a part of the batch."
    rank = int(os.environ['LOCAL_RANK'])
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', rank=rank, world_size=2)
    z, y, net, loss, rows = _split_task(sizes)
    net = torch.nn.parallel.DistributedDataParallel(net)
    for _ in range(3):
        net.zero_grad(); v = loss(net(z[rows[rank]]), y[rows[rank]]); v.backward()
    alone = loss.eval()(net.module(z), y)                        # no process waits for another in evaluation
    torch.save((v.detach(), loss.state_dict(), [p.grad for p in net.parameters()], alone.detach()), f'{folder}/{rank}.pt')


def _split_task(sizes):
    "Batches of unequal size, class 2 only in the first."
    torch.manual_seed(3)
    y = torch.cat([torch.arange(sizes[0]) % 3, torch.arange(sizes[1]) % 2])
    return torch.randn(sum(sizes), 5).double(), y, torch.nn.Linear(5, 4).double(), AGCACL([9, 5, 2], 4).double(), torch.arange(sum(sizes)).split(sizes)


def test_two_processes_equal_one(tmp_path):
    sizes = [5, 11]
    in_processes(2, _part, str(tmp_path), sizes)
    z, y, net, loss, _ = _split_task(sizes)
    for _ in range(3): net.zero_grad(); v = loss(net(z), y); v.backward()
    for rank in range(2):
        v2, state, grads, alone = torch.load(tmp_path/f'{rank}.pt')
        torch.testing.assert_close(v2, v.detach()); torch.testing.assert_close(state, dict(loss.state_dict()))
        torch.testing.assert_close(grads, [p.grad for p in net.parameters()])
        torch.testing.assert_close(alone, loss.eval()(net(z), y).detach())


@pytest.mark.filterwarnings('ignore:.*should not be instantiated:DeprecationWarning')   # torch's own tracing of an autograd.Function
@pytest.mark.parametrize('psi', ['negatives', 'both'])
def test_compiles_without_graph_break(psi):
    (a, b), (z, y) = (AGCACL([9, 5, 2], 6, psi=psi) for _ in 'ab'), batch(20, 6, 3, dtype=torch.float32)
    f = torch.compile(b, fullgraph=True, backend='aot_eager')
    for _ in range(3):
        ga, = torch.autograd.grad(a(z, y), z); gb, = torch.autograd.grad(f(z, y), z)
        torch.testing.assert_close(ga, gb); torch.testing.assert_close(a.prototypes, b.prototypes)


@pytest.mark.parametrize('psi', PSI)
def test_the_host_never_waits_for_the_device(psi):
    "Fake tensors have no values: whatever asks for one (item, bool, nonzero) raises."
    from torch._subclasses.fake_tensor import FakeTensorMode
    loss = AGCACL([9, 5, 2], 6, psi=psi, validate=False)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for k, b in list(loss._buffers.items()): loss._buffers[k] = mode.from_tensor(b)
        z, y = torch.randn(8, 6, requires_grad=True), torch.zeros(8, dtype=torch.long)
        loss(z, y).backward(); loss(z, y, torch.ones(8)).backward()
        assert z.grad.shape == (8, 6)


# ── misuse ──

@pytest.mark.parametrize('kw, words', [
    (dict(class_counts=[3, 0]), 'class 1 has count 0'), (dict(class_counts=[3, -1]), 'positive count'), (dict(class_counts=[3]), 'at least two classes'),
    (dict(class_counts=[[1, 2]]), 'one number a class'), (dict(class_counts=[3, math.nan]), 'positive count'), (dict(tau=0), 'tau=0'), (dict(momentum=1.), 'momentum=1.0'), (dict(beta=1.1), 'beta'),
    (dict(eta=-1), 'eta=-1'), (dict(eta=100), 'eta=100'), (dict(phi_max=0), 'phi_max'), (dict(geometry=-1), 'geometry'), (dict(psi='all'), "'all'"), (dict(gamma=-1), 'gamma'), (dict(dim=0), 'dim=0')])
def test_construction_misuse(kw, words):
    with pytest.raises(ValueError, match=words): AGCACL(**{'class_counts': [3, 2], 'dim': 4, **kw})


@pytest.mark.parametrize('z, y, error, words', [
    (torch.randn(3, 4), torch.tensor([0, 1, 2]), ValueError, 'another fold or grouping'), (torch.randn(3, 4), torch.tensor([0, 1, -1]), ValueError, 'from -1'),
    (torch.randn(3, 5), torch.tensor([0, 1, 1]), ValueError, r'shape \(3, 4\) wanted'), (torch.randn(2, 4), torch.tensor([0, 1, 1]), ValueError, 'wanted'),
    (torch.randn(3, 4), torch.tensor([0., 1, 1]), TypeError, 'integer'), (torch.ones(3, 4, dtype=torch.long), torch.tensor([0, 1, 1]), TypeError, 'floating point'),
    (torch.randn(3, 4), torch.tensor([[0], [1], [1]]), ValueError, 'labels')])
def test_call_misuse(z, y, error, words):
    loss = AGCACL([3, 2], 4)
    with pytest.raises(error, match=words): loss(z, y)
    assert not loss.seen.any()


def test_weight_misuse():
    with pytest.raises(ValueError, match='one a sample'): AGCACL([3, 2], 4)(torch.randn(3, 4), torch.tensor([0, 1, 1]), torch.ones(2))
