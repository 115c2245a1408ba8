# Everything below creates .venv and installs into it by itself; python3, pip and make are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(INSTALLED)  ## distil a vision transformer into small students (real images, under 3 minutes)
	$(BIN)/python examples/digits.py

test: $(INSTALLED)  ## run the test suite
	$(BIN)/python -m pytest

lint: $(INSTALLED)  ## format check, lint and strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

coverage: $(INSTALLED)  ## run the test suite with coverage
	$(BIN)/python -m pytest --cov --cov-report=term

bench: $(INSTALLED)  ## run the benchmarks; results go to benchmarks/results
	$(BIN)/python benchmarks/flash.py

clean:  ## remove the environment and the demo's search directory
	rm -rf $(VENV) runs

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

.PHONY: help demo test lint coverage bench clean
