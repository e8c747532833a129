"""The assets through which one DAG starts another."""

from airflow.sdk import Asset

# Updated once a day's models and their tests have passed. Cosmos could emit an asset per model,
# but as soon as that model is built, so before its tests, and under a name that holds the
# warehouse's host and port.
FLIGHTS_MARTS = Asset("nyc_flights")
