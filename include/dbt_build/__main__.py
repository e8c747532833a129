"""Imports all DAG files, which prepares their dbt projects: no DAG file has to wait for dbt later.

The image's build and `make start` run it. It ends with code 1 if a file can't be imported.
"""

import sys

from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.configuration import conf

errors = DagBag(conf.get("core", "dags_folder")).import_errors
for file, error in errors.items():
    # What comes before the traceback, as dbt's own words do; else the error, which comes last.
    said, _, traceback = error.rpartition("\n\nThe above exception")
    print(f"{file} can't be imported:\n{said or traceback}", file=sys.stderr)
sys.exit(bool(errors))
