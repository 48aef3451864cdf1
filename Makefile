PYTHON ?= python3
VENV ?= .venv
# Tests run in so many processes, each with one thread for computing.
JOBS ?= 2
# Slow tests wait for daemons and servers much of the time.
SLOW_JOBS ?= 3
pytest = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(1)

.PHONY: install demo harvest test test-quick test-slow rehearsal rehearsal-soak rehearsal-sizes fuzz row-orders rehearsal-versions variables docs notebooks errors check clean

# Installs into a virtual environment of its own; again only when the requirements change.
install: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(VENV)/bin/python -m harvest_assets demo
	@echo "The commands are in $(VENV)/bin; for this shell: source $(VENV)/bin/activate"

# make harvest RUN=entity/project/run_id ARGS="--n_batches 50"
harvest: install
	$(VENV)/bin/python -m harvest_assets $(RUN) $(ARGS)

test: check
	$(MAKE) test-quick

test-quick: install
	$(call pytest,$(JOBS)) -m 'not slow and not rehearsal' --durations=10

test-slow: install
	$(call pytest,$(SLOW_JOBS)) -m slow --durations=20

# The repetitions that are too many for each change: `make rehearsal` before a release
rehearsal: install
	$(call pytest,$(JOBS)) -m rehearsal --durations=20

# make rehearsal-soak RUNS=20 MINUTES=15: everything unattended for an hour; docs/reliability.md
rehearsal-soak: install
	$(VENV)/bin/python -m harvest_assets_tests.orchestration.soak --runs $(or $(RUNS),200) --minutes $(or $(MINUTES),60)

# make fuzz INPUTS=100000: every reader of files of other people, guided by coverage
fuzz: install
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	$(VENV)/bin/python -m harvest_assets_tests.hostile.fuzz --inputs $(or $(INPUTS),1000000)

# The row orders of several versions of datasets: the table in docs/row_order.md
row-orders: install
	$(VENV)/bin/python -m harvest_assets_tests.data.row_orders

# make rehearsal-versions PYTHONS="python3.11 python3.13": the wheel in new environments, with the
# lowest and the highest versions of what it needs; the table in docs/reliability.md
rehearsal-versions: install
	$(VENV)/bin/python -m harvest_assets_tests.versions $(PYTHONS)

# make rehearsal-sizes FOLDER=/big/disk: the largest harvests, one after the other, from states to
# pages, with 62 GiB of disk and 8 GiB of memory; the table in docs/performance.md
rehearsal-sizes: FOLDER ?= build/sizes
rehearsal-sizes: install
	@for name in examples b a many; do \
		if [ -n "$$(ls -A $(FOLDER)/$$name 2>/dev/null)" ]; then \
			echo "$(FOLDER)/$$name is not empty; remove it, or give another FOLDER." >&2; exit 1; \
		fi; \
	done
	for size in examples b a; do \
		$(VENV)/bin/python -m benchmarks sizes $$size $(FOLDER)/$$size || exit 1; \
		rm -rf $(FOLDER)/$$size; \
	done
	$(VENV)/bin/python -m harvest_assets_tests.viewer.many_harvests $(FOLDER)/many
	rm -rf $(FOLDER)/many
	$(VENV)/bin/python -m harvest_assets_tests.orchestration.scale 1000

# docs/variables.md, from the models that read the environment
variables: install
	$(VENV)/bin/python -m harvest_assets_tests.variables

# The documentation site in build/site; a dead link or anchor is an error
docs: install
	$(VENV)/bin/python -m harvest_assets_tests.docs.stage build/docs
	$(VENV)/bin/zensical build --strict --clean

# docs/notebooks/, executed, with their outputs
notebooks: install
	$(VENV)/bin/python -m harvest_assets_tests.docs.notebooks

# docs/errors.md, from the errors that the package raises
errors: install
	$(VENV)/bin/python -m harvest_assets_tests.docs.errors

check: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	DAGSTER_HOME=$$(mktemp -d) $(VENV)/bin/dagster definitions validate -m harvest_assets.definitions

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
