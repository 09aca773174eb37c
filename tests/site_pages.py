"""Pages of the site without Quarto: nbdev's own processing of the notebooks, in a process of its own.

nbdev runs some cells when it builds the site: exported ones, those of imports alone, and those that show a signature.
As a script: `site_pages.py OUT NOTEBOOK…` writes the processed notebooks below OUT and prints what failed, as JSON.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from base64 import b64decode
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"


def notebooks() -> list[Path]:
    return sorted(p for p in NBS.rglob("*.ipynb") if not {".ipynb_checkpoints", "_proc"} & set(p.parts))


def process(out: Path, pages: list[Path]) -> dict[str, str]:
    "Process the notebooks into `out`; gives the name of each that failed, with the reason."
    command = [sys.executable, "-P", __file__, str(out), *map(str, pages)]
    environment = {**os.environ, "IN_TEST": "1", "MPLBACKEND": "Agg", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def texts(notebook: Path) -> list[str]:
    "The Markdown of a page: its markdown cells, and the outputs that are Markdown."
    found = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            found.append("".join(cell["source"]))
        outputs = [output.get("data", {}) for output in cell.get("outputs", [])]
        found += ["".join(data["text/markdown"]) for data in outputs if "text/markdown" in data]
    return found


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ margin: 0; font: 17px/1.5 sans-serif; background: Canvas; color: CanvasText }}
main {{ max-width: 680px; margin: 0 auto; padding: 0 12px }}
pre {{ overflow: auto; padding: .4em }}
{style}
</style></head><body><main class="content"><h1>{title}</h1>
{body}
</main></body></html>
"""


def cell_as_markdown(cell: dict, pictures: Path) -> str:
    "One cell as Quarto hands it to pandoc: code in a fence, outputs in boxes, pictures as files."
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return source
    directives = dict(re.findall(r"^#\|\s*([\w-]+)(?::\s*(.*))?$", source, re.M))
    code = re.sub(r"^#\|.*\n?", "", source, flags=re.M)
    parts = []
    if code.strip() and directives.get("echo") != "false":
        parts.append(f"``````{{.python}}\n{code}\n``````")
    for number, output in enumerate(cell.get("outputs", [])):
        data = output.get("data", {})
        picture = next((kind for kind in ("image/svg+xml", "image/png") if kind in data), None)
        if picture:
            content = "".join(data[picture])
            file = pictures / f"{cell['id']}-{number}.{'svg' if 'svg' in picture else 'png'}"
            file.write_bytes(content.encode() if "svg" in picture else b64decode(content))
            shown = f"![]({file.name})"
        elif "text/html" in data:
            shown = "``````{=html}\n" + "".join(data["text/html"]) + "\n``````"
        elif "text/markdown" in data:
            shown = "".join(data["text/markdown"])
        else:
            shown = "``````\n" + "".join(output.get("text") or data.get("text/plain", "")) + "\n``````"
        parts.append(f":::::: {{.cell-output .cell-output-display}}\n{shown}\n::::::")
    return ":::::: {.cell}\n" + "\n\n".join(parts) + "\n::::::" if parts else ""


def render(notebook: Path, out: Path) -> tuple[Path, str]:
    "A processed notebook as HTML by pandoc, on which Quarto is built, with our styles; gives the file and warnings."
    import pypandoc

    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    title = re.search(r"^title: (.+)$", "".join(cells[0]["source"]), re.M).group(1).strip("'\"")
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(NBS / "images", out / "images", dirs_exist_ok=True)
    text = "\n\n".join(cell_as_markdown(cell, out) for cell in cells[1:])
    command = [pypandoc.get_pandoc_path(), "--from=markdown", "--to=html5", "--mathml", "--wrap=none"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    style = (NBS / "styles.css").read_text(encoding="utf-8")
    file = out / f"{notebook.stem}.html"
    file.write_text(PAGE.format(title=title, style=style, body=done.stdout), encoding="utf-8")
    return file, done.stderr


def no_data():
    raise RuntimeError("a cell that the build runs asks for the real data")


def main(out: Path, pages: list[Path]) -> dict[str, str]:
    from execnb.nbio import read_nb, write_nb
    from nbdev.processors import FilterDefaults

    from pediatric_ecg import core

    core.shared = no_data   # so the site is the same with and without the data beside the project
    failed = {}
    for page in pages:
        name = str(page.relative_to(NBS))
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "Found cells containing imports and other code")
                notebook = read_nb(page)
                FilterDefaults()(notebook)
        except Exception as error:
            reason = f"{error} ({error.__cause__!r})" if error.__cause__ else str(error)
            failed[name] = reason[:500]
            continue
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        write_nb(notebook, out / name)
    return failed


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), [Path(page) for page in sys.argv[2:]])))
