"""The comparison behind the network's and the training's defaults, on validation patients alone.

    python benchmarks/choices.py STORE [--only NAME …] [--out nbs/results/choices.csv]     (about three minutes of one core a setting)
    python benchmarks/choices.py STORE --only losses --out nbs/results/choices-losses.csv

STORE is the window store of mitdb (`pediatric-ecg prepare`). The folds, epochs and windows are those of the study protocol; each
setting is trained on the training patients of three repeats of three grouped folds, to the last epoch, and scored on the *validation*
patients of the same fold. Test patients are not read. Prints and writes macro-F1 over the pooled validation windows, its mean over
folds, top-1 and the CPU seconds of a training. Settings that are on file are not repeated.
"""
import argparse
import time
from dataclasses import replace
from pathlib import Path

import joblib
import loss_trials  # puts the objectives of the trials beside the package's
import numpy as np
import pandas as pd
import torch
from sklearn.metrics import f1_score

from pediatric_ecg.windows.views import View
from pediatric_ecg.experiments.run import make_folds, scored_labels
from pediatric_ecg.experiments.grid import STUDY, configure
from pediatric_ecg.core import write_text
from pediatric_ecg.train.loop import fit, predict
from pediatric_ecg.windows.store import WindowStore

FINE = {'model.widths': (32, 48, 64), 'model.stem_kernel': 24, 'model.stem_stride': 8, 'model.kernel': 5}
SETTINGS = {
    'as it is': {},
    'finer stem, one stage more': FINE,
    'group normalisation': {'model.norm': 'group'},
    'no Transformer': {'model.depth': 0},
    'wider (96)': {'model.widths': (96, 96)},
    'no periodicity block': {'model.periodicity': False},
    'cross-entropy': {'loss': 'ce'},
    '40 windows a patient and rhythm': {'per_group': 40},
    'stronger augmentation': {'augment': {'scale': .5, 'noise': .2, 'wander': .4, 'drop_lead': .2, 'drop_modality': .2}},
    'no augmentation': {'augment': {'enabled': False}},
    'smaller steps, more decay': {'lr': 1e-3, 'weight_decay': .1},
    'the neighbouring windows too': {'context': True},
}
LOSSES = {
    'cross-entropy': {'loss': 'ce'},
    'cross-entropy, half the prior': {'loss': 'ce+la', 'loss_args': {'tau': .5}},
    'prototypes of windows, whole prior': {'loss': 'agcacl-windows', 'loss_args': {'prior': 1.}},
    'prototypes of windows, half the prior': {'loss': 'agcacl-windows'},
    'prototypes of patients, own included': {'loss_args': {'others': False}},
    'prototypes of the other patients': {},
    'the same, λ 1': {'loss_args': {'weight': 1.}},
    'the same, ψ on both sides': {'loss_args': {'psi': 'both'}},
    'the same, τ falls from 0.3 to 0.1': {'loss': 'agcacl-scheduled', 'loss_args': {'tau': (.3, .1)}},
    'the same, m rises from 0.5 to 0.99': {'loss': 'agcacl-scheduled', 'loss_args': {'momentum': (.5, .99)}},
    'the same, λ falls from 0.5 to 0': {'loss': 'agcacl-scheduled', 'loss_args': {'weight': (.5, 0.)}},
    'the same, λ falls from 1 to 0': {'loss': 'agcacl-scheduled', 'loss_args': {'weight': (1., 0.)}},
    'the same, ψ from confusions, η 1': {'loss': 'agcacl-confused'},
    'the same, ψ from confusions, η 4': {'loss': 'agcacl-confused', 'loss_args': {'eta': 4.}},
    'cross-entropy, random filters': {'loss': 'ce', 'change': 'filtered'},
    'cross-entropy, random polarity': {'loss': 'ce', 'change': 'flipped'},
    'cross-entropy, other rates': {'loss': 'ce', 'change': 'stretched'},
}


class Context(View):
    "Each window with its neighbours in time on either side, zeros where there is none."

    def __init__(self, store):
        super().__init__(store)
        self.seconds = 3*store.seconds
        t = store.table
        at = {(r, s): i for i, (r, s) in enumerate(zip(t.record, t.start))}
        length = t.end - t.start
        self.sides = [np.array([at.get(k, -1) for k in zip(t.record, t.start + sign*length)]) for sign in (-1, 1)]

    def batch(self, rows):
        rows, (x, present) = np.asarray(rows), super().batch(rows)
        left, right = (self._neighbour(side[rows], rows) for side in self.sides)
        return {m: np.concatenate([left[m], x[m], right[m]], -1).astype(np.float32) for m in x}, present

    def _neighbour(self, side, rows):
        x, _ = super().batch(np.where(side < 0, rows, side))
        return {m: v*(side >= 0)[:, None, None] for m, v in x.items()}


def filtered(x, present, fs, rng, seconds=.1):
    "Each lead mixed, by chance, with itself through a random filter: another shape, the same intervals."
    def worse(v):
        filters = rng.standard_normal((*v.shape[:2], 2*round(seconds*fs/2) + 1))
        other = np.fft.irfft(np.fft.rfft(v)*np.fft.rfft(filters, v.shape[-1]), v.shape[-1])
        share = rng.random((*v.shape[:2], 1))
        return ((1 - share)*v + share*other*v.std(-1, keepdims=True)/np.maximum(other.std(-1, keepdims=True), 1e-6)).astype(np.float32)
    return {m: worse(v) for m, v in x.items()}, present


def flipped(x, present, fs, rng):
    "Each lead upside down, or not."
    return {m: v*rng.choice(np.float32([-1, 1]), (*v.shape[:2], 1)) for m, v in x.items()}, present


def stretched(x, present, fs, rng, most=.15):
    "Each window up to `most` faster or slower about its middle, the same in all leads; the edge is repeated."
    n = next(iter(x.values()))
    at = np.clip((np.arange(n.shape[-1]) - n.shape[-1]/2)*np.exp(rng.uniform(-most, most, (len(n), 1))) + n.shape[-1]/2, 0, n.shape[-1] - 1)
    return {m: np.stack([[np.interp(t, np.arange(v.shape[-1]), lead) for lead in w] for t, w in zip(at, v)]).astype(np.float32) for m, v in x.items()}, present


CHANGES = {f.__name__: f for f in (filtered, flipped, stretched)}


def trial(path, fold, labels, config, context, change, seed):
    "Truth and prediction of the fold's validation windows, and the CPU seconds of the training, whose windows alone are changed."
    assert loss_trials.Scheduled   # so that the process of a trial imports them too
    torch.set_num_threads(1)
    store = WindowStore(path)
    store = Context(store) if context else store
    start = time.process_time()
    model = fit(View(store, change=CHANGES[change], seed=seed) if change else store, replace(fold, valid=[]), labels, config, seed).model   # nothing to choose by: the last epoch
    seconds = time.process_time() - start
    truth = store.table['label'].to_numpy()[fold.valid]
    keep = np.isin(truth, labels)
    return truth[keep], np.array(labels)[predict(model, store, fold.valid[keep]).argmax(1)], seconds


def scored(trials, labels):
    f1 = lambda t, p, among: f1_score(t, p, labels=among, average='macro', zero_division=0)
    truth, guess = (np.concatenate([t[i] for t in trials]) for i in (0, 1))
    return {'macro_f1': f1(truth, guess, labels), 'mean_of_folds': np.mean([f1(t, p, np.unique(t)) for t, p, _ in trials]),
            'top1': (truth == guess).mean(), 'cpu_seconds': np.mean([s for *_, s in trials])}


def main():
    a = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    a.add_argument('store')
    a.add_argument('--only', nargs='*', default=list(SETTINGS), help='names of settings, or losses for those of the losses')
    a.add_argument('--out', default='nbs/results/choices.csv', type=Path)
    a = a.parse_args()
    store, protocol = WindowStore(a.store), replace(STUDY['protocol'], repeats=3)
    labels = scored_labels(store, protocol)
    folds = [f for f in make_folds(store.table, labels, protocol) if f.split == 'patient']
    known = SETTINGS | LOSSES
    if a.only == ['losses']: a.only = list(LOSSES)
    if unknown := set(a.only) - set(known): raise SystemExit(f'choices: no setting {sorted(unknown)[0]!r}; there are {", ".join(known)}')
    done = pd.read_csv(a.out).to_dict('records') if a.out.exists() else []
    for name in (n for n in a.only if n not in {r['setting'] for r in done}):
        setting = dict(known[name])
        context, change = setting.pop('context', False), setting.pop('change', None)
        config, _ = configure(STUDY['config'], setting)
        trials = joblib.Parallel(n_jobs=-1)(joblib.delayed(trial)(store.path, f, labels, config, context, change, f.repeat) for f in folds)
        done.append({'setting': name, **scored(trials, labels)})
        print({k: v if isinstance(v, str) else round(float(v), 3) for k, v in done[-1].items()}, flush=True)
        a.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(a.out, pd.DataFrame(done).to_csv(index=False).rstrip())


if __name__ == '__main__': main()
