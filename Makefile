# One-word tasks. Everything runs from .venv, which `install` builds from requirements.lock and nothing else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PYTEST_ARGS ?=
TEST_WORKERS ?= 2

GHZ_VERSION               := v0.121.0
VEGETA_VERSION            := v12.12.0
GRPCURL_VERSION           := v1.9.3
GRPC_HEALTH_PROBE_VERSION := v0.4.40

.DEFAULT_GOAL := help
.PHONY: help install demo up down test robustness lint format proto perf gate guard soak tools lock clean

help: ## list the tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1|/' | while IFS='|' read -r task text; do printf '  make %-10s %s\n' "$$task" "$$text"; done

install: $(VENV)/.installed ## build .venv from the lock, when it is stale

$(VENV)/.installed: requirements.lock pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: install ## one order's way through the whole platform, on real servers
	$(BIN)/trade2026 demo

up: install ## start the whole platform on this machine (Ctrl-C stops it)
	$(BIN)/trade2026 up

down: install ## stop a platform that runs in the background
	$(BIN)/trade2026 down

test: install ## every test that needs no root
	$(BIN)/python -m pytest -n $(TEST_WORKERS) $(PYTEST_ARGS)

robustness: install ## break the real platform for half an hour (ROBUSTNESS_SECONDS, ROBUSTNESS_SEED); writes docs/robustness.md
	$(BIN)/python -m tests.robustness robustness-report docs/robustness.md

lint: install ## format, lint, types, import rules, generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if [ -f tools/generate.py ]; then set -x; $(BIN)/python tools/generate.py --check; fi
	$(BIN)/python tools/order_states.py --check

format: install ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: install ## regenerate the committed gRPC code
	$(BIN)/python tools/generate.py

perf: tools ## measure everything and write perf/report/ (PERF_SECONDS=2 for a short look)
	$(BIN)/python -m perf

gate: tools ## the documented acceptance runs with their levels (GATE_SECONDS=30 for a short one)
	$(BIN)/python -m perf.gate

guard: tools ## fail when an order or a check costs much more than it did, as ratios (perf/bounds.json)
	$(BIN)/python -m perf.guard

soak: tools ## a million orders: nothing lost, memory flat (SOAK_ORDERS, SOAK_RATE); writes docs/soak.md
	$(BIN)/python -m perf.soak docs

tools: $(VENV)/.tools ## build ghz, vegeta, grpcurl, grpc-health-probe and the Go floor into .venv/bin

$(VENV)/.tools: $(VENV)/.installed Makefile $(wildcard perf/floors/go_noop/*)
	GOBIN=$(abspath $(BIN)) GOTOOLCHAIN=local $(BIN)/go install github.com/bojand/ghz/cmd/ghz@$(GHZ_VERSION)
	GOBIN=$(abspath $(BIN)) GOTOOLCHAIN=local $(BIN)/go install github.com/tsenart/vegeta/v12@$(VEGETA_VERSION)
	GOBIN=$(abspath $(BIN)) GOTOOLCHAIN=local $(BIN)/go install github.com/fullstorydev/grpcurl/cmd/grpcurl@$(GRPCURL_VERSION)
	GOBIN=$(abspath $(BIN)) GOTOOLCHAIN=local $(BIN)/go install github.com/grpc-ecosystem/grpc-health-probe@$(GRPC_HEALTH_PROBE_VERSION)
	GOTOOLCHAIN=local $(BIN)/go -C perf/floors/go_noop build -o $(abspath $(BIN))/go-noop .
	@touch $@

lock: install ## recompile requirements.lock (newer versions where pyproject.toml allows them)
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --no-header --quiet -o requirements.lock
	@! grep -nE '://|^--' requirements.lock

clean: ## remove what the tasks built
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis
