"""Annotating a long record against real time: `python benchmarks/annotate.py [--quick]`.

A simulated record of 2.5 h with 19 leads at 977 Hz (a quarter of it as well) is annotated by a network of the default size
in fresh processes, on the CPU. Weights are random: what they are has no influence on the time. Start of the process, reading,
filtering, network, smoothing and the three output files are all counted, as time on the clock and as processor time, which other
work on the machine does not change. The peak memory of both lengths tells whether it grows.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from _results import met, record, versions

from pediatric_ecg.data.databases import LEIPZIG
from pediatric_ecg.nn.rhythmnet import RhythmNet, RhythmNetConfig
from pediatric_ecg.windows.signals import Preprocess
from pediatric_ecg.sim.simulator import simulate

CHILD = """
import resource, sys, time
begin = time.perf_counter()
from pediatric_ecg.annotate import annotate
found = annotate(*sys.argv[1:4])
used = resource.getrusage(resource.RUSAGE_SELF)
print(found.seconds, time.perf_counter() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


def network(folder: Path) -> Path:
    "A run folder with random weights."
    torch.manual_seed(0)
    classes = list(dict.fromkeys(LEIPZIG.grouping().values()))
    model = RhythmNet(RhythmNetConfig(modalities={m: list(v) for m, v in LEIPZIG.modalities.items()}, n_classes=len(classes), seconds=LEIPZIG.window_seconds))
    model.save(folder, {'classes': classes, 'seconds': LEIPZIG.window_seconds, 'preprocess': Preprocess().to_dict(), 'database': json.loads(LEIPZIG.to_json())})
    return folder


def measure(run, path, out, turns) -> tuple[float, float, float, float]:
    "Length of the record, median seconds on the clock and of the processor, largest MB."
    rows = [[float(v) for v in subprocess.run([sys.executable, '-c', CHILD, run, path, out], stdout=subprocess.PIPE, text=True, check=True).stdout.split()] for _ in range(turns)]
    return rows[0][0], statistics.median(r[1] for r in rows), statistics.median(r[2] for r in rows), max(r[3] for r in rows)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--quick', action='store_true', help='a tenth of the length, once, nothing recorded')
    a = p.parse_args()
    long = 900 if a.quick else 9000
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        run = network(tmp/'run')
        found = {}
        for name, seconds in (('quarter', long/4), ('whole', long)):
            path = simulate(tmp/name, patients=1, seconds=seconds, seed=1)/'x001'
            found[name] = measure(str(run), str(path), str(tmp/'out'), 1 if a.quick else 3)
    for name, (s, t, cpu, mb) in found.items(): print(f'{name}: {s:.0f} s of signal in {t:.1f} s ({s/t:.0f} times real time), {cpu:.1f} s of processor, peak {mb:.0f} MB')
    (s, t, cpu, mb), (_, _, _, mb4) = found['whole'], found['quarter']
    v = versions('torch', 'wfdb', 'scipy') | {'threads': str(torch.get_num_threads()), 'load': f'{os.getloadavg()[0]:.1f}'}
    if not a.quick:
        rows = [record('annotate a 2.5 h record, 19 leads, CPU', s/t, 1., 200, 'higher', 'seconds of signal a second', 'real time', v),
                record('annotate, processor time', s/cpu, 1., 200, 'higher', 'seconds of signal a processor second', 'real time', v),
                record('annotate: peak memory', mb, mb4, 1.1, 'lower', 'MB', 'the same on a quarter of the record', v)]
        for r in rows: print(f'{r["name"]}: ratio {r["ratio"]}, target {r["target"]}: {"met" if met(r) else "not met"}')


if __name__ == '__main__': main()
