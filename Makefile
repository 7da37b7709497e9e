# Every target works on a fresh machine with Python 3.11 or newer: it builds .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: env demo test lint bench clean
.DEFAULT_GOAL := env

env: .venv/.ready

.venv/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("vista needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

test: env
	$(BIN)/python -m pytest

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: env
	$(BIN)/python -m benchmarks.encoder

clean:
	rm -rf .venv .demo
