"""The source system of this template, to replace with your own.

It is the archive of New York's flights of 2013, replayed on today's calendar: a request for
14 March of any year returns the flights of 14 March 2013 with their dates moved to that year.
29 February has no rows.

Your own source needs, for each table, a tuple of column names and a function that yields rows in
that order. An interval has whole days in New York, [start, end).
"""

import csv
import gzip
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

ARCHIVE = Path(__file__).parent / "data"
TIMEZONE = "America/New_York"

# The package's hour and minute repeat sched_dep_time. Its time_hour is in UTC, which would be wrong
# in a year in which the clocks change on other days than in 2013.
FLIGHTS = (
    "flight_date",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "sched_dep_time",
    "dep_time",
    "dep_delay",
    "sched_arr_time",
    "arr_time",
    "arr_delay",
    "air_time",
    "distance",
)
WEATHER = (
    "observed_at",
    "time_hour",
    "origin",
    "temp",
    "dewp",
    "humid",
    "wind_dir",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
)
PLANES = (
    "tailnum",
    "year",
    "type",
    "manufacturer",
    "model",
    "engines",
    "seats",
    "speed",
    "engine",
)

Row = tuple[str | None, ...]


def local_date(moment: datetime) -> date:
    """Return the day that a moment belongs to in the source."""
    return moment.astimezone(ZoneInfo(TIMEZONE)).date()


def flights(start: date, end: date) -> Iterator[Row]:
    """Yield the flights scheduled to leave in [start, end)."""
    for flight_date, row in _replay("flights", FLIGHTS, start, end):
        yield (flight_date.isoformat(), *row[1:])


def weather(start: date, end: date) -> Iterator[Row]:
    """Yield the hourly readings at the three airports in [start, end)."""
    for observed_on, row in _replay("weather", WEATHER, start, end):
        observed_at, time_hour, *readings = row
        # Moved by as many days as the local date, so that the clock change of 2013 is kept.
        moved = observed_on - date.fromisoformat(observed_at[:10])
        time_hour = datetime.fromisoformat(time_hour.replace("Z", "+00:00")) + moved
        yield (f"{observed_on}{observed_at[10:]}", time_hour.isoformat(), *readings)


def planes() -> Iterator[Row]:
    """Yield the whole aircraft register, which has no dates."""
    yield from _read("planes", PLANES)


def _replay(
    table: str, columns: tuple[str, ...], start: date, end: date
) -> Iterator[tuple[date, Row]]:
    month = start.replace(day=1)
    while month < end:
        for row in _read(f"{table}-{month:%m}", columns):
            day = month.replace(day=int(row[0][8:10]))
            if start <= day < end:
                yield day, row
        month = (month + timedelta(days=31)).replace(day=1)


def _read(name: str, columns: tuple[str, ...]) -> Iterator[Row]:
    path = ARCHIVE / f"{name}.csv.gz"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: include/nyc_flights/make_archive.py makes it")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        if tuple(next(rows)) != columns:
            raise ValueError(f"{path} was made by another version of make_archive.py")
        for row in rows:
            yield tuple(value or None for value in row)
