"""The timeout of a task or a run cancels the statement that hangs in the warehouse."""

import pytest

from tests.conftest import HAS_POSTGRES
from tests.fixtures import wait_until

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
        ("task_hangs", "failed", "the execution_timeout of the task has passed"),
        ("run_hangs", "skipped", "Airflow ended the task, because its run was ended"),
    ],
)
def test_a_timeout_cancels_the_statement_that_hangs(api, warehouse, dag_id, state, reason):
    states = States(api, warehouse, dag_id)
    states.broken("a", fails=False, seconds=3600)
    states.trigger()
    wait_until(lambda: hanging(warehouse), seconds=120)
    assert states.end() == "failed"
    assert states.tasks()["dbt_build"]["state"] == state
    wait_until(lambda: f"dbt was interrupted: {reason}" in states.log("dbt_build"), seconds=60)
    # Postgres alone would notice only at the end of the statement that the client has ended.
    wait_until(lambda: not hanging(warehouse), seconds=60)
