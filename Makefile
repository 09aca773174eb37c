# Every target says what it does: `make help`.
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
DEMO    := demo
# Two notebooks with torch starve each other when each takes all the cores.
TESTENV := OMP_NUM_THREADS=1 MPLBACKEND=Agg

.DEFAULT_GOAL := help
.PHONY: help demo test test-notebooks test-suite test-slow test-faults mutants coverage check-sync fuzz lock audit build quarto docs bench lab clean

help: ## Say what each target does
	@grep -hE '^[.a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

# Where Python is told to write no compiled files, as in many containers, each process would compile all it imports: 15 s.
unexport PYTHONDONTWRITEBYTECODE
# The pinned pip resolves the versions in a third of the time that an old one takes. It need not compile all 17,000 files,
# which takes a minute: Python compiles a file when it is first imported. Quiet twice, as it warns of every editable package.
.venv: $(STAMP) ## Build the environment from constraints.txt
$(STAMP): constraints.txt settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: Python 3.11 or newer is needed; call make PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip setuptools wheel
	$(BIN)/pip install --quiet --quiet --no-compile --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP) ## Simulate a small database, train and evaluate on it beside other simulated people, and say where the report is
	rm -rf $(DEMO)
	$(BIN)/pediatric-ecg simulate $(DEMO)/database --patients 12 --seconds 180 --seed 1
	$(BIN)/pediatric-ecg run $(DEMO)/database --out $(DEMO)/run --simulated 120
	@echo "Open $(CURDIR)/$(DEMO)/run/report.html in a browser."

test: $(STAMP) check-sync test-notebooks test-suite ## Check that notebooks and package agree, then run the notebooks' inline tests and the test suite

check-sync: $(STAMP) ## Check that notebooks and package agree, and that the notebooks are clean
	$(BIN)/python .ci/check_sync.py

# What the notebooks simulate and prepare in temporary folders is deleted with its parent.
NOTEBOOKS = folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && TMPDIR=$$folder $(TESTENV) $(BIN)/nbdev_test
test-notebooks: $(STAMP) ## Run the inline tests of the notebooks, slow cells left out
	@$(NOTEBOOKS) --n_workers 2 --do_print --timing

test-suite: $(STAMP) ## Run the test suite
	$(TESTENV) $(BIN)/pytest

test-slow: $(STAMP) ## Run every notebook from a fresh kernel, with its slow cells too
	@$(NOTEBOOKS) --flags slow --n_workers 2 --do_print

KILLS ?= 50
test-faults: $(STAMP) ## Kill every command at each rename and at random moments, and start it again (KILLS=50; about an hour)
	$(TESTENV) $(BIN)/python tests/faults.py --kills $(KILLS)

MUTANTS ?= 40
mutants: $(STAMP) ## Change the package in one place and see whether a test notices (MUTANTS=40 for each group; about an hour)
	$(TESTENV) $(BIN)/python tests/mutants.py --mutants $(MUTANTS)

coverage: $(STAMP) ## Run the test suite and ask for 92 % of the package's lines and branches
	$(BIN)/pip install --quiet pytest-cov
	$(TESTENV) $(BIN)/pytest --cov=pediatric_ecg --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=92

CASES ?= 21000
SEED  ?= 0
fuzz: $(STAMP) ## Try many damaged files of each kind (CASES=21000 SEED=0; about a quarter of an hour)
	$(TESTENV) $(BIN)/python tests/fuzz.py --cases $(CASES) --seed $(SEED)

lock: ## Write requirements.lock, hashes and all, from settings.ini and constraints.txt (needs uv)
	@command -v uv >/dev/null || { echo "make: the lock file needs uv (https://docs.astral.sh/uv)" >&2; exit 2; }
	uv pip compile setup.py --constraint constraints.txt --universal --generate-hashes --python-version 3.11.5 \
	  --no-annotate --custom-compile-command 'make lock' --quiet --output-file requirements.lock

audit: $(STAMP) ## Ask a public service for known vulnerabilities of the versions in requirements.lock (needs the network)
	$(BIN)/pip install --quiet pip-audit
	$(BIN)/pip-audit --requirement requirements.lock --disable-pip --require-hashes

build: $(STAMP) ## Build the wheel and the source distribution in dist/
	rm -rf dist build
	$(BIN)/pip install --quiet --constraint constraints.txt build
	$(BIN)/python -m build --no-isolation

# The package has no wheel: it downloads Quarto from GitHub while it is installed, so it is no part of the dev packages.
QUARTO  := quarto-cli==1.9.38
SITE    := PATH="$(CURDIR)/$(BIN):$$PATH"
quarto: $(STAMP) ## Put Quarto into .venv (downloads it from GitHub)
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation $(QUARTO)

docs: ## Build the site in _docs (needs Quarto 1.9: `make quarto`, or https://quarto.org/docs/get-started)
	@$(SITE) command -v quarto >/dev/null || { echo "make: the site needs Quarto: call 'make quarto', or get 1.9 or newer from https://quarto.org/docs/get-started" >&2; exit 2; }
	@$(MAKE) --no-print-directory .venv
	$(SITE) $(BIN)/nbdev_docs

bench: $(STAMP) ## Run the benchmarks, rewrite benchmarks/results.json, and print one table of ratios, targets and misses
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev,bench]'
	for b in benchmarks/[a-z]*.py; do $(BIN)/python $$b || exit 1; done
	$(BIN)/python benchmarks/_results.py

lab: $(STAMP) ## Open JupyterLab in nbs/
	cd nbs && ../$(BIN)/jupyter lab

clean: ## Remove the environment, the demo and everything built
	rm -rf $(VENV) $(DEMO) runs _docs _proc build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
