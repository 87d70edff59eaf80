# Every target sets up what it needs in .venv, from a fresh clone. Another interpreter: make PYTHON=python3.12 …
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
INSTALLING := @echo "installing into $(VENV): half a minute, or more on a slow line"
PACKAGES := $(wildcard chain crdt sharding validation dht federated node sim)
# report, corpora, minilm, holders and peers are parts of others; soak runs for as long as one lets it, fault_suite for
# hours, published wants a checkout of Flower: by their own names
BENCHMARKS ?= $(filter-out report corpora fl_accuracy fl_overhead fl_p2pfl fl_traffic p2pfl_nodes minilm holders peers shard_map soak fault_suite published published_apps,$(patsubst benchmarks/%.py,%,$(filter-out benchmarks/__init__.py,$(wildcard benchmarks/*.py))))

# Compiled modules are kept, whatever the shell says: tests start hundreds of processes, each would compile all of us.
unexport PYTHONDONTWRITEBYTECODE

.DELETE_ON_ERROR:
.PHONY: help demo test test-fast test-slow test-long mutants mutmut lint format bench p2pfl clean install

help:
	@echo "make demo    five daemons on this machine answer ten questions; four of them train a model together"
	@echo "make test    all tests (make test-fast: those that start no daemon; make test-slow: those that do)"
	@echo "make test-long  what is too long for that: larger sizes, and 200 nodes for an hour of virtual time, a tenth of them liars: some hours"
	@echo "make mutants every planted bug of merging and of learning against what has to notice it, and the laws for longer: a quarter of an hour"
	@echo "make mutmut  every small change to crdt/, and whether a law or a test notices: an hour"
	@echo "make lint    ruff, mypy --strict, import-linter"
	@echo "make bench   every benchmark (QUICK=1: each under a minute)"
	@echo "make p2pfl   an environment with p2pfl, beside which make bench measures then; some 800 MB"
	@echo "make install only the environment; make format: let ruff rewrite"
	@echo "make clean   remove the environment and every cache"

demo: $(VENV)/.installed-demo
	@$(BIN)/roseforest demo

# One run of both: every module is imported once, and quick tests fill what the last slow ones leave of a core.
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not long" -n 2 --dist worksteal

test-fast: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow" -n auto --dist worksteal

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "slow and not long" -n 2 --dist worksteal

test-long: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m long -n 2 --dist worksteal
	$(BIN)/python -m benchmarks.fault_suite

mutants: $(VENV)/.installed-test
	$(BIN)/python -m tests.crdt.mutants
	$(BIN)/python -m tests.federated.mutants
	HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest tests/crdt -n auto --dist worksteal

# mutmut makes the mutants while it tries one of them; all are tried by tests/crdt/mutated.py.
mutmut: $(VENV)/.installed-mutation
	rm -rf build/mutmut
	mkdir -p build/mutmut
	cp -r chain crdt sharding validation docs tests pyproject.toml build/mutmut
	cd build/mutmut && CI=1 ../../$(BIN)/mutmut run --max-children 1 crdt.version_vector.x__covers__mutmut_1
	cd build/mutmut/mutants && CI=1 ../../../$(BIN)/python -m tests.crdt.mutated

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES) benchmarks tests
	$(BIN)/lint-imports

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-bench
	@failed=; for name in $(BENCHMARKS); do \
		$(BIN)/python -m benchmarks.$$name $(if $(QUICK),--quick) || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "did not run to the end:$$failed"; exit 1; }

p2pfl: $(VENV)/p2pfl/.installed

install: $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@.ci/check-system $(PYTHON)
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(INSTALLING)
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-demo: pyproject.toml | $(VENV)/bin/python
	$(INSTALLING)
	@$(PIP) -e '.[fl,examples]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	$(INSTALLING)
	@$(PIP) -e '.[test,fl,examples]'
	@touch $@ $(VENV)/.installed

# libp2p requires trio-typing, whose stubs for trio are older than trio's own types and hide them from mypy.
$(VENV)/.installed-lint: pyproject.toml | $(VENV)/bin/python
	$(INSTALLING)
	@$(PIP) -e '.[test,lint,fl,examples]'
	@rm -rf $(VENV)/lib/python*/site-packages/trio-stubs
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test

$(VENV)/.installed-mutation: pyproject.toml | $(VENV)/bin/python
	$(INSTALLING)
	@$(PIP) -e '.[test,mutation,fl,examples]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test

$(VENV)/.installed-bench: pyproject.toml | $(VENV)/bin/python
	$(INSTALLING)
	@$(PIP) -e '.[test,bench,fl,examples]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test

# Of its own, since p2pfl is bound to NumPy 1. It does not say so, but imports opendp, and datasets does not work
# with newer releases of the other two.
$(VENV)/p2pfl/.installed: | $(VENV)/bin/python
	@echo "installing into $(VENV)/p2pfl: a minute, or more on a slow line"
	@$(PYTHON) -m venv $(VENV)/p2pfl
	@$(VENV)/p2pfl/bin/python -m pip install --quiet --disable-pip-version-check \
		'p2pfl[dp]==0.4.4' 'huggingface-hub<0.26' 'pyarrow<19'
	@touch $@
