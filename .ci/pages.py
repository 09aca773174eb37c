"""Reading time and run time of the pages: `make test-notebooks | tee LOG`, then `python .ci/pages.py LOG`.

Updates nbs/results/pages.csv. Reading time is the words of the text over 200 per minute, text that a cell prints as
Markdown included. Run time is what `nbdev_test --timing` says of a notebook: the seconds of its cells, two notebooks at
a time. Slow cells are left out, and libraries are loaded once for many notebooks. Words are counted for every page; a
page that LOG does not name keeps the run time that it has. Without LOG the words are counted alone."""
import csv
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT/'nbs'/'results'/'pages.csv'
COLUMNS = ['page', 'title', 'words', 'seconds']


def describe(notebook):
    "Title, and how many words of text a notebook has, its code and other outputs left out."
    cells = json.loads(notebook.read_text(encoding='utf-8'))['cells']
    texts = [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'markdown']
    title = texts[0].splitlines()[0].removeprefix('# ')
    for cell in cells:
        for output in cell.get('outputs', []):
            lines = ''.join(output.get('data', {}).get('text/markdown', '')).splitlines()
            texts += [line for line in lines if not line.startswith('|')] # tables are not read word by word
    return title, sum(len(text.split()) for text in texts)


def measured(log):
    "Name of each notebook that a log of `nbdev_test --timing` tells the time of, and its seconds."
    return dict(re.findall(r'^(\S+\.ipynb): (\d+) secs$', log, re.M))


def main():
    "Count the words of every page, take over the run times of the log, and write the table."
    notebooks = (ROOT/'nbs').rglob('*.ipynb')
    pages = sorted(path for path in notebooks if not {'.ipynb_checkpoints', '_proc'} & set(path.parts))
    with FILE.open(encoding='utf-8', newline='') as stream:
        known = {row['page']: row['seconds'] for row in csv.DictReader(stream)}
    times = measured(Path(sys.argv[1]).read_text(encoding='utf-8')) if sys.argv[1:] else {}
    with FILE.open('w', encoding='utf-8', newline='') as stream:
        table = csv.writer(stream, lineterminator='\n')
        table.writerow(COLUMNS)
        for page in pages:
            name = page.relative_to(ROOT/'nbs').as_posix()
            table.writerow([name, *describe(page), times.get(page.name, known.get(name, ''))])
    print(f'{len(pages)} pages, run time of {len(times)} new')


if __name__ == '__main__':
    main()
