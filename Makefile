# `make help` lists the targets. Everything is installed into .venv, from the lock file; no service must be running.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUFF := core operator gateway worker cli tests examples

FILE = examples/test-workflow.yaml
INPUT = {"email":"user@example.com","age":20}

.DEFAULT_GOAL := help
.PHONY: help install run test chaos lint format bench lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY) ## Install into .venv (other targets do it by themselves)

$(READY): requirements.lock pyproject.toml
	@echo "Installing into $(VENV) (once)" >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -qq --disable-pip-version-check --no-compile --require-hashes -r requirements.lock
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: $(READY) ## Run the sample (FILE=… INPUT=… for another) and show the tables it leaves
	@$(BIN)/python examples/receiver.py -- $(BIN)/stepwell run $(FILE) -i '$(INPUT)' --tables

test: $(READY) ## Run the tests (ARGS=… goes to pytest)
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

chaos: $(READY) ## Break things at random for five minutes (STEPWELL_CHAOS_SECONDS, STEPWELL_CHAOS_SEED)
	@STEPWELL_CHAOS_SECONDS=$${STEPWELL_CHAOS_SECONDS:-300} $(BIN)/python -m pytest tests/chaos $(ARGS)

lint: $(READY) ## Check style, types and the direction of imports
	$(BIN)/ruff check $(wildcard $(RUFF))
	$(BIN)/ruff format --check $(wildcard $(RUFF))
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Put the code into its form
	$(BIN)/ruff check --fix $(wildcard $(RUFF))
	$(BIN)/ruff format $(wildcard $(RUFF))

bench: $(READY) ## Measure throughput and latency
	@$(BIN)/python tests/bench/run.py $(ARGS)

lock: ## Write requirements.lock anew (needs uv)
	uv pip compile --universal --python-version 3.11 --all-extras --generate-hashes --upgrade \
		--no-header --no-annotate --no-emit-index-url --quiet pyproject.toml -o requirements.lock

clean: ## Remove what was made: .venv, caches, build results
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
