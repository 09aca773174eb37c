"""The site, checked without Quarto: every page goes through nbdev's own processing, every link and picture is found.

What Quarto itself does, which is to turn processed notebooks into HTML, is not checked here; `make docs` does it.
"""
import ast
import configparser
import importlib.util
import json
import posixpath
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from site_pages import NBS, ROOT, notebooks, process, texts

from pediatric_ecg._modidx import d as index

LONGEST_LINE = 240   # of a signature; a code block of the site has about 100 columns and wraps
SETTINGS = configparser.ConfigParser()
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = SETTINGS["DEFAULT"]
HOST = SETTINGS["doc_host"] + SETTINGS["doc_baseurl"]
GIT = SETTINGS["git_url"]
SYMBOLS = index["syms"]  # module → name → (address of its documentation, file)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "Processed notebooks by name, and what failed."
    out = tmp_path_factory.mktemp("site")
    failed = process(out, notebooks())
    return {str(p.relative_to(out)): p for p in sorted(out.rglob("*.ipynb"))}, failed


def code_of(cell):
    lines = "".join(cell["source"]).splitlines()
    return "\n".join("" if re.match(r"\s*[%!]", line) else line for line in lines)


def test_imports_stand_in_cells_of_their_own():
    "nbdev runs every cell with an import when it builds the site, and with it whatever else stands there."
    mixed = []
    for notebook in notebooks():
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            source = code_of(cell)
            if cell["cell_type"] != "code" or re.match(r"#\|\s*exports?\b", source):
                continue
            tree = ast.parse(source)
            imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
            others = [node for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom))]
            if imports and others:
                mixed.append(f"{notebook.relative_to(NBS)}, cell {cell['id']}: {ast.unparse(imports[0])}")
    assert mixed == []


def test_every_page_is_processed(site):
    "And none of them asks for the real data, so the build is the same with and without it."
    pages, failed = site
    assert failed == {}
    assert len(pages) == len(notebooks())


def address(name, page):
    "Where nbdev puts the page, below the address of the site."
    front = json.loads(page.read_text(encoding="utf-8"))["cells"][0]
    file = re.search(r"^output-file: (.+)$", "".join(front["source"]), re.M).group(1)
    return str(Path(name).parent / file)


def identifier(heading):
    "The anchor that pandoc gives to a heading."
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "").lower()
    kept = re.sub(r"[^\w\s.-]", "", plain)
    return re.sub(r"^[\W\d_]+", "", re.sub(r"\s+", "-", kept.strip()))


def anchors(page):
    "Anchors of a page: its headings, explicit ones, and those of HTML."
    text = "\n\n".join(texts(page))
    headings = re.findall(r"^#{1,6} +(.+?)(?: *\{#([\w.-]+)[^}]*\})? *$", text, re.M)
    found = {explicit or identifier(title) for title, explicit in headings}
    return found | set(re.findall(r"""\bid=["']([^"']+)""", text)) | set(re.findall(r"\{#([\w.-]+)", text))


def without_code(text):
    "Markdown without what stands in code, where brackets are no link."
    text = re.sub(r"^(```|~~~).*?^\1 *$", "", text, flags=re.M | re.S)
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text)


@pytest.fixture(scope="module")
def known(site):
    "The anchors of each page."
    pages, _ = site
    return {name: anchors(page) for name, page in pages.items()}


@pytest.fixture(scope="module")
def by_address(site):
    "Pages by their addresses."
    pages, _ = site
    return {address(name, page): name for name, page in pages.items()}


def test_links_and_pictures_lead_somewhere(site, known, by_address):
    "Links to pages, anchors and files of the site; those to other hosts are left alone."
    pages, _ = site
    wrong, count = [], 0
    for name, page in pages.items():
        for text in map(without_code, texts(page)):
            targets = re.findall(r"\]\(<?([^)\s>]+)>?[^)]*\)", text)
            targets += re.findall(r"""\b(?:src|href)=["']([^"']+)""", text)
            for target in targets:
                if target.startswith(HOST):
                    path, _, anchor = target.removeprefix(HOST).lstrip("/").partition("#")
                    other = by_address.get(path or "index.html")
                elif re.match(r"[a-z]+:", target):
                    continue
                elif target.endswith(".html"):   # in HTML, whose links nobody rewrites
                    anchor, other = "", by_address.get(posixpath.normpath(f"{Path(name).parent}/{target}"))
                else:
                    path, _, anchor = target.partition("#")
                    file = (NBS / name).parent / path if path else NBS / name
                    other = None
                    if file.exists() and file.resolve().is_relative_to(NBS):
                        other = str(file.resolve().relative_to(NBS))
                count += 1
                if other is None or anchor and other in known and anchor not in known[other]:
                    wrong.append(f"{name}: {target}")
    assert count > 100
    assert sorted(set(wrong)) == []


def test_every_public_name_is_documented_on_its_page(known, by_address):
    "A signature that nbdev cannot show, such as one with a table as a default, leaves a hole and no error."
    missing = []
    for module, names in SYMBOLS.items():
        for name, (target, _) in names.items():
            path, _, anchor = target.partition("#")
            inside = name.removeprefix(f"{module}.")
            if not inside.startswith("_") and "." not in inside and anchor not in known[by_address[path]]:
                missing.append(target)
    assert missing == []


def test_links_are_not_made_twice(site):
    "nbdev links every name in backticks: a link whose words are such a name would show its Markdown."
    pages, _ = site
    twice = []
    for name, page in pages.items():
        for text in texts(page):
            twice += [f"{name}: {found}" for found in re.findall(r"\[\[`[^`]+`\]", text)]
    assert twice == []


def test_formulas_are_understood(site):
    "pandoc turns every formula into MathML; one that it does not understand would stay TeX on the page."
    pypandoc = pytest.importorskip("pypandoc", reason="pypandoc_binary is not installed")
    pages, _ = site
    text = "\n\n".join(text for page in pages.values() for text in texts(page) if "$" in text)
    command = [pypandoc.get_pandoc_path(), "--from=markdown", "--to=html5", "--mathml"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    assert [line for line in done.stderr.splitlines() if "TeX math" in line] == []
    assert done.stdout.count("<math") > 300


def signatures(page):
    "Names and the code of the signatures on a page."
    for text in texts(page):
        found = re.search(r"^#{2,5} (\S+)\n+```python\n(.*?)\n```", text, re.M | re.S)
        if found and "[source](" in text:
            yield found.groups()


def test_signatures_are_short_and_whole(site):
    "No default of a thousand letters, no type of a default that is missing, no help of a command as an annotation."
    pages, _ = site
    wrong, count = [], 0
    for name, page in pages.items():
        for title, signature in signatures(page):
            count += 1
            longest = max(map(len, re.sub(r"\]\(https?://[^)]*\)", "]", signature).splitlines()))
            if longest > LONGEST_LINE:
                wrong.append(f"{name}: {title} has a line of {longest} letters")
            for bad in ("NoneType=", ":Annotated", "](http"):
                if bad in signature:
                    wrong.append(f"{name}: {title} shows {bad}")
    assert count > 300
    assert wrong == []


def test_classes_have_docstrings_of_their_own():
    "A class without one shows that of its base on the site."
    without = []
    for file in sorted((ROOT / "pediatric_ecg").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                without.append(f"{file.relative_to(ROOT)}: {node.name}")
    assert without == []


def test_styles_stay_in_their_output():
    "A style sheet in a saved output holds for the whole page, unless it is scoped or names its own table."
    leaking = []
    for notebook in notebooks():
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                html = "".join(output.get("data", {}).get("text/html", ""))
                for style in re.findall(r"<style[^>]*>(.*?)</style>", html, re.S):
                    selectors = re.findall(r"(?:^|\})\s*([^{}@/]+)\{", style)
                    own = all(re.match(r"\.dataframe|#T_", selector.strip()) for selector in selectors)
                    if not own and not style.lstrip().startswith("@scope"):
                        leaking.append(f"{notebook.relative_to(NBS)}, cell {cell['id']}")
    assert leaking == []


def test_the_sidebar_lists_every_page_once():
    "In an order of our own; a folder that is not there yet gives an empty section."
    contents = yaml.safe_load((NBS / "sidebar.yml").read_text())["website"]["sidebar"]["contents"]
    listed = []
    for entry in contents:
        within = entry["contents"] if isinstance(entry, dict) else entry
        for pattern in [within] if isinstance(within, str) else within:
            found = sorted(str(p.relative_to(NBS)) for p in NBS.glob(pattern))
            assert found or "*" in pattern, pattern
            listed += found
    assert listed[0] == "index.ipynb" and listed[1] == "tutorials/quickstart.ipynb"
    assert sorted(listed) == sorted(set(listed))
    pages = [str(p.relative_to(NBS)) for p in notebooks()]
    assert sorted(set(pages) - set(listed)) == []


def test_settings_of_the_site_agree():
    "One account everywhere, the file that nbdev writes is in git, and what the settings name is there."
    from nbdev.quarto import _nbdev_yml

    names = ("title", "description", "branch", "git_url", "doc_host", "doc_baseurl")
    written = _nbdev_yml.format(doc_path=SETTINGS["doc_path"], **{name: SETTINGS[name] for name in names})
    assert (NBS / "nbdev.yml").read_text() == written
    config = yaml.safe_load((NBS / "_quarto.yml").read_text())
    for file in (config["website"]["favicon"], config["format"]["html"]["css"], config["bibliography"], "llms.txt"):
        assert (NBS / file).exists(), file
    user = SETTINGS["user"]
    for file in ("nbs/_quarto.yml", "nbs/llms.txt", "nbs/index.ipynb", "README.md", "CONTRIBUTING.md"):
        text = (ROOT / file).read_text(encoding="utf-8")
        for owner in re.findall(r"github\.com/([\w-]+)/pediatric_ecg|/(?:gh|github)/([\w-]+)/pediatric_ecg", text):
            assert user in owner, f"{file}: {owner}"
        assert not re.findall(rf"(?<!{user})\.github\.io/pediatric_ecg", text), file
    assert not (NBS / SETTINGS["readme_nb"]).exists()   # or nbdev_docs would rewrite README.md
    workflow = (ROOT / ".github" / "workflows" / "deploy.yaml").read_text()
    makefile = (ROOT / "Makefile").read_text()
    version = re.search(r"quarto-cli==(\S+)", makefile).group(1)
    assert f"version: {version}\n" in workflow and "run: make docs" in workflow


def test_llms_txt_names_pages_that_exist(site):
    pages, _ = site
    addresses = {address(name, page) for name, page in pages.items()}
    text = (NBS / "llms.txt").read_text(encoding="utf-8")
    links = re.findall(rf"\]\({re.escape(HOST)}/([^)#]*)", text)
    assert len(links) > 20
    assert [link for link in links if link not in addresses] == []


def test_make_docs_says_where_to_get_quarto(tmp_path):
    "Before it builds anything."
    command = ["make", "--no-print-directory", "docs", f"VENV={tmp_path / 'none'}"]
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("sh", "make"):
        (tools / tool).symlink_to(subprocess.run(["which", tool], capture_output=True, text=True).stdout.strip())
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PATH": str(tools)})
    assert done.returncode != 0 and not (tmp_path / "none").exists()
    assert "make quarto" in done.stderr and "quarto.org" in done.stderr


def test_no_page_asks_a_stranger():
    "What Quarto puts into pages with tables of pandas is taken out after it; a link to follow stays."
    spec = importlib.util.spec_from_file_location("no_strangers", ROOT / ".ci" / "no_strangers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    ours = '<p><a href="https://arxiv.org/abs/2509.19315">paper</a></p><script src="site_libs/clipboard.js"></script>'
    page = (
        '<script src="https://cdn.jsdelivr.net/npm/requirejs@2.3.6/require.min.js" crossorigin="anonymous"></script>\n'
        '<script src="https://cdn.jsdelivr.net/npm/jquery@3.5.1/dist/jquery.min.js" data-x="true"></script>\n'
        '<script type="application/javascript">define(\'jquery\', [],function() {return window.jQuery;})</script>\n'
        + ours)
    assert module.without_strangers(page) == ours
    assert module.strangers(ours) == []
    assert module.strangers('<img src="https://img.shields.io/x.svg">') == ["https://img.shields.io/x.svg"]
    assert module.strangers('@import "//fonts.googleapis.com/css2";') == ["//fonts.googleapis.com/css2"]


def test_the_command_line_page_shows_the_help_of_today():
    "The saved output holds what each command says of itself."
    from typer.testing import CliRunner

    from pediatric_ecg.cli import app

    commands = [command.name for command in app.registered_commands]
    saved = []
    for cell in json.loads((NBS / "use" / "02_cli.ipynb").read_text(encoding="utf-8"))["cells"]:
        saved += ["".join(output.get("text", "")) for output in cell.get("outputs", [])]
    words = " ".join(" ".join(saved).split())
    for command in commands:
        help_ = CliRunner().invoke(app, [command, "--help"], prog_name="pediatric-ecg").output
        for line in help_.splitlines():
            assert " ".join(line.split()) in words, f"{command}: {line}"
    assert len(commands) > 5 and sys.version_info >= (3, 11)
