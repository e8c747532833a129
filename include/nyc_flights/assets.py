"""The assets through which one DAG starts another."""

from airflow.sdk import Asset

# It is updated when all models of a day are built and their tests have passed. An asset of Cosmos
# is updated when its model is built, before its tests, and its name has the warehouse's host and
# port.
FLIGHTS_MARTS = Asset("nyc_flights")
