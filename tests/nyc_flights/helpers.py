"""Figures from the archive and from the marts, and a model that can be broken."""

import csv
import gzip
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from include.nyc_flights.archive import ARCHIVE

BY_CARRIER = """
    select
        carrier_code,
        count(*) as flights,
        count(*) filter (where status = 'cancelled') as cancelled,
        count(*) filter (where status = 'diverted') as diverted,
        coalesce(sum(departure_delay_minutes), 0) as departure_delay
    from nyc_flights_marts.fct_flights
    where flight_date = %s
    group by carrier_code
"""
REPORTED = """
    select carrier_code, flights, cancelled, diverted
    from nyc_flights_marts.carrier_performance_daily
    where flight_date = %s
"""


def archived(day: date) -> list[dict]:
    """Return the rows of a day of the year from the archive, without the loader and dbt."""
    with gzip.open(ARCHIVE / f"flights-{day:%m}.csv.gz", "rt", newline="") as file:
        return [row for row in csv.DictReader(file) if row["flight_date"] == f"2013-{day:%m-%d}"]


def figures_of(rows: list[dict]) -> Counter:
    """Return the figures by carrier that both marts must have."""
    figures = Counter()
    for row in rows:
        carrier = row["carrier"]
        figures[carrier, "flights"] += 1
        figures[carrier, "cancelled"] += not row["dep_time"]
        figures[carrier, "diverted"] += bool(row["dep_time"]) and not row["arr_delay"]
        figures[carrier, "departure_delay"] += int(row["dep_delay"] or 0)
    return Counter({key: value for key, value in figures.items() if value})


def reported(figures: Counter) -> dict:
    """Return the figures that carrier_performance_daily has."""
    return {key: value for key, value in figures.items() if key[1] != "departure_delay"}


def figures_in(warehouse, query: str, day: date) -> dict:
    """Return the figures of a day in a mart by carrier, without zeros.

    The figures are the columns after the first.
    """
    cursor = warehouse.execute(query, [day])
    names = [column.name for column in cursor.description][1:]
    return {
        (carrier, name): value
        for carrier, *values in cursor
        for name, value in zip(names, values, strict=True)
        if value
    }


@contextmanager
def broken_stg_flights(projects: Path) -> Iterator[None]:
    """Let the model select a column that does not exist."""
    model = projects / "nyc_flights" / "models" / "staging" / "stg_flights.sql"
    original = model.read_text()
    model.write_text(
        original.replace("select * from renamed", "select no_such_column from renamed")
    )
    try:
        yield
    finally:
        model.write_text(original)


def rows(warehouse, table: str) -> list:
    return sorted(warehouse.execute(f"select t::text from nyc_flights_marts.{table} t").fetchall())  # noqa: S608


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
