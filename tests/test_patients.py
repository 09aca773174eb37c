"""AGCACL with prototypes of patients: against loops, against AGCACL, and where it must refuse."""
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pediatric_ecg.losses import AGCACL, PatientAGCACL

f64 = torch.float64


def batch(n, dim, classes, patients, seed=0, dtype=f64):
    "Embeddings, labels and patients."
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(n, dim, generator=g, dtype=dtype, requires_grad=True)
    return z, torch.randint(classes, (n,), generator=g), torch.randint(patients, (n,), generator=g)


def gradient(value, z):
    return torch.autograd.grad(value, z)[0]


def update(Q, seen, z, y, p, m, classes):
    "The update, one patient and one of these classes at a time; changes Q and seen, returns the classes' prototypes."
    u = F.normalize(z.detach())
    for k in range(Q.shape[0]):
        for c in classes:
            mine = u[(y == c) & (p == k)]
            if len(mine):
                Q[k, c] = F.normalize(m*Q[k, c] + (1 - m)*mine.mean(0), dim=0)
                seen[k, c] = True
    return torch.stack([F.normalize(Q[:, c].sum(0), dim=0) for c in range(Q.shape[1])])


def positives(Q, seen, P, y, p):
    "O of each sample."
    out = []
    for c, k in zip(y.tolist(), p.tolist()):
        others = [Q[j, c] for j in range(len(Q)) if j != k and seen[j, c]]
        out.append(F.normalize(sum(others), dim=0) if others else P[c])
    return torch.stack(out)


def expected_loss(z, y, plain, own):
    "The loss against the prototypes of `plain`, with `own` (B, d) in place of that of the sample's class."
    C, P, there = plain.n_classes, plain.prototypes, plain.seen
    u, one = F.normalize(z), F.one_hot(y, plain.n_classes).bool()
    logits = torch.where(one, (u*own).sum(1)[:, None], u @ P.T)/.1 + plain.psi_matrix().log()[y]
    logits = logits.masked_fill(~there & ~one, -torch.inf)
    a = (plain.anchor_weights()*there)[y]
    value = (a*F.cross_entropy(logits, y, reduction='none')).sum()/a.sum().clamp_min(1e-30)
    mu = {c: u[y == c].mean(0) for c in range(C) if (y == c).any() and there[c]}
    pairs = [(mu[c] @ mu[e] + 1/(C - 1)).relu()**2 for c in mu for e in mu if e != c]
    return value + sum(pairs)/len(pairs) if pairs else value


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 4), st.integers(1, 5), st.integers(1, 12), st.integers(0, 999),
       st.sampled_from(['negatives', 'anchor', 'both', 'none']), st.booleans())
def test_it_equals_a_loop_over_patients_and_its_gradient_autograd(C, N, B, seed, psi, others):
    counts = list(range(3, 3 + C))
    loss = PatientAGCACL(counts, 5, N, others=others, psi=psi, momentum=.7).double()
    Q, seen = torch.zeros(N, C, 5, dtype=f64), torch.zeros(N, C, dtype=torch.bool)
    for step in range(3):
        z, y, p = batch(B, 5, C, N, seed + step)
        new = [c for c in range(C) if not seen[:, c].any()]
        P = update(Q, seen, z, y, p, .7, new)                       # new classes enter before the loss
        plain = AGCACL(counts, 5, psi=psi).double().eval()
        plain.prototypes.copy_(P)
        plain.seen.copy_(seen.any(0))
        value = loss(z, y, patient=p)
        expected = expected_loss(z, y, plain, positives(Q, seen, P, y, p) if others else P[y])
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(gradient(value, z), gradient(expected, z))
        P = update(Q, seen, z, y, p, .7, [c for c in range(C) if c not in new])
        torch.testing.assert_close(loss.patient_prototypes, Q)
        torch.testing.assert_close(loss.prototypes, P)
        assert torch.equal(loss.patient_seen, seen) and torch.equal(loss.seen, seen.any(0))


def test_the_first_batch_has_a_loss_and_draws_windows_to_the_other_patients_in_it():
    z, y, p = batch(12, 4, 3, 3)
    first, told = PatientAGCACL([9, 5, 2], 4, 3).double(), PatientAGCACL([9, 5, 2], 4, 3).double()
    told(z, y, patient=p)                                           # its prototypes are now the means of this batch
    value, expected = first(z, y, patient=p), told.eval()(z, y, patient=p)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient(value, z), gradient(expected, z))
    assert value > 0 and PatientAGCACL([9, 5, 2], 4, 3).double().eval()(z, y, patient=p) == 0


def test_one_patient_per_class_is_agcacl():
    old, new = AGCACL([50, 9, 4], 6).double(), PatientAGCACL([50, 9, 4], 6, 3).double()
    for step in range(4):
        z, y, _ = batch(20, 6, 3, 3, step)
        a, b = old(z, y), new(z, y, patient=(y + 1) % 3)
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(gradient(a, z), gradient(b, z))


@pytest.mark.parametrize('others', [True, False])
def test_gradcheck_to_the_second_derivative(others):
    loss, (z, y, p) = PatientAGCACL([9, 5, 2], 4, 3, others=others, tau=.5).double(), batch(9, 4, 3, 3)
    loss(*batch(12, 4, 3, 3, 1)[:2], patient=batch(12, 4, 3, 3, 1)[2])
    loss.eval()
    assert torch.autograd.gradcheck(lambda z: loss(z, y, patient=p), z)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, y, patient=p), z)


def test_evaluation_changes_nothing_and_state_goes_round():
    loss, (z, y, p) = PatientAGCACL([9, 5, 2], 4, 3), batch(12, 4, 3, 3, dtype=torch.float32)
    loss(z, y, patient=p)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    value = loss.eval()(z, y, patient=p)
    torch.testing.assert_close(dict(loss.state_dict()), before)
    other = PatientAGCACL([9, 5, 2], 4, 3).eval()
    other.load_state_dict(before)
    torch.testing.assert_close(other(z, y, patient=p), value)
    with pytest.raises(RuntimeError, match='another training fold'):
        PatientAGCACL([9, 5, 3], 4, 3).load_state_dict(before)
    assert loss.to(torch.bfloat16).patient_prototypes.dtype == torch.float32
    loss.reset()
    assert not loss.patient_seen.any() and not loss.seen.any() and (loss.patient_prototypes == 0).all()


def test_turning_the_space_turns_the_prototypes_and_nothing_else():
    loss, turned = PatientAGCACL([9, 5, 2], 4, 3).double(), PatientAGCACL([9, 5, 2], 4, 3).double()
    R = torch.linalg.qr(torch.randn(4, 4, dtype=f64)).Q
    for step in range(3):
        z, y, p = batch(15, 4, 3, 3, step)
        torch.testing.assert_close(loss(z, y, patient=p), turned(z @ R, y, patient=p))
    torch.testing.assert_close(loss.patient_prototypes @ R, turned.patient_prototypes)


def test_a_class_whose_patients_point_apart_keeps_its_prototype():
    loss, z = PatientAGCACL([2, 2], 3, 2), torch.tensor([[1., 0, 0], [0, 1, 0]])
    loss(z, torch.tensor([0, 1]), patient=torch.tensor([0, 0]))
    loss(-z[:1], torch.tensor([0]), patient=torch.tensor([1]))      # the mean of the two patients has no direction
    torch.testing.assert_close(loss.prototypes, z)
    assert loss.patient_seen[:, 0].all()


def test_a_mean_that_is_not_finite_moves_nothing():
    loss, (z, y, p) = PatientAGCACL([9, 5], 4, 3), batch(12, 4, 2, 3, dtype=torch.float32)
    loss(z, y, patient=p)
    before = loss.patient_prototypes.clone()
    loss(torch.full_like(z, torch.nan), y, patient=p)
    torch.testing.assert_close(loss.patient_prototypes, before)


def test_compiles_without_graph_break():
    z, y, p = batch(20, 6, 3, 4, dtype=torch.float32)
    a, b = PatientAGCACL([9, 5, 2], 6, 4), PatientAGCACL([9, 5, 2], 6, 4)
    compiled = torch.compile(b, fullgraph=True, backend='aot_eager')
    for _ in range(3):
        torch.testing.assert_close(gradient(a(z, y, patient=p), z), gradient(compiled(z, y, patient=p), z))
        torch.testing.assert_close(a.patient_prototypes, b.patient_prototypes)


def test_the_host_never_waits_for_the_device(monkeypatch):
    "Fake tensors have no values; labels and patients are looked at on a CPU alone."
    from torch._subclasses.fake_tensor import FakeTensorMode
    monkeypatch.setattr(PatientAGCACL, '_check', lambda *arguments: None)
    loss = PatientAGCACL([9, 5, 2], 6, 4)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for name, buffer in list(loss._buffers.items()):
            loss._buffers[name] = mode.from_tensor(buffer)
        z, y = torch.randn(8, 6, requires_grad=True), torch.zeros(8, dtype=torch.long)
        loss(z, y, patient=y).backward()
        assert z.grad.shape == (8, 6)


@pytest.mark.parametrize('patient, words', [
    (None, 'needs the patient'), (torch.tensor([0, 1]), 'one per sample'),
    (torch.tensor([0, 1, 2]), 'from 0 to 1 wanted'), (torch.tensor([0, -1, 1]), 'run from -1')])
def test_misuse_changes_nothing(patient, words):
    loss = PatientAGCACL([3, 2], 4, 2)
    with pytest.raises(ValueError, match=words):
        loss(torch.randn(3, 4), torch.tensor([0, 1, 1]), patient=patient)
    assert not loss.patient_seen.any()
