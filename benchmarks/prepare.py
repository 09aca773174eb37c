"""Records → windows against wfdb and SciPy: `python benchmarks/prepare.py [--quick] [--long DIR] [--runs N]`.

Two inputs: mitdb (48 records, 2 leads, format 212, 360 Hz; 5 s windows), where the shared data is here, and one simulated record of
2.5 hours (19 channels, format 24, 977 Hz; 2 s windows). Three ways to the same float16 windows with their labels:

  ours        `prepare` with two jobs: store, table with flags, manifest, checksums
  whole       wfdb.rdrecord, SciPy's resample_poly and sosfiltfilt on the whole record, cut, np.save
  per window  the same around each window, with as much signal on both sides as the filter reaches, timed on a sample of the windows

All outputs are compared to 1e-5 mV (against a float32 store, untimed). Ours and the peers take turns and the medians are reported: other
work on the machine slows them alike. The peers read annotations and cut with the package's own functions, so those cost the same on both sides.
torch_ecg's preprocessing is no peer here: its band-pass is `filtfilt` in transfer-function form on a window at a time, with edges of its
own, so that its output cannot equal ours; what it does a window is the third way with less signal.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import wfdb
from _results import met, record, versions
from scipy import signal

from pediatric_ecg.data.databases import get_database
from pediatric_ecg.core import shared
from pediatric_ecg.data.records import lead_slots, record_paths
from pediatric_ecg.data.headers import read_header
from pediatric_ecg.data.rhythms import group, segments
from pediatric_ecg.windows.signals import Preprocess, design, n_out, needed
from pediatric_ecg.windows._resample import ratio, taps
from pediatric_ecg.windows.store import WindowStore
from pediatric_ecg.windows.prepare import cut, prepare


def plain(x, fs, pre):
    "The steps of `signals.process` by SciPy alone: extend oddly, resample, filter both ways."
    up, down = ratio(fs, pre.fs)
    e, n = max(round(pre.pad*fs), -(-down//up) + 1), len(x)
    k = -(-(e + 10*max(up, down)//up + 2)//down)
    r = signal.resample_poly(np.pad(x, ((k*down, k*down), (0, 0)), mode='reflect', reflect_type='odd'), up, down, axis=0, window=taps(up, down))
    r = r[k*up - e*up//down:k*up + (n - 1 + e)*up//down + 1]
    return signal.sosfiltfilt(design(pre), r, axis=0, padlen=0)[e*up//down:][:n_out(n, fs, pre)]


class Job:
    "One database and how it is cut."
    def __init__(self, name, folder, tmp):
        self.name, self.folder, self.tmp = name, Path(folder), Path(tmp)
        self.db = get_database(None, folder)
        self.pre, self.seconds = Preprocess(notch=self.db.mains), self.db.window_seconds
        self.paths, self.T = record_paths(folder, self.db), round(self.db.window_seconds*250)

    def ours(self, dtype='float16'):
        out = self.tmp/f'{self.name}-{dtype}'
        shutil.rmtree(out, ignore_errors=True)
        return prepare(self.folder, out, self.db, n_jobs=2, dtype=dtype, progress=False)

    def table(self, path): return cut(group(segments(path, self.db, folder=self.folder), self.db), read_header(path).fs, self.seconds)

    def channels(self, path): return sorted({c for cs in lead_slots(read_header(path), self.db).values() for c in cs if c is not None})

    def whole(self, save=True):
        "Every record at once; returns the windows of the last one as float64."
        for i, path in enumerate(self.paths):
            t, r = self.table(path), wfdb.rdrecord(str(path), channels=self.channels(path))
            y = plain(r.p_signal, r.fs, self.pre)
            at = np.rint(t.start.to_numpy()*(self.pre.fs/r.fs)).astype(int)
            w = np.stack([y[a:a + self.T].T for a in at])
            if save: np.save(self.tmp/f'whole{i}.npy', w.astype(np.float16))
        return w

    def per_window(self, sample, margin=True):
        "Windows (path, start, end) one by one."
        out = []
        for path, start, end in sample:
            h, lo = read_header(path), round(start*self.pre.fs/read_header(path).fs)
            up, down = ratio(h.fs, self.pre.fs)
            a, b = needed(h.n_samples, h.fs, self.pre, lo, lo + self.T) if margin else (start, end)
            a -= a % down if margin else 0 # whole turns: output a*up/down falls on an input
            r = wfdb.rdrecord(str(path), sampfrom=int(a), sampto=int(b), channels=self.channels(path))
            at = lo - a*up//down if margin else 0
            out.append(plain(r.p_signal, r.fs, self.pre)[at:at + self.T].T.astype(np.float16))
        return out


def clock(f, *a):
    "Seconds on the wall, of the processor (all threads), and the result."
    t, c = time.perf_counter(), time.process_time()
    r = f(*a)
    return time.perf_counter() - t, time.process_time() - c, r


def check(job, store):
    "Our windows of the last record against the peer's, to 1e-5 mV; and a sample of the third way."
    name = job.paths[-1].name
    rows = store.table.index[store.table.record == name].to_numpy()
    x, _ = store.batch(rows)
    slots, peer = lead_slots(read_header(job.paths[-1]), job.db), job.whole(save=False)
    channels, at = job.channels(job.paths[-1]), dict(zip(job.table(job.paths[-1]).start, range(10**9)))
    pick, worst = [at[s] for s in store.table.start[rows]], 0.
    for mod, cs in slots.items():
        for k, c in enumerate(cs):
            there = store.present[mod][rows, k]
            if c is not None and there.any(): worst = max(worst, np.abs(x[mod][there, k] - peer[pick, channels.index(c)][there]).max())
    assert worst < 1e-5, worst
    one = job.per_window([(job.paths[-1], int(store.table.start[r]), int(store.table.end[r])) for r in rows[:3]])
    assert all(np.abs(a - peer[p]).max() <= np.abs(peer[p]).max()/1024 + 1e-5 for a, p in zip(one, pick)), 'per window'
    return worst


def speed(job, runs, results):
    "The first two rows of the table, and the store for the next ones."
    store32 = job.ours('float32')
    worst = check(job, store32)
    n, rng = len(store32), np.random.default_rng(0)
    where = {p.name: p for p in job.paths}
    sample = [(where[t.record], t.start, t.end) for t in store32.table.iloc[rng.choice(n, min(n, 40), replace=False)].itertuples()]
    shutil.rmtree(store32.path)
    job.ours()
    times = {'ours': [], 'whole': [], 'per window': [], 'cut first': []}
    cpu, more = {k: [] for k in times}, n/len(sample)
    for _ in range(runs):
        for k, f, args, scale in (('ours', job.ours, (), 1), ('whole', job.whole, (), 1), ('per window', job.per_window, (sample,), more), ('cut first', job.per_window, (sample, False), more)):
            wall, processor, _ = clock(f, *args)
            times[k].append(wall*scale); cpu[k].append(processor*scale)
    rate = {k: n/statistics.median(v) for k, v in times.items()}
    print('  processor seconds, whatever else runs: ' + ', '.join(f'{k} {statistics.median(v):.2f}' for k, v in cpu.items()))
    print(f'{job.name}: {n} windows, largest difference from SciPy {worst:.1e} mV; seconds ' + json.dumps({k: [round(t, 2) for t in v] for k, v in times.items()}))
    print(f'  ours is {rate["ours"]/rate["cut first"]:.1f}x as fast as cutting first and filtering each window by itself, whose output is wrong at the edges (not recorded)')
    results += [(f'prepare vs whole records, {job.name}', rate['ours'], rate['whole'], 2, 'higher', 'windows/s, 2 cores', 'wfdb.rdrecord + SciPy on whole records'),
                (f'prepare vs per window, {job.name}', rate['ours'], rate['per window'], 20, 'higher', 'windows/s, 2 cores', 'wfdb.rdrecord + SciPy per window')]


def batches(job, runs, results):
    "64 random windows from the store, against 64 slices by wfdb."
    store, rng = WindowStore(job.tmp/f'{job.name}-float16'), np.random.default_rng(1)
    where, ours, peer = {p.name: p for p in job.paths}, [], []
    for _ in range(max(5, runs)):
        rows = rng.choice(len(store), 64, replace=False)
        ours += [clock(store.batch, rng.choice(len(store), 64, replace=False))[0] for _ in range(20)] # other rows each time
        t = time.perf_counter()
        for row in store.table.iloc[rows].itertuples(): _ = wfdb.rdrecord(str(where[row.record]), sampfrom=row.start, sampto=row.end).p_signal
        peer.append(time.perf_counter() - t)
    results.append((f'random batch of 64, {job.name}', 1/statistics.median(ours), 1/statistics.median(peer), 500, 'higher', 'batches/s', '64 wfdb.rdrecord slices'))


PEAK = '''
import re, sys
sys.path.insert(0, sys.argv[3])
from prepare import Job
job = Job('memory', sys.argv[2], sys.argv[4])
job.whole(False) if sys.argv[1] == 'whole' else job.ours()
print(int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read()).group(1))/1024) # ru_maxrss would count the parent's
'''


def peak(which, folder, tmp):
    "Peak resident memory in MB of a process that does nothing else."
    p = subprocess.run([sys.executable, '-c', PEAK, which, str(folder), str(Path(__file__).parent), str(tmp)], capture_output=True, text=True, check=True)
    return float(p.stdout.split()[-1])


def memory(long, quarter, tmp, results):
    "The third row: at most 600 MB, and flat in the length of the record."
    ours, short, whole = peak('ours', long, tmp), peak('ours', quarter, tmp), peak('whole', long, tmp)
    print(f'peak memory: ours {ours:.0f} MB, on a record of a quarter of the length {short:.0f} MB; whole records {whole:.0f} MB')
    results += [('prepare, peak memory', ours, 600, 1, 'lower', 'MB', 'the limit of 600 MB'),
                ('prepare, peak memory, 4 times the length', ours, short, 1.1, 'lower', 'MB', 'a record of a quarter of the length')]


def profile(job):
    "Where the time goes, against reading the bytes and one pass of the filter."
    from pediatric_ecg.data._decode import Reader
    from pediatric_ecg.windows.signals import apply
    path, pre = job.paths[0], job.pre
    reader = Reader(path, job.channels(path))
    n, fs = reader.header.n_samples, reader.header.fs
    m = min(n, int(600*fs))
    def raw_bytes():
        with open(path.with_suffix('.dat'), 'rb') as f: return f.read(Path(f'{path}.dat').stat().st_size*m//n)
    x = np.ascontiguousarray(reader(0, m).T)
    y = np.zeros((len(x), n_out(m, fs, pre)))
    parts = {'reading the bytes': raw_bytes, 'one pass of the filter': lambda: signal.sosfilt(design(pre), y), 'decoding to mV': lambda: reader(0, m),
             'resampling and both passes': lambda: apply(x, 0, fs, pre, 0, y.shape[1])}
    cost = {k: min(clock(f)[0] for _ in range(5)) for k, f in parts.items()}
    print(f'{job.name}, one block of {m/fs:.0f} s on one core, ms: ' + json.dumps({k: round(v*1e3, 1) for k, v in cost.items()}))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--quick', action='store_true', help='a short record, one run, nothing recorded')
    p.add_argument('--long', help='folder of the long simulated record, made there if absent')
    p.add_argument('--runs', type=int, default=3)
    a = p.parse_args()
    os.environ['OMP_NUM_THREADS'] = '1'
    from pediatric_ecg.sim.simulator import simulate
    results, runs = [], 1 if a.quick else a.runs
    with tempfile.TemporaryDirectory() as tmp:
        long = Path(a.long or f'{tmp}/long')
        if not long.exists(): simulate(long, patients=1, seconds=300 if a.quick else 9000, seed=1)
        jobs = [Job('simulated 2.5 h', long, tmp)] if not a.quick else [Job('simulated 5 min', long, tmp)]
        if (data := shared()) and not a.quick: jobs.insert(0, Job('mitdb', data/'mitdb', tmp))
        for job in jobs: speed(job, runs, results); batches(job, runs, results); profile(job)
        if not a.quick:
            simulate(f'{tmp}/quarter', patients=1, seconds=2250, seed=1)
            memory(long, f'{tmp}/quarter', tmp, results)
    v = versions('wfdb', 'numpy', 'scipy', 'pandas')
    for r in results:
        row = record(*r, v) if not a.quick else dict(name=r[0], ratio=r[1]/r[2], target=r[3], better=r[4])
        print(f'{row["name"]:45s} {r[1]:10.4g} {r[2]:10.4g} {row["ratio"]:8.3g} target {row["target"]} ({row["better"]})' + ('' if a.quick or met(row) else '   MISSED'))


if __name__ == '__main__': main()
