# Needs make, the network and Python 3.11 or later: PYTHON=/path/to/python3.12 make chooses one.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
UV_VERSION := 0.13.9
# Not for every Python, so nobody else gets it.
ATHERIS_VERSION := 3.0.0

.PHONY: setup compiled demo test test-compiled bench bench-full bench-midnight check faults fuzz soak format dashboards pictures mutants \
	lock clean

setup: $(STAMP)

# Every package is pinned by its hash; the project itself is built by the pinned backend.
$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo 'no Python 3.11 or later found: set PYTHON' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# What people run is compiled where that is possible: the same code, its rules translated to C, which
# needs a C compiler and Python's headers. It stands apart, so that nobody runs yesterday's code.
COMPILED := build/compiled
RUN_COMPILED := PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/$(COMPILED):$(CURDIR)
compiled: $(COMPILED)/.built
$(COMPILED)/.built: $(STAMP) deploy/compiling.py $(shell find metering consumer migrations -name '*.py' -o -name '*.toml')
	rm -rf $(COMPILED)
	HATCH_BUILD_HOOK_ENABLE_CUSTOM=true $(BIN)/pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation --target $(COMPILED) .
	@touch $@
CAN_COMPILE = $(shell command -v $(CC) >/dev/null && $(PYTHON) -c 'import pathlib, sys, sysconfig; \
	sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' && echo compiled)

# ARGS=--keep leaves it running and says how to use it.
demo: setup
	$(BIN)/lotmeter demo $(ARGS)

# On a core each; a file stays together, as its tests share what it starts. Each core has its own servers.
# In the order of their names: by the number of their tests, files of few but long ones would come last.
SPREAD := --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
test: setup
	$(BIN)/pytest $(SPREAD) $(ARGS)

# The same tests of the compiled code. ARGS="tests/unit tests/properties" runs only some of either.
test-compiled: compiled
	$(RUN_COMPILED) $(BIN)/pytest --override-ini=pythonpath="$(CURDIR)/$(COMPILED) $(CURDIR)" \
		$(SPREAD) $(ARGS)

# ARGS=--quick for less than a minute; ARGS=--help says what else there is.
bench: setup $(CAN_COMPILE)
	$(RUN_COMPILED) $(BIN)/python -m tests.benchmarks $(ARGS)

# Every kind of traffic, and Apache Kafka too: needs Java and Maven, and up to an hour.
bench-full: setup $(CAN_COMPILE)
	$(RUN_COMPILED) $(BIN)/python -m tests.benchmarks --full $(ARGS)

# The month of 100,000 channels ends at one instant; ARGS="--channels 10000" for a short look.
bench-midnight: setup $(CAN_COMPILE)
	$(RUN_COMPILED) $(BIN)/python -m tests.benchmarks.midnight $(ARGS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Breaks the service on purpose, against Apache Kafka and PostgreSQL. Needs Java 17 and Maven.
# ARGS="--minutes 5" does what fits; ARGS="--record" adds what was survived to docs/faults.md.
faults: setup
	$(BIN)/python -m tests.faults $(ARGS)

# Searches for bytes that the decoding boundary cannot take. ARGS=-runs=N sets how many.
fuzz: setup
	$(BIN)/pip install --quiet --disable-pip-version-check atheris==$(ATHERIS_VERSION)
	$(BIN)/python -m tests.faults.fuzz_decoding $(or $(ARGS),-runs=1000000)

# Half an hour at half speed with small faults; writes docs/soak.md.
soak: setup
	$(BIN)/python -m tests.faults.soak $(ARGS)

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Writes what Grafana reads; a test says when that was forgotten.
dashboards: setup
	$(BIN)/python deploy/grafana/make_dashboards.py

# Draws the pictures of docs/; a test says when that was forgotten.
pictures: setup
	$(BIN)/python docs/make_pictures.py

# Breaks the rules of billing on purpose, one place at a time, and lists what no test noticed.
# ARGS="'metering.lots*'" does only some; ARGS=--report tells again what was found.
mutants: setup
	$(BIN)/python -m tests.mutants $(ARGS)

# UPGRADE=--upgrade takes the newest of everything; without it, only what must change changes.
# The second one is the part of the first that the container image needs.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate pyproject.toml
lock: setup
	$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(COMPILE) --all-extras $(UPGRADE) --output-file requirements.lock
	$(COMPILE) --constraint requirements.lock --output-file deploy/image.lock

clean:
	rm -rf $(VENV) build dist mutants *.egg-info .coverage .hypothesis .import_linter_cache \
		.mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
