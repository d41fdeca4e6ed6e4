# make install     a virtual environment in .venv with everything the tests need
# make demo        fit a hierarchical model and write its report
# make test        the gate: lint, types, layers, and the tests that are not slow
# make test-slow   the slow tests
# make bench       speed against the peers
# make docs        the documentation site
# make format      rewrite the sources as the gate wants them
# make clean       remove what the tools left behind (not .venv)

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help install demo lint test test-slow bench docs format clean

PYTHON ?=
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin

# One thread per test worker and example: XLA's pool, then NumPy's. XLA_FLAGS has no working switch:
# --xla_cpu_multi_thread_eigen=false leaves the pool as large as the machine.
ONE_THREAD := PJRT_NPROC=1 OMP_NUM_THREADS=1
# A file's tests go to one worker, which makes its fixtures and traces its programs once. Groups
# (--dist loadgroup) would say the same, but pytest 9.2 does not know those of pytest-xdist 3.8.
PYTEST := $(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(BIN)/python:
	@python=$$(.ci/find-python "$(PYTHON)") && echo "$$python -m venv $(VENV)" && "$$python" -m venv $(VENV)

# One stamp per extra, so that an installation is repeated only when pyproject.toml has changed.
# Python compiles what is imported when it is imported; pip would compile all there is, in half a minute.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --editable '.[$*]'
	@touch $@

install: $(VENV)/.installed-test

demo: install
	$(BIN)/python examples/hierarchical_model.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	.ci/check-files

test: lint
	$(PYTEST) -m "not slow"

test-slow: install
	$(PYTEST) -m slow

# One process, every thread, no run-time type checks, no compile cache: what a user would see.
bench: install $(VENV)/.installed-bench
	JAX_ENABLE_COMPILATION_CACHE=false $(BIN)/python -m pytest -p no:xdist -s \
		-o addopts=--import-mode=importlib -o python_files='bench_*.py' tests/benchmarks

docs: install
	@if [ -f docs/conf.py ]; then \
		$(MAKE) --no-print-directory $(VENV)/.installed-docs && \
		$(ONE_THREAD) $(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html && \
		echo "docs/_build/html/index.html"; \
	else \
		echo "There is no docs/conf.py yet, hence no site to build. README.md is the documentation for now."; \
	fi

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist docs/_build out .cache .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	find ppl samplers models examples tests -name __pycache__ -type d -prune -exec rm -rf {} +
