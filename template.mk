.PHONY: bench screenshots

QUICK_TESTS = not slow

bench: $(VENV)/installed ## Compare ways to run dbt, in two hours; QUICK=1, or ARGS="--row clear_200"
	@$(PYTHON) -m bench $(if $(QUICK),--quick) $(if $(LIMIT),--limit $(LIMIT)) $(ARGS)

screenshots: $(VENV)/installed ## Make docs/images from the running Airflow
	@$(PYTHON) -m tests.nyc_flights.screenshots
