"""Reading time and run time of the pages: `python .ci/pages.py [NOTEBOOK ...]` updates nbs/results/pages.csv.

Reading time is the words of the text over 200 per minute, text that a cell prints as Markdown included. Run time is
the processor time of `nbdev_test` of one notebook, so that other work on the machine does not count; slow cells are
left out, as in `make test`. Words are counted for every page; the run time is measured for the notebooks that are named
(`all`: for every one), and all others keep what was measured before."""
import csv
import json
import os
import resource
import subprocess
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


def processor_seconds():
    "Of all processes that this one has waited for."
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(notebook):
    "Processor time of the notebook's inline tests, s; '' where they fail."
    before = processor_seconds()
    command = ['nbdev_test', '--path', str(notebook), '--n_workers', '1']
    quiet = {**os.environ, 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg'}
    done = subprocess.run(command, cwd=ROOT, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return round(processor_seconds() - before) if done.returncode == 0 else ''


def main():
    "Count the words of every page, measure those that are wanted, write the table after each."
    notebooks = (ROOT/'nbs').rglob('*.ipynb')
    pages = sorted(path for path in notebooks if not {'.ipynb_checkpoints', '_proc'} & set(path.parts))
    wanted = pages if sys.argv[1:] == ['all'] else [Path(name).resolve() for name in sys.argv[1:]]
    known = {}
    if FILE.exists():
        with FILE.open(encoding='utf-8', newline='') as stream:
            known = {row['page']: row['seconds'] for row in csv.DictReader(stream)}
    for number, notebook in enumerate([None, *wanted]):
        if notebook is not None:
            name = notebook.relative_to(ROOT/'nbs').as_posix()
            known[name] = measure(notebook)
            print(f'{number}/{len(wanted)} {name}: {known[name] or "failed"}', flush=True)
        with FILE.open('w', encoding='utf-8', newline='') as stream:
            table = csv.writer(stream, lineterminator='\n')
            table.writerow(COLUMNS)
            for page in pages:
                name = page.relative_to(ROOT/'nbs').as_posix()
                table.writerow([name, *describe(page), known.get(name, '')])


if __name__ == '__main__':
    main()
