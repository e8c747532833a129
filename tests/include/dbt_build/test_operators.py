"""Which stored result a try of a node task reads."""

from types import SimpleNamespace

import pytest

from include.dbt_build.protocol import NODE_RESULTS, StoredResult
from tests.include.dbt_build.conftest import render


@pytest.mark.parametrize(
    ("outcome", "built", "on_error", "is_read"),
    [
        pytest.param("success", [], "skip_children", True, id="success"),
        pytest.param("error", [], "skip_children", False, id="error"),
        pytest.param("error", [], "continue", True, id="error with which dbt continues"),
        pytest.param("left_out", [], "skip_children", True, id="left out"),
        pytest.param("fail", [], "skip_children", True, id="failed test"),
        pytest.param("error", ["model.small.a"], "skip_children", True, id="error of a test"),
    ],
)
def test_the_retry_of_a_killed_task_runs_dbt_only_if_it_may_build_the_nodes(
    small, outcome, built, on_error, is_read
):
    first = f"{{{{ config(on_error='{on_error}') }}}} select 1 as id"
    task = render(small({}, a=first, b="select * from {{ ref('a') }}")).get_task("a_run")
    result = StoredResult(outcome=outcome, message="", sql="", built=built)
    # The first try was killed after it had read the result.
    xcoms = {NODE_RESULTS: {"a_run": result}, task.reader_key: 1}
    ti = SimpleNamespace(
        task=task,
        try_number=2,
        max_tries=task.retries,
        xcom_pull=lambda task_ids, key: xcoms[key],
    )
    assert task._stored_result(ti) == (result if is_read else None)
