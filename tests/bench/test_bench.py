"""The projects are what the benchmark says they are, failures show, and documents fit the file."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from tests.conftest import HAS_POSTGRES, ROOT, free_port, running_in
from tests.fixtures import connect

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_POSTGRES, reason="the image has no bench/"),
]

SVG = "{http://www.w3.org/2000/svg}"
# The last version that was released before docs/benchmark.json existed.
BEFORE_RESULTS = "1.1.0"


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """A generated project, parsed."""
    from bench import projects

    return projects.prepare(tmp_path_factory.mktemp("bench") / "models_12")


def test_generated_project_has_models_in_layers_with_a_test_each(generated):
    manifest = json.loads(generated.manifest.read_text())
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
    assert len(set(tested)) == len(tested) == 12
    assert not (generated.folder / "target").exists()


@pytest.fixture
def measured(postgres, monkeypatch):
    """A function that runs a case with dbt alone, on a project or on the one that it names."""
    from bench import compare, projects
    from bench.plan import Row

    own = replace(projects.SETTINGS, warehouse_port=postgres["WAREHOUSE_PORT"])
    monkeypatch.setattr(projects, "SETTINGS", own)

    def run(case, project=None, limit: float = 100, later: int = 0) -> dict:
        if project:
            monkeypatch.setattr(projects, "prepare", lambda folder: project)
        with connect(postgres) as connection:
            return compare.measure(Row(case, "dbt", later=later), limit, connection)

    return run


def test_first_run_and_later_runs_are_separate(generated, measured):
    from bench.plan import MODELS_200

    figures = measured(MODELS_200, generated, later=2)
    assert figures["failure"] is None
    assert (len(figures["first_seconds"]), len(figures["later_seconds"])) == (1, 2)
    assert figures["cpu_seconds"] > 0
    # dbt alone needs more than 50 MB.
    assert figures["peak_mb"] > 50


def test_broken_model_fails_the_row(generated, measured):
    from bench.plan import MODELS_200

    model = next((generated.folder / "models" / "layer_5").glob("*.sql"))
    original = model.read_text()
    model.write_text("select no_such_column")
    try:
        figures = measured(MODELS_200, generated)
    finally:
        model.write_text(original)
    assert (figures["first_seconds"], figures["failure"]) == ([], "dbt ended with code 1")


def test_missing_table_fails_the_row(generated, measured):
    from bench.plan import MODELS_200

    more = replace(generated, relations=generated.relations | {"models_12.more"})
    figures = measured(MODELS_200, more)
    assert figures["first_seconds"] == []
    assert figures["failure"] == "models_12.more is missing after a run that succeeded"


def test_run_over_the_limit_is_stopped_and_fails_the_row(generated, measured):
    from bench.plan import MODELS_200

    figures = measured(MODELS_200, generated, limit=1)
    assert (figures["first_seconds"], figures["failure"]) == ([], "not done after 1 s")


def test_model_that_fails_once_is_built_by_the_retry(measured):
    from bench.plan import RETRY

    case = replace(RETRY, project="flaky_5")
    assert measured(case, later=1)["failure"] is None
    # Without the retry the run fails, so the model did fail.
    assert measured(replace(case, retries=False))["failure"] == "dbt ended with code 1"


def test_two_selections_run_at_once(measured):
    from bench.plan import TWO_DAGS

    assert measured(replace(TWO_DAGS, project="halves_10"))["failure"] is None


def test_clear_builds_the_cleared_models_again(measured):
    from bench.plan import CLEAR

    figures = measured(replace(CLEAR, project="models_100"), later=1)
    assert figures["failure"] is None
    assert (len(figures["first_seconds"]), len(figures["later_seconds"])) == (0, 2)


def test_every_way_on_airflow_has_a_dag(generated, tmp_path, monkeypatch):
    from airflow.dag_processing.dagbag import DagBag

    from bench import projects, ways
    from bench.plan import PLAN
    from include import warehouse

    # Cosmos would keep the result in Airflow's database, which does not exist here.
    monkeypatch.setattr("cosmos.settings.enable_cache_dbt_ls", False)
    folder = shutil.copytree(generated.folder, tmp_path / "dbt" / generated.folder.name)
    (folder / "target").mkdir()
    (folder / "target" / "manifest.json").write_bytes(generated.manifest.read_bytes())
    monkeypatch.setattr(warehouse, "DBT_PROJECTS", folder.parent)
    monkeypatch.setenv("DBT_PROJECTS_DIR", str(folder.parent))
    monkeypatch.setenv("BENCH_PROJECT", folder.name)
    for name, value in projects.env().items():
        monkeypatch.setenv(name, value)
    used = {row.way for row in PLAN}
    assert used == ways.WAYS.keys()
    for name, way in ways.WAYS.items():
        if way.dag_file:
            monkeypatch.setenv("BENCH_DAGS", json.dumps({name: ""}))
            bag = DagBag(ways.DAGS / way.dag_file, bundle_path=ROOT)
            assert (bag.import_errors, [*bag.dags]) == ({}, [name])


def test_quick_run_has_every_way_except_celery_and_small_projects():
    from bench.plan import QUICK
    from bench.ways import WAYS

    assert {row.way for row in QUICK} == WAYS.keys() - {"celery"}
    assert {row.case.project for row in QUICK} == {
        *("nyc_flights", "models_20", "flaky_100", "models_100", "halves_100")
    }


def test_image_is_prepared_as_the_dockerfile_does():
    from bench.ways import IMAGE_BUILD

    assert f"python {' '.join(IMAGE_BUILD[1:])} " in (ROOT / "Dockerfile").read_text()


def test_command_fails_if_a_way_has_no_dag_file(clone):
    (clone / "bench" / "dags" / "others.py").unlink()
    ports = {name: free_port() for name in ("PORT", "WAREHOUSE_PORT")}
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--row", "models_20/dbt", "models_20/bash"],
        cwd=clone,
        env={**os.environ, **ports},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: models_20/bash failed: there is no bench/dags/others.py"
    )
    # The other way ran and is in the table.
    assert "| dbt build in a new process | " in done.stdout
    assert running_in(clone / ".bench") == []


def row(first: list, later: list, failure: str | None = None, **figures) -> dict:
    return {
        "first_seconds": first,
        "later_seconds": later,
        "cpu_seconds": 10.0,
        "peak_mb": 1000,
        **figures,
        "failure": failure,
    }


@pytest.fixture
def results() -> dict:
    """Results as the file has them, with a way that failed."""
    airflow = {"tasks": 40, "dbt_processes": 1, "parse_seconds": 0.5, "scheduler_loop_seconds": 0.2}
    return {
        "version": "9.8.7",
        "engine": "0123456789ab",
        "machine": "a processor, 2 cores, 4 GB",
        "packages": {"Python": "3.12.1", "dbt-core": "1.12.0"},
        "rows": {
            "sample/shipped": row([5.0], [3.0, 4.0, 2.0], **airflow | {"cpu_seconds": 14.0}),
            "sample/bash": row([], [], "failed in dbt_build"),
            "sample/dbt": row([4.0], [2.0]),
        },
    }


def test_table_has_the_ratios_and_the_failures(results):
    from bench import report

    page = report.page(results)
    assert "version 9.8.7, engine `0123456789ab`" in page
    assert "The files of the engine have changed since then." in page
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    assert [line[:5] for line in lines[2:]] == [
        ["dbt build in a new process", "4.0", "2.0", "2.0", "1.0"],
        ["this project", "5.0", "3.0 (2.0 to 4.0)", "2.5", "1.5"],
        ["BashOperator, dbt build", "", "", "", ""],
    ]
    assert lines[3][5:] == ["14.0", "0.1", "1,000", "0.5", "0.2", "1"]
    assert page.endswith("sample/bash **failed**: failed in dbt_build")


def test_readme_has_the_ratios_of_the_rows_that_were_measured(results):
    from bench import report

    text = report.readme(results)
    assert "\n| this project | 1.5 |  |  |  |\n" in text
    assert "The files of the engine have changed since then." in text
    assert "9.8.7" in text


def test_picture_has_a_bar_for_each_way_with_later_runs(results):
    from bench import report

    drawn = ElementTree.fromstring(report.picture(results))  # noqa: S314
    texts = [text.text for text in drawn.iterfind(f"{SVG}text")]
    assert texts == ["dbt build in a new process", "2.0 s", "this project", "3.0 s"]


def test_generated_part_is_replaced_and_the_rest_stays(tmp_path):
    from bench import report
    from local.settings import Failure

    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.START}\nold\n{report.END}\nafter\n")
    for _ in range(2):
        page.write_text(report.insert(page, "new"))
    assert page.read_text() == f"before\n{report.START}\n\nnew\n\n{report.END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(Failure, match=r"page\.md has no lines"):
        report.insert(page, "new")


def test_documents_contain_the_figures_of_the_result_file():
    from bench import report

    if report.RESULTS.exists():
        for file, text in report.documents(json.loads(report.RESULTS.read_text())).items():
            assert file.read_text() == text, "run: make bench ARGS=--documents"


def test_measured_version_is_the_version_of_the_project():
    from bench import report

    measured = BEFORE_RESULTS
    if report.RESULTS.exists():
        measured = json.loads(report.RESULTS.read_text())["version"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == measured, "measure this version: make bench"


def test_result_file_has_every_row_of_the_plan():
    from bench import report
    from bench.plan import PLAN

    if report.RESULTS.exists():
        rows = json.loads(report.RESULTS.read_text())["rows"]
        assert rows.keys() == {row.name for row in PLAN}, "measure the others: make bench"
        assert {name: row["failure"] for name, row in rows.items() if row["failure"]} == {}
