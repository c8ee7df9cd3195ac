# The three commands that people use, each with an environment of its own that it makes when it is missing:
#   make demo    serve only: no torch         make test    everything the tests need
#   make check   style, types, import directions
#   make soak    eight cameras under random faults for SECONDS (an hour)
# PYTHON=python3.12 make demo   chooses the interpreter; ARGS="--seconds 10" is handed on.
PYTHON ?= python3
ARGS ?=
SECONDS ?= 3600

.PHONY: demo soak test check format clean

demo: .venv/.ready
	.venv/bin/streamclf demo $(ARGS)

test: .venv-dev/.ready
	.venv-dev/bin/python -m pytest $(ARGS)

soak: .venv-dev/.ready
	PYTHONPATH=tests .venv-dev/bin/python tests/soak.py --seconds $(SECONDS) $(ARGS)

check: .venv-dev/.ready
	.venv-dev/bin/ruff check .
	.venv-dev/bin/ruff format --check .
	.venv-dev/bin/mypy
	.venv-dev/bin/lint-imports

format: .venv-dev/.ready
	.venv-dev/bin/ruff check --fix .
	.venv-dev/bin/ruff format .

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet -e .
	touch $@

.venv-dev/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-dev
	.venv-dev/bin/python -m pip install --quiet --upgrade pip
	.venv-dev/bin/python -m pip install --quiet -e '.[dev,train]'
	touch $@

clean:
	rm -rf .venv .venv-dev build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
