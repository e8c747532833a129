"""Which nodes a try of the build task builds after earlier tries and clears."""

from types import SimpleNamespace

import pytest

from include.dbt_build.protocol import BuildState
from include.dbt_build.run_options import RunOptions
from tests.include.dbt_build.conftest import render

LEAF = "model.small.b"
RUN_START = "2026-01-01"
STATE = BuildState(
    first_try=1,
    clear_number=0,
    run_start_of_unended_try=RUN_START,
    has_ended_well=False,
    selected=[LEAF],
    built=[LEAF],
    succeeded=[],
    incomplete=[],
    done_before=[],
    without_event=[],
)


@pytest.mark.parametrize(
    ("first_try", "clear_number", "states", "built"),
    [
        pytest.param(1, 0, {"a_run": "success"}, {LEAF}, id="killed"),
        pytest.param(1, 1, {"a_run": "success"}, {LEAF}, id="killed, and another task cleared"),
        pytest.param(2, 1, {}, set(), id="run cleared"),
        # The scheduler treats a pod that ends after a clear as one that failed.
        pytest.param(1, 1, {}, set(), id="run cleared with KubernetesExecutor"),
        pytest.param(2, 0, {}, set(), id="run cleared without a reset of the run"),
    ],
)
def test_a_retry_and_not_a_clear_keeps_what_the_killed_try_built(
    small, first_try, clear_number, states, built
):
    dag = render(small({}, a="select 1 as id", b="select * from {{ ref('a') }}"))
    task = dag.get_task("dbt_build")
    new = {**STATE, "first_try": first_try, "clear_number": clear_number, "built": []}
    pending = [task for task in task._node_tasks() if task.task_id not in states]
    assert {*task._extend_state(new, STATE, states, pending)["built"]} == built


@pytest.mark.parametrize(
    ("first_try", "changes", "lost"),
    [
        pytest.param(1, {}, {"model.small.a"}, id="retry"),
        pytest.param(2, {}, {"model.small.a"}, id="clear after a failure"),
        pytest.param(2, {"has_ended_well": True}, set(), id="clear after a success"),
        pytest.param(2, {"done_before": ["model.small.a"]}, set(), id="done before the failure"),
    ],
)
def test_the_asset_events_of_a_failed_try_are_emitted_later(small, first_try, changes, lost):
    dag = render(small({}, a="select 1 as id", b="select * from {{ ref('a') }}"))
    task = dag.get_task("dbt_build")
    new = {**STATE, "first_try": first_try, "done_before": ["model.small.a"]}
    pending = [dag.get_task("b_run")]
    state = task._extend_state(new, {**STATE, **changes}, {"a_run": "success"}, pending)
    assert {*state["without_event"]} == lost


@pytest.mark.parametrize(("first_try", "selected"), [(1, {LEAF}), (2, {LEAF, "model.small.a"})])
def test_a_clear_keeps_the_nodes_that_the_run_selected_before(
    small, monkeypatch, first_try, selected
):
    path = small({}, a="select 1 as id", b="select * from {{ ref('a') }}")
    task = render(path, run_options=True).get_task("dbt_build")
    task.run_options = RunOptions(select="state:modified")
    # The state has changed since the first try.
    monkeypatch.setattr(task, "list_nodes", lambda *_: {"model.small.a"})
    ti = SimpleNamespace(task=task, max_tries=first_try - 1 + task.retries)
    assert task._selection_of_run({"ti": ti}, STATE) == selected
