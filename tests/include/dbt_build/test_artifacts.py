"""What is kept of dbt's artifacts."""

import json
from datetime import datetime
from types import SimpleNamespace

from include.dbt_build import artifacts
from tests.include.dbt_build.conftest import profile


def test_a_try_that_builds_twice_keeps_the_results_of_both(tmp_path, monkeypatch):
    monkeypatch.setenv("DBT_ARTIFACTS", str(tmp_path / "kept"))
    ti = SimpleNamespace(
        start_date=datetime(2026, 1, 1), dag_id="d", run_id="r", task_id="dbt_build", try_number=1
    )
    for node in ("model.small.a", "test.small.b"):
        target = tmp_path / node / "target"
        target.mkdir(parents=True)
        results = {"results": [{"unique_id": node}]}
        (target / "run_results.json").write_text(json.dumps(results))
        artifacts.keep(target.parent, profile(), ti)
    artifacts.finish(profile(), ti, is_green=True)
    green = json.loads((tmp_path / "kept/any/dev/green/run_results.json").read_text())
    assert [result["unique_id"] for result in green["results"]] == ["model.small.a", "test.small.b"]
