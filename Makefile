# Every target works on a fresh clone: what it needs is installed into .venv first. `make` alone lists the targets.
#
#   VENV=.venv         the virtual environment          PYTHON=python3.12   makes it (3.11 to 3.13)
#   ENGINE=cpu|gpu     which vLLM `make install` takes  TORCH_ARGS=...      pip arguments for PyTorch (docs/engine.md)
#   ARGS="..."         arguments for demo, bench and the tests      JOBS=3   processes that tests run in; 0: one

SHELL := /bin/bash
VENV ?= .venv
INSTALLED := $(VENV)/.installed
JOBS ?= 3
ENGINE ?= $(or $(shell cat $(INSTALLED) 2>/dev/null),cpu)
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
RUN := $(VENV)/bin/python
# Tests side by side: one thread each, or the threads of one would wait for cores that the other has.
PYTEST = env OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) --dist loadscope
PACKAGES = settings=$$(deploy/test_packages.sh postgres nginx prometheus alertmanager valgrind) && eval "$$settings"
INSTALL = @test -n "$(PYTHON)" || { echo "Understudy needs Python 3.11, 3.12 or 3.13: install one, or name it with \
	make PYTHON=/path/to/python3.12" >&2; exit 1; }; \
	$(PYTHON) deploy/install.py --venv $(VENV) --engine $(ENGINE) --torch-args "$(TORCH_ARGS)"

.PHONY: help install compiled demo test test-long test-fast bench lint docs lock clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): requirements.lock pyproject.toml deploy/install.py
	$(INSTALL)

install: ## install into .venv, or bring it up to date
	$(INSTALL)

compiled: $(INSTALLED)
	@$(RUN) deploy/compile_hot_path.py

demo: compiled ## adapters hot-swapped on a real vLLM on this CPU; keeps serving until Ctrl-C
	@exec $(VENV)/bin/understudy demo $(ARGS)

test: compiled ## the test suite, without its long tests; these are named last
	@$(PACKAGES) && UNDERSTUDY_TEST_LONG=later exec $(PYTEST) $(ARGS)

test-long: compiled ## the long tests: the whole demo, long trainings, second engines
	@$(PACKAGES) && exec $(PYTEST) -m long $(ARGS)

test-fast: compiled ## without the tests that start an engine or take long
	@$(PACKAGES) && exec $(PYTEST) -m "not engine and not slow and not long" $(ARGS)

bench: compiled ## what the gateway costs beside nginx and other relays, in one run
	@settings=$$(deploy/test_packages.sh nginx) && eval "$$settings" && exec $(RUN) -m deploy.bench $(ARGS)

lint: $(INSTALLED) ## ruff, mypy --strict, import contracts
	@echo "ruff" && $(RUN) -m ruff check --output-format concise .
	@echo "mypy" && $(RUN) -m mypy && $(RUN) -m mypy -p deploy
	@echo "import contracts" && $(VENV)/bin/lint-imports

docs: $(INSTALLED) ## write what comes from the code: reference pages in docs/, dashboards in grafana/
	@$(RUN) -m deploy.docs && $(RUN) -m deploy.dashboards

lock: $(INSTALLED) ## resolve requirements.lock anew
	@$(RUN) deploy/lock.py

clean: ## remove build outputs and caches; .venv and .understudy stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
