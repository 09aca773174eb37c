"""After Quarto: take out of each page what would ask another host when the page is read.

Quarto puts require.js and jQuery, from a content network, into every page with an HTML output such as a table of
pandas, and a line that needs them. Nothing of ours uses them. What else asks a stranger is named on stderr.
"""
import os
import re
import sys
from pathlib import Path

REMOTE = re.compile(r"""<script\b[^>]*\bsrc=["'](?:https?:)?//[^>]*>\s*</script>\s*""")
NEEDS_REQUIRE = re.compile(r"<script\b[^>]*>\s*define\('jquery'.*?</script>\s*", re.DOTALL)
ASKS = (
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=["']((?:https?:)?//[^"']+)""",
    r"""<link\b(?=[^>]*\brel=["'](?:stylesheet|preload|preconnect|icon)["'])[^>]*\bhref=["']((?:https?:)?//[^"']+)""",
    r"""(?:@import\s+(?:url\()?|url\()["']?((?:https?:)?//[^"')]+)""",
)


def without_strangers(page: str) -> str:
    "The page without scripts of another host."
    return NEEDS_REQUIRE.sub("", REMOTE.sub("", page))


def strangers(text: str) -> list[str]:
    "Addresses that a page or a style sheet loads from another host; links to follow are none."
    return [address for pattern in ASKS for address in re.findall(pattern, text)]


if __name__ == "__main__":
    site = Path(os.environ.get("QUARTO_PROJECT_OUTPUT_DIR", "_docs"))
    for file in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        text = file.read_text(encoding="utf-8")
        clean = without_strangers(text) if file.suffix == ".html" else text
        if clean != text:
            file.write_text(clean, encoding="utf-8")
        for address in strangers(clean):
            print(f"{file}: asks another host, {address}", file=sys.stderr)
