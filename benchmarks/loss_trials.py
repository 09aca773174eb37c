"""Steps within the idea of AGCACL that brought nothing and so are no part of the package.

`choices.py --only losses` runs them. Importing this module puts them among the objectives:
`agcacl-scheduled`, `agcacl-confused`.
"""
import torch
from torch import nn

from pediatric_ecg.losses import OBJECTIVES, LogitAdjusted, PatientAGCACL
from pediatric_ecg.losses.objectives import Objective, Registered


class Scheduled(Objective):
    "λ moves in a straight line, τ and 1 − m by a constant factor per epoch, from the first to the second of a pair."

    def __init__(self, classify, embed, weight=(.5, .5), tau=(.1, .1), momentum=(.9, .9)):
        super().__init__(classify, embed, weight[0])
        self.ends = weight, tau, momentum

    def set_epoch(self, epoch, total=None):
        share = epoch/max(1, total - 1)
        (w0, w1), (t0, t1), (m0, m1) = self.ends
        self.weight = w0 + (w1 - w0)*share
        self.embed.tau = t0*(t1/t0)**share
        self.embed.momentum = 1 - (1 - m0)*((1 - m1)/(1 - m0))**share


class Confused(PatientAGCACL):
    """ψ from confusions instead of cosines: how often the prototypes take a window of class y for class c.

    A running mean. For its own class a window is compared with the prototypes of the *other* patients.
    """

    def __init__(self, *args, keep=.98, **options):
        super().__init__(*args, **options)
        self.keep = keep
        self.register_buffer('confusion', torch.zeros(self.n_classes, self.n_classes))

    def hardness(self):
        return self.confusion*(self._others & self.seen & self.seen[:, None])

    @torch.no_grad()
    def follow(self, batch):
        "What the prototypes say of this batch goes into the running mean before the loss."
        y, known = batch.y, self.seen
        each = nn.functional.one_hot(y, self.n_classes).to(batch.u.dtype)
        logits = self.cosines(batch, self.prototypes.clone())/self.tau
        n, sums = each.sum(0), each.T @ logits.masked_fill(~known, -1e4).softmax(1)
        present = (n > 0) & known
        self.confusion[present] = torch.lerp(sums/n.clamp_min(1)[:, None], self.confusion, self.keep)[present]
        return super().follow(batch)


def _scheduled(counts, dim, patients=0, **options):
    return Scheduled(LogitAdjusted(counts, .5), PatientAGCACL(counts, dim, patients), **options)


def _confused(counts, dim, patients=0, **options):
    return Objective(LogitAdjusted(counts, .5), Confused(counts, dim, patients, **options))


OBJECTIVES.update({
    'agcacl-scheduled': Registered(
        _scheduled, 'AGCACL with λ, τ and m on a schedule', uses_counts=True, uses_patients=True, compared=False),
    'agcacl-confused': Registered(
        _confused, 'AGCACL with ψ from confusions', uses_counts=True, uses_patients=True, compared=False),
})
