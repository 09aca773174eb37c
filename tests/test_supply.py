"""What comes with the package, what it connects to, and what its tables and pages do with names that others chose."""
import ast
import importlib.util
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from made_up_run import made_up_run

from pediatric_ecg.core import csv_plain, csv_safe
from pediatric_ecg.experiments import RunFolder
from pediatric_ecg.experiments.run_folder import read_predictions, write_csv
from pediatric_ecg.report import build_report

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pediatric_ecg"

IMPORTED = """
import importlib, pkgutil, socket, sys

def refused(*arguments, **more):
    raise SystemExit("an import opens a connection")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refused
import pediatric_ecg
names = [module.name for module in pkgutil.walk_packages(pediatric_ecg.__path__, "pediatric_ecg.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_no_import_opens_a_connection():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", IMPORTED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


def test_the_guard_of_these_tests_refuses_other_machines():
    "Every test runs with it; a server of a test on this machine is let through."
    import socket

    with pytest.raises(pytest.fail.Exception, match="192.0.2.1"):
        socket.create_connection(("192.0.2.1", 80), timeout=0.1)
    with pytest.raises(pytest.fail.Exception, match="example.org"):
        socket.getaddrinfo("example.org", 80)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass


def test_the_data_package_waits_for_nothing_heavy():
    "Whoever reads headers and rhythms waits for no network, no picture and no classifier."
    script = ("import sys, pediatric_ecg.data\n"
              "print([name for name in ('torch', 'lightning_fabric', 'matplotlib', 'sklearn', 'captum', 'jinja2', "
              "'soundfile') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ── no code from data ──

RUNS_CODE = {"eval", "exec", "compile", "__import__", "execfile"}
MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve", "cloudpickle", "yaml", "code", "runpy"}
LOADS = {("torch", "load"), ("joblib", "load"), ("os", "system"), ("os", "popen")}


def risky(tree):
    "Calls and imports that would run what a file says."
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield node.module
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in RUNS_CODE:
            yield called.id
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            if (called.value.id, called.attr) in LOADS:
                yield f"{called.value.id}.{called.attr}"
        for keyword in node.keywords:
            value = getattr(keyword.value, "value", None)
            if keyword.arg in ("allow_pickle", "shell") and value is not False:
                yield keyword.arg


def test_what_is_risky_is_found():
    text = "import pickle\nfrom dill import load\neval(x)\ntorch.load(f)\nnp.load(f, allow_pickle=True)\nmodel.eval()"
    assert list(risky(ast.parse(text))) == ["pickle", "dill", "eval", "torch.load", "allow_pickle"]


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_no_file_becomes_code(file):
    assert list(risky(ast.parse(file.read_text(encoding="utf-8")))) == []


# ── dependencies ──


def settings():
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def plain(name):
    "The name of a package as everybody spells it."
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(file):
    "Name → version of a file of pinned packages."
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    return {plain(name): version for name, version in found}


def test_every_package_of_the_lock_has_a_hash_and_the_pinned_version():
    blocks = re.split(r"\n(?=[\w.-]+==)", (ROOT / "requirements.lock").read_text(encoding="utf-8"))[1:]
    assert all("--hash=sha256:" in block for block in blocks)
    lock, constraints = pinned("requirements.lock"), pinned("constraints.txt")
    assert len(blocks) == len(lock) or "\n#" in blocks[0]
    needed = [plain(re.split("[<>=]", name)[0]) for name in settings()["requirements"].split()]
    assert set(needed) <= set(lock), "run make lock"
    assert {name: lock[name] for name in lock if constraints.get(name, lock[name]) != lock[name]} == {}
    on_one_system = ("nvidia-", "cuda-", "triton", "colorama")
    assert [name for name in lock if name not in constraints and not name.startswith(on_one_system)] == []


def licences():
    "The script that makes LICENCES.md."
    spec = importlib.util.spec_from_file_location("licences", ROOT / ".ci" / "licences.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_licences_are_listed_and_allow_any_use():
    "As the installed packages name them; none asks that this package be put under its own licence."
    page = (ROOT / "LICENCES.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| (\S+) \| (.+) \|$", page, re.MULTILINE))
    for name, metadata in licences().needed().items():
        assert listed.get(name) == licences().licence(metadata), f"{name}: run python .ci/licences.py"
    known = "Apache|BSD|MIT|PSF|Python Software Foundation|MPL|Mozilla|ISC|HPND|Zlib"
    of_packages = {name: text for name, text in listed.items() if name not in ("package", "---")}
    assert {name: text for name, text in of_packages.items() if not re.search(known, text) or "GPL" in text} == {}


def test_one_version_everywhere():
    version = settings()["version"]
    assert f'__version__ = "{version}"' in (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


# ── names that others chose ──

HOSTILE = [
    "=HYPERLINK(\"http://x\")", "+1+1", "-2", "@SUM(A1)", "'=1", "<script>alert(1)</script>", "\"><img src=x>", "a,b",
]


@budget(deadline=None)
@given(st.lists(st.text("='+-@\t\r aN,\"\n<", max_size=6), min_size=1, max_size=8))
def test_a_table_comes_back_and_holds_no_formula(texts):
    table = pd.DataFrame({"record": texts, "start": range(-1, len(texts) - 1)})
    safe = csv_safe(table)
    assert not [text for text in safe.record if text[:1] in tuple("=+-@\t\r") and text]
    assert csv_plain(safe).equals(table)


def hostile_run(folder):
    "The made-up run with records, patients and a rhythm of hostile names."
    run = RunFolder(made_up_run(folder))
    predictions = run.predictions
    for column in ("record", "subject"):
        names = predictions[column].unique()
        other = {name: f"{HOSTILE[number % len(HOSTILE)]}{number}" for number, name in enumerate(names)}
        predictions[column] = predictions[column].map(other)
    run.write(predictions=predictions)
    return run, predictions


def test_predictions_hold_no_formula_and_are_read_as_they_were(tmp_path):
    run, predictions = hostile_run(tmp_path / "run")
    raw = pd.read_csv(run.folder / "predictions.csv", dtype=str, keep_default_na=False)
    for column in ("record", "subject", "truth", "prediction"):
        assert not raw[column].str.match("[=+@\t\r-]").any(), column
    assert set(run.predictions.record) == set(predictions.record)
    assert run.predictions.subject.tolist() == predictions.subject.tolist()


def test_a_table_of_results_holds_no_formula(tmp_path):
    "Settings of a grid are texts too."
    write_csv(tmp_path / "results.csv", pd.DataFrame({"loss": ["=1+1", "ce"], "split": "patient", "macro_f1": -0.5}))
    assert (tmp_path / "results.csv").read_text() == "loss,split,macro_f1\n'=1+1,patient,-0.5\nce,patient,-0.5\n"


def test_old_tables_are_read_as_they_are(tmp_path):
    "A run of an earlier version has no apostrophes."
    made_up_run(tmp_path / "run")
    table = read_predictions(tmp_path / "run" / "predictions.csv")
    raw = pd.read_csv(tmp_path / "run" / "predictions.csv", dtype=str, keep_default_na=False)
    assert table.record.tolist() == raw.record.tolist() and table.truth.tolist() == raw.truth.tolist()


def test_the_page_and_the_card_show_hostile_names_as_text(tmp_path):
    run, _ = hostile_run(tmp_path / "run")
    page = build_report(run.folder).read_text()
    card = (run.folder / "model_card.md").read_text()
    for text in (page, card):
        assert "<script" not in text and "<img src=x" not in text
