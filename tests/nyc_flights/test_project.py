"""The dbt project on Postgres, run by dbt without Airflow."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import pytest

from include.nyc_flights import archive
from include.nyc_flights.warehouse import day_figures, load
from tests.conftest import local
from tests.fixtures import connect, drop_schemas, wait_for_blocked
from tests.nyc_flights.helpers import archived

# Both days have cancelled and diverted flights.
FIRST, DAY = date(2026, 3, 12), date(2026, 3, 13)
END = DAY + timedelta(days=1)


@pytest.fixture(scope="module")
def workdir(dag_bag) -> Path:
    """Return the working directory in which the build tasks run dbt."""
    return dag_bag.dags["flights_daily"].get_task("dbt.dbt_build").project.workdir


@pytest.fixture(scope="module")
def dbt(workdir, env, tmp_path_factory):
    """Return a function that runs dbt in a new process, in the schemas of the DAGs."""
    profiles = tmp_path_factory.mktemp("profiles")
    text = (workdir / "profiles.yml").read_text()
    schema = "dbt_{{ env_var('USER', 'dev') }}_nyc_flights"
    assert schema in text
    (profiles / "profiles.yml").write_text(text.replace(schema, "nyc_flights"))

    def run(*words: str, **more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [Path(sys.executable).with_name("dbt"), *words, "--profiles-dir", profiles],
            cwd=workdir,
            env={**os.environ, **env, **more},
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture(scope="module")
def env(postgres, tmp_path_factory) -> dict[str, str]:
    """Return the environment of dbt, which writes to folders that the DAGs do not use."""
    return {
        **postgres,
        "DBT_TARGET_PATH": str(tmp_path_factory.mktemp("target")),
        "DBT_LOG_PATH": str(tmp_path_factory.mktemp("logs")),
        "DBT_EVENT_TIME_START": f"{FIRST:%F}",
        "DBT_EVENT_TIME_END": f"{END:%F}",
    }


@pytest.fixture(scope="module")
def built(dbt, warehouse, env, tmp_path_factory) -> Path:
    """Load and build two days; return the folder with dbt's artifacts."""
    load(warehouse, FIRST, END)
    done = dbt("build")
    assert done.returncode == 0, done.stdout
    # Later commands write to the same folder.
    return shutil.copytree(env["DBT_TARGET_PATH"], tmp_path_factory.mktemp("built") / "target")


def relations(warehouse) -> set:
    """Return every table and view with IDs that change when it is created again or rewritten."""
    return set(
        warehouse.execute("""
            select nspname, relname, pg_class.oid, relfilenode
            from pg_class join pg_namespace on pg_namespace.oid = relnamespace
            where nspowner = current_user::regrole and relkind in ('r', 'v')
        """)
    )


def facts(warehouse) -> set:
    return set(warehouse.execute("select fct_flights::text from nyc_flights_marts.fct_flights"))


def test_all_nodes_are_built_and_all_tests_pass(built):
    manifest = json.loads((built / "manifest.json").read_text())
    results = json.loads((built / "run_results.json").read_text())["results"]
    expected = Counter(
        (node["resource_type"], "pass" if node["resource_type"] == "test" else "success")
        for node in manifest["nodes"].values()
    )
    expected["unit_test", "pass"] = len(manifest["unit_tests"])
    expected["exposure", "no-op"] = len(manifest["exposures"])
    found = Counter((result["unique_id"].split(".")[0], result["status"]) for result in results)
    assert found == expected
    assert min(expected.values()) > 0


def test_day_figures_agree_with_the_archive(built, warehouse):
    flights = archived(DAY)
    delays = [int(flight["dep_delay"]) for flight in flights if flight["dep_delay"]]
    assert day_figures(warehouse, DAY) == {
        "flight_date": "2026-03-13",
        "flights": len(flights),
        "cancelled": sum(not flight["dep_time"] for flight in flights),
        "diverted": sum(bool(f["dep_time"]) and not f["arr_delay"] for f in flights),
        "mean_departure_delay_minutes": pytest.approx(sum(delays) / len(delays), abs=0.05),
    }
    assert day_figures(warehouse, END) == {
        "flight_date": "2026-03-14",
        "flights": 0,
        "cancelled": 0,
        "diverted": 0,
        "mean_departure_delay_minutes": None,
    }


def test_the_age_of_a_source_is_the_age_of_its_newest_day(built, dbt, env):
    dbt("source", "freshness")
    written = Path(env["DBT_TARGET_PATH"]) / "sources.json"
    found = {
        result["unique_id"].rpartition(".")[2]: (result["status"], result["max_loaded_at"][:16])
        for result in json.loads(written.read_text())["results"]
    }
    # The loaded rows are of March. The times are midnight and 23:00 in New York.
    assert found["flights"] == ("error", f"{DAY:%F}T04:00")
    assert found["weather"] == ("error", f"{END:%F}T03:00")
    # The rows of this source have the time of the load.
    assert found["planes"][0] == "pass"


def test_a_flight_that_the_source_deletes_is_deleted_from_the_facts(
    built, dbt, warehouse, monkeypatch
):
    before = facts(warehouse)
    flights = archive.flights
    monkeypatch.setattr(archive, "flights", lambda *days: list(flights(*days))[:-1])
    load(warehouse, DAY, END)
    done = dbt("build", "--select", "fct_flights", DBT_EVENT_TIME_START=f"{DAY:%F}")
    assert done.returncode == 0, done.stdout
    after = facts(warehouse)
    assert after < before
    assert len(before - after) == 1


@pytest.mark.slow
def test_the_build_of_a_developer_does_not_change_prod(built, warehouse, env, tmp_path):
    before = relations(warehouse)
    words = ["dbt", "", "build", "--select", "+stg_airlines"]
    done = local(*words, env={**env, "USER": "ada", "DBT_TARGET_PATH": str(tmp_path)})
    assert done.returncode == 0, done.stdout
    after = relations(warehouse)
    assert before <= after
    assert {(schema, name) for schema, name, *_ in after - before} == {
        ("dbt_ada_nyc_flights_seeds", "airlines"),
        ("dbt_ada_nyc_flights_staging", "stg_airlines"),
    }


@pytest.mark.slow
def test_a_developers_first_build_covers_the_last_month(built, env, tmp_path):
    own = {name: value for name, value in env.items() if not name.startswith("DBT_EVENT_TIME")}
    words = ["dbt", "", "run", "--select", "+fct_flights", "--exclude", "resource_type:seed"]
    assert "DBT_EVENT_TIME_START" not in os.environ
    done = local(*words, env={**own, "USER": "bo", "DBT_TARGET_PATH": str(tmp_path)})
    assert "Batch 31 of 31" in done.stdout, done.stdout


def test_two_dbt_processes_can_create_a_schema_at_once(built, dbt, postgres, warehouse, tmp_path):
    """Without the macro postgres__create_schema one of them always fails with a duplicate key.

    Both wait where they create the schema, because a third session creates it and then rolls back.
    """
    drop_schemas(warehouse)
    seeds = ["airlines", "airports_added"]
    with ThreadPoolExecutor(2) as pool, connect(postgres) as watcher:
        with warehouse.transaction(force_rollback=True):
            warehouse.execute("create schema nyc_flights_seeds")
            running = []
            for seed in seeds:
                (tmp_path / seed).mkdir()
                shutil.copy(built / "partial_parse.msgpack", tmp_path / seed)
                words = ["seed", "--select", seed]
                running.append(pool.submit(dbt, *words, DBT_TARGET_PATH=str(tmp_path / seed)))
            wait_for_blocked(watcher, len(seeds))
        for done in (future.result() for future in running):
            assert done.returncode == 0, done.stdout
    assert {(schema, name) for schema, name, *_ in relations(warehouse)} == {
        ("nyc_flights_seeds", seed) for seed in seeds
    }
