"""The projects are what the benchmark says they are, and a failure shows wherever results do."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from tests.conftest import HAS_POSTGRES, ROOT, free_port, running_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_POSTGRES, reason="the image has no bench/"),
]

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """A generated project, parsed."""
    from bench import projects
    from local.settings import BIN

    folder = tmp_path_factory.mktemp("bench") / "models_12"
    projects.write(folder, folder.name)
    return projects.parse(folder, BIN / "dbt")


def test_a_generated_project_has_its_models_in_layers_with_a_test_each(generated):
    manifest = json.loads((generated.folder / "target" / "manifest.json").read_text())
    tested, widths = [], {}
    for node in manifest["nodes"].values():
        parents = node["depends_on"]["nodes"]
        if node["resource_type"] == "test":
            tested += parents
            continue
        layer = int(re.search(r"layer_(\d)_", node["name"])[1])
        widths[layer] = widths.get(layer, 0) + 1
        assert len(set(parents)) == (0 if layer == 1 else 2)
        assert all(f"layer_{layer - 1}_" in parent for parent in parents)
    assert widths == {1: 3, 2: 3, 3: 2, 4: 2, 5: 2}
    assert (generated.models, generated.tests) == (12, 12)
    assert len(set(tested)) == 12


@pytest.fixture
def outcome(postgres, monkeypatch):
    """A function that runs dbt by itself on a project; its row, and whether it was too slow."""
    from bench.compare import cell
    from bench.ways import Dbt, Way
    from local.settings import BIN
    from tests.conftest import connect

    monkeypatch.setattr("local.settings.WAREHOUSE_PORT", postgres["WAREHOUSE_PORT"])
    pid = Path(postgres["LOCAL_HOME"], "postgres", "postmaster.pid").read_text().split()[0]
    way = Way("dbt", "dbt build", partial(Dbt, programs=BIN))

    def run(project, limit: float = 100) -> tuple[dict, bool]:
        with connect(postgres) as connection:
            return cell(project, way, 1, limit, connection, psutil.Process(int(pid)))

    return run


def test_a_run_that_builds_everything_is_ok(generated, outcome):
    row, slow = outcome(generated)
    assert (row["ok"], row["reason"], slow) == (True, None, False)
    assert row["wall_seconds"] == [row["median_seconds"]]
    assert row["cpu_seconds"] > 0
    # dbt alone has more.
    assert row["peak_mb"] > 50


def test_a_broken_model_fails_the_row(generated, outcome):
    model = next((generated.folder / "models" / "layer_5").glob("*.sql"))
    good = model.read_text()
    model.write_text("select no_such_column")
    try:
        row, slow = outcome(generated)
    finally:
        model.write_text(good)
    assert (row["ok"], row["wall_seconds"], slow) == (False, [None], False)
    assert row["reason"] == "run 1 dbt ended with code 1"


def test_a_run_that_leaves_something_out_fails_the_row(generated, outcome):
    row, slow = outcome(replace(generated, relations=generated.relations | {"models_12.more"}))
    assert (row["ok"], row["wall_seconds"], slow) == (False, [None], False)
    assert row["reason"] == "run 1 succeeded without models_12.more"


def test_a_run_over_the_limit_is_stopped_and_fails_the_row(generated, outcome):
    row, slow = outcome(generated, limit=1)
    assert (row["ok"], row["wall_seconds"], slow) == (False, [None], True)
    assert row["reason"] == "run 1 not done after 1 s"


def test_every_way_on_airflow_has_a_dag(generated, monkeypatch):
    from airflow.dag_processing.dagbag import DagBag

    from bench import projects
    from bench.ways import WARM_UP, WAYS, Airflow
    from local.settings import BIN

    # It would keep it in Airflow's database, which there is none of here.
    monkeypatch.setattr("cosmos.settings.enable_cache_dbt_ls", False)
    monkeypatch.setenv("BENCH_PROJECT", generated.folder.name)
    monkeypatch.setenv("DBT_PROJECTS_DIR", str(generated.folder.parent))
    monkeypatch.setenv("BENCH_DBT", str(BIN / "dbt"))
    monkeypatch.setenv("BENCH_FLAGS", "")
    for name, value in projects.env().items():
        monkeypatch.setenv(name, value)
    bag = DagBag(ROOT / "bench" / "dags", bundle_path=ROOT)
    assert bag.import_errors == {}
    on_airflow = [way.on for way in WAYS if isinstance(way.on, partial)]
    names = {on.keywords["dag_id"] for on in on_airflow if on.func is Airflow}
    assert set(bag.dags) == names | {WARM_UP}


def row(way: str, project: str, seconds: list, reason: str | None = None) -> dict:
    done = [s for s in seconds if s is not None]
    return {
        "project": project,
        "models": 15 if project == "nyc_flights" else 50,
        "way": way,
        "wall_seconds": seconds,
        "median_seconds": max(done, default=None),
        "ok": reason is None,
        "reason": reason,
        "commit": "0123456",
    }


@pytest.fixture
def results(tmp_path) -> dict:
    """Results with a way that fails once and another that never succeeds, as the file has them."""
    from bench.compare import keep

    file = tmp_path / "results.json"
    for made in (
        row("shipped", "models_50", [9.0, 8.0, 10.0]),
        row("dbt", "models_50", [40.0]),
        row("bash", "models_50", [8.0, None, 9.0], "run 2 failed in dbt_build"),
        row("local", "nyc_flights", [], r"no \d"),
    ):
        keep(file, made)
    return keep(file, row("dbt", "models_50", [4.0]))


def test_results_are_in_order_and_a_new_row_replaces_its_predecessor(results):
    assert [(r["project"], r["way"], r["over_dbt_build"]) for r in results["rows"]] == [
        ("nyc_flights", "local", None),
        ("models_50", "dbt", 1.0),
        ("models_50", "bash", 2.25),
        ("models_50", "shipped", 2.5),
    ]


def test_a_failed_row_and_a_missing_row_are_failures(results):
    from bench import report

    assert report.failures(results, ["models_50"], ["dbt", "shipped"]) == []
    assert report.failures(results, ["nyc_flights", "models_50"], ["local", "bash"]) == [
        r"local on nyc_flights failed: no \d",
        "bash on nyc_flights failed: was not run",
        "local on models_50 failed: was not run",
        "bash on models_50 failed: run 2 failed in dbt_build",
    ]


def test_the_command_fails_if_a_way_has_no_dag_file(clone):
    (clone / "bench" / "dags" / "bash.py").unlink()
    ports = {name: free_port() for name in ("PORT", "WAREHOUSE_PORT")}
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--way", "dbt", "bash"],
        cwd=clone,
        env={**os.environ, **ports},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: bash on nyc_flights failed: there is no bench/dags/bash.py"
    )
    # The other way ran and is in the table.
    assert "| nyc_flights | dbt build, a new process | " in done.stdout
    assert running_in(clone / ".bench") == []


def test_the_table_says_what_failed(results, tmp_path):
    from bench import report

    page = tmp_path / "benchmark.md"
    page.write_text(f"before\n{report.START}\nold\n{report.END}\nafter\n")
    for _ in range(2):
        report.write(results, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    lines = [line.split(" | ")[2] for line in text.splitlines() if line.startswith("| ")][2:]
    assert lines == [
        r"**failed**: no \d",
        "4.0",
        "9.0 (8.0 to 9.0) **failed**: run 2 failed in dbt_build",
        "10.0 (8.0 to 10.0)",
    ]


def test_the_picture_shows_what_failed(results, tmp_path):
    from bench import picture

    picture.draw(results, tmp_path / "bench.svg")
    drawn = ElementTree.parse(tmp_path / "bench.svg")  # noqa: S314
    groups = drawn.iterfind(f".//{SVG}g[@id]")
    crosses = {
        g.get("id"): len(g.findall(f".//{SVG}use")) for g in groups if "failed" in g.get("id")
    }
    assert {name: count for name, count in crosses.items() if count} == {
        "local failed": 1,
        "bash failed at times": 1,
    }
