"""Records → windows against wfdb and SciPy: `python benchmarks/prepare.py [--quick] [--long DIR] [--runs N]`.

Two inputs: mitdb (48 records, 2 leads, format 212, 360 Hz; 5 s windows), where the shared data is here, and one
simulated record of 2.5 hours (19 channels, format 24, 977 Hz; 2 s windows). Three ways to the same float16
windows with their labels:

  ours        `prepare` with two jobs: store, table with flags and hashes, manifest, checksums
  whole       wfdb.rdrecord, SciPy's resample_poly and sosfiltfilt on the whole record, cut, np.save
  per window  the same around each window, with as much signal on both sides as the filter reaches, timed on a sample

All outputs are compared to 1e-5 mV (against a float32 store, untimed). Ours and the peers take turns and the
medians are reported: other work on the machine slows them alike. The peers read annotations and cut with the
package's own functions, so those cost the same on both sides. torch_ecg's preprocessing is no peer here: its
band-pass is `filtfilt` in transfer-function form on one window at a time, with edges of its own, so that its
output cannot equal ours; what it does per window is the third way with less signal.
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

from pediatric_ecg.core import shared
from pediatric_ecg.data import get_database, group, read_header, segments
from pediatric_ecg.data.headers import lead_slots, record_paths
from pediatric_ecg.data.records import Reader
from pediatric_ecg.windows import Preprocess, WindowStore, cut, prepare
from pediatric_ecg.windows._resample import ceil_div, ratio, taps
from pediatric_ecg.windows.signals import apply, design, n_out, needed


def plain(x, fs, pre):
    "The steps of `signals.process` by SciPy alone: extend oddly, resample, filter both ways."
    up, down = ratio(fs, pre.fs)
    ends, n = max(round(pre.pad*fs), ceil_div(down, up) + 1), len(x)
    turns = ceil_div(ends + 10*max(up, down)//up + 2, down)  # whole turns, so that output 0 stays in its place
    extended = np.pad(x, ((turns*down, turns*down), (0, 0)), mode='reflect', reflect_type='odd')
    resampled = signal.resample_poly(extended, up, down, axis=0, window=taps(up, down))
    resampled = resampled[turns*up - ends*up//down:turns*up + (n - 1 + ends)*up//down + 1]
    filtered = signal.sosfiltfilt(design(pre), resampled, axis=0, padlen=0)
    return filtered[ends*up//down:][:n_out(n, fs, pre)]


class Job:
    "One database and how it is cut."
    def __init__(self, name, folder, tmp):
        self.name, self.folder, self.tmp = name, Path(folder), Path(tmp)
        self.db = get_database(None, folder)
        self.pre, self.seconds = Preprocess(notch=self.db.mains), self.db.window_seconds
        self.paths, self.length = record_paths(folder, self.db), round(self.db.window_seconds*250)

    def ours(self, dtype='float16'):
        out = self.tmp/f'{self.name}-{dtype}'
        shutil.rmtree(out, ignore_errors=True)
        return prepare(self.folder, out, self.db, n_jobs=2, dtype=dtype, progress=False)

    def table(self, path):
        marked = group(segments(path, self.db, folder=self.folder), self.db)
        return cut(marked, read_header(path).fs, self.seconds)

    def channels(self, path):
        slots = lead_slots(read_header(path), self.db)
        return sorted({source for sources in slots.values() for source in sources if source is not None})

    def whole(self, save=True):
        "Every record at once; returns the windows of the last one as float64."
        for number, path in enumerate(self.paths):
            table, read = self.table(path), wfdb.rdrecord(str(path), channels=self.channels(path))
            processed = plain(read.p_signal, read.fs, self.pre)
            starts = np.rint(table.start.to_numpy()*(self.pre.fs/read.fs)).astype(int)
            windows = np.stack([processed[start:start + self.length].T for start in starts])
            if save:
                np.save(self.tmp/f'whole{number}.npy', windows.astype(np.float16))
        return windows

    def per_window(self, sample, margin=True):
        "Windows (path, start, end) one by one."
        out = []
        for path, start, end in sample:
            header = read_header(path)
            lo = round(start*self.pre.fs/header.fs)
            first, last, at = start, end, 0
            if margin:
                up, down = ratio(header.fs, self.pre.fs)
                first, last = needed(header.n_samples, header.fs, self.pre, lo, lo + self.length)
                first -= first % down  # whole turns: output first*up/down falls on an input
                at = lo - first*up//down
            read = wfdb.rdrecord(str(path), sampfrom=int(first), sampto=int(last), channels=self.channels(path))
            processed = plain(read.p_signal, read.fs, self.pre)
            out.append(processed[at:at + self.length].T.astype(np.float16))
        return out


def clock(function, *arguments):
    "Seconds on the wall, of the processor (all threads), and the result."
    wall, processor = time.perf_counter(), time.process_time()
    result = function(*arguments)
    return time.perf_counter() - wall, time.process_time() - processor, result


def check(job, store):
    "Our windows of the last record against the peer's, to 1e-5 mV; and a sample of the third way."
    path = job.paths[-1]
    rows = store.table.index[store.table.record == path.name].to_numpy()
    x, _ = store.batch(rows)
    peer, channels = job.whole(save=False), job.channels(path)
    number_of = {start: number for number, start in enumerate(job.table(path).start)}
    pick, worst = [number_of[start] for start in store.table.start[rows]], 0.
    for modality, sources in lead_slots(read_header(path), job.db).items():
        for slot, source in enumerate(sources):
            there = store.present[modality][rows, slot]
            if source is not None and there.any():
                theirs = peer[pick, channels.index(source)]
                worst = max(worst, np.abs(x[modality][there, slot] - theirs[there]).max())
    assert worst < 1e-5, worst
    sample = [(path, int(store.table.start[row]), int(store.table.end[row])) for row in rows[:3]]
    for one, number in zip(job.per_window(sample), pick):
        theirs = peer[number]
        assert np.abs(one - theirs).max() <= np.abs(theirs).max()/1024 + 1e-5, 'per window'
    return worst


def speed(job, runs, results):
    "The first two rows of the table, and the store for the next ones."
    store = job.ours('float32')
    worst = check(job, store)
    count, rng = len(store), np.random.default_rng(0)
    path_of = {path.name: path for path in job.paths}
    rows = store.table.iloc[rng.choice(count, min(count, 40), replace=False)]
    sample = [(path_of[row.record], row.start, row.end) for row in rows.itertuples()]
    shutil.rmtree(store.path)
    job.ours()
    more = count/len(sample)
    ways = {'ours': (job.ours, (), 1), 'whole': (job.whole, (), 1), 'per window': (job.per_window, (sample,), more),
            'cut first': (job.per_window, (sample, False), more)}
    times, processor_times = {way: [] for way in ways}, {way: [] for way in ways}
    for _ in range(runs):
        for way, (function, arguments, scale) in ways.items():
            wall, processor, _ = clock(function, *arguments)
            times[way].append(wall*scale)
            processor_times[way].append(processor*scale)
    rate = {way: count/statistics.median(seconds) for way, seconds in times.items()}
    medians = [f'{way} {statistics.median(seconds):.2f}' for way, seconds in processor_times.items()]
    print('  processor seconds, whatever else runs: ' + ', '.join(medians))
    rounded = {way: [round(wall, 2) for wall in seconds] for way, seconds in times.items()}
    print(f'{job.name}: {count} windows, largest difference from SciPy {worst:.1e} mV; seconds {json.dumps(rounded)}')
    print(f'  ours is {rate["ours"]/rate["cut first"]:.1f}x as fast as cutting first and filtering each window '
          'by itself, whose output is wrong at the edges (not recorded)')
    unit = 'windows/s, 2 cores'
    results += [(f'prepare vs whole records, {job.name}', rate['ours'], rate['whole'], 2, 'higher', unit,
                 'wfdb.rdrecord + SciPy on whole records'),
                (f'prepare vs per window, {job.name}', rate['ours'], rate['per window'], 20, 'higher', unit,
                 'wfdb.rdrecord + SciPy per window')]


def batches(job, runs, results):
    "64 random windows from the store, against 64 slices by wfdb."
    store, rng = WindowStore(job.tmp/f'{job.name}-float16'), np.random.default_rng(1)
    path_of, ours, peer = {path.name: path for path in job.paths}, [], []

    def slices(rows):
        for row in store.table.iloc[rows].itertuples():
            _ = wfdb.rdrecord(str(path_of[row.record]), sampfrom=row.start, sampto=row.end).p_signal

    for _ in range(max(5, runs)):
        rows = rng.choice(len(store), 64, replace=False)
        for _ in range(20):  # other rows each time
            ours.append(clock(store.batch, rng.choice(len(store), 64, replace=False))[0])
        peer.append(clock(slices, rows)[0])
    results.append((f'random batch of 64, {job.name}', 1/statistics.median(ours), 1/statistics.median(peer), 500,
                    'higher', 'batches/s', '64 wfdb.rdrecord slices'))


PEAK = '''
import re, sys
sys.path.insert(0, sys.argv[3])
from prepare import Job
job = Job('memory', sys.argv[2], sys.argv[4])
job.whole(False) if sys.argv[1] == 'whole' else job.ours()
status = open('/proc/self/status').read() # ru_maxrss would count the parent's
print(int(re.search(r'VmHWM:\\s*(\\d+)', status).group(1))/1024)
'''


def peak(which, folder, tmp):
    "Peak resident memory in MB of a process that does nothing else."
    command = [sys.executable, '-c', PEAK, which, str(folder), str(Path(__file__).parent), str(tmp)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def memory(long, quarter, tmp, results):
    "The third row: at most 600 MB, and flat in the length of the record."
    ours, short, whole = peak('ours', long, tmp), peak('ours', quarter, tmp), peak('whole', long, tmp)
    print(f'peak memory: ours {ours:.0f} MB, on a record of a quarter of the length {short:.0f} MB; '
          f'whole records {whole:.0f} MB')
    results += [('prepare, peak memory', ours, 600, 1, 'lower', 'MB', 'the limit of 600 MB'),
                ('prepare, peak memory, 4 times the length', ours, short, 1.1, 'lower', 'MB',
                 'a record of a quarter of the length')]


def profile(job):
    "Where the time goes, against reading the bytes and one pass of the filter."
    path, pre = job.paths[0], job.pre
    reader = Reader(path, job.channels(path))
    total, fs = reader.header.n_samples, reader.header.fs
    count = min(total, int(600*fs))
    samples = path.with_suffix('.dat')

    def raw_bytes():
        with open(samples, 'rb') as file:
            return file.read(samples.stat().st_size*count//total)

    x = np.ascontiguousarray(reader(0, count).T)
    y = np.zeros((len(x), n_out(count, fs, pre)))
    parts = {'reading the bytes': raw_bytes, 'one pass of the filter': lambda: signal.sosfilt(design(pre), y),
             'decoding to mV': lambda: reader(0, count),
             'resampling and both passes': lambda: apply(x, 0, fs, pre, 0, y.shape[1])}
    cost = {}
    for name, part in parts.items():
        cost[name] = round(min(clock(part)[0] for _ in range(5))*1e3, 1)
    print(f'{job.name}, one block of {count/fs:.0f} s on one core, ms: {json.dumps(cost)}')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='a short record, one run, nothing recorded')
    parser.add_argument('--long', help='folder of the long simulated record, made there if absent')
    parser.add_argument('--runs', type=int, default=3)
    options = parser.parse_args()
    os.environ['OMP_NUM_THREADS'] = '1'
    from pediatric_ecg.sim import simulate
    results, runs = [], 1 if options.quick else options.runs
    with tempfile.TemporaryDirectory() as tmp:
        long = Path(options.long or f'{tmp}/long')
        if not long.exists():
            simulate(long, patients=1, seconds=300 if options.quick else 9000, seed=1)
        jobs = [Job('simulated 5 min' if options.quick else 'simulated 2.5 h', long, tmp)]
        if (data := shared()) and not options.quick:
            jobs.insert(0, Job('mitdb', data/'mitdb', tmp))
        for job in jobs:
            speed(job, runs, results)
            batches(job, runs, results)
            profile(job)
        if not options.quick:
            simulate(f'{tmp}/quarter', patients=1, seconds=2250, seed=1)
            memory(long, f'{tmp}/quarter', tmp, results)
    used = versions('wfdb', 'numpy', 'scipy', 'pandas')
    for name, ours, peer, target, better, *rest in results:
        if options.quick:
            ratio_of, missed = ours/peer, ''
        else:
            row = record(name, ours, peer, target, better, *rest, used)
            ratio_of, missed = row['ratio'], '' if met(row) else '   MISSED'
        print(f'{name:45s} {ours:10.4g} {peer:10.4g} {ratio_of:8.3g} target {target} ({better}){missed}')


if __name__ == '__main__':
    main()
