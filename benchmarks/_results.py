"""One small table for every benchmark of the package: `record` merges a row by name into results.json beside this file."""
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).with_name('results.json')


def versions(*packages: str) -> dict[str, str]:
    "Python, the cores the run could use, and the versions of `packages` ('absent' where one is not installed)."
    found = {'python': platform.python_version(), 'cores': str(len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count())}
    for p in packages:
        try: found[p] = version(p)
        except PackageNotFoundError: found[p] = 'absent'
    return found


def record(name: str, ours: float, peer: float, target: float, better: str, unit: str, peer_name: str, versions: dict) -> dict:
    """Write one row: `ratio` is ours / peer, `target` is a bound on that ratio, `better` says which way is good.

    For `better='higher'` the target is a floor (ours / peer >= target), for `'lower'` a ceiling. A row of the same
    name is replaced; the others are kept, so that benchmarks run one at a time.
    """
    if better not in ('higher', 'lower'): raise ValueError(f"better is 'higher' or 'lower', not {better!r}")
    row = dict(name=name, ours=float(f'{ours:.6g}'), peer=float(f'{peer:.6g}'), ratio=float(f'{ours / peer:.4g}'), target=target,
               better=better, unit=unit, peer_name=peer_name, versions=versions)
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = sorted([r for r in rows if r['name'] != name] + [row], key=lambda r: r['name'])
    partial = RESULTS.with_suffix('.json.partial')   # an interrupted write never looks complete
    partial.write_text(json.dumps(rows, indent=1) + '\n')
    os.replace(partial, RESULTS)
    return row


def met(row: dict) -> bool:
    "Whether a row reaches its target."
    return row['ratio'] >= row['target'] if row['better'] == 'higher' else row['ratio'] <= row['target']
