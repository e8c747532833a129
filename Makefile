# Everything here runs without Docker; with Docker use `astro dev start`.
# PORT=9000 make start, or make start PORT=9000, takes another port.
export PORT WAREHOUSE_PORT REDIS_PORT DEPLOYMENT PROJECT NAME FROM LOAD STATE PR

# Not .venv: `astro dev start --standalone` makes that one for itself.
VENV = .local/venv
PYTHON = $(VENV)/bin/python
QUICK_TESTS = not slow and not engine
# Two files at a time, as a test mostly waits: each of the two has an Airflow of its own.
PYTEST = NO_SKIPS=1 $(PYTHON) -m pytest --verbose --numprocesses=2 --dist=loadfile

.DEFAULT_GOAL := help
.PHONY: help adopt add-project update start stop clean warehouse standalone test test-all canary lint audit lock logs psql dbt ci-dbt ci-dbt-drop docs report backfill containers

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What only the template itself needs.
-include template.mk

adopt: $(VENV)/installed ## Make this clone your team's; NAME=acme FROM=../their_dbt_project LOAD=1
	@$(PYTHON) -m local adopt

add-project: $(VENV)/installed ## Add a dbt project with a DAG; NAME=other FROM=../other_project LOAD=1
	@$(PYTHON) -m local add-project

update: $(VENV)/installed ## Merge a newer version of the template; FROM=<its git address>
	@$(PYTHON) -m local update

start: $(VENV)/installed ## Start Postgres and Airflow, and run the DAG of local.toml
	@$(PYTHON) -m local start

stop: $(VENV)/installed ## End all of it; the data stays
	@$(PYTHON) -m local stop

clean: $(VENV)/installed ## End all of it and remove what was made
	@$(PYTHON) -m local clean

warehouse: $(VENV)/installed ## Start Postgres only
	@$(PYTHON) -m local warehouse

standalone: $(VENV)/installed ## Start Postgres, and prepare astro dev start --standalone
	@$(PYTHON) -m local standalone

test: $(VENV)/installed ## Run the tests, on services of their own; ARGS=tests/dags
	@$(PYTEST) -m "$(QUICK_TESTS)" $(ARGS)

test-all: $(VENV)/installed ## Run the slow tests too: kills, Celery, random sequences of failures
	@$(PYTEST) $(ARGS)

canary: $(VENV)/installed ## Run the core tests with the next Cosmos, Airflow and dbt
	@PATH="$(abspath $(VENV))/bin:$$PATH" .ci/canary $(ARGS)

lint: $(VENV)/installed ## Run pre-commit on all files
	@PATH="$(abspath $(VENV))/bin:$$PATH" pre-commit run --all-files --show-diff-on-failure

audit: $(VENV)/installed ## Look for known weaknesses of what is installed; list it in .local/sbom.json
	@mkdir -p .local
	@PATH="$(abspath $(VENV))/bin:$$PATH" pre-commit run --all-files --hook-stage manual sbom
	@PATH="$(abspath $(VENV))/bin:$$PATH" pre-commit run --all-files --hook-stage manual audit

containers: $(VENV)/installed ## Look at what astro dev start runs, and run it
	@$(PYTHON) -m tests.integration.containers

lock: $(VENV)/installed ## Write requirements-dev.txt anew; ARGS=--upgrade for newer versions
	@.ci/lock $(ARGS)

logs: $(VENV)/installed ## Follow the logs of Airflow's processes
	@$(PYTHON) -m local logs

psql: $(VENV)/installed ## Open psql in the warehouse; ARGS="-c 'select 1'"
	@$(PYTHON) -m local psql $(ARGS)

dbt: $(VENV)/installed ## Run dbt as a developer; ARGS="build --select my_model"
	@$(PYTHON) -m local dbt $(ARGS)

ci-dbt: $(VENV)/installed ## Build what a pull request changes; STATE=<prod's artifacts> PR=1
	@$(PYTHON) -m local ci-dbt

ci-dbt-drop: $(VENV)/installed ## Drop what ci-dbt has built; PR=1
	@$(PYTHON) -m local ci-dbt-drop

docs: $(VENV)/installed ## Make the docs of all dbt projects as pages, in .local/site
	@$(PYTHON) -m local docs

report: $(VENV)/installed ## Show the runs of dbt over time: the slowest nodes, what fails most
	@$(PYTHON) -m local report

backfill: $(VENV)/installed ## Run the DAG for each day, or what is missing of them; FROM=2026-03-01 TO=2026-03-07
	@$(PYTHON) -m local backfill "$(FROM)" "$(TO)"

# Python's own venv first, so that git, make and Python are all that a machine needs.
$(VENV)/installed: requirements-dev.txt
	@python=; for candidate in python3 python3.13 python3.12 python3.11; do \
		if $$candidate -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; \
		then python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then echo "error: no Python 3.11, 3.12 or 3.13 found: install one of them." >&2; exit 1; fi; \
	echo "Installing into $(VENV) with $$($$python --version)"; \
	$$python -m venv --clear $(VENV)
	@$(VENV)/bin/pip install --disable-pip-version-check "$$(grep -o '^uv==[0-9.]*' requirements-dev.txt)"
	@$(VENV)/bin/uv pip sync --python $(VENV)/bin/python --require-hashes --compile-bytecode requirements-dev.txt
	@touch $@
