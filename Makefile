# Each target makes .venv if it is missing, installs what it needs with constraints.txt, and runs.
PYTHON ?= python3
BIN := .venv/bin
# Where torch comes from; pip's own index if empty, whose torch for Linux brings CUDA's libraries. For CPUs alone:
# TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check bench docs clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/'

.venv/python:
	$(PYTHON) -m venv .venv
	@# torch first: only it comes from another index, and what follows keeps it
	$(PIP) $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	@touch $@

.venv/demo: .venv/python pyproject.toml constraints.txt
	$(PIP) --editable '.[demo]'
	@touch $@

.venv/dev: .venv/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev,bench]'
	@touch $@ .venv/demo

demo: .venv/demo  ## caption real photos, one of them corrupt, and show where the table is
	$(BIN)/python jobs/demo.py

check: .venv/dev  ## ruff, and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/mypy

# whole files, in their order: what a file's tests share is made once, and the last files are short;
# byte code is kept, for hundreds of processes that start
test: export PYTHONDONTWRITEBYTECODE =
test: .venv/dev  ## the tests that need neither an accelerator nor long, in under 20 minutes on 2 cores
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
		-m "not slow and not gpu"

test-slow: .venv/dev  ## the long ones: kills at every step, lost nodes, the pages as they are written
	$(BIN)/python -m pytest -m "slow and not gpu"

bench: .venv/dev  ## every benchmark, and the table that the README quotes
	$(BIN)/python benchmarks/run_all.py

docs: .venv/dev  ## build the documentation into out/docs; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:  ## remove outputs and caches, not .venv
	rm -rf out .mypy_cache .ruff_cache .pytest_cache
