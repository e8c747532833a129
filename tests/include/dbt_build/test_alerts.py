"""The content of a message, and what is left out of it."""

from datetime import UTC, datetime
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from airflow.sdk import DAG

from include.dbt_build import DbtTaskGroup, alerts
from tests.include.dbt_build.conftest import arguments, profile


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        (
            "Database Error in model a (models/a.sql)\n"
            '  duplicate key value violates unique constraint "a_pkey"\n'
            "  DETAIL:  Key (mail)=(someone@example.com) already exists.\n"
            "  compiled code at target/run/p/models/a.sql",
            "Database Error in model a (models/a.sql)\n"
            '  duplicate key value violates unique constraint "a_pkey"',
        ),
        (
            "Database Error in test b (tests/b.sql)\n"
            '  invalid input syntax for type integer: "a\n'
            '  private word"\n  LINE 1: select 1',
            "Database Error in test b (tests/b.sql)\n"
            '  invalid input syntax for type integer: "..."',
        ),
        (
            "Database Error in model c (models/c.sql)\n  Numeric value 'private' isn't recognized",
            "Database Error in model c (models/c.sql)\n  Numeric value '...'t recognized",
        ),
        (
            'dbt failed: Database Error\n  connection to server at "127.0.0.1", port 1 failed',
            'dbt failed: Database Error\n  connection to server at "127.0.0.1", port 1 failed',
        ),
        (
            'Database Error in model e\n  invalid input syntax for type json: "a" secret\n  "',
            'Database Error in model e\n  invalid input syntax for type json: "..."',
        ),
        (
            'Database Error in model e\n  value "3000000000" is out of range for type integer',
            'Database Error in model e\n  value "..." is out of range for type integer',
        ),
        (
            'Database Error in model e\n  column "at" has invalid value "Ja" for "YYYY"',
            'Database Error in model e\n  column "at" has invalid value "..."',
        ),
        (
            "Database Error in model e\n  Bad int64 value: 555-0199",
            "Database Error in model e\n  Bad int64 value: ...",
        ),
        # Double or single quotes, or words such as `value:`, can be a part of a value.
        (
            "Database Error in model e\n  can't cast 'a private value: 5' to date",
            "Database Error in model e\n  can'...' to date",
        ),
        (
            'Database Error in model e\n  value "a "private" word" is out of range',
            'Database Error in model e\n  value "..." is out of range',
        ),
        ('Database Error in model e\n  null value in column "a" of relation "b" violates', None),
        ('Database Error in model e\n  syntax error at or near "from_"', None),
        # The end of the output of an external dbt.
        (
            "dbt ended with code 2: Running\nDatabase Error\n  it's full\n  DETAIL:  Key (id)=(5)",
            "dbt ended with code 2: Running\nDatabase Error\n  it's full",
        ),
        ("no insert\nDETAIL:  Key (id)=(5)", "no insert"),
        # Only a message of a database can contain a value.
        ("Compilation Error in model d\n  'x' is undefined", None),
        ("Got 3 results, configured to fail if != 0", None),
    ],
)
def test_values_of_rows_are_left_out(message, kept):
    assert alerts.without_rows(message) == (kept or message)


def test_values_of_rows_are_sent_if_the_setting_allows_it(monkeypatch):
    message = "Database Error in model a\n  failed\n  DETAIL:  Key (id)=(5)"
    assert "Key" not in alerts._entry("model", "a", "me", "link", message)
    monkeypatch.setattr(alerts, "WITH_ROWS", True)
    assert "  DETAIL:  Key (id)=(5)" in alerts._entry("model", "a", "me", "link", message)


@pytest.mark.parametrize(
    ("start", "end", "zone", "day"),
    [
        (datetime(2026, 3, 1), datetime(2026, 3, 2), UTC, "2026-03-01"),
        # With 23 hours, and with 25.
        (
            datetime(2026, 3, 8, 5),
            datetime(2026, 3, 9, 4),
            ZoneInfo("America/New_York"),
            "2026-03-08",
        ),
        (
            datetime(2026, 11, 1, 4),
            datetime(2026, 11, 2, 5),
            ZoneInfo("America/New_York"),
            "2026-11-01",
        ),
        (
            datetime(2026, 3, 1, 5),
            datetime(2026, 3, 1, 6),
            UTC,
            "2026-03-01 05:00 to 2026-03-01 06:00 UTC",
        ),
        (None, None, UTC, "2026-03-05 12:00 UTC"),
    ],
)
def test_the_day_of_a_run(start, end, zone, day):
    start, end = (edge and edge.replace(tzinfo=UTC) for edge in (start, end))
    assert alerts._day(start, end, datetime(2026, 3, 5, 12, tzinfo=UTC), zone) == day


def test_a_node_that_fails_in_one_of_two_schemas_is_named_with_its_message(unchanged):
    with DAG("two_schemas", start_date=datetime(2026, 1, 1)) as dag:
        for name in ("eu", "us"):
            DbtTaskGroup(name, **{**arguments(unchanged), "profile_config": profile(name)})
    states = dict.fromkeys(dag.task_ids, "success") | {"eu.apart_run": "failed"}
    problem = {"node": "model.second.apart", "status": "error", "message": "no", "failures": None}
    stored = {"eu.dbt_build": [problem], "us.dbt_build": []}
    ti = SimpleNamespace(
        dag_id=dag.dag_id,
        run_id="r",
        get_task_states=lambda *_, **__: {"r": states},
        xcom_pull=lambda task_ids, key: stored.get(task_ids),
    )
    (failed,) = alerts._summary(dag, ti, "http://ui").failed
    assert failed == "model apart, owner airflow\n  no\n  http://ui/tasks/eu.apart_run"
