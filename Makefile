# Each target makes its own virtual environment in .venv, so it works in a fresh clone:
#   make test PYTHON=python3.12 WORKERS=8 PYTEST_ARGS="-k tokenizer"

PYTHON ?= python3
WORKERS ?= 2
PYTEST_ARGS ?=
DEMO_ARGS ?=
# Pinned, as an unpinned torch can bring gigabytes of CUDA libraries that no test needs.
TORCH ?= torch==2.13.0

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
# A worker that is done takes from another's rest: the slowest files stand side by side.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=20 $(PYTEST_ARGS)

.PHONY: help quickstart demo test test-slow lint types clean
.NOTPARALLEL:

help:
	@echo "make quickstart a page of what this can do, drawn and trained here"
	@echo "make demo       the same by hand, in the browser (DEMO_ARGS: its flags)"
	@echo "make test       run the tests (CPU)"
	@echo "make test-slow  the tests that take longer"
	@echo "make lint       ruff and the import contracts"
	@echo "make types      pyright"
	@echo "make clean      remove .venv, caches and build output"

test: .venv/installed-test .venv/browser
	$(PYTEST)

test-slow: .venv/installed-test .venv/browser
	$(PYTEST) -m "slow and not weights and not gpu"

quickstart: .venv/installed-demo
	$(BIN)/python -m launch.quickstart

demo: .venv/installed-demo
	$(BIN)/python -m launch.demo $(DEMO_ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache

# Not a part of `lint`: pyright fetches node at its first run where there is none.
types: .venv/installed-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/made:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no $(PYTHON) here; name a Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
	  "Python 3.11 or newer is needed, and $(PYTHON) is %d.%d; name a newer one: " \
	  "make $(MAKECMDGOALS) PYTHON=python3.11" % sys.version_info[:2])'
	@$(PYTHON) -m venv --clear .venv
	@touch $@

# The web page is tested in Debian's Chromium, which is installed where we may. Elsewhere these tests
# are skipped, and say so.
.venv/browser: .venv/made
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1; } || \
	  echo "There is no chromium here; the tests of the web page in a browser are skipped" >&2
	@touch $@

# A stamp per extra: installs again when the dependencies or the tools' settings change.
.venv/installed-test .venv/installed-dev: EXTRA_PACKAGES = $(TORCH)
.venv/installed-%: .venv/made setup.py pyproject.toml
	@echo "Installing the project and its [$*] packages into .venv, about 3 minutes the first time ..."
	@$(PIP) $(EXTRA_PACKAGES) -e '.[$*]'
	@touch $@
