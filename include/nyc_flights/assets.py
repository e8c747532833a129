"""The assets through which one DAG starts another."""

from airflow.sdk import Asset

# This asset is updated when all models of a day are built and their tests have passed. Cosmos's
# asset of a model is updated even if a test of the model fails, and its URI has the warehouse's
# host and port.
FLIGHTS_MARTS = Asset("nyc_flights")
