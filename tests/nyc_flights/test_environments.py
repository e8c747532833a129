"""The sample in staging and in prod, which share one Postgres."""

import os
import subprocess

import pytest

from tests.conftest import HAS_POSTGRES, HOME, ROOT, SETTINGS

if HAS_POSTGRES:
    from local.settings import BIN

pytestmark = pytest.mark.slow

TABLES = """
    select schemaname, tablename from pg_tables
    where schemaname !~ '^(pg_|information_schema$)'
    union all select schemaname, viewname from pg_views
    where schemaname !~ '^(pg_|information_schema$)'
"""


def content(warehouse) -> dict[tuple[str, str], tuple]:
    """Return the object ID of each table and view, and a digest of its rows."""
    digest = """
        select '{0}.{1}'::regclass::oid, md5(string_agg(t::text, '' order by t::text))
        from {0}.{1} as t
    """
    tables = warehouse.execute(TABLES).fetchall()
    return {t: warehouse.execute(digest.format(*t)).fetchone() for t in tables}


@pytest.mark.usefixtures("api")
def test_staging_changes_nothing_of_prod(running_warehouse):
    """`airflow dags test` runs the DAG in one process, with another metadata database."""
    env = {
        **os.environ,
        **SETTINGS.machine_env(),
        "DBT_TARGET": "staging",
        "AIRFLOW_HOME": str(HOME / "staging"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/staging.db",
        "PYTHONPATH": str(ROOT),
    }
    before = content(running_warehouse)
    assert ("nyc_flights_marts", "fct_flights") in before
    subprocess.run([BIN / "airflow", "db", "migrate"], env=env, check=True, capture_output=True)
    # The time is midnight in New York.
    command = [BIN / "airflow", "dags", "test", "flights_daily", "2026-03-15T04:00:00+00:00"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    after = content(running_warehouse)
    assert {name: after[name] for name in before} == before
    made = {schema for schema, _ in after.keys() - before.keys()}
    parts = ("seeds", "snapshots", "staging", "intermediate", "marts")
    assert made == {"staging_raw", *(f"staging_nyc_flights_{part}" for part in parts)}
    days = "select distinct flight_date::text from staging_nyc_flights_marts.fct_flights"
    assert running_warehouse.execute(days).fetchall() == [("2026-03-14",)]
