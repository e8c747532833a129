# Unless its comment says so, no target needs Docker; with Docker use `astro dev start`.
# The comment of a target names who needs it and when. `make PORT=9000 start` takes another port.
# Without this line, NAME could come from the environment, where some systems have the host's name.
NAME =

# `astro dev start --standalone` makes .venv for itself.
VENV = .local/venv
PYTHON = $(VENV)/bin/python
LOCAL_FOLDER = $(or $(LOCAL_HOME),.local)
# What the runner writes there. A folder that LOCAL_HOME names can have other files.
WRITTEN = airflow airflow.json artifacts ci-dbt cosmos docs logs postgres postgres.new secrets.json site standalone.env
LOCAL = @$(PYTHON) -m local
HOOKS = @PATH="$(abspath $(VENV))/bin:$$PATH" pre-commit run --all-files
# Two files of tests run at a time, because tests mostly wait. Each process has its own Airflow.
PYTEST = @NO_SKIPS=1 $(PYTHON) -m pytest --verbose --numprocesses=2 --dist=loadfile
BRING_IN = --name "$(NAME)" --source "$(FROM)" $(if $(LOAD),--load) $(if $(PARSE_ONLY),--parse-only)

# Empty if the Python of the environment is gone, or if the folder of the clone was renamed, because
# programs of the environment contain its path. Then the environment is made anew.
USABLE = $(shell test -x $(PYTHON) -a -x $(VENV)/bin/uv && grep -lsF "$(abspath $(VENV))" $(VENV)/bin/activate)
$(if $(USABLE),,$(eval .PHONY: $(VENV)/installed))

.DEFAULT_GOAL := help
.PHONY: help start run stop clean warehouse standalone logs psql dbt docs test test-all lint lock audit add-project check-project update ci-dbt ci-dbt-drop adopt bench canary containers fork-size screenshots

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-13s %s\n", $$1, $$2}' Makefile

start: $(VENV)/installed ## Everyone, first: start Postgres and Airflow, run the DAG of local.toml
	$(LOCAL) start

run: $(VENV)/installed ## DAG authors, to run some nodes now; SELECT=my_model+ EXCLUDE=other FULL_REFRESH=1 DAG=other
	$(LOCAL) run --dag "$(DAG)" --select "$(SELECT)" --exclude "$(EXCLUDE)" $(if $(FULL_REFRESH),--full-refresh)

stop: $(VENV)/installed ## Everyone, after work: stop Postgres and Airflow; the data stays
	$(LOCAL) stop

clean: stop ## Everyone, to begin anew: stop everything and remove .local with all data
	@rm -rf $(if $(LOCAL_HOME),$(patsubst %,"$(LOCAL_HOME)/%",$(WRITTEN)),.local) dbt/*/target dbt/*/logs

warehouse: $(VENV)/installed ## dbt developers, without Airflow: start Postgres only
	$(LOCAL) warehouse

standalone: $(VENV)/installed ## Users of the Astro CLI without Docker: prepare astro dev start --standalone
	$(LOCAL) standalone

logs: ## Everyone, when Airflow itself fails: follow the logs of its processes
	@tail -n 20 -F $(or $(wildcard $(LOCAL_FOLDER)/logs/*.log),$(error there are no logs: `make start` writes them))

psql: $(VENV)/installed ## Everyone, to look into the warehouse; ARGS="-c 'select 1'"
	$(LOCAL) psql $(ARGS)

dbt: $(VENV)/installed ## dbt developers, while they edit a model; ARGS="build --select my_model" PROJECT=other
	$(LOCAL) dbt "$(PROJECT)" $(ARGS)

docs: $(VENV)/installed ## Readers of the models, and CI: write the dbt docs to .local/site
	$(LOCAL) docs

test: $(VENV)/installed ## Everyone, before a pull request: run the tests; ARGS=tests/dags
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(VENV)/installed ## Maintainers, before a release: run the slow tests and those in a browser too
	@$(PYTHON) -m tests.requirements
	$(PYTEST) $(ARGS)

lint: $(VENV)/installed ## Everyone, before a pull request: run the hooks of pre-commit on all files
	$(HOOKS) --show-diff-on-failure

lock: $(VENV)/installed ## Whoever changes a version: write requirements-dev.txt; ARGS=--upgrade
	@.ci/lock $(ARGS)

audit: $(VENV)/installed ## CI, each week: look for known vulnerabilities of what is installed
	@mkdir -p .local
	$(HOOKS) --hook-stage manual sbom
	$(HOOKS) --hook-stage manual audit

add-project: $(VENV)/installed ## Teams with another dbt project; NAME=other FROM=../other_project LOAD=1
	$(LOCAL) add-project $(BRING_IN)

check-project: $(VENV)/installed ## Teams with a new dbt project: what it needs here; NAME=other
	$(LOCAL) check-project --name "$(NAME)" $(if $(PARSE_ONLY),--parse-only)

update: $(VENV)/installed ## Teams, after a release of the template: merge it; FROM=<git URL>
	$(LOCAL) update --source "$(FROM)"

ci-dbt: $(VENV)/installed ## CI, for a pull request: build what it changes; STATE=<prod's artifacts> PR=1 FULL_REFRESH=1
	$(LOCAL) ci-dbt --project "$(PROJECT)" --state "$(STATE)" --pr "$(PR)" $(if $(FULL_REFRESH),--full-refresh)

ci-dbt-drop: $(VENV)/installed ## CI, when a pull request is closed: drop what ci-dbt built; PR=1
	$(LOCAL) ci-dbt-drop --pr "$(PR)"

# Python's own venv installs uv, so that a machine needs git, make and Python only. After a change
# of the lock, uv replaces only the packages that differ.
$(VENV)/installed: requirements-dev.txt $(wildcard .ci/template-requirements.txt)
	@if [ -z "$(USABLE)" ]; then \
		python=; for candidate in python3 python3.13 python3.12 python3.11; do \
			if $$candidate -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; \
			then python=$$candidate; break; fi; done; \
		if [ -z "$$python" ]; then echo "error: no Python 3.11, 3.12 or 3.13 found: install one of them." >&2; exit 1; fi; \
		echo "Installing into $(VENV) with $$($$python --version)"; \
		$$python -m venv --clear $(VENV); \
		$(VENV)/bin/pip install --disable-pip-version-check "$$(grep -o '^uv==[0-9.]*' requirements-dev.txt)"; \
	fi
	@$(VENV)/bin/uv pip sync --python $(PYTHON) --require-hashes --compile-bytecode $^
	@touch $@

adopt: CI = github
adopt: $(VENV)/installed ## Teams, once: make this clone theirs; NAME=acme FROM=../their_dbt_project LOAD=1 CI=gitlab
	@# Without the line above, CI=true of a CI server would be taken.
	$(LOCAL) adopt $(BRING_IN) --ci "$(CI)"

bench: $(VENV)/installed ## Maintainers: compare ways to run dbt, in two hours; QUICK=1, ARGS="--row clear_200"
	@$(PYTHON) -m bench $(if $(QUICK),--quick) $(if $(LIMIT),--limit $(LIMIT)) $(ARGS)

canary: $(VENV)/installed ## Maintainers, each week: run the core tests with the next Cosmos, Airflow and dbt
	@PATH="$(abspath $(VENV))/bin:$$PATH" .ci/canary $(ARGS)

containers: $(VENV)/installed ## Maintainers with Docker: look at what astro dev start runs, and run it
	@$(PYTHON) -m tests.integration.containers

fork-size: $(VENV)/installed ## Maintainers: count the files and lines that a fork has
	@.ci/fork-size

screenshots: $(VENV)/installed ## Maintainers: make docs/images/graph.png from the running Airflow
	@$(PYTHON) -m tests.integration.screenshots
