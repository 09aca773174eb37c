"""The comparison behind the network's and the training's defaults, on validation patients alone.

    python benchmarks/choices.py STORE [--only NAME …] [--out nbs/results/choices.csv]     (about three minutes of one core a setting)

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
import numpy as np
import pandas as pd
import torch
from sklearn.metrics import f1_score

from pediatric_ecg.cells import View
from pediatric_ecg.experiments import make_folds, scored_labels
from pediatric_ecg.grid import STUDY, configure
from pediatric_ecg.store import write_text
from pediatric_ecg.training import fit, predict
from pediatric_ecg.windows import WindowStore

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


def trial(path, fold, labels, config, context, seed):
    "Truth and prediction of the fold's validation windows, and the CPU seconds of the training."
    torch.set_num_threads(1)
    store = WindowStore(path)
    store = Context(store) if context else store
    start = time.process_time()
    model = fit(store, replace(fold, valid=[]), labels, config, seed).model   # nothing to choose by: the last epoch
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
    a.add_argument('store'); a.add_argument('--only', nargs='*', default=list(SETTINGS)); a.add_argument('--out', default='nbs/results/choices.csv', type=Path)
    a = a.parse_args()
    store, protocol = WindowStore(a.store), replace(STUDY['protocol'], repeats=3)
    labels = scored_labels(store, protocol)
    folds = [f for f in make_folds(store.table, labels, protocol) if f.split == 'patient']
    done = pd.read_csv(a.out).to_dict('records') if a.out.exists() else []
    for name in (n for n in a.only if n not in {r['setting'] for r in done}):
        setting = dict(SETTINGS[name])
        context = setting.pop('context', False)
        config, _ = configure(STUDY['config'], setting)
        trials = joblib.Parallel(n_jobs=-1)(joblib.delayed(trial)(store.path, f, labels, config, context, f.repeat) for f in folds)
        done.append({'setting': name, **scored(trials, labels)})
        print({k: v if isinstance(v, str) else round(float(v), 3) for k, v in done[-1].items()}, flush=True)
        a.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(a.out, pd.DataFrame(done).to_csv(index=False).rstrip())


if __name__ == '__main__': main()
