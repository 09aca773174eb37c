"""The comparison behind the network's defaults: settings of RhythmNet on mitdb with patients held out.

    python benchmarks/choices.py [SEEDS]        (about a minute of CPU for a setting and seed)

Five rhythms (N, AFIB or AFL, P, B, T), 5 s windows at 250 Hz, at most 20, 50, 60, 30 and 30 windows of each from a patient,
five grouped folds, 6 epochs of class-balanced draws, no early stopping and no choice on test data within a run. Prints macro-F1 over
the pooled test windows, the F1 of each rhythm, and the CPU seconds of all five trainings on one thread.
"""
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
import wfdb
from scipy.signal import butter, resample_poly, sosfiltfilt
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedGroupKFold

from pediatric_ecg.databases import shared
from pediatric_ecg.model import RhythmNet, RhythmNetConfig

CLASS = {'(N': 0, '(AFIB': 1, '(AFL': 1, '(P': 2, '(B': 3, '(T': 4}
MOST = (20, 50, 60, 30, 30)   # windows of a patient and rhythm
MIDDLE = dict(widths=(32, 48, 64), stem_kernel=24, stem_stride=8, kernel=5)
SETTINGS = {
    'middle stem': MIDDLE,
    'group normalisation': MIDDLE | dict(norm='group'),
    'coarse stem (default)': {},
    'fine stem': dict(widths=(12, 24, 40, 64), stem_kernel=15, stem_stride=4, kernel=5),
    'no window gain': MIDDLE | dict(normalise='train'),
    'sinusoidal positions': MIDDLE | dict(positions='sinusoidal'),
    'mean, no cross-attention': MIDDLE | dict(fusion='mean', cross_attention=False),
    'no Transformer': MIDDLE | dict(depth=0),
}


def windows(root):
    "Windows (n, 2, 1250) mV, class and patient of each, thinned to MOST."
    sos, xs, ys, who = butter(3, [.5, 100], 'band', fs=360, output='sos'), [], [], []
    for path in sorted(root.glob('*.hea')):
        record, notes = wfdb.rdrecord(str(path.with_suffix(''))), wfdb.rdann(str(path.with_suffix('')), 'atr')
        first = record.sig_name.index('MLII' if 'MLII' in record.sig_name else 'V5')
        x = resample_poly(sosfiltfilt(sos, record.p_signal[:, [first, 1 - first]], axis=0), 25, 36, axis=0).astype(np.float32)
        marks = [(s, t.rstrip('\0')) for s, t in zip(notes.sample, notes.aux_note) if t.startswith('(')] + [(record.sig_len, '')]
        for (a, label), (b, _) in zip(marks, marks[1:]):
            for i in range(int(a*25/36), int(b*25/36) - 1249, 1250):
                if label in CLASS: xs.append(x[i:i + 1250].T); ys.append(CLASS[label]); who.append('201' if path.stem == '202' else path.stem)
    y, who, rng = np.array(ys), np.array(who), np.random.default_rng(0)
    keep = np.concatenate([rng.permutation(np.flatnonzero((who == w) & (y == c)))[:n] for w in np.unique(who) for c, n in enumerate(MOST)])
    return torch.from_numpy(np.stack([xs[i] for i in keep])), torch.from_numpy(y[keep]), who[keep]


def leads(x): return {'a': x[:, :1], 'b': x[:, 1:]}


def train(config, x, y, seed, epochs=6):
    torch.manual_seed(seed)
    net = RhythmNet(config).fit_scale(leads(x))
    opt, steps, share = torch.optim.AdamW(net.parameters(), weight_decay=.05, fused=True), epochs*len(y)//64, 1/torch.bincount(y).float()[y]
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, 3e-3, total_steps=steps)
    for _ in range(steps):
        i = torch.multinomial(share, 64, replacement=True)
        opt.zero_grad()
        F.cross_entropy(net(leads(x[i]*torch.exp(.1*torch.randn(64, 1, 1)))).logits, y[i]).backward()
        opt.step()
        plan.step()
    return net.eval()


def main(seeds=1):
    torch.set_num_threads(1)
    root = shared()
    if root is None: raise SystemExit('mitdb is not there: set PEDIATRIC_ECG_SHARED')
    x, y, who = windows(root/'mitdb')
    folds = list(StratifiedGroupKFold(5, shuffle=True, random_state=1).split(x, y, who))
    for seed in range(seeds):
        for name, change in SETTINGS.items():
            start, guess = time.process_time(), torch.zeros_like(y)
            for inside, out in folds:
                net = train(RhythmNetConfig({'a': 1, 'b': 1}, 5, **change), x[inside], y[inside], seed)
                with torch.no_grad(): guess[out] = torch.cat([net(leads(x[i])).logits.argmax(1) for i in np.array_split(out, 8)])
            f1 = f1_score(y, guess, average=None)
            print(f'seed {seed}  {name:26} macro-F1 {f1.mean():.3f}  {f1.round(2).tolist()}  {time.process_time() - start:.0f} s', flush=True)


if __name__ == '__main__': main(*map(int, sys.argv[1:]))
