"""The loader on Postgres: it replaces a whole day or nothing."""

import gzip
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import psycopg
import pytest

from include.nyc_flights import archive
from include.nyc_flights.warehouse import load, loaded_days
from tests.fixtures import connect, drop_schemas, wait_for_blocked
from tests.nyc_flights.helpers import archived

DAY = date(2026, 3, 14)
NEXT = DAY + timedelta(days=1)
TABLES = ["flights", "weather", "planes"]


@pytest.fixture(autouse=True)
def _empty(warehouse):
    drop_schemas(warehouse)


def rows(connection, columns: str = "to_jsonb(t) - '_loaded_at'") -> dict[str, list]:
    query = "select ({})::text from raw.{} t"
    return {t: sorted(connection.execute(query.format(columns, t)).fetchall()) for t in TABLES}


def test_a_second_load_of_a_day_gives_the_same_rows(warehouse):
    load(warehouse, DAY, NEXT)
    load(warehouse, NEXT, NEXT + timedelta(days=1))
    before = rows(warehouse)
    warehouse.execute("delete from raw.flights where carrier = 'UA' and flight_date = %s", [DAY])
    warehouse.execute("update raw.flights set carrier = 'gone' where flight_date = %s", [DAY])
    warehouse.execute("update raw.weather set temp = 451 where observed_at::date = %s", [DAY])
    warehouse.execute("insert into raw.planes (tailnum) values ('gone')")

    loaded = load(warehouse, DAY, NEXT)
    assert rows(warehouse) == before
    flights = archived(DAY)
    assert loaded == {
        "flights": len(flights),
        "weather": 3 * 24,
        "planes": 3322,
    }


def append_row_without_tail_number(planes: Path) -> None:
    with gzip.open(planes, "at") as file:
        file.write("," * (len(archive.PLANES) - 1) + "\n")


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (append_row_without_tail_number, psycopg.errors.NotNullViolation),
        (Path.unlink, FileNotFoundError),
    ],
    ids=["a row is refused", "a file is missing"],
)
def test_a_failed_load_keeps_the_previous_rows(tmp_path, monkeypatch, warehouse, damage, error):
    load(warehouse, DAY, NEXT)
    before = rows(warehouse, columns="t")
    for name in ("flights-03", "weather-03", "planes"):
        shutil.copy(archive.ARCHIVE / f"{name}.csv.gz", tmp_path)
    # It is the last file of a load, so all other tables were replaced before.
    damage(tmp_path / "planes.csv.gz")
    monkeypatch.setattr(archive, "ARCHIVE", tmp_path)
    with pytest.raises(error):
        load(warehouse, DAY, NEXT)
    assert rows(warehouse, columns="t") == before


def test_two_first_loads_at_once_run_one_after_the_other(postgres, warehouse):
    with ThreadPoolExecutor(1) as pool, connect(postgres) as other:
        with warehouse.transaction():
            load(warehouse, DAY, NEXT)
            second = pool.submit(load, other, DAY, NEXT)
            with connect(postgres) as watcher:
                wait_for_blocked(watcher, 1)
            assert not second.done()
        loaded = second.result()
    assert len(rows(warehouse)["flights"]) == loaded["flights"] == len(archived(DAY))


def test_a_day_without_flights_is_an_empty_day(warehouse):
    day = date(2024, 2, 29)
    loaded = load(warehouse, day, day + timedelta(days=1))
    assert loaded == {"flights": 0, "weather": 0, "planes": 3322}
    assert rows(warehouse)["flights"] == []


def test_the_loaded_days_are_the_first_and_the_day_after_the_last(warehouse):
    for day in (NEXT, DAY - timedelta(days=3)):
        load(warehouse, day, day + timedelta(days=1))
    assert loaded_days(warehouse) == {"start": "2026-03-11", "end": "2026-03-16"}
