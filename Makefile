# Everything runs in .venv, made on first use with whatever python3 (3.11 or newer) is there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt
SOURCES := pyproject.toml constraints.txt
PYTEST := $(BIN)/python -m pytest
# two processes; each file's tests stay in one, which keep their Ray and their runs; the longest files come first
SPREAD := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-slow test-all chaos lint audit bench clean

demo: $(VENV)/.demo  ## find the defects in real solar cells
	$(BIN)/musc-ray demo $(ARGS)

test: $(VENV)/.test lint  ## lint, types and the tests that take about 6 minutes together; ARGS=tests/unit runs a part
	$(PYTEST) $(SPREAD) -m 'not slow and not chaos' $(ARGS)

test-slow: $(VENV)/.test  ## what `make test` leaves out: whole jobs on S3 and several nodes, a job killed twenty times
	$(PYTEST) $(SPREAD) -m 'slow and not chaos' $(ARGS)

test-all: test test-slow  ## every test except the long campaigns of `make chaos`

chaos: $(VENV)/.test  ## faults at random moments, and 20 times the bad input: ARGS='--chaos-rounds 20 --chaos-seed 1'
	$(PYTEST) -m chaos $(ARGS)
	MUSC_RAY_FUZZ=long $(PYTEST) --timeout 0 tests/fuzz

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(VENV)/.uv  ## known vulnerabilities of the versions in constraints.txt (advisories come from PyPI)
	$(BIN)/python .ci/audit.py

bench: $(VENV)/.test  ## every figure of the README, measured on this machine
	for script in tests/benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) musc-ray-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "musc_ray needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	touch $@

$(VENV)/.demo: $(VENV)/.uv $(SOURCES)
	$(INSTALL) --editable '.[demo]'
	touch $@

$(VENV)/.test: $(VENV)/.uv $(SOURCES)
	$(INSTALL) --editable '.[test]'
	touch $@
