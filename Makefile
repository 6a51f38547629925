# Every target sets itself up: the first one makes .venv and installs the tested set into it.

# The first Python that is new enough; `make PYTHON=/path/to/python ...` chooses another.
PYTHON ?= $(shell for each in python3.11 python3 python; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$each && break; done)
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

# `make demo SEED=0` repeats exactly; without a seed nobody can compute the noise again.
SEEDED := $(if $(SEED),--seed $(SEED))

# The tests keep to one thread a process: workers would fight over the cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check docs bench growth clean

help:  ## Say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.installed  ## Install into .venv (every other target does this by itself)

demo: $(VENV)/.installed  ## Train privately on handwritten digits at epsilon 3, audit that, and report
	@$(BIN)/deniable train --data digits --epsilon 3 --delta 1e-5 --audit --out runs/demo --overwrite $(SEEDED)

test: $(VENV)/.installed  ## Run every test
	@$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --quiet

check: $(VENV)/.installed  ## Lint, format, types, layers, and the documentation with its examples
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --quiet --doctest-modules --doctest-glob='*.md' src README.md docs/privacy.md docs/accounting.md docs/sampling.md docs/bounds.md docs/ledger.md docs/models.md docs/loops.md docs/audit.md docs/attacks.md docs/text.md docs/collaborate.md tests/test_documentation.py tests/test_pitfalls.py

docs: $(VENV)/.installed  ## Write again what the pages repeat of the code: commands, names, tests
	@PYTHONPATH=. $(BIN)/python docs/generate.py

bench: $(VENV)/.bench-installed  ## Measure speed and memory against plain PyTorch and Opacus
	@$(BIN)/python -m benchmarks.run
	@PYTHONPATH=. $(BIN)/python docs/generate.py

growth: $(VENV)/.bench-installed  ## Measure how time and memory grow with batch, width, length and depth
	@$(BIN)/python -m benchmarks.growth
	@PYTHONPATH=. $(BIN)/python docs/generate.py

clean:  ## Remove .venv and every cache; runs/ stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or later was not found; run make PYTHON=/path/to/python' >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		echo 'Making $(VENV) with $(PYTHON)'; '$(PYTHON)' -m venv --clear $(VENV); }
	@echo 'Installing the tested packages into $(VENV): torch is large, the first time takes minutes'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.bench-installed: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	@touch $@
