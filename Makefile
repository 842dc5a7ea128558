# `make test` on a bare machine: creates the environment, then lints, type-checks and tests.
# Another interpreter for the environment: make install PYTHON=python3.12

VENV ?= .venv
PYTHON ?=
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test lint format clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## create .venv with frtrain and its development tools

$(INSTALLED): pyproject.toml
	@scripts/create_environment.sh "$(VENV)" "$(PYTHON)"
	@touch $@

demo: $(INSTALLED) ## the whole pipeline on synthetic faces, in a few minutes
	@$(BIN)/python scripts/demo.py

test: lint ## lint, type-check, run all tests
	@$(BIN)/python -m pytest

lint: $(INSTALLED) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(INSTALLED) ## let ruff format the code and fix what it can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## remove .venv and all caches; runs/ and data/ stay
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
	@find . -name __pycache__ -type d -not -path './data/*' -prune -exec rm -rf {} +
