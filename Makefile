# `make run` starts the node on a machine with nothing but Python >= 3.11 and make; `make test` proves it.
# Everything they write lies in this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONPYCACHEPREFIX := $(CURDIR)/.cache/pycache
export XDG_CACHE_HOME := $(CURDIR)/.cache
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
export KERAS_HOME := $(CURDIR)/.cache/keras
export XDG_CONFIG_HOME := $(CURDIR)/.cache/config
export TF_CPP_MIN_LOG_LEVEL := 2
# Where it is set, every process compiles TensorFlow anew: 12 s instead of 5.
unexport PYTHONDONTWRITEBYTECODE
# Tests of one file share what it starts, so they stay in one process. One process more than cores: they often wait for peers.
PROCESSES := $(shell $(PYTHON) -c 'import os; print(min(4, (os.cpu_count() or 1) + 1))')
WORKERS = -n $(PROCESSES) --dist loadfile --no-loadscope-reorder

.PHONY: run test lint unit system bench evidence regulatory clean lock

run: $(VENV)/.installed
	$(BIN)/cxr-node --config node.toml demo

test: $(VENV)/.installed-dev lint
	$(BIN)/python -m pytest $(WORKERS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --cache-dir .cache/import-linter

unit: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(WORKERS) --ignore=tests/system

system: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(WORKERS) tests/system

# By hand: never part of the tests, since machines are noisy. Hours; one alone: python -m tests.benchmarks.record NAME
bench: $(VENV)/.installed-dev
	$(BIN)/python -m tests.benchmarks.record all
	$(BIN)/python -m regulatory.service

# Every test, and what each requirement's tests came to in regulatory/evidence/tests.json; build the regulatory file after it.
evidence: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(WORKERS) --evidence=regulatory/evidence/tests.json

# The regulatory file from committed results: its pages, and all of it as one HTML page and one PDF in build/regulatory.
regulatory: $(VENV)/.installed-dev
	$(BIN)/python -m regulatory.service
	$(BIN)/python -m regulatory build --html --pdf

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info < (3, 14)))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed, found $$($(PYTHON) --version 2>&1). Say which: make run PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.lock pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.installed-dev: tests/requirements.lock pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --require-hashes -r tests/requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@ $(VENV)/.installed

# With uv on the machine: both lock files anew, for every Python and platform that pyproject.toml admits.
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --extra train -q -o requirements.lock pyproject.toml
	uv pip compile --universal --python-version 3.11 --generate-hashes --extra train --extra weights --extra dev -q -o tests/requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .cache var runs build *.egg-info
