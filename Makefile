# millifit: `make help` lists what can be made.

VENV := .venv
BIN := $(VENV)/bin
# Any Python that the pinned packages are made for; 3.11 first, which most systems have them for.
PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help fit setup setup-dev native board check test bench clean
.DELETE_ON_ERROR:

help:  ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

fit: $(VENV)/.installed  ## set everything up, then fit a small network in a few minutes
	$(BIN)/millifit fit --demo --run runs/demo

setup: $(VENV)/.installed  ## create .venv with everything that millifit needs
	@if command -v cmake >/dev/null && [ -f /usr/include/CL/cl.h ]; then $(BIN)/millifit device build; \
	else echo "OpenCL devices: 'make native' builds what they need"; fi
setup-dev: $(VENV)/.installed-dev  ## ... and what checks and tests need

native: $(VENV)/.installed  ## the runtime for OpenCL devices and the runner of bundles, in C++
	@./.ci/system-packages "$(PYTHON)" native
	$(BIN)/millifit device build

check: $(VENV)/.installed-dev  ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

board: $(VENV)/.installed  ## start the emulated arm64 board; prints how to use it
	$(BIN)/python -m tests.boards.board

test: $(VENV)/.installed-dev  ## all tests
	$(BIN)/python -m pytest -q

bench: $(VENV)/.installed  ## the figures of the README, into benchmarks/results/
	@mkdir -p benchmarks/results
	@set -e; for file in $(filter-out $(addprefix benchmarks/,__init__.py models.py setting.py),$(wildcard benchmarks/*.py)); do \
		name=$$(basename $$file .py); \
		$(BIN)/python -m benchmarks.$$name --json benchmarks/results/$$name.json; \
	done

clean:  ## remove what was built; runs/ stays
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "millifit needs Python 3.11, 3.12 or 3.13 on the PATH" >&2; exit 1; }
	@./.ci/system-packages "$(PYTHON)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.created constraints.txt pyproject.toml
	$(BIN)/python -m pip install -q torch==2.13.0 -c constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]' setuptools wheel
	touch $@
