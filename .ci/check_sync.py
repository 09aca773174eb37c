"""Fail when package or README are not what the notebooks give, or when a notebook is not clean.

Works on a copy of the project, so that a check never changes the tree it checks.
"""
import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
bin_ = Path(sys.executable).parent


def differing(a: Path, b: Path, pattern: str) -> list[str]:
    names = {p.relative_to(d) for d in (a, b) for p in d.rglob(pattern) if ".ipynb_checkpoints" not in p.parts}
    same = [n for n in names if (a / n).exists() and (b / n).exists() and filecmp.cmp(a / n, b / n, shallow=False)]
    return sorted(str(n) for n in names - set(same))


def top_level(folder: str, names: list[str]) -> set[str]:
    "What the check does not need; by its place, since a package may be called `data`."
    unneeded = {".git", ".venv", "runs", "demo", "data", "_docs", "_proc"}
    return unneeded & set(names) if Path(folder) == root else set()


with tempfile.TemporaryDirectory() as tmp:
    copy = Path(tmp) / "project"
    everywhere = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(root, copy, ignore=lambda folder, names: top_level(folder, names) | everywhere(folder, names))
    for path in (copy / "pediatric_ecg").rglob("*.py"):  # a module whose notebook is gone must not survive
        if path.name != "__init__.py":
            path.unlink()
    for command in ("nbdev_export", "nbdev_clean"):
        subprocess.run([bin_ / command], cwd=copy, check=True)
    unsynced = differing(root / "pediatric_ecg", copy / "pediatric_ecg", "*.py")
    unclean = differing(root / "nbs", copy / "nbs", "*.ipynb")

remedies = {
    "differ from what the notebooks export; run nbdev_export": unsynced,
    "are not clean; run nbdev_clean": unclean,
}
for remedy, names in remedies.items():
    if names:
        print(f"{', '.join(names)} {remedy}", file=sys.stderr)
readme = subprocess.run([sys.executable, root / ".ci" / "readme.py", "--check"]).returncode
sys.exit(bool(unsynced or unclean or readme))
