# Every target does the set-up it needs; a machine needs Python 3.11+, git and make.
SHELL := /bin/sh
BIN := .venv/bin

.PHONY: help setup up demo test torture check bench bench-full bench-guard

help:
	@echo "make up     the gateway with both services on this machine; Ctrl-C stops it"
	@echo "make demo   a dozen agents do git work through the gateway while shares move"
	@echo "make test   the test suite"
	@echo "make torture  long forms of tests: 20 rolling restarts under 20 clients, thousands of idle and slow clients, every drill"
	@echo "make check  linters, types, import rules, the pages made from the code"
	@echo "make bench  beside nginx: CPU per request; memory of long streams, time from a change to its effect"
	@echo "make bench-guard  what detectors do: simulated, on a real new side that breaks, and what they cost"
	@echo "make bench-full  beside HAProxy, nginx mirror and others too, on a larger grid"

setup:
	@scripts/setup

up: setup
	@$(BIN)/crossfade up $(ARGS)

demo: setup
	@$(BIN)/crossfade demo $(ARGS)

test: setup
	@$(BIN)/pytest -n auto -q $(ARGS)

torture: setup
	@CROSSFADE_TEST_RESTARTS=20 $(BIN)/pytest -q tests/integration/test_up_gateway.py -k many_restarts $(ARGS)
	@CROSSFADE_TEST_SCALE=$${CROSSFADE_TEST_SCALE:-20} $(BIN)/pytest -q -s tests/integration/test_crowds.py $(ARGS)
	@CROSSFADE_TEST_MATRIX=full $(BIN)/pytest -q -n auto tests/integration/backends tests/acceptance $(ARGS)
	@CROSSFADE_TEST_SOAK_S=120 CROSSFADE_TEST_SCALE=$${CROSSFADE_TEST_SCALE:-20} $(BIN)/pytest -q -s -o faulthandler_timeout=0 \
	  tests/integration/backends/test_soak.py $(ARGS)
	@CROSSFADE_TEST_P95_RATIO=2.0 CROSSFADE_TEST_LOAD=100 CROSSFADE_TEST_FAULTS="errors down slow hang mismatch" \
	  CROSSFADE_TEST_FLIP_EVERY=30 CROSSFADE_TEST_FLIP_FOR=300 $(BIN)/pytest -q -o faulthandler_timeout=0 \
	  tests/integration/test_up_drill.py $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config pyproject.toml
	$(BIN)/python scripts/generate_docs --check
	$(BIN)/python scripts/plot_detectors --check
	$(BIN)/python scripts/check_docs

# Needs nginx and wrk, and says so.
bench: setup
	@$(BIN)/python -m bench --write $(ARGS)
	@$(BIN)/python -m bench.general_lane
	@$(BIN)/python -m bench.policy_change
	@$(BIN)/python -m bench.scale
	@$(BIN)/python -m bench.inventory
	@$(BIN)/python -m bench.pool
	@$(BIN)/python -m bench.shadow

# Takes half an hour and writes docs/detectors.md; `make bench-guard SHORT=--short` simulates for a minute and keeps that to
# itself.
bench-guard: setup
	@$(BIN)/python -m bench.detectors $(SHORT)
	@$(BIN)/python -m bench.guard
	@$(BIN)/python -m bench.guard_cost
	@$(BIN)/python scripts/plot_detectors

bench-full: setup
	@$(BIN)/python -m bench --full $(ARGS)
	@$(BIN)/python -m bench.scale --requests 1000000
