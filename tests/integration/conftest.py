"""A real Airflow with its scheduler and executor, a real Postgres, and the archive to compare."""

import contextlib
import os
from datetime import UTC, date, datetime, timedelta

import pytest

from tests.conftest import HAS_POSTGRES, connect, local
from tests.integration.helpers import tasks_of


@pytest.fixture(scope="session")
def started(project):
    """The outcome of `make start` on an empty folder. Everything is stopped at the end."""
    if not HAS_POSTGRES:
        pytest.skip("needs the embedded Postgres, which the image does not have: run `make test`")
    yield local("start")
    stopped = local("stop")
    assert stopped.returncode == 0, stopped.stderr


@pytest.fixture(scope="session")
def api(started):
    from local.pipeline import Api

    assert started.returncode == 0, started.stdout + started.stderr
    return Api(os.environ["PORT"])


@pytest.fixture(scope="session")
def warehouse(started):
    """A connection as the role that dbt and the loader use."""
    from local.settings import dbt_env

    with connect(dbt_env()) as connection:
        yield connection


@pytest.fixture
def run_daily(api):
    """A function that runs flights_daily and returns the run's state and its tasks' states."""

    def run(day: date | None = None, **conf) -> tuple[str, dict[str, str]]:
        from local import pipeline

        body = {"logical_date": None, "conf": conf}
        if day:
            start = datetime(day.year, day.month, day.day, tzinfo=UTC)
            body |= {
                "logical_date": start.isoformat(),
                "data_interval_start": start.isoformat(),
                "data_interval_end": (start + timedelta(days=1)).isoformat(),
            }
        run_id = api("POST", "/dags/flights_daily/dagRuns", json=body)["dag_run_id"]
        with contextlib.suppress(pipeline.Failure):
            pipeline.follow(api, "flights_daily", run_id)
        path = f"/dags/flights_daily/dagRuns/{run_id}"
        tasks = tasks_of(api, "flights_daily", run_id)
        return api("GET", path)["state"], {name: task["state"] for name, task in tasks.items()}

    return run
