.PHONY: help demo test lint format clean FORCE
.DEFAULT_GOAL := help

# A file is a worker's from its first test to its last; in the order given, because the browser's files take longest.
PARALLEL = --numprocesses=logical --maxprocesses=8 --dist=loadfile --no-loadscope-reorder

help:
	@echo "make demo    set up, then train, serve and swap on the embedded model"
	@echo "make test    set up, lint, then the whole suite"
	@echo "make lint    ruff's checks and format, mypy's types"
	@echo "make format  let ruff fix what it can"
	@echo "make clean   remove .venv and caches; state in TANDEM_HOME stays"

demo: .venv/tandem-setup
	@.venv/bin/tandem demo

test: lint
	@tests/debian.sh
	@.venv/bin/python -m pytest tests/browser tests/unit $(PARALLEL)
	@.venv/bin/python -m pytest tests/ray tests/gpu

lint: .venv/tandem-setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/mypy

format: .venv/tandem-setup
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

.venv/tandem-setup: FORCE
	@./setup.sh

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info

FORCE:
