"""How long a user waits before anything happens: the help text, and the import of the package of records.

    python benchmarks/start.py

Processor time of a fresh process, the least of five: other programs of the machine then change little.
"""
import resource
import subprocess
import sys

from _results import met, record, versions

STARTS = {  # what → arguments of Python, and seconds that it may take
    'pediatric-ecg --help': (['-m', 'pediatric_ecg.cli', '--help'], 1.0),
    'import pediatric_ecg.data': (
        ['-c', 'import pediatric_ecg.data, sys; sys.exit("torch" in sys.modules)'], 1.5),  # torch is not imported
}


def processor_seconds(arguments: list) -> float:
    "Of one fresh process; it must end well."
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    for name, (arguments, most) in STARTS.items():
        seconds = min(processor_seconds(arguments) for _ in range(5))
        row = record(
            name, seconds, most, 1, 'lower', 'processor seconds', f'the limit of {most:g} s',
            versions('typer', 'pandas', 'wfdb'))
        print(f'{name}: {seconds:.2f} s, limit {most:g} s{"" if met(row) else ": missed"}')


if __name__ == '__main__':
    main()
