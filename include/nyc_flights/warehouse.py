"""The statements that flights_daily runs in the warehouse without dbt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING

from include.nyc_flights import archive as source
from include.warehouse import target_schema

if TYPE_CHECKING:
    # The driver of Airflow's PostgresHook. It is not imported when a DAG file is parsed.
    from psycopg import Connection, Cursor


# Each deployment loads into its own schema, and builds its own marts.
RAW = target_schema("raw")
MARTS = f"{target_schema('nyc_flights')}_marts"

# The names and types of the source, unchanged. The staging models of dbt interpret them.
TABLES = """
create table if not exists flights (
    flight_date date not null,
    carrier text not null,
    flight integer not null,
    tailnum text,
    origin text not null,
    dest text not null,
    sched_dep_time integer not null,
    dep_time integer,
    dep_delay integer,
    sched_arr_time integer not null,
    arr_time integer,
    arr_delay integer,
    air_time integer,
    distance integer not null,
    _loaded_at timestamptz not null default now()
);
create index if not exists flights_flight_date on flights (flight_date);

create table if not exists weather (
    observed_at timestamp not null,
    time_hour timestamptz not null,
    origin text not null,
    temp numeric,
    dewp numeric,
    humid numeric,
    wind_dir integer,
    wind_speed numeric,
    wind_gust numeric,
    precip numeric,
    pressure numeric,
    visib numeric,
    _loaded_at timestamptz not null default now()
);
create index if not exists weather_observed_at on weather (observed_at);

create table if not exists planes (
    tailnum text not null,
    year integer,
    type text,
    manufacturer text,
    model text,
    engines integer,
    seats integer,
    speed integer,
    engine text,
    _loaded_at timestamptz not null default now()
);
"""


def load(connection: Connection, start: date, end: date) -> dict[str, int]:
    """Replace the days [start, end) in raw with the current rows of the source, in one transaction.

    Returns the number of rows copied to each table.
    """
    interval = {"start": start, "end": end}
    with _in_schema(connection, RAW) as cursor:
        # Two loads at once would both create the tables, or both insert the same day.
        cursor.execute("select pg_advisory_xact_lock(hashtext(%s))", [RAW])
        cursor.execute(f"create schema if not exists {RAW}")
        cursor.execute(TABLES)
        cursor.execute(
            "delete from flights where flight_date >= %(start)s and flight_date < %(end)s", interval
        )
        cursor.execute(
            "delete from weather where observed_at >= %(start)s and observed_at < %(end)s", interval
        )
        cursor.execute("delete from planes")
        return {
            "flights": _copy(cursor, "flights", source.FLIGHTS, source.flights(start, end)),
            "weather": _copy(cursor, "weather", source.WEATHER, source.weather(start, end)),
            "planes": _copy(cursor, "planes", source.PLANES, source.planes()),
        }


def loaded_days(connection: Connection) -> dict[str, str]:
    """Return the first day that raw.flights holds and the day after its last, as start and end."""
    with _in_schema(connection, RAW) as cursor:
        cursor.execute("select min(flight_date)::text, (max(flight_date) + 1)::text from flights")
        return dict(zip(("start", "end"), cursor.fetchone(), strict=True))


def day_figures(connection: Connection, day: date) -> dict[str, str | int | float | None]:
    """Return the figures of a day from fct_flights: zeros and nulls for a day without flights."""
    with _in_schema(connection, MARTS) as cursor:
        cursor.execute(
            """
            select
                count(*) as flights,
                count(*) filter (where status = 'cancelled') as cancelled,
                count(*) filter (where status = 'diverted') as diverted,
                round(avg(departure_delay_minutes), 1)::float as mean_departure_delay_minutes
            from fct_flights
            where flight_date = %s
            """,
            [day],
        )
        names = [column.name for column in cursor.description]
        return {"flight_date": day.isoformat(), **dict(zip(names, cursor.fetchone(), strict=True))}


@contextmanager
def _in_schema(connection: Connection, schema: str) -> Iterator[Cursor]:
    """Begin a transaction in which table names without a schema are those of this schema."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(f"set local search_path to {schema}")
        yield cursor


def _copy(cursor: Cursor, table: str, columns: Iterable[str], rows: Iterable[source.Row]) -> int:
    with cursor.copy(f"copy {table} ({', '.join(columns)}) from stdin") as copy:
        for row in rows:
            copy.write_row(row)
    return cursor.rowcount
