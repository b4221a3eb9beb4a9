# Two commands need nothing but Python 3.10 or newer: `make demo` and `make test`.
# Both build .venv at their first call and use it as it is afterwards.

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
# Another interpreter, or other constraints, uses a separate environment, such as .venv-python3.10-constraints-min.
VENV   ?= .venv$(if $(filter-out python3 python,$(notdir $(PYTHON))),-$(notdir $(PYTHON)))$(if $(filter-out constraints.txt,$(CONSTRAINTS)),-$(basename $(notdir $(CONSTRAINTS))))
RUN    := $(VENV)/bin/python
PIP    := $(RUN) -m pip --disable-pip-version-check install --quiet -c $(CONSTRAINTS)
ARGS   ?=

# The models of the demo and the tests are so small that more threads would slow them down.
export OMP_NUM_THREADS ?= 1
TEST_ENV := KERAS_BACKEND=torch MPLBACKEND=Agg

# The environment is rebuilt when these change; the package itself is installed editable.
SETTINGS := pyproject.toml $(CONSTRAINTS) torchfit/_version.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-wheel matrix print-environment coverage docs lint format check bench clean

help:            ## List the targets
	@sed -n 's/^\([a-z-]*\): *[^#]*## */\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(VENV)/demo.stamp  ## Train a classifier of handwritten digits and plot its curves and predictions
	@$(RUN) examples/digits.py

test: $(VENV)/test.stamp  ## Run all tests and all examples in docstrings, README and docs
	@$(TEST_ENV) $(RUN) -m pytest -n auto --dist worksteal $(ARGS)

test-wheel:      ## Install a wheel (a new one, or WHEEL=…) in a new environment, and run the tests without the sources
	@PYTHON="$(PYTHON)" CONSTRAINTS="$(CONSTRAINTS)" bash .ci/test-wheel "$(WHEEL)" $(ARGS)

matrix:          ## Run the tests with every installed Python, and print a table for docs/versions.md
	@bash .ci/matrix

print-environment:
	@echo $(VENV)

coverage: $(VENV)/dev.stamp  ## Run the tests, show which lines they miss, and fail if these are too many
	@$(RUN) -m coverage erase
	@$(TEST_ENV) $(RUN) -m coverage run -m pytest -q -n auto --dist worksteal $(ARGS)
	@$(RUN) -m coverage combine -q
	@$(RUN) -m coverage report

docs: $(VENV)/docs.stamp  ## Build the site into docs/_build/html; warnings are errors
	@$(RUN) -m sphinx -b html -q -W --keep-going -n docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

lint: $(VENV)/dev.stamp  ## Check style, formatting, types and spelling
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@$(VENV)/bin/codespell *.md .github docs examples benchmarks torchfit

format: $(VENV)/dev.stamp  ## Format and fix the code with ruff
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

check: lint test  ## Run everything that must pass before a commit

bench: $(VENV)/test.stamp  ## Benchmark torchfit, hand-written loops and other trainers; writes benchmarks/RESULTS.md (11 minutes, on an idle machine)
	@$(RUN) -m benchmarks.suite $(ARGS)

clean:           ## Remove everything that these targets created
	rm -rf docs/_build docs/api/generated docs/notebooks
	rm -rf $(VENV) .venv-* demo-output build dist *.egg-info htmlcov .coverage .coverage.*
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/made.stamp:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("torchfit requires Python 3.10 or newer, this is " + sys.version.split()[0] + ": choose another with make PYTHON=/path/to/python")'
	@echo "Creating a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/demo.stamp: $(SETTINGS) | $(VENV)/made.stamp
	@echo "Installing torchfit, scikit-learn and matplotlib (once; PyTorch is large, this takes a while)"
	@$(PIP) -e . scikit-learn matplotlib
	@touch $@

$(VENV)/test.stamp: $(SETTINGS) | $(VENV)/made.stamp
	@echo "Installing torchfit and its test dependencies (once; PyTorch is large, this takes a while)"
	@$(PIP) -e ".[test]"
	@touch $@ $(VENV)/demo.stamp

$(VENV)/dev.stamp: $(SETTINGS) | $(VENV)/made.stamp
	@echo "Installing torchfit, its tests and its linters (once; PyTorch is large, this takes a while)"
	@$(PIP) -e ".[dev]"
	@touch $@ $(VENV)/test.stamp $(VENV)/demo.stamp

$(VENV)/docs.stamp: $(SETTINGS) | $(VENV)/made.stamp
	@echo "Installing torchfit and its documentation dependencies (once; PyTorch is large, this takes a while)"
	@$(PIP) -e ".[docs]"
	@touch $@
