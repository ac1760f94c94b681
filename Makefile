# The whole interface of the project; `make help` lists it.
PYTHON ?= python3
BACKEND ?= vault
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
SOURCES := $(wildcard proxy/native/*.c proxy/native/*.h proxy/native/*.map)

LOCK_OPTIONS := --quiet --generate-hashes --allow-unsafe --strip-extras --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links

.PHONY: help setup demo demo-check test lint types unit behaviour bench lock clean
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(STAMP) ## Install everything into .venv; the command is then .venv/bin/sealgate

$(VENV)/.lock-stamp: requirements-dev.lock
	@PYTHON="$(PYTHON)" .ci/packages build
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Sealgate needs Python 3.11 or newer; name one with PYTHON=")'
	@test -x $(BIN)/python || { echo "Making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing Python packages from requirements-dev.lock"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

$(STAMP): $(VENV)/.lock-stamp pyproject.toml $(SOURCES)
	@PYTHON="$(PYTHON)" .ci/packages build
	@echo "Building the OpenSSL provider"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## Start three HSM nodes, two web servers and the proxy; BACKEND=vault, pkcs11 or simulated holds the keys
	@PYTHON="$(PYTHON)" .ci/packages demo $(BACKEND)
	@$(BIN)/sealgate demo --backend $(BACKEND)

demo-check: setup ## The same without a terminal: kill a node under load and count failed requests
	@PYTHON="$(PYTHON)" .ci/packages demo $(BACKEND)
	@$(BIN)/sealgate demo --check --backend $(BACKEND)

test: setup ## Lint, types and every test
	@PYTHON="$(PYTHON)" .ci/packages test
	@$(MAKE) --no-print-directory lint types
	@$(BIN)/python -X dev -m pytest

lint: setup ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup ## mypy --strict
	@$(BIN)/mypy

unit: setup ## Only the quick tests
	@$(BIN)/python -X dev -m pytest tests/unit tests/architecture

behaviour: setup ## Only the tests that start the real programs
	@PYTHON="$(PYTHON)" .ci/packages test
	@$(BIN)/python -X dev -m pytest tests/behaviour

bench: setup ## Paired measurements against nginx; rows go to bench/results/latest.json
	@PYTHON="$(PYTHON)" .ci/packages bench
	@$(BIN)/python -m bench

lock: ## Write both lock files anew from pyproject.toml (needs pip-tools)
	pip-compile $(LOCK_OPTIONS) --extra build -o requirements.lock pyproject.toml
	pip-compile $(LOCK_OPTIONS) --extra build --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml

clean: ## Remove what was built
	rm -rf $(VENV) build *.egg-info bench/results .mypy_cache .ruff_cache .pytest_cache .hypothesis proxy/tls/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
