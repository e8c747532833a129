"""Which result of the build task a try of a node task reads."""

from types import SimpleNamespace

import pytest

from include.dbt_build import operators
from include.dbt_build.operators import DbtNodeOperator
from include.dbt_build.protocol import NODE_RESULTS, StoredResult


@pytest.mark.parametrize(
    ("outcome", "tries"),
    [
        ("success", [1, 2]),
        # A model is built, and dbt skipped a test of it. No try builds the model again.
        ("skipped", [1, 2]),
        # The retry runs dbt.
        ("error", [1]),
    ],
)
def test_a_retry_reads_what_dbt_has_built(monkeypatch, outcome, tries):
    stored = StoredResult(outcome=outcome, message="", sql="", built=["model.p.a"])
    xcoms = {NODE_RESULTS: {"a": stored}}
    monkeypatch.setattr(
        operators, "set_xcom", lambda ti, task_id, key, value: xcoms.update({key: value})
    )
    task = SimpleNamespace(task_id="a", retries=1, group=SimpleNamespace(build_id="dbt_build"))

    def read(try_number: int, max_tries: int) -> StoredResult | None:
        ti = SimpleNamespace(
            task=task,
            try_number=try_number,
            max_tries=max_tries,
            xcom_pull=lambda task_ids, key: xcoms.get(key),
        )
        return DbtNodeOperator._stored_result(task, ti)

    assert [number for number in (1, 2) if read(number, 1) == stored] == tries
    # A clear is an order to build again.
    assert read(3, 3) is None
