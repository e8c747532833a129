"""The archive's own figures, and what breaks a run and mends it."""

import csv
import gzip
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest

from tests.conftest import HAS_POSTGRES, ROOT, free_port, local

ARCHIVE = ROOT / "include" / "data" / "nycflights13"

BY_CARRIER = """
    select
        carrier_code,
        count(*) as flights,
        count(*) filter (where status = 'cancelled') as cancelled,
        count(*) filter (where status = 'diverted') as diverted,
        coalesce(sum(departure_delay_minutes), 0) as departure_delay
    from marts.fct_flights
    where flight_date = %s
    group by carrier_code
"""
REPORTED = """
    select carrier_code, flights, cancelled, diverted
    from marts.carrier_performance_daily
    where flight_date = %s
"""


def archived(day: date) -> list[dict]:
    """The archive's own rows of a day of the year, read without the loader and without dbt."""
    with gzip.open(ARCHIVE / f"flights-{day:%m}.csv.gz", "rt", newline="") as file:
        return [row for row in csv.DictReader(file) if row["flight_date"] == f"2013-{day:%m-%d}"]


def figures_of(rows: list[dict]) -> Counter:
    """Figures by carrier that fct_flights and carrier_performance_daily must agree with."""
    figures = Counter()
    for row in rows:
        carrier = row["carrier"]
        figures[carrier, "flights"] += 1
        figures[carrier, "cancelled"] += not row["dep_time"]
        figures[carrier, "diverted"] += bool(row["dep_time"]) and not row["arr_delay"]
        figures[carrier, "departure_delay"] += int(row["dep_delay"] or 0)
    return Counter({key: value for key, value in figures.items() if value})


def figures_in(warehouse, query: str, day: date) -> dict:
    """Figures by carrier in a mart on a day, from the columns after the first, without zeros."""
    cursor = warehouse.execute(query, [day])
    names = [column.name for column in cursor.description][1:]
    return {
        (carrier, name): value
        for carrier, *values in cursor
        for name, value in zip(names, values, strict=True)
        if value
    }


@contextmanager
def started_apart(
    project: Path, folder: Path, root: Path = ROOT, **env: str
) -> Iterator[dict[str, str]]:
    """A `make start` of a clone, on an empty folder beside that of the other tests.

    Yields its environment.
    """
    if not HAS_POSTGRES:
        pytest.skip("needs the embedded Postgres, which the image does not have: run `make test`")
    # The project too: an Airflow of the other tests may be reading theirs.
    shutil.copytree(project.parent, folder / "dbt")
    env |= {
        "LOCAL_HOME": str(folder),
        "DBT_PROJECTS_DIR": str(folder / "dbt"),
        **{name: free_port() for name in ("PORT", "WAREHOUSE_PORT", "REDIS_PORT")},
    }
    done = local("start", env=env, root=root)
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        yield env
    finally:
        stopped = local("stop", env=env, root=root)
    assert stopped.returncode == 0, stopped.stderr


@contextmanager
def broken_stg_flights(project: Path) -> Iterator[None]:
    """Let the model select a column that does not exist."""
    model = project / "models" / "staging" / "stg_flights.sql"
    good = model.read_text()
    model.write_text(good.replace("select * from renamed", "select no_such_column from renamed"))
    try:
        yield
    finally:
        model.write_text(good)


@contextmanager
def impossible_rain(warehouse) -> Iterator[Callable[[], None]]:
    """A reading that fails a test of stg_weather, on a day no run replaces. Call it to mend."""

    def mend():
        warehouse.execute("delete from raw.weather where precip < 0")

    warehouse.execute(
        """
        insert into raw.weather (observed_at, time_hour, origin, precip)
        values ('2020-02-29 12:00', '2020-02-29 17:00+00', 'JFK', -1)
        """
    )
    try:
        yield mend
    finally:
        mend()


def rows(warehouse, table: str) -> list:
    return sorted(warehouse.execute(f"select t::text from marts.{table} t").fetchall())  # noqa: S608


def tasks_of(api, dag_id: str, run_id: str) -> dict[str, dict]:
    """The task instances of a run, by their task's id."""
    found = api.all(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", "task_instances")
    return {task["task_id"]: task for task in found}


def clear_with_downstream(api, dag_id: str, run_id: str, task_id: str) -> None:
    api(
        "POST",
        f"/dags/{dag_id}/clearTaskInstances",
        json={
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": [task_id],
            "include_downstream": True,
        },
    )
