"""Imports all DAG files, which parses their dbt projects, so that no DAG file waits for dbt later.

The build of the image and `make start` run it. The exit code is 1 if a file cannot be imported.
"""

import sys

from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.configuration import conf

errors = DagBag(conf.get("core", "dags_folder")).import_errors
for file, error in errors.items():
    # After the last `File` line of a traceback come indented source lines, then the error itself.
    _, _, message = error.rpartition("\n  File ")
    lines = message.splitlines()
    first = next((n for n, line in enumerate(lines) if n and not line.startswith(" ")), 0)
    print(f"{file} cannot be imported:", *lines[first:], sep="\n", file=sys.stderr)
sys.exit(bool(errors))
