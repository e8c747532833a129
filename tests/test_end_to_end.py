"""The DAGs of local.toml run on an empty warehouse, as `make start` runs them."""

import tomllib

import pytest

from tests.conftest import ROOT

LOCAL_TOML = tomllib.loads((ROOT / "local.toml").read_text())


# A project with large seeds takes several minutes.
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dag_id", [LOCAL_TOML["dag"], *LOCAL_TOML["then"]])
def test_make_start_runs_the_dag(started, dag_id):
    assert started.returncode == 0, started.stdout + started.stderr
    assert f"success  {dag_id} in " in started.stdout
