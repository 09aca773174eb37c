"""What the tutorials show is what their cells assert, and every page has the same form of boxes and captions.

`make test-notebooks` runs every notebook, the tutorials too, and a cell that shows figures of a training asserts that a
new run comes near to its `saved` figures. Here, without running anything: those are the figures that the page shows.
"""
import ast
import json
import re
from importlib import import_module
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).resolve().parent.parent / "nbs"
PAGES = sorted(page for page in NOTEBOOKS.rglob("*.ipynb") if not {".ipynb_checkpoints", "_proc"} & set(page.parts))
ROUNDING = 0.0051  # of two digits, or of a tenth of a per cent with one


def cells_of(page):
    "The cells of a notebook with their sources as text."
    cells = json.loads((NOTEBOOKS / page).read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells]


def printed(cell):
    "What a cell has printed or shown as text."
    parts = []
    for output in cell.get("outputs", []):
        parts += output.get("text", []) or output.get("data", {}).get("text/plain", [])
    return "".join(parts)


def texts_of(cell):
    "What a reader of the page sees as text: a cell of text, or what a cell of code shows as such."
    if cell["cell_type"] == "markdown":
        return [cell["source"]]
    return ["".join(output.get("data", {}).get("text/markdown", "")) for output in cell.get("outputs", [])]


def saved_in(cell):
    "The literal that a cell assigns to `saved`."
    for node in ast.walk(ast.parse(cell["source"])):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "saved":
            return ast.literal_eval(node.value)
    return None


def with_saved(page):
    "The cells of a page that hold their figures against saved ones."
    return [cell for cell in cells_of(page) if cell["cell_type"] == "code" and "saved = {" in cell["source"]]


def test_quickstart_shows_the_figures_that_it_asserts():
    one_fold, whole_run = with_saved("tutorials/quickstart.ipynb")
    for split, value in saved_in(one_fold).items():
        [shown] = re.findall(rf"^{split} +top-1 (\d\.\d+)$", printed(one_fold), re.M)
        assert abs(float(shown) - value) < ROUNDING, split
    lines = [line for line in printed(whole_run).splitlines() if "[" in line]
    rows = {line.split()[0]: re.findall(r"(\d\.\d+) \[", line) for line in lines}
    for column, (_, values) in enumerate(saved_in(whole_run).items()):
        for name, value in values.items():
            assert abs(float(rows[name][column]) - value) < ROUNDING, name


def test_the_network_without_patients_shows_the_figures_that_it_asserts():
    [cell] = with_saved("tutorials/a_network_that_never_saw_a_patient.ipynb")
    last = printed(cell).split("top1")[-1]  # pandas breaks the table; top-1 stands in its last part
    for row, value in saved_in(cell).items():
        [line] = [line for line in last.splitlines() if line.startswith(row)]
        assert abs(float(re.findall(r"(\d+\.\d) \(", line)[-1])/100 - value) < ROUNDING/10, row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_each_picture_has_an_alternative_text_and_says_what_to_see(page):
    "Within four cells of its picture, written or printed with its numbers; several pictures in a row share one text."
    cells = cells_of(page)
    for number, cell in enumerate(cells):
        pictures = [output for output in cell.get("outputs", [])
                    if {"image/png", "image/svg+xml"} & set(output.get("data", {}))]
        if not pictures:
            continue
        assert re.search(r"^#\|\s*fig-alt:\s*\S", cell["source"], re.M), (number, "no alternative text")
        below = [text for later in cells[number + 1:number + 5] for text in texts_of(later)]
        assert any(text.startswith("*What to see.*") for text in below), (number, "does not say what to see")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_one_form_of_box(page):
    "What the paper states and what we chose are quotations with these two headings."
    for cell in cells_of(page):
        if cell["cell_type"] == "markdown":
            for other in ("**The paper", "**Ours", "**Our choice:**", "**Our choice**", "callout-note", "What to see:"):
                assert other not in cell["source"], (cell["id"], other)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_what_a_cell_makes_to_be_shown_is_shown(page):
    "A notebook shows the last expression of a cell; a text or a picture before it is made and lost."
    for cell in cells_of(page):
        if cell["cell_type"] != "code":
            continue
        lines = ["" if re.match(r"\s*[%!]", line) else line for line in cell["source"].splitlines()]
        for node in ast.parse("\n".join(lines)).body[:-1]:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                assert ast.unparse(node.value.func) not in ("Markdown", "HTML", "Image", "SVG"), cell["id"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_code_is_spoken_of(page):
    "No more than six cells of code follow one another without a word between them."
    in_a_row = 0
    for cell in cells_of(page):
        if cell["cell_type"] == "markdown":
            in_a_row = 0
        elif not cell["source"].startswith("#| hide"):
            in_a_row += 1
        assert in_a_row <= 6, cell["id"]


def test_the_page_of_public_names_shows_every_name_of_a_package():
    "As it was saved: who adds a name runs the page anew."
    shown = "".join(text for cell in cells_of("use/07_names.ipynb") for text in texts_of(cell))
    missing = []
    for face in sorted((NOTEBOOKS.parent / "pediatric_ecg").glob("*/__init__.py")):
        names = import_module(f"pediatric_ecg.{face.parent.name}").__all__
        missing += [f"{face.parent.name}.{name}" for name in names if f"| [{name}](" not in shown]
    assert missing == []
