"""The comparison behind the network's and the training's defaults, on validation patients alone.

    python benchmarks/choices.py STORE [--only NAME …] [--out nbs/results/choices.csv]
    python benchmarks/choices.py STORE --only losses --out nbs/results/choices-losses.csv

About three minutes of one core per setting. STORE is the window store of mitdb (`pediatric-ecg prepare`).
The folds, epochs and windows are those of the study protocol; each setting is trained on the training patients
of three repeats of three grouped folds, to the last epoch, and scored on the *validation* patients of the same
fold. Test patients are not read. Prints and writes macro-F1 over the pooled validation windows, its mean over
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

from pediatric_ecg.experiments.recipes import STUDY, configure
from pediatric_ecg.experiments.run import make_folds, scored_labels
from pediatric_ecg.experiments.run_folder import write_csv
from pediatric_ecg.train import fit, predict
from pediatric_ecg.windows import View, WindowStore

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
    'stronger augmentation': {
        'augment': {'scale': .5, 'noise': .2, 'wander': .4, 'drop_lead': .2, 'drop_modality': .2}},
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
    'without the geometry term': {'loss_args': {'geometry': 0.}},
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
        self.seconds, self.length = 3*store.seconds, 3*store.length
        table = store.table
        length = table.end - table.start
        at = {place: row for row, place in enumerate(zip(table.record, table.start))}
        self.sides = []
        for sign in (-1, 1):
            neighbours = zip(table.record, table.start + sign*length)
            self.sides.append(np.array([at.get(place, -1) for place in neighbours]))

    def batch(self, rows):
        rows, (signals, present) = np.asarray(rows), super().batch(rows)
        left, right = (self._neighbour(side[rows], rows) for side in self.sides)
        whole = {}
        for modality, signal in signals.items():
            parts = [left[modality], signal, right[modality]]
            whole[modality] = np.concatenate(parts, -1).astype(np.float32)
        return whole, present

    def _neighbour(self, side, rows):
        there = (side >= 0)[:, None, None]
        signals, _ = super().batch(np.where(side < 0, rows, side))
        return {modality: signal*there for modality, signal in signals.items()}


def filtered(signals, present, fs, random_state, seconds=.1):
    "Each lead mixed, by chance, with itself through a random filter: another shape, the same intervals."

    def worse(signal):
        length = signal.shape[-1]
        filters = random_state.standard_normal((*signal.shape[:2], 2*round(seconds*fs/2) + 1))
        other = np.fft.irfft(np.fft.rfft(signal)*np.fft.rfft(filters, length), length)
        share = random_state.random((*signal.shape[:2], 1))
        deviation = np.maximum(other.std(-1, keepdims=True), 1e-6)
        return ((1 - share)*signal + share*other*signal.std(-1, keepdims=True)/deviation).astype(np.float32)

    return {modality: worse(signal) for modality, signal in signals.items()}, present


def flipped(signals, present, fs, random_state):
    "Each lead upside down, or not."
    turned = {}
    for modality, signal in signals.items():
        turned[modality] = signal*random_state.choice(np.float32([-1, 1]), (*signal.shape[:2], 1))
    return turned, present


def stretched(signals, present, fs, random_state, most=.15):
    "Each window up to `most` faster or slower about its middle, the same in all leads; the edge is repeated."
    first = next(iter(signals.values()))
    samples = np.arange(first.shape[-1])
    middle = first.shape[-1]/2
    rate = np.exp(random_state.uniform(-most, most, (len(first), 1)))
    at = np.clip((samples - middle)*rate + middle, 0, first.shape[-1] - 1)
    changed = {}
    for modality, signal in signals.items():
        windows = []
        for places, window in zip(at, signal):
            windows.append([np.interp(places, np.arange(signal.shape[-1]), lead) for lead in window])
        changed[modality] = np.array(windows).astype(np.float32)
    return changed, present


CHANGES = {change.__name__: change for change in (filtered, flipped, stretched)}


def trial(path, fold, labels, config, context, change, seed):
    """Truth and prediction of the fold's validation windows, and the CPU seconds of the training.

    The windows of the training alone are changed."""
    assert loss_trials.Scheduled  # so that the process of a trial imports them too
    torch.set_num_threads(1)
    store = WindowStore(path)
    if context:
        store = Context(store)
    training = View(store, change=CHANGES[change], seed=seed) if change else store
    start = time.process_time()
    without_valid = replace(fold, valid=[])  # nothing to choose by: the last epoch
    model = fit(training, without_valid, labels, config, seed).model
    seconds = time.process_time() - start
    truth = store.table['label'].to_numpy()[fold.valid]
    keep = np.isin(truth, labels)
    predicted = np.array(labels)[predict(model, store, fold.valid[keep]).argmax(1)]
    return truth[keep], predicted, seconds


def macro_f1(truth, predicted, among):
    return f1_score(truth, predicted, labels=among, average='macro', zero_division=0)


def scored(trials, labels):
    "The figures of a setting over its folds."
    truth, predicted = (np.concatenate([part[side] for part in trials]) for side in (0, 1))
    of_folds = [macro_f1(of_fold, guess, np.unique(of_fold)) for of_fold, guess, _ in trials]
    return {
        'macro_f1': macro_f1(truth, predicted, labels),
        'mean_of_folds': np.mean(of_folds),
        'top1': (truth == predicted).mean(),
        'cpu_seconds': np.mean([seconds for _, _, seconds in trials]),
    }


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('store')
    parser.add_argument(
        '--only', nargs='*', default=list(SETTINGS), help='names of settings, or losses for those of the losses')
    parser.add_argument('--out', default='nbs/results/choices.csv', type=Path)
    given = parser.parse_args()
    if given.only == ['losses']:
        given.only = list(LOSSES)
    unknown = sorted(set(given.only) - set(SETTINGS | LOSSES))
    if unknown:
        known = ', '.join(SETTINGS | LOSSES)
        raise SystemExit(f'choices: no setting {unknown[0]!r}; there are {known}')
    return given


def main():
    given = arguments()
    store, protocol = WindowStore(given.store), replace(STUDY['protocol'], repeats=3)
    labels = scored_labels(store, protocol)
    folds = [fold for fold in make_folds(store.table, labels, protocol) if fold.split == 'patient']
    done = pd.read_csv(given.out).to_dict('records') if given.out.exists() else []
    on_file = {row['setting'] for row in done}
    for name in given.only:
        if name in on_file:
            continue
        setting = dict((SETTINGS | LOSSES)[name])
        context, change = setting.pop('context', False), setting.pop('change', None)
        config, _ = configure(STUDY['config'], setting)
        jobs = []
        for fold in folds:
            jobs.append(joblib.delayed(trial)(store.path, fold, labels, config, context, change, fold.repeat))
        row = {'setting': name, **scored(joblib.Parallel(n_jobs=-1)(jobs), labels)}
        done.append(row)
        print({key: value if key == 'setting' else round(float(value), 3) for key, value in row.items()}, flush=True)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_csv(given.out, pd.DataFrame(done))


if __name__ == '__main__':
    main()
