# Developer commands. Each installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(wildcard *.py) benchmarks calibration evaluation export gmos_ref runtime tests tools

.PHONY: help install test lint types check demo published gpu clean

help:
	@echo "make test       install and run the tests (no GPU needed)"
	@echo "make demo       install and segment a real video"
	@echo "make check      lint, types and tests"
	@echo "make published  tests at published size: minutes and 5 GB"
	@echo "make gpu        tests on this machine's GPU"

# The stamp is newer than pyproject.toml when the environment is up to date.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[ref,cpu,export,rtx,test,dev]'
	@touch $@

install: $(VENV)/installed

# Files stay together: they share what their fixtures have exported.
test: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

published: install
	$(BIN)/python -m pytest -m published

gpu: install
	$(BIN)/python -m pytest -m gpu

lint: install
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

# The repository root is the package, so the type checker needs a folder that holds it by its name.
types: install
	@mkdir -p build/types && ln -sfn ../.. build/types/gmos_deploy
	cd build/types && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml \
		-m gmos_deploy.cli -m gmos_deploy.run_command -m gmos_deploy.nano_bundle -m gmos_deploy.networks \
		$(foreach package,calibration evaluation export gmos_ref runtime,-p gmos_deploy.$(package))

check: lint types test

demo: install
	$(BIN)/python tools/demo.py

clean:
	rm -rf $(VENV) build demo-output *.egg-info
