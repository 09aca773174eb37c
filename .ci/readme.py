"""README.md and the list of pages in nbs/llms.txt from the notebooks, without Quarto.

README.md is nbs/index.ipynb: markdown as it is, code in fences, text outputs indented. The pages of llms.txt, below
its first lines that are written by hand, have the order of nbs/sidebar.yml, and title and description of the notebooks.
"""
import json
import re
import sys
from configparser import ConfigParser
from pathlib import Path

import yaml

root = Path(__file__).resolve().parent.parent


def text(output: dict) -> str:
    value = output.get("text") or output.get("data", {}).get("text/plain", "")
    return "".join(value)


def readme() -> str:
    parts = []
    for cell in json.loads((root / "nbs" / "index.ipynb").read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if source.startswith(("#| hide", "#| echo: false")):   # a picture of the site; the README has its own
            continue
        if cell["cell_type"] == "markdown":
            source = re.sub(r"\]\((?!https?://|#)", "](nbs/", source)   # links are seen from nbs/
            # The page on GitHub shows whether the tests pass; the site asks no other host, and has the link alone.
            parts.append(re.sub(r"\[([^]]+)\]\((\S+/workflows/\w+\.yaml)\)", r"[![\1](\2/badge.svg)](\2)", source))
        else:
            parts.append(f"```python\n{source}\n```")
            for output in cell["outputs"]:
                lines = text(output).rstrip().splitlines()
                if lines:
                    parts.append("\n".join("    " + line for line in lines))
    return "<!-- made from nbs/index.ipynb by .ci/readme.py; edit the notebook -->\n\n" + "\n\n".join(parts) + "\n"


def entry(notebook: Path, host: str) -> str:
    first = json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]
    title, _, description, *_ = "".join(first["source"]).splitlines()
    folder = notebook.relative_to(root / "nbs").parent
    page = (folder / re.sub(r"^\d+[a-z]?_", "", notebook.stem)).as_posix()   # as nbdev calls it
    return f"- [{title.removeprefix('# ')}]({host}/{page}.html): {description.removeprefix('> ')}"


def llms() -> str:
    settings = ConfigParser()
    settings.read(root / "settings.ini", encoding="utf-8")
    host = settings["DEFAULT"]["doc_host"] + settings["DEFAULT"]["doc_baseurl"]
    parts = [(root / "nbs" / "llms.txt").read_text(encoding="utf-8").split("\n## ")[0].rstrip()]
    sidebar = yaml.safe_load((root / "nbs" / "sidebar.yml").read_text(encoding="utf-8"))
    for section in sidebar["website"]["sidebar"]["contents"]:
        if isinstance(section, str):   # the landing page, of which the first lines speak
            continue
        patterns = [section["contents"]] if isinstance(section["contents"], str) else section["contents"]
        notebooks = [path for pattern in patterns for path in sorted((root / "nbs").glob(pattern))]
        if notebooks:
            entries = [entry(path, host) for path in notebooks if path.suffix == ".ipynb"]
            parts.append("\n".join([f"## {section['section']}", "", *entries]))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    wrong = []
    for name, made in (("README.md", readme()), ("nbs/llms.txt", llms())):
        file = root / name
        if "--check" not in sys.argv:
            file.write_text(made, encoding="utf-8")
        elif file.read_text(encoding="utf-8") != made:
            wrong.append(f"{name} differs from the notebooks; run python .ci/readme.py")
    sys.exit("\n".join(wrong) or 0)
