# `make app` is all a newcomer needs; `make test` is all a contributor needs. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
ASD := $(PY) -m asd_core
QUICK_SYSTEMS := studio-1 logmel-knn logmel-maha official-mse tsz-baseline neu-1
PORT ?= 8501

.DEFAULT_GOAL := help
.PHONY: help app demo serve test check lint types arch fmt bench clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-6s %s\n", $$1, $$2}'

app: demo serve ## set up, build and train the demo, open the app on http://127.0.0.1:8501

demo: $(VENV)/ready ## the same without the app: simulated machines, quick systems, official table
	@$(ASD) data simulate --size demo --root data/demo
	@$(ASD) run $(QUICK_SYSTEMS) --data demo --profile quick

serve: $(VENV)/ready ## only the app
	@$(PY) -m streamlit run app.py --server.port $(PORT)

test: $(VENV)/ready-dev ## all tests that this machine can run
	@$(PY) -m pytest -n 2 --dist loadfile --ignore=tests/browser
	@$(PY) -m pytest tests/browser  # alone: what a user waits for is timed by the browser

check: lint types arch test ## everything a change must pass

lint: $(VENV)/ready-dev
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .

types: $(VENV)/ready-dev
	@$(PY) -m mypy

arch: $(VENV)/ready-dev
	@$(VENV)/bin/lint-imports --no-cache

fmt: $(VENV)/ready-dev ## format and tidy imports
	@$(PY) -m ruff format . && $(PY) -m ruff check --fix .

bench: $(VENV)/ready-dev ## speed and memory of the hot paths, as ratios; PEER=--peer-beats PATH adds the official code
	@$(PY) -m tests.bench
	@$(PY) -m tests.bench_encoders $(PEER)
	@$(PY) -m tests.bench_app
	@$(PY) -m tests.bench_growth

clean: ## caches and unfinished work; runs and trained networks stay
	@rm -rf .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	@if [ -x $(PY) ]; then $(ASD) clean; fi

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ASD Studio needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/ready: requirements.txt | $(PY)
	@echo "Installing what ASD Studio needs (once, a minute or two) ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/ready-dev: requirements-dev.txt $(VENV)/ready
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
