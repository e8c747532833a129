"""Runs the project without Docker: an embedded Postgres and Airflow's own processes.

The Makefile calls it as `python -m local`. Nothing here is part of the image.
"""
