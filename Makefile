# Everything a fresh machine needs is Python 3.11 and make.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
DEMO ?= demo.nxs
KILLS ?= 100
# Most tests wait: three at a time, even on two cores.
JOBS ?= 3
# The order of tests: fixed, random, or the seed that a random one has printed.
ORDER ?= fixed
_ORDER = $(if $(filter fixed,$(ORDER)),-p no:randomly,$(if $(filter random,$(ORDER)),,--randomly-seed=$(ORDER)))
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(_ORDER)

.PHONY: demo test test-busy trust chaos fuzz lint house interop bench clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pyrotome needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

demo: $(VENV)/.installed  ## run the quickstart experiment and draw what it recorded
	rm -f $(DEMO) $(DEMO:.nxs=.png)
	$(BIN)/pyrotome run examples/recipes/quickstart.yaml -o $(DEMO)
	$(BIN)/python examples/scripts/draw_run.py $(DEMO) $(DEMO:.nxs=.png)

test: $(VENV)/.installed  ## run the tests
	$(PYTEST)

test-busy: $(VENV)/.installed  ## run the tests while other processes keep two cores busy
	$(BIN)/python tests/support/busy.py $(PYTEST)

trust: $(VENV)/.installed  ## run the tests that break things on purpose: kills, faults, storms, full disks
	$(PYTEST) -m trust

chaos: $(VENV)/.installed  ## kill the processes of running experiments at random moments
	PYTHONPATH=tests/support $(BIN)/python tests/trust/chaos/chaos.py --kills $(KILLS)

# There is no atheris for every Python; all but one part of the campaign does without.
$(VENV)/.fuzz: $(VENV)/.installed
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	touch $@

fuzz: $(VENV)/.fuzz  ## a million inputs that are wrong
	PYTHONPATH=tests/support $(BIN)/python tests/trust/fuzz/campaign.py

$(VENV)/.interop: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[interop]'
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

interop: $(VENV)/.interop  ## run the tests against programs that are not ours
	$(PYTEST) -m interop

lint: $(VENV)/.dev  ## format check, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

house: $(VENV)/.installed  ## how the code is laid out, in figures; HOUSE='--against REV --peers --list'
	$(BIN)/python tools/house.py $(HOUSE)

bench: $(VENV)/.installed  ## print every figure beside its peer's, from the same run
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build *.egg-info
