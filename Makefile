# Every target does its own set-up: `make quickstart` on a bare machine is enough.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help venv quickstart test test-slow lint report toy clean

help:
	@echo "make quickstart   train, evaluate and compare on the toy world (two CPU cores, minutes)"
	@echo "make test         the tests (under 10 minutes)"
	@echo "make test-slow    the long ones: kill -9 trials, ten thousand hostile answers"
	@echo "make lint         ruff and mypy"
	@echo "make report       tables, figures and pages again from the committed records"
	@echo "make toy          rebuild the toy models from nothing and print their accuracies"

venv: $(STAMP)

# torch first and by itself, so that its pinned build is settled before anything asks for a range of it
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

quickstart: venv
	$(BIN)/opd quickstart

# one thread a process: two workers with two threads each would fight for the cores
test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: venv
	$(BIN)/python -m pytest -m slow

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

report: venv
	$(BIN)/opd report quickstart

toy: venv
	$(BIN)/opd toy build

clean:
	rm -rf $(VENV) results/runs
