# make demo   install, train on synthetic images, show a table and a picture
# make quick  install, run the tests that are not slow, in a minute
# make test   install, run the tests; with EXTRAS=dev,interop also those of examples in other RL libraries
# make check  lint, types and import contracts
# make bench  measured ratios
# make wheelhouse   a folder of all packages, to install on a machine without a network; see docs/contributing.md

VENV := .venv
EXTRAS := dev
PYTHON := $(VENV)/bin/python
export PYTHONDONTWRITEBYTECODE :=  # what was compiled is kept, for each worker of the tests and each process in them
INSTALLED := $(VENV)/.installed

.PHONY: demo quick test lint type contracts check format bench wheelhouse clean

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(INSTALLED)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

demo: $(INSTALLED)
	$(VENV)/bin/ahm train-agent --algo a3c --preset demo

quick: $(VENV)/.installed-dev
	$(PYTHON) -m pytest -n auto -m 'not slow' --durations 5 --durations-min 1

test: $(VENV)/.installed-dev
	$(PYTHON) -m pytest -n auto

lint: $(VENV)/.installed-dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

type: $(VENV)/.installed-dev
	$(PYTHON) -m mypy

contracts: $(VENV)/.installed-dev
	$(VENV)/bin/lint-imports

check: lint type contracts

format: $(VENV)/.installed-dev
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

bench: $(INSTALLED)
	$(PYTHON) -m benchmarks

# also what builds the project itself, which pip fetches apart
wheelhouse: pyproject.toml constraints.txt
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip wheel --disable-pip-version-check --constraint constraints.txt --wheel-dir wheelhouse \
		'.[$(EXTRAS)]' 'setuptools>=77' wheel pip

clean:
	rm -rf $(VENV) wheelhouse build *.egg-info
