"""One table for every benchmark of the package: `record` merges a row by name into results.json beside this file."""
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pediatric_ecg.core import write_json

RESULTS = Path(__file__).with_name('results.json')


def cores() -> int:
    "How many cores this process may use."
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def versions(*packages: str) -> dict[str, str]:
    "Python, the cores the run could use, and the versions of `packages` ('absent' where one is not installed)."
    found = {'python': platform.python_version(), 'cores': str(cores())}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = 'absent'
    return found


def record(
    name: str,  # Of the row; a row of the same name is replaced, the others are kept
    ours: float,
    peer: float,
    target: float,  # Bound on the ratio ours / peer
    better: str,  # 'higher': the bound is a floor; 'lower': a ceiling
    unit: str,
    peer_name: str,
    versions: dict,
) -> dict:
    "Write one row with the ratio of ours and the peer's; benchmarks run one at a time."
    if better not in ('higher', 'lower'):
        raise ValueError(f"better is 'higher' or 'lower', not {better!r}")
    row = {
        'name': name,
        'ours': float(f'{ours:.6g}'),
        'peer': float(f'{peer:.6g}'),
        'ratio': float(f'{ours / peer:.4g}'),
        'target': target,
        'better': better,
        'unit': unit,
        'peer_name': peer_name,
        'versions': versions,
    }
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = [r for r in rows if r['name'] != name] + [row]
    write_json(RESULTS, sorted(rows, key=lambda r: r['name']))
    return row


def met(row: dict) -> bool:
    "Whether a row reaches its target."
    return row['ratio'] >= row['target'] if row['better'] == 'higher' else row['ratio'] <= row['target']


def table(rows: list) -> str:
    "All rows in one table: ratio, target and whether it was missed; below it how many were."
    lines = [f'{"":78} {"ours":>9} {"peer":>9} {"ratio":>8}  target']
    for row in rows:
        sign, missed = '≥' if row['better'] == 'higher' else '≤', '' if met(row) else '  missed'
        lines.append(f'{row["name"]:78.78} {row["ours"]:9.4g} {row["peer"]:9.4g} {row["ratio"]:8.4g}  '
                     f'{sign} {row["target"]:g}{missed}')
    missed = sum(not met(row) for row in rows)
    return '\n'.join([*lines, f'{len(rows)} ratios, {missed} of them missed their target'])


if __name__ == '__main__':
    print(table(json.loads(RESULTS.read_text())))
