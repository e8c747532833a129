"""The archive replays 2013 in any year, and each day has exactly the rows of its day in 2013."""

import re
from collections import Counter
from datetime import date, datetime, timedelta

import pytest

from include.nyc_flights import archive


def dates(rows) -> Counter:
    return Counter(row[0][:10] for row in rows)


@pytest.fixture(scope="module")
def flights_of_2013() -> Counter:
    return dates(archive.flights(date(2013, 1, 1), date(2014, 1, 1)))


def test_the_archive_has_the_whole_year(flights_of_2013):
    assert flights_of_2013.total() == 336_776
    assert len(flights_of_2013) == 365
    assert sum(1 for _ in archive.planes()) == 3_322


def test_a_replayed_flight_differs_in_its_date_only():
    first, second = (
        list(archive.flights(date(year, 3, 14), date(year, 3, 15))) for year in (2013, 2027)
    )
    assert {row[0] for row in second} == {"2027-03-14"}
    assert [row[1:] for row in first] == [row[1:] for row in second]


@pytest.mark.parametrize("year", [2013, 2026])
def test_replayed_weather_keeps_its_offset_from_utc(year):
    readings = list(archive.weather(date(year, 7, 1), date(year, 7, 2)))
    # The last four hours of a day in New York are on the next day in UTC.
    assert {(row[0][:10], row[1][:10]) for row in readings} == {
        (f"{year}-07-01", f"{year}-07-01"),
        (f"{year}-07-01", f"{year}-07-02"),
    }
    assert {
        datetime.fromisoformat(row[1]).replace(tzinfo=None) - datetime.fromisoformat(row[0])
        for row in readings
    } == {timedelta(hours=4)}


@pytest.mark.parametrize(
    ("start", "days"),
    [
        pytest.param(date(2026, 3, 14), 1, id="one day"),
        pytest.param(date(2026, 1, 30), 4, id="over a month's end"),
        pytest.param(date(2025, 12, 30), 4, id="over a year's end"),
        pytest.param(date(2024, 2, 28), 3, id="over 29 February"),
        pytest.param(date(2024, 2, 29), 1, id="29 February alone"),
        pytest.param(date(2026, 3, 14), 0, id="no day"),
    ],
)
def test_an_interval_includes_its_start_and_excludes_its_end(flights_of_2013, start, days):
    calendar = [start + timedelta(days=n) for n in range(days)]
    expected = {
        str(day): flights_of_2013[f"2013-{day:%m-%d}"]
        for day in calendar
        if (day.month, day.day) != (2, 29)
    }
    end = start + timedelta(days=days)
    assert dates(archive.flights(start, end)) == expected


def error_of(rows) -> str:
    with pytest.raises((OSError, ValueError)) as raised:
        list(rows)
    return str(raised.value)


@pytest.mark.parametrize(
    ("moment", "day"),
    [
        ("2026-11-24T04:59:59+00:00", date(2026, 11, 23)),
        ("2026-11-24T05:00:00+00:00", date(2026, 11, 24)),
        # In summer the offset from UTC is one hour smaller.
        ("2026-07-01T04:00:00+00:00", date(2026, 7, 1)),
    ],
)
def test_a_day_begins_at_midnight_in_new_york(moment, day):
    assert archive.local_date(datetime.fromisoformat(moment)) == day


def test_the_error_names_a_missing_file_and_a_file_of_another_version(tmp_path, monkeypatch):
    file = tmp_path / "planes.csv.gz"
    foreign = (archive.ARCHIVE / "weather-01.csv.gz").read_bytes()
    monkeypatch.setattr(archive, "ARCHIVE", tmp_path)
    missing = error_of(archive.planes())
    assert re.fullmatch(rf"{re.escape(str(file))} is missing: .*make_archive\.py.*", missing)
    file.write_bytes(foreign)
    assert error_of(archive.planes()).startswith(f"{file} was made by another version")
