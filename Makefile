# Shipkeeper, from a checkout on Debian or Ubuntu. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Flags for pytest and the benchmarks: make test PYTEST="tests/unit -k restart", make bench BENCH="scale cli_start".
PYTEST ?= tests
BENCH ?=

# The example's addresses; configs/fastapi/.env has the same default for the gateway.
GATEWAY_PORT ?= 8000
SHIPKEEPER_METRICS_ADDRESS ?= 127.0.0.1:10323

export PYTHON
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PATH := $(CURDIR)/.cache/tools:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help venv install-deps run test lint bench test-vm install uninstall clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
	    printf '  make %-14s %s\n' "$$name" "$$text"; done

# --- what is needed ------------------------------------------------------------------------------------------
# Stamps lie in the virtual environment and go with it; a second `make` installs nothing.

venv: $(BIN)/.run ## Make .venv with Shipkeeper in it, and install the packages it needs

install-deps: $(BIN)/.test ## The same with what tests and linters need

$(BIN)/.run: pyproject.toml deploy/bootstrap.sh
	@sh deploy/bootstrap.sh run
	@[ -x $(BIN)/python ] || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing Shipkeeper into $(VENV)"
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(BIN)/.test: pyproject.toml deploy/bootstrap.sh $(BIN)/.run
	@sh deploy/bootstrap.sh test
	@echo "installing the tests' libraries into $(VENV)"
	@$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

# --- use -----------------------------------------------------------------------------------------------------

run: $(BIN)/.run ## Build the images of the FastAPI example (cached) and run it; Ctrl-C stops it
	@$(BIN)/shipkeeper build -f configs/fastapi/compose.yaml
	@printf '%s\n' \
	    '' \
	    '  the application   http://127.0.0.1:$(GATEWAY_PORT)/docs' \
	    '  its health        http://127.0.0.1:$(GATEWAY_PORT)/health' \
	    '  metrics           http://$(SHIPKEEPER_METRICS_ADDRESS)/metrics' \
	    '  use it            python3 configs/fastapi/smoke.py --url http://127.0.0.1:$(GATEWAY_PORT)' \
	    '  kill each part    python3 configs/fastapi/kills.py --url http://127.0.0.1:$(GATEWAY_PORT)' \
	    '  look at it        $(BIN)/shipkeeper ps; $(BIN)/shipkeeper why worker' \
	    '' \
	    '  It answers when the gateway is healthy; RabbitMQ takes longest. The commands are for another terminal.' \
	    ''
	@GATEWAY_PORT=$(GATEWAY_PORT) SHIPKEEPER_METRICS_ADDRESS=$(SHIPKEEPER_METRICS_ADDRESS) \
	    exec $(BIN)/shipkeeper up -f configs/fastapi/compose.yaml

install: ## Install as a service of this host (systemd), or upgrade it; services keep running
	@sh deploy/install.sh

uninstall: ## Remove the service; PURGE=1 removes volumes and settings too
	@sh deploy/uninstall.sh

# --- tests ---------------------------------------------------------------------------------------------------

# pytest runs even where a linter complains, so that one run tells everything.
test: $(BIN)/.test ## Linters, then unit, kernel and system tests (root; PYTEST=... narrows)
	@status=0; $(MAKE) --no-print-directory lint || status=1; \
	    echo "== pytest $(PYTEST)"; $(BIN)/python -m pytest $(PYTEST) || status=1; exit $$status

lint: $(BIN)/.test ## ruff, mypy, the import contract
	@status=0; \
	    echo "== ruff"; $(BIN)/ruff check . || status=1; $(BIN)/ruff format --check . || status=1; \
	    echo "== mypy"; $(BIN)/mypy || status=1; \
	    echo "== import-linter"; $(BIN)/lint-imports --no-cache --no-logo || status=1; \
	    exit $$status

test-vm: $(BIN)/.test ## Tests in a virtual machine: reboots, power cuts, an upgrade (qemu, about 20 minutes)
	@sh deploy/bootstrap.sh vm
	@echo "== pytest tests/vm"
	@$(BIN)/python -m pytest tests/vm

bench: $(BIN)/.test ## Measure; see benchmarks/README.md
	@$(BIN)/python -m benchmarks $(BENCH)

clean: ## Remove .venv and caches
	rm -rf $(VENV) .cache build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find supervisor tests configs benchmarks -name __pycache__ -prune -exec rm -rf {} +
