"""Steps within the idea of AGCACL that brought nothing and so are no part of the package; `choices.py --only losses` runs them.

Importing this module puts them among the objectives: `agcacl-scheduled`, `agcacl-confused`.
"""
import torch
from torch import nn

from pediatric_ecg.losses import objectives
from pediatric_ecg.losses.logits import LogitAdjusted
from pediatric_ecg.losses.agcacl_patients import PatientAGCACL


class Scheduled(objectives.Objective):
    "λ moves in a straight line, τ and 1 − m by a constant factor an epoch, each from the first to the second of its pair."

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
    "ψ from confusions instead of cosines: how often the prototypes of the *other* patients take a window of class y for class c, a running mean."

    def __init__(self, *args, keep=.98, **kw):
        super().__init__(*args, **kw)
        self.keep = keep
        self.register_buffer('confusion', torch.zeros(self.n_classes, self.n_classes))

    def hardness(self): return self.confusion*(self._others & self.seen & self.seen[:, None])

    def forward(self, z, y, weight=None, patient=None):
        if self.training: self._count(nn.functional.normalize(z.detach(), dim=1), y, patient)
        return super().forward(z, y, weight, patient)

    def _count(self, u, y, patient):
        P = self.prototypes.clone()
        cos = (u @ P.T).scatter_(1, y[:, None], (u*self._drawn_to(P, y, patient)).sum(1, keepdim=True))
        each = nn.functional.one_hot(y, self.n_classes).to(u.dtype)
        n, sums = each.sum(0), each.T @ (cos/self.tau).masked_fill(~self.seen, -1e4).softmax(1)
        ok = (n > 0) & self.seen
        self.confusion[ok] = torch.lerp(sums/n.clamp_min(1)[:, None], self.confusion, self.keep)[ok]


def _scheduled(counts, dim, patients=0, **kw): return Scheduled(LogitAdjusted(counts, .5), PatientAGCACL(counts, dim, patients), **kw)
def _confused(counts, dim, patients=0, **kw): return objectives.Objective(LogitAdjusted(counts, .5), Confused(counts, dim, patients, **kw))


objectives.OBJECTIVES |= {'agcacl-scheduled': _scheduled, 'agcacl-confused': _confused}
objectives.BY_PATIENT = tuple(dict.fromkeys((*objectives.BY_PATIENT, 'agcacl-scheduled', 'agcacl-confused')))
