"""AGCACL with prototypes of patients: against loops, against AGCACL, over processes, and where it must refuse."""
import os

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pediatric_ecg.losses.agcacl import AGCACL
from pediatric_ecg.train.devices import in_processes
from pediatric_ecg.losses.agcacl_patients import PatientAGCACL

f64 = torch.float64


def batch(n, dim, classes, patients, seed=0, dtype=f64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=g, dtype=dtype, requires_grad=True), torch.randint(classes, (n,), generator=g), torch.randint(patients, (n,), generator=g)


def update(Q, seen, z, y, p, m):
    "The update, one patient and rhythm at a time; changes Q and seen."
    u = F.normalize(z.detach())
    for k in range(Q.shape[0]):
        for c in range(Q.shape[1]):
            mine = u[(y == c) & (p == k)]
            if len(mine): Q[k, c] = F.normalize(m*Q[k, c] + (1 - m)*mine.mean(0), dim=0); seen[k, c] = True
    return torch.stack([F.normalize(Q[:, c].sum(0), dim=0) for c in range(Q.shape[1])])


def positives(Q, seen, P, y, p):
    out = []
    for c, k in zip(y.tolist(), p.tolist()):
        others = [Q[j, c] for j in range(len(Q)) if j != k and seen[j, c]]
        out.append(F.normalize(sum(others), dim=0) if others else P[c])
    return torch.stack(out)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 4), st.integers(1, 5), st.integers(1, 12), st.integers(0, 999), st.sampled_from(['negatives', 'anchor', 'both', 'none']), st.booleans())
def test_it_equals_a_loop_over_patients_and_its_gradient_autograd(C, N, B, seed, psi, others):
    counts = list(range(3, 3 + C))
    loss, Q, seen = PatientAGCACL(counts, 5, N, others=others, psi=psi, momentum=.7).double(), torch.zeros(N, C, 5, dtype=f64), torch.zeros(N, C, dtype=torch.bool)
    for step in range(3):
        z, y, p = batch(B, 5, C, N, seed + step)
        P, there = loss.prototypes.clone(), seen.any(0)
        plain = AGCACL(counts, 5, psi=psi).double().eval()
        plain.prototypes.copy_(P); plain.seen.copy_(there)
        value = loss(z, y, patient=p)
        u = F.normalize(z)
        own = (u*(positives(Q, seen, P, y, p) if others else P[y])).sum(1)
        logit = torch.where(F.one_hot(y, C).bool(), own[:, None], u @ P.T)/.1 + plain.psi_matrix().log()[y]
        logit = logit.masked_fill(~there & ~F.one_hot(y, C).bool(), -torch.inf)
        a = (plain.anchor_weights()*there)[y]
        want = (a*F.cross_entropy(logit, y, reduction='none')).sum()/a.sum().clamp_min(1e-30)
        mu = {c: u[y == c].mean(0) for c in range(C) if (y == c).any() and there[c]}
        pairs = [(mu[c] @ P[e] + 1/(C - 1)).relu()**2 for c in mu for e in range(C) if e != c and there[e]]
        if pairs: want = want + sum(pairs)/len(pairs)
        torch.testing.assert_close(value, want)
        if want.requires_grad: torch.testing.assert_close(*(torch.autograd.grad(v, z)[0] for v in (value, want)))
        new = update(Q, seen, z, y, p, .7)
        torch.testing.assert_close(loss.patient_prototypes, Q); torch.testing.assert_close(loss.prototypes, new)
        assert torch.equal(loss.patient_seen, seen) and torch.equal(loss.seen, seen.any(0))


def test_evaluation_changes_nothing_and_state_goes_round():
    loss, (z, y, p) = PatientAGCACL([9, 5, 2], 4, 3), batch(12, 4, 3, 3, dtype=torch.float32)
    loss(z, y, patient=p)
    before = {k: v.clone() for k, v in loss.state_dict().items()}
    value = loss.eval()(z, y, patient=p)
    torch.testing.assert_close(dict(loss.state_dict()), before)
    other = PatientAGCACL([9, 5, 2], 4, 3).eval(); other.load_state_dict(before)
    torch.testing.assert_close(other(z, y, patient=p), value)
    with pytest.raises(RuntimeError, match='another training fold'): PatientAGCACL([9, 5, 3], 4, 3).load_state_dict(before)
    assert loss.to(torch.bfloat16).patient_prototypes.dtype == torch.float32


def test_turning_the_space_turns_the_prototypes_and_nothing_else():
    loss, turned = (PatientAGCACL([9, 5, 2], 4, 3).double() for _ in 'ab')
    R = torch.linalg.qr(torch.randn(4, 4, dtype=f64)).Q
    for step in range(3):
        z, y, p = batch(15, 4, 3, 3, step)
        torch.testing.assert_close(loss(z, y, patient=p), turned(z @ R, y, patient=p))
    torch.testing.assert_close(loss.patient_prototypes @ R, turned.patient_prototypes)


def test_a_class_whose_patients_point_apart_keeps_its_prototype():
    loss, z = PatientAGCACL([2, 2], 3, 2), torch.tensor([[1., 0, 0], [0, 1, 0]])
    loss(z, torch.tensor([0, 1]), patient=torch.tensor([0, 0]))
    loss(-z[:1], torch.tensor([0]), patient=torch.tensor([1]))           # the mean of the two patients has no direction
    torch.testing.assert_close(loss.prototypes, z); assert loss.patient_seen[:, 0].all()


def test_a_mean_that_is_not_finite_moves_nothing():
    loss, (z, y, p) = PatientAGCACL([9, 5], 4, 3), batch(12, 4, 2, 3, dtype=torch.float32)
    loss(z, y, patient=p); before = loss.patient_prototypes.clone()
    loss(torch.full_like(z, torch.nan), y, patient=p)
    torch.testing.assert_close(loss.patient_prototypes, before)


def _task():
    torch.manual_seed(3)
    y, p = torch.arange(16) % 3, torch.arange(16) % 5
    return torch.randn(16, 5).double(), y, p, torch.nn.Linear(5, 4).double(), PatientAGCACL([9, 5, 2], 4, 5).double()


def _half(folder):
    "Three steps of one of two processes, each with a part of the batch."
    rank = int(os.environ['LOCAL_RANK'])
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', rank=rank, world_size=2)
    z, y, p, net, loss = _task()
    net, rows = torch.nn.parallel.DistributedDataParallel(net), torch.arange(16).split([5, 11])[rank]
    for _ in range(3): net.zero_grad(); v = loss(net(z[rows]), y[rows], patient=p[rows]); v.backward()
    torch.save((v.detach(), loss.state_dict(), [q.grad for q in net.parameters()]), f'{folder}/{rank}.pt')


def test_two_processes_equal_one(tmp_path):
    in_processes(2, _half, str(tmp_path))
    z, y, p, net, loss = _task()
    for _ in range(3): net.zero_grad(); v = loss(net(z), y, patient=p); v.backward()
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path/f'{rank}.pt'), (v.detach(), loss.state_dict(), [q.grad for q in net.parameters()]))


@pytest.mark.filterwarnings('ignore:.*should not be instantiated:DeprecationWarning')   # torch's own tracing of an autograd.Function
def test_compiles_without_graph_break():
    (a, b), (z, y, p) = (PatientAGCACL([9, 5, 2], 6, 4) for _ in 'ab'), batch(20, 6, 3, 4, dtype=torch.float32)
    f = torch.compile(b, fullgraph=True, backend='aot_eager')
    for _ in range(3):
        torch.testing.assert_close(*(torch.autograd.grad(g(z, y, patient=p), z)[0] for g in (a, f)))
        torch.testing.assert_close(a.patient_prototypes, b.patient_prototypes)


def test_the_host_never_waits_for_the_device():
    from torch._subclasses.fake_tensor import FakeTensorMode
    loss = PatientAGCACL([9, 5, 2], 6, 4, validate=False)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for k, b in list(loss._buffers.items()): loss._buffers[k] = mode.from_tensor(b)
        z = torch.randn(8, 6, requires_grad=True); y = p = torch.zeros(8, dtype=torch.long)
        loss(z, y, patient=p).backward()
        assert z.grad.shape == (8, 6)


@pytest.mark.parametrize('patient, words', [
    (None, 'needs the patient'), (torch.tensor([0, 1]), 'one a sample'),
    (torch.tensor([0, 1, 2]), 'from 0 to 1 wanted'), (torch.tensor([0, -1, 1]), 'run from -1')])
def test_misuse_changes_nothing(patient, words):
    loss = PatientAGCACL([3, 2], 4, 2)
    with pytest.raises(ValueError, match=words): loss(torch.randn(3, 4), torch.tensor([0, 1, 1]), patient=patient)
    assert not loss.patient_seen.any()
