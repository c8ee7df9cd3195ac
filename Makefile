# make demo    classify a camera, or a film made for it, and show the page; installs what serving needs into .venv (no torch)
#              make demo ARGS=rtsp://HOST/PATH for a source of your own
# make check   style, types, import contracts, tests/repository; installs everything into .venv-dev
# make test    the other tests in groups, JOBS=5 groups at once; then those that measure time, one by one; in .venv-dev
# make soak    eight cameras under random faults for SECONDS (one hour by default)
# make docs    write the generated pages again
# make gallery the pictures of the documentation, from films: make gallery CLIPS="street.mp4 hall.mp4"
# make format  format the code and sort the imports
#
# PYTHON=python3.12 chooses the interpreter of a new environment. ARGS="..." is passed on: make test ARGS="tests/engines -x"
PYTHON ?= python3
ARGS ?=
SECONDS ?= 3600
BIN := .venv-dev/bin

.PHONY: demo soak test check check-code check-repository docs gallery format clean

demo: .venv/.ready
	.venv/bin/streamclf demo $(ARGS)

# One pytest process runs each group of tests. JOBS groups run at once, because most tests wait for other processes most
# of the time. Groups that take long begin first. Afterwards, one process runs the tests that need the machine for
# themselves (`alone`). It imports only their files, which saves 20 s. The group `rest` has every folder that no other
# group names, so that no test is left out. The tests in tests/repository belong to `make check`.
JOBS ?= 5
TEST_GROUPS := training services pages sources system subscribers hub commands engines rest
END_TO_END := $(wildcard tests/end_to_end/test_*.py)
PATHS_training := tests/training
PATHS_pages := $(filter %page.py,$(END_TO_END))
PATHS_services := $(filter-out $(PATHS_pages),$(filter tests/end_to_end/test_r% tests/end_to_end/test_s%,$(END_TO_END)))
PATHS_system := $(filter-out $(PATHS_pages) $(PATHS_services),$(END_TO_END))
PATHS_sources := $(addprefix tests/streamclf/,sources capture clips)
PATHS_subscribers := tests/streamclf/subscribers
PATHS_hub := $(addprefix tests/streamclf/,hub client fleet)
PATHS_commands := $(addprefix tests/streamclf/,commands bench teach)
PATHS_engines := tests/engines
NAMED := $(filter-out tests/end_to_end/%,$(foreach group,$(TEST_GROUPS),$(PATHS_$(group))))
PATHS_rest := tests $(addprefix --ignore=,tests/repository tests/end_to_end $(NAMED))
ALONE := $(shell grep -rl --include=test_*.py "mark\.alone" tests)
SYNC := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)

test: .venv-dev/.ready
ifeq ($(strip $(ARGS)),)
	$(MAKE) --no-print-directory --keep-going -j$(JOBS) $(SYNC) $(TEST_GROUPS:%=test-%)
	$(BIN)/python -m pytest -m "alone and not slow" $(ALONE)
else
	$(BIN)/python -m pytest $(ARGS)
endif

$(TEST_GROUPS:%=test-%): test-%: .venv-dev/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not alone" $(PATHS_$*)

soak: .venv-dev/.ready
	PYTHONPATH=tests $(BIN)/python tests/soak.py --seconds $(SECONDS) $(ARGS)

check: .venv-dev/.ready
	$(MAKE) --no-print-directory --keep-going -j2 $(SYNC) check-code check-repository

check-code: .venv-dev/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/repository/test_typed_programs.py
	$(BIN)/lint-imports

check-repository: .venv-dev/.ready
	$(BIN)/python -m pytest -q tests/repository --ignore=tests/repository/test_typed_programs.py

docs: .venv-dev/.ready
	$(BIN)/python tests/support/configuration_page.py

gallery: .venv-dev/.ready
	PYTHONPATH=.:tests $(BIN)/python tests/support/gallery.py $(CLIPS)

format: .venv-dev/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	.venv/bin/python -m pip install --quiet -e '.[web]'
	touch $@

.venv-dev/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-dev
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev,train]'
	touch $@

clean:
	rm -rf .venv .venv-dev build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
