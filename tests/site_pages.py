"""Pages of the site without Quarto: nbdev's own processing of the notebooks, in a process of its own.

nbdev runs some cells when it builds the site: exported ones, those of imports alone, and those that show a signature.
As a script: `site_pages.py OUT NOTEBOOK…` writes the processed notebooks below OUT and prints what failed, as JSON.
"""
import json
import os
import subprocess
import sys
import warnings
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
