# Every target sets itself up: the first one makes the virtual environment from the lock.
PYTHON ?= python3
BIN := .venv/bin
# Tests share one folder of compiled programs, so that a second run starts at once.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/xla
PYTEST := $(BIN)/python -m pytest

.PHONY: install demo test test-configs test-docs test-slow test-gpu lint fix lock show clean

install: .venv/installed

.venv/installed: lock/cpu.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cropjax needs Python >= 3.11: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r lock/cpu.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: install
	$(BIN)/python -m cropjax.main --config configs/demo.py

test: install lint
	$(PYTEST) -m "not slow and not gpu and not torch and not data" -n 2

test-configs: install
	$(PYTEST) tests/test_configs.py

test-docs: install
	$(PYTEST) tests/test_docs.py -m ""

test-slow: install
	$(PYTEST) -m slow

test-gpu: install
	$(PYTEST) -m gpu

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fix: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .cache runs *.egg-info
