"""The content of a message, and what is left out of it."""

from datetime import UTC, datetime
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from airflow.sdk import DAG

from include.dbt_build import DbtTaskGroup, alerts
from include.dbt_build.protocol import Problem
from tests.include.dbt_build.conftest import arguments, profile


def problem(node: str | None, message: str, status: str = "error") -> Problem:
    return Problem(node=node, status=status, message=message, failures=None)


def summary(dag, stored: dict[str, list[Problem]], states: dict[str, str]) -> alerts.RunSummary:
    """Return the summary of a run, in which the tasks without another state succeeded.

    Args:
        dag: the DAG of the run.
        stored: the problems that each task that ran dbt stored, by task ID.
        states: the states of tasks that did not succeed, by task ID.
    """
    ti = SimpleNamespace(
        dag_id=dag.dag_id,
        run_id="r",
        get_task_states=lambda *_, **__: {"r": dict.fromkeys(dag.task_ids, "success") | states},
        xcom_pull=lambda task_ids, key: stored.get(task_ids),
    )
    return alerts._summary(dag, ti)


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
    failed = problem("model.p.a", "Database Error in model a\n  failed\n  DETAIL:  Key (id)=(5)")
    assert "Key" not in alerts._entry("a_run", "me", "url", failed)
    monkeypatch.setattr(alerts, "WITH_ROWS", True)
    assert "  DETAIL:  Key (id)=(5)" in alerts._entry("a_run", "me", "url", failed)


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
    stored = {"eu.dbt_build": [problem("model.second.apart", "no")], "us.dbt_build": []}
    (failed,) = summary(dag, stored, {"eu.apart_run": "failed"}).failed
    link = f"{alerts._url('two_schemas', 'r')}/tasks/eu.apart_run"
    assert failed == f"model apart, owner airflow\n  no\n  {link}"


MODEL, UNIQUE = "model.second.base", "test.second.unique_base_id.c59834fb40"
FIRST, SECOND = (
    "test.second.relationships_all_of_it_id__id__ref_apart_.96bb39075d",
    "test.second.relationships_base_id__id__ref_all_of_it_.f54801ffe1",
)


@pytest.mark.parametrize(
    ("build", "task_id", "rerun", "state", "named"),
    [
        # The retry of the model succeeds, so its test runs after the build task.
        (MODEL, "dbt.base.test", problem(UNIQUE, "1 row", "warn"), "success", ["1 row"]),
        (UNIQUE, "dbt.base.test", problem(UNIQUE, "1 row", "warn"), "success", ["1 row"]),
        # The task has both tests, and only the second one fails again.
        (FIRST, "dbt.all_of_it.test", problem(SECOND, "again"), "failed", ["again"]),
        # A clear of a task alone.
        (None, "dbt.apart_run", problem("model.second.apart", "new"), "failed", ["new"]),
    ],
)
def test_the_last_result_of_a_node_is_named(unchanged, build, task_id, rerun, state, named):
    with DAG("reruns", start_date=datetime(2026, 1, 1)) as dag:
        DbtTaskGroup("dbt", **arguments(unchanged))
    stored = {"dbt.dbt_build": [problem(build, "old")] if build else [], task_id: [rerun]}
    found = summary(dag, stored, {task_id: state})
    assert [entry.splitlines()[1].strip() for entry in found.failed + found.warned] == named


def test_a_failed_task_that_did_not_run_dbt_again_is_named_with_the_problem_of_the_build(unchanged):
    with DAG("reads", start_date=datetime(2026, 1, 1)) as dag:
        DbtTaskGroup("dbt", **arguments(unchanged))
    stored = {"dbt.dbt_build": [problem("model.second.apart", "no"), problem(None, "a hook")]}
    states = dict.fromkeys(("dbt.apart_run", "dbt.dbt_build", "dbt.dbt_build_done"), "failed")
    found = summary(dag, stored, states | {"dbt.base.run": "upstream_failed"})
    assert [entry.splitlines()[:2] for entry in found.failed] == [
        ["model apart, owner airflow", "  no"],
        ["task dbt.dbt_build, owner airflow", "  a hook"],
    ]
    assert found.lines()[-1] == "\n1 tasks did not run, because tasks upstream failed."


def test_a_message_names_only_the_first_failed_nodes():
    lines = alerts.RunSummary(failed=[f"model {number}" for number in range(12)]).lines()
    assert lines[-2:] == ["\nFAILED model 9", "\nFAILED: 2 more"]
