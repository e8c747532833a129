"""Compares ways to run dbt from Airflow, this project's own among them: see docs/benchmark.md."""
