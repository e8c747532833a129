"""Compares ways to run dbt from Airflow, this project's own among them.

`make bench` runs it; docs/benchmark.md says how it measures. Nothing here is part of the image.
"""
