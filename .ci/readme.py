"""README.md from nbs/index.ipynb, without Quarto: markdown as it is, code in fences, text outputs indented."""
import json
import re
import sys
from pathlib import Path

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
            parts.append(re.sub(r"\]\((?!https?://|#)", "](nbs/", source))   # links are seen from nbs/
        else:
            parts.append(f"```python\n{source}\n```")
            for output in cell["outputs"]:
                lines = text(output).rstrip().splitlines()
                if lines:
                    parts.append("\n".join("    " + line for line in lines))
    return "<!-- made from nbs/index.ipynb by .ci/readme.py; edit the notebook -->\n\n" + "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    file = root / "README.md"
    if "--check" in sys.argv:
        same = file.read_text(encoding="utf-8") == readme()
        sys.exit(0 if same else "README.md differs from nbs/index.ipynb; run python .ci/readme.py")
    file.write_text(readme(), encoding="utf-8")
