# Every target sets itself up in .venv; a bare machine needs python3 (3.10 or newer), make and PyPI.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PYTEST_ARGS ?=
PROCESSES ?= 3
BENCH_ARGS ?=
DEMO_ARGS ?=
CASES_ARGS ?=
MINUTES ?= 30
SOAK_ARGS ?=
DJANGO_TESTS_ARGS ?=
COMPLIANCE_ARGS ?=
PSYCOPG_TESTS_ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo cases test soak django-tests psycopg-tests compliance check docs format bench clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-demo ## the same workload in four ways, side by side
	$(RUN) -m examples.demo $(DEMO_ARGS)

cases: $(VENV)/.installed-cases ## five published failures, with stock parts and with geventpg
	$(RUN) -m examples.cases $(CASES_ARGS)

test: $(VENV)/.installed-test ## run the tests against a real PostgreSQL (PYTEST_ARGS="-k name")
	$(RUN) -m pytest -n $(PROCESSES) --dist loadfile $(PYTEST_ARGS)

soak: $(VENV)/.installed-test ## run the long form of the chaos suite again and again (MINUTES=30)
	$(RUN) -m tests.chaos --minutes $(MINUTES) $(SOAK_ARGS)

django-tests: $(VENV)/.installed-test ## Django's own tests on its engine and on ours, compared
	$(RUN) -m tests.upstream.django $(DJANGO_TESTS_ARGS)

psycopg-tests: $(VENV)/.installed-upstream ## psycopg's and psycopg_pool's own tests on their classes and on ours, compared
	$(RUN) -m tests.upstream.psycopg_suite $(PSYCOPG_TESTS_ARGS)

compliance: $(VENV)/.installed-test ## run SQLAlchemy's own tests on our dialect and on psycopg's
	$(RUN) -m tests.upstream.sqlalchemy_suite $(COMPLIANCE_ARGS)

check: $(VENV)/.installed-dev ## lint, formatting and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: $(VENV)/.installed-docs ## build the documentation into build/docs; warnings are errors
	$(RUN) -m sphinx --fail-on-warning --keep-going --quiet -d build/doctrees docs build/docs
	@echo "The site: build/docs/index.html"

format: $(VENV)/.installed-dev ## sort imports and format the code
	$(VENV)/bin/ruff check --fix-only .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.installed-bench ## measure against other pools (BENCH_ARGS="--help")
	$(RUN) -m benchmarks $(BENCH_ARGS)

clean: ## remove .venv, caches and build results
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each extra: installed again when the dependencies change.
$(VENV)/.installed-%: setup.cfg setup.py pyproject.toml | $(RUN)
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "geventpg needs Python 3.10 or newer: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Cannot create a virtualenv. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
