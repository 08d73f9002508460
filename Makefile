# Developer commands. Each installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := calibration commands evaluation export fleet gmos_ref runtime
MODULES := $(filter-out setup.py __init__.py,$(wildcard *.py))
SOURCES := $(wildcard *.py) $(PACKAGES) benchmarks examples tests tools

.PHONY: help install test published gpu lint types house check demo clean

# What follows ## at a target.
help:  ## what there is to make
	@sed -n 's/^\([a-z][a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 16

# The stamp is newer than pyproject.toml when the environment is up to date.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[ref,cpu,export,rtx,test,dev]'
	@touch $@

install: $(VENV)/installed  ## the package and all that its tests and checks need, in .venv

# Files stay together, for the fixtures of a file, and in order: tests/conftest.py has the long ones first.
test: install  ## run the tests; no GPU is needed
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations=15

published: install  ## tests at published size: minutes and 5 GB
	$(BIN)/python -m pytest -m published

gpu: install  ## tests on this machine's GPU
	$(BIN)/python -m pytest -m gpu

lint: install  ## rules and format of the code
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

# The repository root is the package, so the type checker needs a folder that holds it by its name.
types: install  ## the type checker, for Linux and for Windows
	@mkdir -p build/types && ln -sfn ../.. build/types/gmos_deploy
	cd build/types && for platform in linux win32; do MYPYPATH=. ../../$(BIN)/mypy --platform $$platform \
		--config-file ../../pyproject.toml $(MODULES:%.py=-m gmos_deploy.%) $(PACKAGES:%=-p gmos_deploy.%) || exit 1; done

house: install  ## lines of code, files in folders, lines in files
	$(BIN)/python -m pytest -q -s tests/test_house.py

check: lint types test  ## lint, types and tests: what CI runs

demo: install  ## segment a real video
	$(BIN)/python tools/demo.py

clean:  ## remove the environment and all that was made
	rm -rf $(VENV) build demo-output *.egg-info
