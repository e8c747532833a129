.PHONY: bench screenshots

QUICK_TESTS = not slow

bench: $(VENV)/installed ## Compare ways to run dbt, in two to three hours; QUICK=1 for the sample only
	@$(PYTHON) -m bench $(if $(QUICK),--quick) $(if $(LIMIT),--limit $(LIMIT)) $(ARGS)

screenshots: $(VENV)/installed ## Make docs/images from the running Airflow
	@$(PYTHON) -m tests.nyc_flights.screenshots
