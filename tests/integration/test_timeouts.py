"""A statement that hangs is ended, in the warehouse too, by the timeout of its task or its run."""

import pytest

from tests.conftest import HAS_POSTGRES, wait_until

if HAS_POSTGRES:
    from tests.integration.states import States

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

HANGING = """
    select count(*) from pg_stat_activity
    where state = 'active' and query like '%pg_sleep%' and pid != pg_backend_pid()
"""


def hanging(warehouse) -> int:
    return warehouse.execute(HANGING).fetchone()[0]


@pytest.mark.parametrize(
    ("dag_id", "state", "reason"),
    [
        ("task_hangs", "failed", "its execution_timeout has passed"),
        ("run_hangs", "skipped", "Airflow ends it: its run is over"),
    ],
)
def test_a_statement_that_hangs(api, warehouse, dag_id, state, reason):
    states = States(api, warehouse, dag_id)
    states.broken("a", fails=False, seconds=3600)
    states.trigger()
    wait_until(lambda: hanging(warehouse), seconds=120)
    assert states.end() == "failed"
    assert states.tasks()["dbt_build"]["state"] == state
    wait_until(lambda: f"dbt was interrupted: {reason}" in states.log("dbt_build"), seconds=60)
    # By dbt itself, and not because Postgres has lost the client.
    assert "CANCEL query model.states.a" in states.log("dbt_build")
    wait_until(lambda: not hanging(warehouse), seconds=60)
