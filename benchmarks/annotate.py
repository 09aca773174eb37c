"""Annotating a long record against real time: `python benchmarks/annotate.py [--quick]`.

A simulated record of 2.5 h with 19 leads at 977 Hz (a quarter of it as well) is annotated by a network of the
default size in fresh processes, on the CPU. Weights are random: what they are has no influence on the time. Start
of the process, reading, filtering, network, smoothing and the three output files are all counted, as time on the
clock and as processor time, which other work on the machine does not change. The peak memory of both lengths tells
whether it grows.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from _results import met, record, versions

from pediatric_ecg.data import LEIPZIG
from pediatric_ecg.nn import RhythmNet, RhythmNetConfig
from pediatric_ecg.sim import simulate
from pediatric_ecg.windows import Preprocess

CHILD = """
import resource, sys, time
begin = time.perf_counter()
from pediatric_ecg.annotate import annotate
found = annotate(*sys.argv[1:4])
used = resource.getrusage(resource.RUSAGE_SELF)
processor = used.ru_utime + used.ru_stime
print(found.seconds, time.perf_counter() - begin, processor, used.ru_maxrss / 1024)
"""


def network(folder: Path) -> Path:
    "A run folder with random weights."
    torch.manual_seed(0)
    classes = list(dict.fromkeys(LEIPZIG.grouping().values()))
    leads = {modality: list(names) for modality, names in LEIPZIG.modalities.items()}
    model = RhythmNet(RhythmNetConfig(modalities=leads, n_classes=len(classes), seconds=LEIPZIG.window_seconds))
    model.save(folder, {
        'classes': classes, 'seconds': LEIPZIG.window_seconds, 'preprocess': Preprocess().to_dict(),
        'database': json.loads(LEIPZIG.to_json())})
    return folder


class Measured(NamedTuple):
    "What annotating one record takes."

    signal: float  # s of signal
    clock: float  # s, median over the turns
    processor: float  # s, median over the turns
    memory: float  # MB, the largest


def measure(run, record, out, turns) -> Measured:
    "Annotate a record in fresh processes."
    command = [sys.executable, '-c', CHILD, run, record, out]
    rows = []
    for _ in range(turns):
        printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        rows.append([float(value) for value in printed.split()])
    signal, clock, processor, memory = zip(*rows)
    return Measured(signal[0], statistics.median(clock), statistics.median(processor), max(memory))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='a tenth of the length, once, nothing recorded')
    quick = parser.parse_args().quick
    length = 900 if quick else 9000
    found = {}
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        run = network(tmp/'run')
        for name, seconds in (('quarter', length/4), ('whole', length)):
            path = simulate(tmp/name, patients=1, seconds=seconds, seed=1)/'x001'
            found[name] = measure(str(run), str(path), str(tmp/'out'), 1 if quick else 3)
    for name, m in found.items():
        print(f'{name}: {m.signal:.0f} s of signal in {m.clock:.1f} s ({m.signal/m.clock:.0f} times real time), '
              f'{m.processor:.1f} s of processor, peak {m.memory:.0f} MB')
    if not quick:
        report(found['whole'], found['quarter'])


def report(whole: Measured, quarter: Measured):
    "Record the rows and print them beside their targets."
    state = {'threads': str(torch.get_num_threads()), 'load': f'{os.getloadavg()[0]:.1f}'}
    made_with = versions('torch', 'wfdb', 'scipy') | state
    rows = [
        record('annotate a 2.5 h record, 19 leads, CPU', whole.signal/whole.clock, 1., 400, 'higher',
               'seconds of signal a second', 'real time', made_with),
        record('annotate, processor time', whole.signal/whole.processor, 1., 400, 'higher',
               'seconds of signal a processor second', 'real time', made_with),
        record('annotate: peak memory', whole.memory, quarter.memory, 1.1, 'lower',
               'MB', 'the same on a quarter of the record', made_with),
    ]
    for row in rows:
        print(f'{row["name"]}: ratio {row["ratio"]}, target {row["target"]}: {"met" if met(row) else "not met"}')


if __name__ == '__main__':
    main()
