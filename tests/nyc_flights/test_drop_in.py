"""The sample's DAGs with the classes of Cosmos, as the README describes."""

import shutil

import pytest

from tests.conftest import HAS_POSTGRES, HOME, ROOT, SETTINGS
from tests.fixtures import connect, started_apart
from tests.nyc_flights.helpers import rows

pytestmark = [
    pytest.mark.timeout(1500),
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_POSTGRES, reason="the image lacks local/ and the embedded Postgres"),
]

MARTS = ["dim_aircraft", "dim_airports", "dim_carriers", "fct_flights", "carrier_performance_daily"]
# The changes that the README describes.
CHANGES = [
    ("from include.dbt_build import Dbt", "from cosmos import Dbt"),
    ("        source_freshness=True,\n", ""),
    ("        run_options=True,\n", ""),
]


def test_plain_cosmos_builds_the_same_tables(api, running_warehouse, projects):
    root, folder = HOME / "plain" / "root", HOME / "plain" / "home"
    for name in ("dags", "include", "local", "plugins"):
        shutil.copytree(ROOT / name, root / name)
    for name in ("airflow_settings.yaml", "Dockerfile", "local.toml"):
        shutil.copy(ROOT / name, root)
    for file in (root / "dags").glob("*.py"):
        text = file.read_text()
        for engine, cosmos in CHANGES:
            text = text.replace(engine, cosmos)
        assert "from include.dbt_build import" not in text
        file.write_text(text)
    cached = {"AIRFLOW__COSMOS__ENABLE_CACHE_DBT_LS": "True"}
    with started_apart(projects, folder, root=root, **cached) as env:
        port = {"WAREHOUSE_PORT": env["WAREHOUSE_PORT"]}
        with connect({**SETTINGS.dbt_env(), **port}) as plain:
            for mart in MARTS:
                built = rows(plain, mart)
                assert built
                # The tests of the shared Airflow have built other days too.
                assert {*built} <= {*rows(running_warehouse, mart)}
