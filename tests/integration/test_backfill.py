"""`make backfill`: when all days succeed, when a day fails, and when it is interrupted."""

import re
import shutil
import signal
import subprocess
import sys
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from tests.conftest import HAS_POSTGRES, ROOT, local

if HAS_POSTGRES:
    from local.pipeline import unpause, wait_for_dags
    from local.settings import Failure

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

ZONE = ZoneInfo("Asia/Tokyo")
SETTINGS = f"""
dag = "days"
timezone = "{ZONE}"
then = []
show = "select 1"
project = "states"
"""


@pytest.fixture(scope="module")
def root(api, tmp_path_factory):
    """Return a clone whose local.toml names the DAG `days` of the shared Airflow."""
    root = tmp_path_factory.mktemp("root")
    for folder in ("include", "local"):
        shutil.copytree(ROOT / folder, root / folder)
    shutil.copy(ROOT / "airflow_settings.yaml", root)
    (root / "local.toml").write_text(SETTINGS)
    wait_for_dags(api, "days")
    unpause(api, "days")
    return root


@pytest.fixture
def days(api):
    """Return a function for the state and the number of tries of each day of a month."""

    def days(month: int) -> dict[str, tuple[str, int]]:
        first = datetime(2026, month, 1, tzinfo=ZONE).isoformat()
        found = {}
        for run in api.all("/dags/days/dagRuns", "dag_runs", logical_date_gte=first):
            day = datetime.fromisoformat(run["logical_date"]).astimezone(ZONE).date()
            task = api("GET", f"/dags/days/dagRuns/{run['dag_run_id']}/taskInstances/day")
            if day.month == month:
                found[str(day)] = (run["state"], task["try_number"])
        return found

    return days


def test_each_day_is_a_line_and_the_next_backfill_runs_the_failed_days_only(api, root, days):
    def fill() -> tuple[int, list[str], str]:
        done = local("backfill", "2026-04-01", "2026-04-02", root=root)
        return done.returncode, done.stdout.splitlines(), done.stderr

    api("POST", "/variables", json={"key": "days_that_fail", "value": "2026-04-01"})
    code, (first, second), errors = fill()
    assert re.fullmatch(r"failed +2026-04-01 +\d+ s  backfill__\S+  1 of 2, 0:00:\d\d left", first)
    assert re.fullmatch(r"success +2026-04-02 +\d+ s  backfill__\S+  2 of 2, 0:00:00 left", second)
    assert code == 1
    assert errors.startswith("error: days failed for 2026-04-01: see ")
    assert len(errors.splitlines()) == 1

    api("PATCH", "/variables/days_that_fail", json={"key": "days_that_fail", "value": "none"})
    code, (missing, only), _ = fill()
    assert (code, missing) == (0, "Running only the days that failed in the last backfill.")
    assert only.startswith("success   2026-04-01")
    assert days(4) == {"2026-04-01": ("success", 2), "2026-04-02": ("success", 1)}

    code, _, _ = fill()
    assert (code, days(4)) == (0, {"2026-04-01": ("success", 3), "2026-04-02": ("success", 2)})


def test_after_an_interrupted_backfill_the_same_command_runs_the_missing_days(root, days):
    command = ["backfill", "2026-06-01", "2026-06-03"]
    interrupted = subprocess.Popen(
        [sys.executable, "-m", "local", *command],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert interrupted.stdout.readline().startswith("success")
    interrupted.send_signal(signal.SIGTERM)
    (line,) = interrupted.communicate(timeout=60)[1].splitlines()
    assert line.startswith("error: Interrupted. The backfill has ended")
    assert interrupted.returncode == 1
    assert "failed" in {state for state, _ in days(6).values()}

    again = local(*command, root=root)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {state for state, _ in days(6).values()} == {"success"}
    assert days(6)["2026-06-01"] == ("success", 1)


def test_a_second_run_of_a_logical_date_is_refused(api, root):
    body = {"logical_date": datetime(2026, 7, 1, tzinfo=ZONE).isoformat()}
    api("POST", "/dags/days/dagRuns", json=body)
    with pytest.raises(Failure, match="A run of this DAG has that logical date already"):
        api("POST", "/dags/days/dagRuns", json=body)
