"""The plan of the house: which package may import which, which names each shows, and how wide a line may be."""
import ast
import builtins
import dis
import importlib
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not {".ipynb_checkpoints", "_proc"} & set(p.parts))
# A package imports only from packages to its left.
ORDER = ["core", "surroundings", "figures", "data", "sim", "windows", "splits", "nn", "losses", "train", "evaluate",
         "experiments", "report", "annotate", "explain", "classifier",
         "onnx_export", "view", "cli"]
PACKAGES = ORDER[3:13]
WIDTH = 120


def code_cells(notebook, exported=False):
    "Sources of the code cells of a notebook; only those that the package is made of, if wanted."
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and (not exported or re.match(r"#\|\s*exports?\b", source)):
            yield source


def parsed(source):
    "The syntax tree of a cell, without the lines that only IPython understands."
    return ast.parse("\n".join("" if re.match(r"\s*[%!]", line) else line for line in source.splitlines()))


def module_of(notebook):
    "Dotted name of the module that a notebook exports, without the package; None if it exports none."
    found = (re.search(r"#\|\s*default_exp\s+([\w.]+)", source) for source in code_cells(notebook))
    return next((match.group(1) for match in found if match), None)


NOTEBOOK_OF = {module: n for n in NOTEBOOKS if (module := module_of(n))}


def house_imports(source):
    "Modules of this package that a piece of code imports, late imports inside functions too."
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            ours = [alias.name for alias in node.names if alias.name.startswith("pediatric_ecg.")]
            yield from (name.removeprefix("pediatric_ecg.") for name in ours)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pediatric_ecg":
            inside = node.module.removeprefix("pediatric_ecg").lstrip(".")
            for alias in node.names:
                longer = f"{inside}.{alias.name}".lstrip(".")
                yield longer if longer in NOTEBOOK_OF or longer in PACKAGES else inside


@pytest.mark.parametrize("module", sorted(NOTEBOOK_OF))
def test_imports_go_to_the_left(module):
    "No package imports one to its right, no notebook a later one of its folder, and nothing imports the command line."
    package, notebook = module.split(".")[0], NOTEBOOK_OF[module]
    for source in code_cells(notebook, exported=True):
        for imported in house_imports(source):
            other = imported.split(".")[0]
            if not other:   # from pediatric_ecg import __version__
                continue
            if other == package:
                assert imported in NOTEBOOK_OF, f"{notebook}: imports the face of its own package"
                assert NOTEBOOK_OF[imported].name <= notebook.name, f"{notebook}: imports the later {imported}"
            else:
                allowed = ORDER[:ORDER.index(package)]
                if package in ("nn", "losses"):
                    allowed = ORDER[:3] + (["nn"] if package == "losses" else [])
                assert other in allowed, f"{notebook}: imports {imported}"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_examples_need_no_later_notebook(notebook):
    "A reader meets nothing of a folder before its own chapter, in examples and slow cells either."
    for source in code_cells(notebook):
        for imported in house_imports(source):
            if imported in NOTEBOOK_OF and NOTEBOOK_OF[imported].parent == notebook.parent:
                assert NOTEBOOK_OF[imported].name <= notebook.name, f"{notebook}: needs the later {imported}"


def test_folder_is_package():
    "A notebook in the folder of a package exports a module of that package, numbers give the order and occur once."
    for module, notebook in NOTEBOOK_OF.items():
        if notebook.parent.name in PACKAGES:
            assert module.split(".")[0] == notebook.parent.name, notebook
    for folder in PACKAGES:
        numbers = Counter(p.name[:2] for p in NOTEBOOKS if p.parent.name == folder)
        assert max(numbers.values()) == 1, folder


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebook_begins_with_title_and_one_sentence(notebook):
    "nbdev makes the first line of the quotation the description of page and module: it stands on one line."
    first = json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]
    lines = "".join(first["source"]).splitlines()
    assert lines[0].startswith("# ") and lines[2].startswith("> "), notebook
    assert not any(line.startswith(">") for line in lines[3:]), notebook


def face(package):
    "The names that a package shows."
    return importlib.import_module(f"pediatric_ecg.{package}").__all__


def test_faces_show_what_a_user_needs():
    "Each package shows few names, each with its own docstring, and no name stands for two things."
    shown = [(name, package) for package in PACKAGES for name in face(package)]
    assert 50 <= len(shown) <= 80, len(shown)
    twice = [name for name, times in Counter(name for name, _ in shown).items() if times > 1]
    for name in twice:   # a name may be shown by two packages if it is the same thing
        things = {id(getattr(importlib.import_module(f"pediatric_ecg.{p}"), name)) for n, p in shown if n == name}
        assert len(things) == 1, name
    for name, package in shown:
        value = getattr(importlib.import_module(f"pediatric_ecg.{package}"), name)
        if callable(value):
            assert value.__doc__ and len(value.__doc__.split()) > 3, f"{package}.{name}"


@pytest.mark.parametrize("file", sorted((ROOT / "tests").glob("*.py")), ids=lambda file: file.name)
def test_tests_import_what_users_import(file):
    "A name that a package shows is imported from its face."
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pediatric_ecg."):
            package, *inside = node.module.split(".")[1:]
            if package in PACKAGES and inside:
                assert not {alias.name for alias in node.names} & set(face(package)), node.module


def test_one_name_one_thing():
    "A public name is defined in one module only; the command line's commands are named like what they call."
    homes = {}
    for module, notebook in NOTEBOOK_OF.items():
        if module == "cli":
            continue
        for source in code_cells(notebook, exported=True):
            for node in parsed(source).body:
                names = [getattr(node, "name", None)]
                if isinstance(node, (ast.Assign, ast.AnnAssign)):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    names = [t.id for t in targets if isinstance(t, ast.Name)]
                patched = any("patch" in ast.unparse(d) for d in getattr(node, "decorator_list", ()))
                for name in names:
                    if name and not name.startswith("_") and not patched:
                        homes.setdefault(name, set()).add(module)
    assert {name: sorted(where) for name, where in homes.items() if len(where) > 1} == {}


def globals_read(code):
    "Names that a piece of compiled code, or a function inside it, looks up in its module."
    yield from (line.argval for line in dis.get_instructions(code) if line.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for constant in code.co_consts:
        if hasattr(constant, "co_code"):
            yield from globals_read(constant)


@pytest.mark.parametrize("module", sorted(NOTEBOOK_OF))
def test_every_name_is_there_and_defined_once(module):
    "A merge that keeps two versions of a function, or drops a helper, shows here and not at a user's."
    loaded = importlib.import_module(f"pediatric_ecg.{module}")
    source = Path(loaded.__file__).read_text(encoding="utf-8")
    there = {*vars(loaded), *dir(builtins), "__module__", "__qualname__", "__annotations__"}
    inner = {node.id for scope in ast.walk(ast.parse(source)) if isinstance(scope, ast.ClassDef)
             for node in ast.walk(scope) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert sorted(set(globals_read(compile(source, module, "exec"))) - there - inner) == []
    names = Counter(node.name for node in ast.parse(source).body
                    if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.decorator_list)
    assert [name for name, times in names.items() if times > 1] == []


def test_private_names_stay_in_their_module():
    "A name that begins with an underscore may change without a word; who needs it elsewhere gives it another name."
    taken = []
    for module, notebook in NOTEBOOK_OF.items():
        for source in code_cells(notebook, exported=True):
            for node in ast.walk(parsed(source)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pediatric_ecg":
                    names = [alias.name for alias in node.names]
                    is_private = [name.startswith("_") and not name.startswith("__") for name in names]
                    taken += [f"{module}: {name}" for name, private in zip(names, is_private) if private]
    assert taken == []


def test_classes_are_whole():
    "Methods stand in their class: `@patch` on a class of ours would hide them from editors and type checkers."
    for module, notebook in NOTEBOOK_OF.items():
        for source in code_cells(notebook, exported=True):
            assert "@patch" not in source, f"{notebook}: @patch"


@pytest.mark.parametrize("folder", ["nbs", "tests", "benchmarks", ".ci"])
def test_lines_are_readable(folder):
    "No line of code is wider than 120 columns."
    wide = []
    for file in NOTEBOOKS if folder == "nbs" else sorted((ROOT / folder).glob("*.py")):
        sources = code_cells(file) if file.suffix == ".ipynb" else [file.read_text(encoding="utf-8")]
        for source in sources:
            wide += [f"{file.relative_to(ROOT)}: {line[:60]}…" for line in source.splitlines() if len(line) > WIDTH]
    assert wide == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_no_page_shows_a_warning(notebook):
    "What a cell writes to stderr while it is saved (fonts, progress, warnings) is no part of a page."
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        shown = ["".join(output["text"]) for output in cell.get("outputs", []) if output.get("name") == "stderr"]
        assert shown == [], notebook


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_no_page_takes_the_colours_of_matplotlib(notebook):
    "Its blue and purple, and its red and green, look alike to many readers."
    assert [source for source in code_cells(notebook) if "'tab:" in source] == []


def test_percentages_stand_apart_from_their_sign():
    "`87 %` in every sentence of the package: the format `:.0%` would print `87%`."
    tight = [f"{file.name}: {line.strip()[:60]}" for file in sorted((ROOT / "pediatric_ecg").rglob("*.py"))
             for line in file.read_text(encoding="utf-8").splitlines() if re.search(r":[.,0-9]*%\}", line)]
    assert tight == []


def test_links_of_the_readme_lead_somewhere():
    "The README is made from `nbs/index.ipynb`; its links must be right from the root."
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    here = [link for link in links if not link.startswith("http")]
    assert len(here) > 50
    assert [link for link in here if not (ROOT / link).exists()] == []


USER = '''
from pathlib import Path

import torch

from pediatric_ecg.data import LEIPZIG, Database, segments
from pediatric_ecg.losses import AGCACL, PatientAGCACL, make_objective
from pediatric_ecg.nn import RhythmNet, RhythmNetConfig
from pediatric_ecg.splits import LeakError, audit, patient_folds
from pediatric_ecg.windows import WindowStore, prepare

mine = Database("mine", "A database of mine", modalities={"ecg": ("II", "V1")}, markers={"(N": "sinus rhythm"})
again = Database.from_json(mine.to_json())
classes: dict[str, str] = LEIPZIG.grouping("default")

store: WindowStore = prepare(Path("data"), Path("store"), database=again, seconds=2.0)
folds = patient_folds(store.table, 5)
try:
    audit(store.table, folds)
except LeakError as leak:
    print(leak.findings)
signals, present = store.batch([0, 1])

network = RhythmNet(RhythmNetConfig({"ecg": 2}, 5))
network = RhythmNet.load("run")
output = network({"ecg": torch.zeros(8, 2, 500)})
best: torch.Tensor = output.logits.argmax(1)

loss = AGCACL([100, 10, 5], dim=16)
value: torch.Tensor = loss(torch.randn(8, 16), torch.zeros(8, dtype=torch.long))
value.backward()
likeness: torch.Tensor = loss.similarity()
harder: torch.Tensor = loss.psi_matrix()
labels = torch.tensor([0, 1, 1])
counted: AGCACL = AGCACL.from_labels(labels, dim=16)
rows: torch.Tensor = counted.prototypes
embeddings = torch.randn(3, 16)
nearest: torch.Tensor = loss.predict(embeddings)
loss.logits(embeddings)
loss.reset()
PatientAGCACL([10, 5], 16, patients=3)(embeddings, labels, patient=labels)
make_objective("agcacl", [10, 5], 16)(embeddings[:, :2], embeddings, labels)
table = segments("data/p1", again)
'''


def test_a_users_script_type_checks(tmp_path):
    "What the package promises with `py.typed`: mypy understands a script that uses it."
    pytest.importorskip("mypy")
    script = tmp_path / "user.py"
    script.write_text(USER)
    command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", "--follow-imports=silent",
               "--cache-dir", str(tmp_path / "cache"), str(script)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
