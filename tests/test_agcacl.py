"""AGCACL against exact oracles. Each check the design lists is a test of its own."""
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from pediatric_ecg.losses import AGCACL, diagnose, simplex
from pediatric_ecg.losses.geometry import simplex_cosine, simplex_gap, unit

PSI = ['negatives', 'anchor', 'both', 'none']
f64 = torch.float64


def ready(counts, dim, seen=None, seed=0, dtype=f64, **options):
    "An AGCACL whose prototypes are random unit vectors, as if trained; unseen ones are zero."
    loss = AGCACL(counts, dim, **options).to(dtype)
    g = torch.Generator().manual_seed(seed)
    seen = torch.ones(len(counts), dtype=torch.bool) if seen is None else torch.as_tensor(seen)
    directions = F.normalize(torch.randn(len(counts), dim, generator=g, dtype=f64), dim=1)
    loss.prototypes.copy_(directions*seen[:, None])
    loss.seen.copy_(seen)
    return loss


def at_simplex(loss):
    "Put the prototypes of a loss on the corners of the simplex."
    loss.prototypes.copy_(simplex(loss.n_classes, loss.dim))
    loss.seen.fill_(True)
    return loss


def batch(n, dim, n_classes, seed=1, dtype=f64):
    "Embeddings and labels."
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, dim, generator=g, dtype=dtype, requires_grad=True)
    return z, torch.randint(n_classes, (n,), generator=g)


def gradient(value, z, **options):
    return torch.autograd.grad(value, z, **options)[0]


def dot(a, b):
    return sum(u*v for u, v in zip(a, b))


def naive(z, y, P, seen, counts, tau=.1, beta=.999, eta=1., phi_max=10., geometry=1., psi='negatives', weight=None):
    "The formulas of the design, one sample and one class at a time: Python floats, float64 scalars with gradients."
    C, t = len(counts), -1/(len(counts) - 1)
    phi = [(1 - beta)/(1 - beta**n) if beta < 1 else 1/n for n in counts]
    phi = [min(p/(sum(phi)/C), phi_max) for p in phi]
    P = [[float(v) for v in row] for row in P]
    h = [[0.]*C for _ in range(C)]
    for a in range(C):
        for b in range(C):
            if a != b and seen[a] and seen[b]:
                h[a][b] = max(0., (dot(P[a], P[b]) - t)/(1 - t))
    rows = [row/row.norm() for row in z]
    weights = [1.]*len(y) if weight is None else [float(v) for v in weight]
    numerator, denominator = torch.zeros((), dtype=f64), 0.
    for u, c, w in zip(rows, y.tolist(), weights):
        if not seen[c]:
            continue
        terms = 0
        for k in range(C):
            if seen[k] or k == c:
                factor = math.exp(eta*h[c][k]) if psi in ('negatives', 'both') else 1.
                terms = terms + factor*torch.exp(dot(u, P[k])/tau)
        own = torch.exp(dot(u, P[c])/tau)
        a = w*phi[c]*(1 + max(h[c]) if psi in ('anchor', 'both') else 1.)
        numerator, denominator = numerator - a*torch.log(own/terms), denominator + a
    total = numerator/denominator if denominator else numerator
    means = {}
    for c in range(C):
        mine = [(u, w) for u, k, w in zip(rows, y.tolist(), weights) if k == c]
        mass = sum(w for _, w in mine)
        if seen[c] and mass:
            means[c] = sum(u*w for u, w in mine)/mass
    excess = [torch.relu(dot(means[c], means[k]) - t)**2 for c in means for k in means if k != c]
    return total + geometry*sum(excess)/len(excess) if excess and geometry else total


# ── reductions to known losses ──

def test_without_phi_and_psi_it_is_the_normalised_softmax():
    loss, (z, y) = ready([50, 5, 500], 6, beta=0, psi='none', geometry=0, tau=.2), batch(20, 6, 3)
    P = loss.prototypes.clone()
    torch.testing.assert_close(loss(z, y), F.cross_entropy(F.normalize(z) @ P.T/.2, y))


def test_without_psi_it_is_weighted_cross_entropy():
    loss, (z, y) = ready([50, 5, 500], 6, psi='none', geometry=0), batch(20, 6, 3)
    P = loss.prototypes.clone()
    torch.testing.assert_close(loss(z, y), F.cross_entropy(F.normalize(z) @ P.T/.1, y, weight=loss.phi))


def test_psi_of_the_counts_is_logit_adjustment():
    n = torch.tensor([50., 5., 500.], dtype=f64)

    class Adjusted(AGCACL):
        def psi_matrix(self):
            return n/n[:, None]              # ψ_yc = n_c / n_y

    loss, (z, y) = Adjusted(n, 6, beta=0, geometry=0).double(), batch(20, 6, 3)
    loss.prototypes.copy_(ready([1, 1, 1], 6).prototypes)
    loss.seen.fill_(True)
    P = loss.prototypes.clone()
    torch.testing.assert_close(loss(z, y), F.cross_entropy(F.normalize(z) @ P.T/.1 + (n/n.sum()).log(), y))


@pytest.mark.parametrize('C', [2, 3, 9, 100])
@pytest.mark.parametrize('psi', PSI)
def test_at_the_simplex_the_loss_is_known(C, psi):
    tau, corners = .1, simplex(C, max(C - 1, 4))
    loss = at_simplex(AGCACL([10]*C, corners.shape[1], tau=tau, psi=psi).double())
    y = torch.arange(C).repeat(2)
    expected = math.log(1 + (C - 1)*math.exp(-(1/tau)*(1 + 1/(C - 1))))
    assert loss(5*corners[y], y).item() == pytest.approx(expected, rel=1e-6, abs=1e-12)
    torch.testing.assert_close(loss.psi_matrix(), torch.ones(C, C, dtype=f64), atol=1e-12, rtol=0)
    assert loss.similarity()[0, 1].item() == pytest.approx(simplex_cosine(C), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=6), st.floats(.1, 5), st.floats(0, 2),
       st.sampled_from(['negatives', 'none']), st.integers(0, 10**6))
def test_no_placement_is_below_the_simplex_where_classes_weigh_the_same_in_total(counts, tau, size, psi, seed):
    "The bound of the notebook: φ = 1/b makes the totals equal, whatever the counts; samples and prototypes anywhere."
    C, g = len(counts), torch.Generator().manual_seed(seed)
    loss = ready(counts, 8, tau=tau, psi=psi, beta=1, phi_max=1e9).eval()
    loss.prototypes.copy_(F.normalize(simplex(C, 8) + size*torch.randn(C, 8, generator=g, dtype=f64)))
    y = torch.arange(C).repeat_interleave(torch.tensor(counts))
    z = simplex(C, 8)[y] + size*torch.randn(len(y), 8, generator=g, dtype=f64)
    floor = math.log1p((C - 1)*math.exp(-C/((C - 1)*tau)))
    assert loss(z, y).item() >= floor*(1 - 1e-6)


# ── the double loop and the gradients ──

SETTINGS = [
    *(dict(psi=psi, eta=2., tau=.15) for psi in PSI),
    dict(geometry=0), dict(beta=0), dict(beta=1, phi_max=1.5), dict(eta=0), dict(geometry=3., tau=1.),
]


@pytest.mark.parametrize('options', SETTINGS)
@pytest.mark.parametrize('seen', [[1, 1, 1, 1, 1], [1, 0, 1, 1, 0]])
def test_double_loop_in_float64(options, seen):
    "In evaluation mode, in which unseen classes take no part."
    counts, (z, y) = [900, 40, 7, 300, 1], batch(11, 4, 5)
    loss = ready(counts, 4, seen, **options).eval()
    P, weight = loss.prototypes.clone(), torch.linspace(0, 2, 11, dtype=f64)
    for w in (None, weight):
        expected = naive(z, y, P, seen, counts, weight=w, **options)
        got = loss(z, y, weight=w)
        torch.testing.assert_close(got, expected, rtol=2e-7, atol=0)      # phi is float32 in its buffer
        torch.testing.assert_close(gradient(got, z), gradient(expected, z), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize('options', SETTINGS)
def test_in_training_new_classes_enter_with_their_means(options):
    "The same double loop, with the prototypes that the rule gives to the classes that are new in this batch."
    counts, (z, y) = [900, 40, 7, 300, 1], batch(11, 4, 5)
    seen = [1, 0, 1, 1, 0]
    loss = ready(counts, 4, seen, **options)
    P, u = loss.prototypes.clone(), F.normalize(z.detach())
    there = list(seen)
    for c in range(5):
        if not seen[c] and (y == c).any():
            P[c], there[c] = F.normalize(u[y == c].mean(0), dim=0), 1
    assert sum(there) > sum(seen)
    expected = naive(z, y, P, there, counts, **options)
    got = loss(z, y)
    torch.testing.assert_close(got, expected, rtol=2e-7, atol=0)
    torch.testing.assert_close(gradient(got, z), gradient(expected, z), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize('psi', PSI)
def test_gradcheck(psi):
    loss, (z, y) = ready([90, 4, 7], 4, psi=psi).eval(), batch(6, 4, 3)
    assert torch.autograd.gradcheck(lambda z: loss(z, y), z)
    assert torch.autograd.gradcheck(lambda z: loss(z, y, weight=torch.arange(6.)), z)


@pytest.mark.parametrize('seen', [[1, 1, 1], [1, 1, 0]])
def test_the_second_derivative_too(seen):
    loss, (z, y) = ready([90, 4, 7], 4, seen, tau=.5, psi='both').eval(), batch(6, 4, 3)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, y), z)
    g = gradient(loss(z, y), z, create_graph=True)
    assert gradient(g.square().sum(), z).abs().sum() > 0


def test_the_gradient_derived_by_hand():
    "∂L/∂z = (g − ẑ(ẑ·g))/‖z‖ with g = A P + V: A the slope by the cosines, V through the means; as in the notebook."
    (z, y), loss = batch(20, 6, 4), ready([90, 30, 5, 2], 6, tau=.2, eta=2., geometry=.7).eval()
    P, phi, t, off = loss.prototypes, loss.phi, -1/3, ~torch.eye(4, dtype=torch.bool)
    with torch.no_grad():
        length = z.norm(dim=1, keepdim=True)
        u = z/length
        s = u @ P.T
        h = ((P @ P.T - t)/(1 - t)).relu()*off
        p = (s/.2 + (2.*h)[y]).softmax(1)
        mu = torch.stack([u[y == c].mean(0) for c in range(4)])
        A = (phi[y]/phi[y].sum()/.2)[:, None]*(p - F.one_hot(y, 4))
        g = A @ P + (4*.7*((mu @ mu.T - t).relu()*off) @ mu/(12*torch.bincount(y)[:, None]))[y]
        expected = (g - u*(u*g).sum(1, keepdim=True))/length
    torch.testing.assert_close(gradient(loss(z, y), z), expected)


def test_the_gradient_reaches_z_through_the_class_means():
    "As τ → ∞ the geometry term's is left: (4/(K n_y)) Σ_c relu(μ_y·μ_c − t) μ_c, on the sphere."
    loss, (z, y) = ready([5, 5, 5], 4, tau=1e9).eval(), batch(9, 4, 3)
    u = F.normalize(z.detach())
    mu = torch.stack([u[y == c].mean(0) for c in range(3)])
    excess = (mu @ mu.T + .5).relu()*(1 - torch.eye(3))
    v = 4*excess[y] @ mu/(6*torch.bincount(y)[y])[:, None]
    expected = (v - u*(u*v).sum(1, keepdim=True))/z.detach().norm(dim=1, keepdim=True)
    torch.testing.assert_close(gradient(loss(z, y), z), expected, rtol=1e-5, atol=1e-8)


# ── symmetries ──

def test_the_order_of_the_batch_does_not_matter():
    (z, y), order = batch(20, 6, 3), torch.randperm(20)
    a, b = ready([9, 5, 2], 6), ready([9, 5, 2], 6)
    torch.testing.assert_close(a(z, y), b(z[order], y[order]))
    torch.testing.assert_close(a.prototypes, b.prototypes)


def test_relabelling_the_classes_does_not_matter():
    counts, (z, y), p = torch.tensor([9., 5., 2., 70.]), batch(20, 6, 4), torch.tensor([2, 0, 3, 1])
    a, b = ready(counts, 6), AGCACL(counts[p], 6).double()          # class c of b is class p[c] of a
    b.prototypes.copy_(a.prototypes[p])
    b.seen.fill_(True)
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


# ── thin batches, and how a class enters ──

def test_one_sample_per_class():
    loss, (z, _) = ready([9, 5, 2], 6), batch(3, 6, 3)
    value = loss(z, torch.arange(3))
    value.backward()
    assert value.isfinite() and value > 0 and z.grad.abs().sum(1).gt(0).all()


def test_absent_classes_keep_their_prototypes_and_stay_negatives():
    loss, (z, _) = ready([9, 5, 2], 6), batch(8, 6, 3)
    P, y = loss.prototypes.clone(), torch.zeros(8, dtype=torch.long)
    value = loss(z, y)
    torch.testing.assert_close(value, naive(z, y, P, [1, 1, 1], [9, 5, 2]), rtol=1e-6, atol=0)
    assert torch.equal(loss.prototypes[1:], P[1:]) and not torch.equal(loss.prototypes[0], P[0])


def test_a_batch_of_one_and_of_none():
    loss, (z, y) = ready([9, 5, 2], 6), batch(1, 6, 3)
    value = loss(z, y)
    value.backward()
    assert value.isfinite() and z.grad.isfinite().all()
    P = loss.prototypes.clone()
    assert loss(torch.zeros(0, 6, requires_grad=True), torch.zeros(0, dtype=torch.long)) == 0
    assert torch.equal(loss.prototypes, P)


@pytest.mark.parametrize('psi', PSI)
def test_the_first_batch_costs_what_it_costs_a_module_whose_prototypes_are_its_means(psi):
    z, y = batch(12, 6, 3)
    first, told = AGCACL([9, 5, 2], 6, psi=psi).double(), AGCACL([9, 5, 2], 6, psi=psi).double()
    told.prototypes.copy_(torch.stack([F.normalize(F.normalize(z.detach())[y == c].mean(0), dim=0) for c in range(3)]))
    told.seen.fill_(True)
    a, b = first(z, y), told(z, y)
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(gradient(a, z), gradient(b, z))
    torch.testing.assert_close(first.prototypes, told.prototypes)
    assert a > 0 and gradient(first(z, y), z).abs().sum() > 0


def test_a_class_enters_with_its_first_batch_and_then_stands_in_the_softmax_of_the_others():
    loss, (z, y) = AGCACL([9, 5, 2], 6).double(), batch(8, 6, 3)
    loss(z, y % 2)
    assert loss.seen.tolist() == [True, True, False]
    u = F.normalize(z.detach())
    torch.testing.assert_close(loss.prototypes[0], F.normalize(u[y % 2 == 0].mean(0), dim=0))
    with_third = torch.cat([y[:7] % 2, torch.tensor([2])])
    P = loss.prototypes.clone()
    P[2] = u[7]
    torch.testing.assert_close(loss(z, with_third), naive(z, with_third, P, [1, 1, 1], [9, 5, 2]), rtol=1e-6, atol=0)
    assert loss.seen.all()


def test_in_evaluation_an_unseen_class_takes_no_part():
    loss, (z, y) = AGCACL([9, 5, 2], 6).double().eval(), batch(8, 6, 3)
    value = loss(z, y)
    assert value == 0 and (gradient(value, z) == 0).all() and not loss.seen.any()
    loss.train()(z, y % 2)
    P = loss.prototypes.clone()
    torch.testing.assert_close(loss.eval()(z, y), naive(z, y, P, [1, 1, 0], [9, 5, 2]), rtol=1e-6, atol=0)
    value = loss(z, torch.full((8,), 2))
    assert value == 0 and (gradient(value, z) == 0).all()


def test_a_new_class_whose_mean_has_no_direction_waits():
    loss, z = ready([9, 5, 2], 6, [1, 1, 0]), torch.randn(1, 6, dtype=f64)
    z = torch.cat([z, -z, torch.randn(2, 6, dtype=f64)]).requires_grad_()
    value = loss(z, torch.tensor([2, 2, 0, 1]))
    assert value.isfinite() and (gradient(value, z)[:2] == 0).all() and loss.seen.tolist() == [True, True, False]


# ── weights ──

def test_whole_number_weights_are_repetitions():
    a, b, (z, y) = ready([9, 5, 2], 6), ready([9, 5, 2], 6), batch(8, 6, 3)
    k = torch.tensor([1, 2, 0, 3, 1, 1, 0, 2])
    torch.testing.assert_close(a(z, y, weight=k.double()), b(z.repeat_interleave(k, 0), y.repeat_interleave(k)))
    torch.testing.assert_close(a.prototypes, b.prototypes)


def test_weights_of_zero_are_an_empty_batch():
    loss, (z, y) = ready([9, 5, 2], 6), batch(8, 6, 3)
    P = loss.prototypes.clone()
    value = loss(z, y, weight=torch.zeros(8))
    value.backward()
    assert value == 0 and (z.grad == 0).all() and torch.equal(P, loss.prototypes)


# ── the ingredients, each left out ──

def test_phi_is_divided_by_its_mean_and_then_bounded():
    counts, beta = np.array([10000, 100, 10, 1]), .9999
    e = (1 - beta)/(1 - beta**counts)
    e = e/e.mean()
    np.testing.assert_allclose(AGCACL(counts, 3, beta=beta, phi_max=1e9).phi, e, rtol=1e-5)
    bounded = AGCACL(counts, 3, beta=beta, phi_max=2.).phi
    np.testing.assert_allclose(bounded, np.minimum(e, 2), rtol=1e-5)
    assert bounded.mean() < 1           # bounding comes last, nothing is divided again


def test_leaving_geometry_out_takes_away_its_term():
    (z, y), a, b = batch(20, 6, 3), ready([9, 5, 2], 6), ready([9, 5, 2], 6, geometry=0)
    mu = torch.stack([F.normalize(z)[y == c].mean(0) for c in range(3)])
    G = ((mu @ mu.T + .5).relu()**2)[~torch.eye(3, dtype=bool)].mean()
    torch.testing.assert_close(a(z, y) - b(z, y), G)


def test_leaving_psi_out_lowers_the_loss_where_classes_are_near():
    z, y = batch(20, 6, 3)
    a, b = (ready([9, 5, 2], 6, psi=psi, geometry=0).eval() for psi in ('negatives', 'none'))
    assert (a.psi_matrix() >= 1).all() and (a.psi_matrix().diagonal() == 1).all() and (b.psi_matrix() == 1).all()
    assert a(z, y) > b(z, y)
    torch.testing.assert_close(at_simplex(a)(z, y), at_simplex(b)(z, y))      # and not at all at the simplex


def test_leaving_phi_out_weighs_all_samples_alike():
    z, y = batch(20, 6, 3)
    a, b = ready([900, 50, 2], 6, geometry=0).eval(), ready([900, 50, 2], 6, geometry=0, beta=0).eval()
    one = torch.stack([a(z[i:i + 1], y[i:i + 1]) for i in range(20)])         # φ cancels in a batch of one
    torch.testing.assert_close(b(z, y), one.mean())
    torch.testing.assert_close(a(z, y), (one*a.phi[y]).sum()/a.phi[y].sum())


def test_the_anchor_reading_weighs_the_class_with_a_near_neighbour():
    loss = AGCACL([5, 5, 5], 2, psi='anchor')
    loss.prototypes.copy_(torch.tensor([[1., 0], [1, 0], [-1, 0]]))
    loss.seen.fill_(True)
    torch.testing.assert_close(loss.anchor_weights(), loss.phi*torch.tensor([2., 2., 1.]))
    assert (loss.psi_matrix() == 1).all()


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
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss(z, y)
    loss.predict(z)
    loss.logits(z)
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


def test_state_dict_round_trip():
    a, b, (z, y) = AGCACL([9, 5, 2], 6), AGCACL([9, 5, 2], 6), batch(20, 6, 3, dtype=torch.float32)
    a(z, y)
    b.load_state_dict(a.state_dict())
    assert a(z, y) == b(z, y) and torch.equal(a.prototypes, b.prototypes)
    assert set(a.state_dict()) == {'prototypes', 'seen', 'phi', 'class_counts'}


@pytest.mark.parametrize('counts', [[9, 5, 3], [9, 5]])
def test_prototypes_of_another_training_fold_are_refused(counts):
    state = AGCACL([9, 5, 2], 6).state_dict()
    with pytest.raises(RuntimeError, match='another training fold'):
        AGCACL(counts, 6).load_state_dict(state)


def test_what_one_reads_from_it():
    (z, _), loss = batch(12, 6, 3), ready([9, 5, 2], 6, [1, 0, 1], tau=.2)
    cosines = F.normalize(z) @ loss.prototypes.T
    torch.testing.assert_close(loss.logits(z)[:, [0, 2]], cosines[:, [0, 2]]/.2)
    assert (loss.logits(z)[:, 1] == -math.inf).all()
    assert torch.equal(loss.predict(z), 2*(cosines[:, 2] > cosines[:, 0]).long())
    loss.reset()
    assert not loss.seen.any() and (loss.prototypes == 0).all() and (loss.phi > 0).all()
    with pytest.raises(ValueError, match='no class has been seen'):
        loss.predict(z)


@pytest.mark.parametrize('kind', [torch.tensor, np.array, list])
def test_counted_from_labels(kind):
    loss = AGCACL.from_labels(kind([0, 2, 1, 0, 0]), dim=8, tau=.3)
    assert type(loss) is AGCACL and loss.class_counts.tolist() == [3, 1, 1] and loss.tau == .3


@pytest.mark.parametrize('labels, error, words', [
    ([0, 2, 2], ValueError, 'class 1 has count 0'), ([0, -1], ValueError, 'from -1'), ([0., 1.], TypeError, 'integer')])
def test_labels_that_cannot_be_counted(labels, error, words):
    with pytest.raises(error, match=words):
        AGCACL.from_labels(torch.tensor(labels), dim=8)


def test_its_name_says_how_it_is_set():
    expected = ("AGCACL(3 classes, dim=6, tau=0.2, momentum=0.9, beta=0.999, eta=1.0, phi_max=10.0, geometry=1.0, "
                "psi='negatives')")
    assert repr(AGCACL([9, 5, 2], 6, tau=.2)) == expected


# ── precision ──

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_leaves_buffers_and_loss_in_float32(dtype):
    a, b, (z, y) = AGCACL([9, 5, 2], 6), AGCACL([9, 5, 2], 6), batch(20, 6, 3, dtype=torch.float32)
    z = z.detach().to(dtype).requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        a(z, y)
        value, S, logits, guess = a(z, y), a.similarity(), a.logits(z), a.predict(z)
    b(z.detach().float(), y)
    expected = b(z.detach().float(), y)
    assert value.dtype == S.dtype == logits.dtype == a.prototypes.dtype == a.phi.dtype == torch.float32
    assert torch.equal(value, expected) and torch.equal(guess, b.predict(z))
    value.backward()
    assert z.grad.dtype == dtype and z.grad.isfinite().all()


@pytest.mark.parametrize('psi', PSI)
def test_nothing_is_computed_in_float64_that_was_not_given_in_it(psi):
    "Apple's graphics processors have no float64: no operation of a step may make one."
    from torch.utils._python_dispatch import TorchDispatchMode

    class NoFloat64(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for value in out if isinstance(out, (tuple, list)) else [out]:
                assert not torch.is_tensor(value) or value.dtype != f64 or not value.ndim, function
            return out

    loss, (z, y) = AGCACL([9, 5, 2], 6, psi=psi), batch(8, 6, 3, dtype=torch.float32)
    with NoFloat64():
        for _ in range(2):
            loss(z, y, weight=torch.ones(8)).backward()
        loss.predict(z)
    assert all(buffer.dtype in (torch.float32, torch.bool) for buffer in loss.buffers())


def test_a_model_cast_to_bfloat16_keeps_a_moving_average_in_float32():
    "In bfloat16 m = 0.999 rounds every step away."
    stuck = torch.ones(1, dtype=torch.bfloat16)
    for _ in range(100):
        stuck = .999*stuck + .001*-1
    assert stuck == 1
    loss = ready([5, 5], 2, dtype=torch.float32, momentum=.999).bfloat16()
    assert loss.prototypes.dtype == loss.phi.dtype == torch.float32
    loss.prototypes.copy_(torch.tensor([[1., 0], [0, 1]]))
    for _ in range(100):
        loss(torch.tensor([[0., 1.]]), torch.tensor([0]))
    assert .05 < loss.prototypes[0, 1] < .15


def test_half_precision_never_overflows():
    "e^{1/τ} is beyond float16 below τ = 0.09; so are squares of its larger numbers."
    loss = ready([5, 5, 5], 8, dtype=torch.float32, tau=.01)
    z = torch.tensor([65504., -65504., 1e-4])[:, None].expand(3, 8).to(torch.float16).requires_grad_()
    value = loss(z, torch.arange(3))
    value.backward()
    assert value.isfinite() and z.grad.isfinite().all() and loss.prototypes.isfinite().all()


def test_a_row_without_direction_is_not_pushed_and_not_averaged_in():
    loss, (z, y) = ready([9, 5, 2], 6), batch(8, 6, 3)
    with torch.no_grad():
        z[0] = 0
    value = loss(z, y)
    value.backward()
    assert value.isfinite() and (z.grad[0] == 0).all() and (z.grad[1:] != 0).any(1).all()


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_non_finite_embeddings_show_in_the_loss_and_never_reach_the_prototypes(bad):
    loss, (z, y) = ready([9, 5, 2], 6), batch(8, 6, 3)
    P = loss.prototypes.clone()
    with torch.no_grad():
        z[0, 0] = bad
    assert loss(z, y).isnan() and torch.equal(loss.prototypes[y[0]], P[y[0]])
    assert loss.prototypes.isfinite().all() and loss(*batch(8, 6, 3)).isfinite()


NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from(
    [0., 1e-45, -1e-30, 1., 65504., 3.4e38])


@pytest.mark.filterwarnings('ignore:dim=')
@settings(deadline=None, max_examples=80)
@given(st.data())
def test_finite_in_finite_out(data):
    C, d, B = data.draw(st.integers(2, 8)), data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    counts = data.draw(st.lists(st.integers(1, 10**6), min_size=C, max_size=C))
    numbers = data.draw(st.lists(NUMBERS, min_size=B*d, max_size=B*d))
    z = torch.tensor(numbers).view(B, d).requires_grad_()
    y = torch.tensor(data.draw(st.lists(st.integers(0, C - 1), min_size=B, max_size=B)))
    loss = AGCACL(
        counts, d,
        tau=data.draw(st.sampled_from([.01, .1, 1.])),
        eta=data.draw(st.sampled_from([0., 1., 80.])),
        beta=data.draw(st.sampled_from([0., .999, .999999, 1.])),
        psi=data.draw(st.sampled_from(PSI)),
        momentum=data.draw(st.sampled_from([0., .9, .9999])))
    for _ in range(3):
        value = loss(z, y)
        assert value.isfinite() and value >= 0 and gradient(value, z).isfinite().all()
        torch.testing.assert_close(loss.prototypes.norm(dim=1), loss.seen.float(), atol=1e-5, rtol=0)
    assert loss.phi.isfinite().all() and (loss.phi > 0).all() and (loss.phi <= 10).all()


# ── machines and other people's trainers ──

@pytest.mark.parametrize('psi', ['negatives', 'both'])
def test_compiles_without_graph_break(psi):
    a, b, (z, y) = AGCACL([9, 5, 2], 6, psi=psi), AGCACL([9, 5, 2], 6, psi=psi), batch(20, 6, 3, dtype=torch.float32)
    compiled = torch.compile(b, fullgraph=True, backend='aot_eager')
    for _ in range(3):
        torch.testing.assert_close(gradient(a(z, y), z), gradient(compiled(z, y), z))
        torch.testing.assert_close(a.prototypes, b.prototypes)


@pytest.mark.parametrize('psi', PSI)
def test_the_host_never_waits_for_the_device(psi, monkeypatch):
    "Fake tensors have no values: whatever asks for one (item, bool, nonzero) raises."
    # labels are looked at on a CPU alone
    from torch._subclasses.fake_tensor import FakeTensorMode
    monkeypatch.setattr('pediatric_ecg.losses.agcacl.check_labels', lambda y, n_classes: None)
    loss = AGCACL([9, 5, 2], 6, psi=psi)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for name, buffer in list(loss._buffers.items()):
            loss._buffers[name] = mode.from_tensor(buffer)
        z, y = torch.randn(8, 6, requires_grad=True), torch.zeros(8, dtype=torch.long)
        loss(z, y).backward()
        loss(z, y, weight=torch.ones(8)).backward()
        assert z.grad.shape == (8, 6)


def test_it_stands_in_for_a_loss_of_pytorch_metric_learning():
    "As its trainers call a loss: embeddings, labels, and what a miner gave."
    pml = pytest.importorskip('pytorch_metric_learning')
    from pytorch_metric_learning import losses, miners
    z, y = batch(20, 6, 3, dtype=torch.float32)
    pairs = miners.BatchHardMiner()(z, y)
    ours = AGCACL([9, 5, 2], 6)
    expected = AGCACL([9, 5, 2], 6)(z, y)
    torch.testing.assert_close(ours(z, y, pairs), expected)
    both = losses.MultipleLosses([AGCACL([9, 5, 2], 6), losses.TripletMarginLoss()], miners=[miners.BatchHardMiner()]*2)
    torch.testing.assert_close(both(z, y), expected + losses.TripletMarginLoss()(z, y, pairs))
    assert pml.__version__


# ── misuse ──

@pytest.mark.parametrize('options, words', [
    (dict(class_counts=[3, 0]), 'class 1 has count 0'), (dict(class_counts=[3, -1]), 'positive count'),
    (dict(class_counts=[3]), 'at least two classes'), (dict(class_counts=[[1, 2]]), 'one number per class'),
    (dict(class_counts=[3, math.nan]), 'positive count'), (dict(tau=0), 'tau=0'), (dict(momentum=1.), 'momentum=1.0'),
    (dict(beta=1.1), 'beta'), (dict(eta=-1), 'eta=-1'), (dict(eta=100), 'eta=100'), (dict(phi_max=0), 'phi_max'),
    (dict(geometry=-1), 'geometry'), (dict(psi='all'), "'all'"), (dict(dim=0), 'dim=0')])
def test_construction_misuse(options, words):
    with pytest.raises(ValueError, match=words):
        AGCACL(**{'class_counts': [3, 2], 'dim': 4, **options})


def test_a_space_too_small_for_the_simplex_is_warned_of():
    with pytest.warns(UserWarning, match='5 classes stand as a simplex in 4 dimensions') as caught:
        AGCACL([1]*5, 3)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        AGCACL([1]*5, 4)


@pytest.mark.parametrize('z, y, error, words', [
    (torch.randn(3, 4), torch.tensor([0, 1, 2]), ValueError, 'another fold or grouping'),
    (torch.randn(3, 4), torch.tensor([0, 1, -1]), ValueError, 'from -1'),
    (torch.randn(3, 5), torch.tensor([0, 1, 1]), ValueError, r'shape \(3, 4\) wanted'),
    (torch.randn(2, 4), torch.tensor([0, 1, 1]), ValueError, 'wanted'),
    (torch.randn(3, 4), torch.tensor([0., 1, 1]), TypeError, 'integer'),
    (torch.ones(3, 4, dtype=torch.long), torch.tensor([0, 1, 1]), TypeError, 'floating point'),
    (torch.randn(3, 4), torch.tensor([[0], [1], [1]]), ValueError, 'labels')])
def test_call_misuse(z, y, error, words):
    loss = AGCACL([3, 2], 4)
    with pytest.raises(error, match=words):
        loss(z, y)
    assert not loss.seen.any()


def test_weight_misuse():
    with pytest.raises(ValueError, match='one per sample'):
        AGCACL([3, 2], 4)(torch.randn(3, 4), torch.tensor([0, 1, 1]), weight=torch.ones(2))


def test_unit_is_what_the_loss_sees():
    z, y = batch(8, 6, 3)
    torch.testing.assert_close(ready([9, 5, 2], 6).eval()(unit(z), y), ready([9, 5, 2], 6).eval()(z, y))


def test_weights_go_by_name():
    (z, y), loss = batch(12, 6, 3), ready([9, 5, 2], 6, [1, 1, 1])
    with pytest.raises(TypeError, match='weights go by name'):
        loss(z, y, torch.ones(12))
    with pytest.raises(TypeError, match='int64'):
        loss(z, y.int())


# ── where classes come to rest, and how far the default stands from collapse ──

def one_step(loss, z, P, weight, rate=2.):
    "One step of the algorithm on one free point per class: the points move, the prototypes follow."
    loss.prototypes.copy_(P)
    loss.seen.fill_(True)
    z = z.detach().requires_grad_()
    slope = gradient(loss(z, torch.arange(len(z)), weight=weight), z)
    return unit(z.detach() - rate*slope), loss.prototypes.clone()


def moduli(loss, z, weight, size=1e-5):
    "Moduli of the eigenvalues of one step, linearised at a rest point by finite differences."
    state = torch.stack([z, z])

    def step(state):
        return torch.stack(one_step(loss, *state, weight, rate=.3)).flatten()

    columns = []
    for direction in torch.eye(state.numel(), dtype=f64):
        shift = size*direction.view_as(state)
        columns.append((step(state + shift) - step(state - shift))/(2*size))
    return torch.linalg.eigvals(torch.stack(columns, 1)).abs()


@pytest.mark.parametrize('C,dim', [(3, 2), (4, 5)])
@pytest.mark.parametrize('momentum', [0., .9])
@pytest.mark.parametrize('tail', [1., .1, .01])
def test_the_simplex_is_stable_and_collapse_is_not_whatever_the_weights(C, dim, momentum, tail):
    "Neither depends on the weights of the classes: the theorem of the notebook."
    weight = torch.logspace(0, math.log10(tail), C, dtype=f64)
    loss = AGCACL([10]*C, dim, tau=.5, momentum=momentum, psi='none', geometry=0, beta=0).double()
    at_corners = moduli(loss, simplex(C, dim), weight)
    rotations = dim*(dim - 1)//2 - (dim - C + 1)*(dim - C)//2
    assert int(((at_corners - 1).abs() < 1e-6).sum()) == rotations and at_corners.max() < 1 + 1e-6
    collapsed = moduli(loss, F.normalize(torch.ones(C, dim, dtype=f64)), weight)
    assert int((collapsed > 1 + 1e-6).sum()) == (C - 1)*(dim - 1)


@pytest.mark.parametrize('tail', [1., .01])
def test_the_algorithm_returns_to_the_simplex_from_near_it_and_from_near_collapse(tail):
    "With ψ and G on, as by default."
    weight, g = torch.logspace(0, math.log10(tail), 4, dtype=f64), torch.Generator().manual_seed(0)
    noise = torch.randn(4, 5, generator=g, dtype=f64)
    for start in (simplex(4, 5) + .01*noise, 1 + .001*noise):
        loss = AGCACL([10]*4, 5, tau=.5, beta=0).double()
        z = P = F.normalize(start)
        for _ in range(600):
            z, P = one_step(loss, z, P, weight)
        assert simplex_gap(P @ P.T)['gap'] < .01


@pytest.mark.parametrize('strength', [1., 10.])
def test_the_default_does_not_stand_one_notch_from_collapse(strength):
    "A shared network on long-tailed digits: the space keeps its directions at ten times the default λ_g."
    digits, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    digits, counts = digits.float()/16, torch.logspace(2, .5, 10).round().long()
    rows = [(labels == c).nonzero()[:, 0] for c in range(10)]
    train, test = torch.cat([r[:n] for r, n in zip(rows, counts)]), torch.cat([r[-50:] for r in rows])
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 16))
    loss, optimiser = AGCACL(counts, 16, geometry=strength), torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(120):
        batch = train[torch.randperm(len(train))[:128]]
        value = loss(net(digits[batch]), labels[batch])
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    with torch.no_grad():
        z = net(digits[test])
    assert diagnose(counts, z, labels[test])['rank'] > 7
    assert (loss.predict(z) == labels[test]).float().mean() > .7
