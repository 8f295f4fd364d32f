# Everything runs in .venv, which the first target makes with python3 and nothing else.

PYTHON ?= python3
BIN := .venv/bin
LOCKED := .venv/.locked
INSTALLED := .venv/.installed

# Two processes of one thread each for the many small tests; a large model has the machine alone.
PYTEST := $(BIN)/python -m pytest
PYTEST_FAST := OMP_NUM_THREADS=1 $(PYTEST) -m "not slow" -n 2 --dist loadfile

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-fast fuzz lint format bench clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{printf "make %-10s %s\n", $$1, $$2}'

demo: $(INSTALLED) ## Train a Mixer in JAX on real digits, run it in PyTorch and ONNX Runtime, prove that they agree
	$(BIN)/python examples/digits.py

test: lint ## Lint, types and every test, large models included
	$(PYTEST_FAST)
	$(PYTEST) -m slow

test-fast: $(INSTALLED) ## The tests without the large models
	$(PYTEST_FAST)

fuzz: $(INSTALLED) ## 100,000 damaged files through every reader; for the night
	OMP_NUM_THREADS=1 MIXER_FUZZ_CASES=100000 $(PYTEST) -n 2 tests/test_readers_fuzz.py

lint: $(INSTALLED) ## Ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(INSTALLED) ## Let ruff put the code in order
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(INSTALLED) ## Measure what benchmarks/RESULTS.md reports
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean: ## Remove the environment and everything that was built
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A half-made environment has no working pip and is made anew.
$(LOCKED): requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) must be Python 3.11 or later; try make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-dev.lock
	@touch $@

$(INSTALLED): $(LOCKED) pyproject.toml
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
