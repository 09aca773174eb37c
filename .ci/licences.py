"""Write LICENCES.md: every package that this one needs, and the licence that its metadata names.

    python .ci/licences.py            # writes the file
    python .ci/licences.py --check    # fails where the file is not what the installed packages say
"""
import importlib.metadata
import re
import sys
from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "LICENCES.md"
INTRODUCTION = """# Licences of what this package needs

`pediatric_ecg` itself is under Apache-2.0 (`LICENSE`). None of these packages is copied into it; they are installed
beside it. Tools for development alone are not listed. PyTorch from PyPI brings NVIDIA's libraries for Linux, which are
under NVIDIA's own licences; its build for CPUs does not. This file is made by `python .ci/licences.py`, and a test
holds it against the installed packages.

| package | licence |
|---|---|
"""


def requirements(lines):
    "Names of the requirements that hold on this system."
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement.name


def plain(name):
    "A name as package indexes compare it."
    return re.sub(r"[-_.]+", "-", name).lower()


def needed():
    """Name → metadata of every package that this one needs, directly or not.

    Of those that `constraints.txt` pins: NVIDIA's libraries, which some builds of PyTorch bring, are not in it."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {plain(line.split("==")[0]) for line in lines if "==" in line}
    settings = ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    waiting = list(requirements(settings["DEFAULT"]["requirements"].split()))
    found = {}
    while waiting:
        name = plain(waiting.pop())
        if name in pinned and name not in found:
            distribution = importlib.metadata.distribution(name)
            found[name] = distribution.metadata
            waiting += requirements(distribution.requires or ())
    return dict(sorted(found.items()))


def licence(metadata):
    "What the metadata of a package says: an expression, or the names of its classifiers, or a short text."
    expression = metadata.get("License-Expression")
    if expression:
        return expression
    text = " ".join((metadata.get("License") or "").split())
    classifiers = [line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier", []) if "License ::" in line]
    if classifiers:
        return ", ".join(classifiers)
    return text if text and len(text) < 60 else "not named"


def page():
    "The text of LICENCES.md for the packages that are installed here."
    return INTRODUCTION + "".join(f"| {name} | {licence(metadata)} |\n" for name, metadata in needed().items())


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(0 if FILE.read_text(encoding="utf-8") == page() else "LICENCES.md: run python .ci/licences.py")
    FILE.write_text(page(), encoding="utf-8")
