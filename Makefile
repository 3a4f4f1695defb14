# make run    everything a fresh machine needs, then a real Debian container and both views of it
# make test   everything a fresh machine needs, then every check and test
# make test-cgroup2  what of it runs in a guest with cgroup v2 alone (`make test` runs a part)
# make check  format, lint, types, layers, C warnings
# make fuzz   atheris on the parsers of hostile bytes, SECONDS each (TARGETS="tar erofs": only these)
# make conformance  runtime-tools', crun's and runc's own tests on onggi-runtime, runc and crun
# make bench  side by side with the peers that are installed (make bench-peers installs them)
VENV ?= .venv
BIN = $(VENV)/bin
PYTHON ?= python3
export PYTHONDONTWRITEBYTECODE =

.PHONY: run test test-cgroup2 check unit fuzz bench bench-peers conformance build packages clean
.DELETE_ON_ERROR:

run: build
	@scripts/packages run
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/tour

test: build check
	@scripts/packages test
	$(MAKE) -s -C keel test
	$(MAKE) -s -C keel fuzz SECONDS=5
	$(BIN)/python -m pytest -q

# the engine, its limits and onggi-runtime on an older kernel with cgroup v2 alone, under systemd too,
# in guests of the tests' own
test-cgroup2: build
	@scripts/packages test
	ONGGI_GUEST=all $(BIN)/python -m pytest -q tests/kernel/test_cgroups_guest.py \
	    tests/acceptance/test_guest.py tests/acceptance/test_systemd_guest.py

check: build
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

SECONDS ?= 60
fuzz: build
	$(BIN)/python -m tests.fuzz $(TARGETS) --seconds $(SECONDS) --corpus build/fuzz/corpus \
	    --findings build/fuzz/findings

bench: build
	$(BIN)/python -m bench
	$(BIN)/python -m bench.images

bench-peers:
	@scripts/packages bench

conformance: build
	@scripts/packages conformance
	$(BIN)/python -m tests.conformance

build: $(VENV)/.installed

SOURCES = $(wildcard keel/*.[ch] keel/*.def keel/Makefile keel/libc/*.[ch] guard/* front/*.[ch] front/Makefile)

$(VENV)/.installed: pyproject.toml setup.py src/onggi/__init__.py $(SOURCES)
	@scripts/packages build
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -m compileall -q src/onggi
	@touch $@

clean:
	rm -rf $(VENV) build src/onggi/bin src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
