# make install   .venv with everything: tests, benchmarks, the CPU builds of torch and vLLM
# make demo      the whole way, from docstrings to a scored report, in minutes
# make check     lint, types, import order, tests
# make docs      the documents as pages, in site/
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Where pip knows no CPU build of torch: the address of PyTorch's own CPU index.
TORCH_INDEX_URL ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow check lint docs docs/config.md peers clean

help:
	@sed -n 's/^# //p' Makefile | head -4

install: $(STAMP)

$(STAMP): requirements-cpu.txt pyproject.toml install.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" TORCH_INDEX_URL="$(TORCH_INDEX_URL)" sh install.sh
	@touch $@

demo: $(STAMP)
	@$(BIN)/sumzero demo

# Two at a time, whole files each; tests/conftest.py says which go together.
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

# Fails where a link is broken or a page is out of date.
docs: $(STAMP) docs/config.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

docs/config.md: $(STAMP)
	$(BIN)/python -m sumzero.config_reference > $@.partial && mv $@.partial $@

# What the benchmarks compare with, apart from the environment that is measured.
peers: $(STAMP)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --upgrade --target .peers \
		-r benchmarks/peers.txt

clean:
	rm -rf $(VENV) .peers site build dist src/*.egg-info
