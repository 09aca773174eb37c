"""How much faster than real time the simulator writes 19 channels on one core, and its peak memory.

`python benchmarks/simulator.py [--quick]`. Each run is a process of its own, so that its peak memory is its own.
The clock is the processor time of that process (other processes do not lengthen it) and covers everything:
events, waves, noise, files. The peer is real time: one second of record per second of work.
"""
import argparse
import json
import statistics
import subprocess
import sys

from _results import met, record, versions

CODE = """
import json, resource, sys, tempfile, time, warnings
from pathlib import Path
from pediatric_ecg.sim import simulate
with tempfile.TemporaryDirectory() as tmp:
    start = time.process_time()
    simulate(Path(tmp)/'db', patients=1, seconds={seconds}, seed={seed}, layout='standard')
    speed = {seconds}/(time.process_time() - start)
    print(json.dumps([speed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024]))
"""


def run(seconds: int, seed: int) -> tuple[float, float]:
    "Seconds of record per second of processor time, and peak memory in MiB."
    code = CODE.format(seconds=seconds, seed=seed)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    help_text = 'a tenth of the length, nothing recorded'
    parser.add_argument('--quick', action='store_true', help=help_text)
    quick = parser.parse_args().quick
    short, long, runs = (30, 600, 1) if quick else (300, 9000, 3)
    speed, memory = {}, {}
    for seconds in (short, long):
        results = [run(seconds, seed) for seed in range(runs)]
        speed[seconds] = statistics.median(result[0] for result in results)
        memory[seconds] = max(result[1] for result in results)
        times, peak = speed[seconds], memory[seconds]
        print(f'{seconds:5d} s of 19 channels: {times:.0f} x real time, peak {peak:.0f} MiB')
    if quick:
        return
    packages = versions('numpy', 'scipy', 'wfdb')
    rows = [
        record(
            f'simulate {short} s, 19 channels, one core',
            speed[short], 1, 100, 'higher', 'x real time', 'real time', packages,
        ),
        record(
            f'simulate: peak memory, {long} s against {short} s',
            memory[long], memory[short], 1.1, 'lower', 'MiB', f'{short} s', packages,
        ),
    ]
    for row in rows:
        print(row['name'], row['ratio'], 'met' if met(row) else 'NOT met')


if __name__ == '__main__':
    main()
