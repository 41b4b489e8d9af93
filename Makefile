# SPDX-License-Identifier: BSD-3-Clause
# Each target makes what it needs in .venv, and again when pyproject.toml changes.
# PYTHON chooses the interpreter: make test PYTHON=python3.13

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input

# An environment is bound to its folder: a copied or moved checkout would import the old
# one. It is also bound to the interpreter, if one is named.
MADE_FOR := $(strip $(file <$(VENV)/made-for))
ifneq ($(MADE_FOR),)
  ifneq ($(firstword $(MADE_FOR)),$(subst $() ,?,$(CURDIR)))
    STALE := yes
  else ifeq ($(filter command environment,$(origin PYTHON)),)
  else ifneq ($(lastword $(MADE_FOR)),$(PYTHON))
    STALE := yes
  endif
endif

.PHONY: help demo test check bench docs clean stale
.DEFAULT_GOAL := help
.NOTPARALLEL:
.SUFFIXES:

help:  ## this list
	@awk -F ':.*##' '/^[a-z]+:.*##/ {printf "  make %-8s%s\n", $$1, $$2}' Makefile

demo: $(STAMPS)/chem  ## search for molecules on real chemistry, about a minute on 2 cores (ARGS="--help": its options)
	$(BIN)/ssdag demo $(ARGS)

test: $(STAMPS)/test check  ## check, then all tests; as root it installs what they need with apt
	@sh tests/install_system_packages.sh
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

check: $(STAMPS)/test  ## ruff, mypy --strict and the layers of the architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

bench: $(STAMPS)/bench  ## measure against Parsl, Ray, Dask and others, rewrite docs page and README (ARGS=--quick: print only)
	$(BIN)/python -m benchmarks $(ARGS)
	$(BIN)/python -m benchmarks.tensors $(filter --quick,$(ARGS))
	$(BIN)/python -m benchmarks.data $(filter --quick,$(ARGS))
	$(BIN)/python -m benchmarks.pilot $(filter --quick,$(ARGS))
	$(BIN)/python -m benchmarks.report

docs: $(STAMPS)/docs  ## build the manual into docs/_build
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "docs/_build/index.html"

clean:  ## remove .venv, caches and built pages
	rm -rf $(VENV) docs/_build dist molecule-search elastic-campaign mpi-steps lbm-steer heat-online-training sinx-loop .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# -- environments -------------------------------------------------------------------------

$(STAMPS)/chem: EXTRAS = chem
$(STAMPS)/test: EXTRAS = dev,docs,chem,engines
$(STAMPS)/docs: EXTRAS = docs
$(STAMPS)/bench: EXTRAS = bench

$(STAMPS)/chem $(STAMPS)/test $(STAMPS)/docs $(STAMPS)/bench: $(VENV)/made-for pyproject.toml
	@echo "installing ssdag[$(EXTRAS)] into $(VENV)"
	@$(PIP) install --editable '.[$(EXTRAS)]'
	@mkdir -p $(STAMPS) && touch $@

$(VENV)/made-for: $(if $(STALE),stale)
	@sh .ci/make_venv.sh '$(PYTHON)' '$(VENV)'
	@echo '$(subst $() ,?,$(CURDIR)) $(PYTHON)' > $@

stale:
