"""What the commands print about runs and long steps, and which warehouse they use."""

import re
import time
from dataclasses import replace

import pytest

from tests.conftest import HAS_POSTGRES, SETTINGS

if not HAS_POSTGRES:
    pytest.skip("the image has no runner", allow_module_level=True)

from local import pipeline, progress, services
from local.pipeline import Api
from local.settings import Failure, Settings
from local.update import remove_targets

LOG = [
    {"event": "dbt begins", "level": "info"},
    {"event": "Database Error in model b\n  division by zero", "level": "error"},
    {"event": "Task failed with exception", "level": "error", "error_detail": []},
]


def task(task_id: str, state: str, operator: str, duration: float | None = 1.0) -> dict:
    return {
        "task_id": task_id,
        "state": state,
        "operator_name": operator,
        "duration": duration,
        "dag_id": "daily",
        "dag_run_id": "manual",
        "map_index": -1,
        "try_number": 2,
    }


class EndedRun(Api):
    """An API with one run that has ended."""

    def __init__(self, state: str, tasks: list[dict]):
        self.url, self.state, self.tasks = "http://here", state, tasks

    def __call__(self, method: str, path: str, **kwargs) -> dict:
        if path.endswith("/logs/2"):
            return {"content": LOG}
        return {"state": self.state, "duration": 31.4}

    def all(self, path: str, entries: str, **params) -> list[dict]:
        return self.tasks


TASKS = [
    task("load", "success", "_PythonDecoratedOperator", 99.0),
    task("dbt.dbt_build", "success", "DbtBuildOperator", 20.0),
    *(task(f"dbt.{n}", "success", "DbtNodeOperator", float(n)) for n in range(1, 6)),
    task("dbt.late", "upstream_failed", "DbtNodeOperator", None),
]


def test_a_successful_run_is_one_line_with_counts_seconds_and_the_slowest_nodes(capsys):
    pipeline.follow(EndedRun("success", TASKS[:-1]), "daily", "manual")
    assert capsys.readouterr().out == (
        "success  daily in 31 s: 7 success. Slowest: dbt.5 5.0 s, dbt.4 4.0 s, dbt.3 3.0 s.\n"
    )


def test_a_failed_run_prints_the_message_of_dbt(capsys):
    failed = [
        task("dbt.b.run", "failed", "DbtNodeOperator"),
        task("dbt.dbt_build_done", "failed", "DbtBuildTeardown"),
    ]
    with pytest.raises(Failure, match=r"^daily failed: see http://here/dags/daily/runs/manual$"):
        pipeline.follow(EndedRun("failed", TASKS + failed), "daily", "manual")
    printed = capsys.readouterr().out
    assert "failed   daily in 31 s: 7 success, 2 failed, 1 upstream_failed." in printed
    assert "\ndbt.b.run\nDatabase Error in model b\n  division by zero\n" in printed
    # The teardown only repeats that another task failed.
    assert "dbt_build_done" not in printed


class NoDags(EndedRun):
    def is_imported(self, dag_id: str) -> bool:
        return False


def test_a_dag_that_never_appears_is_an_error_with_where_to_look():
    message = "^No DAG file defines daily, or .* see local.toml, .* import errors on http://here$"
    with pytest.raises(Failure, match=message):
        pipeline.wait_for_dags(NoDags("success", []), "daily", "other", seconds=0)


def test_a_broken_dag_file_is_printed_before_airflow_starts(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.py").write_text("# airflow dag\nraise ValueError('no such project')\n")
    env = {**SETTINGS.airflow_env(), "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path)}
    monkeypatch.setattr(Settings, "airflow_env", lambda settings: env)
    assert not services.prepare_projects(SETTINGS)
    assert "broken.py cannot be imported:\nValueError: no such project\n" in capsys.readouterr().out


def test_a_long_step_prints_lines_in_a_pipe(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.1)
    with progress.step("Waiting") as show:
        show("waiting for the scheduler")
        time.sleep(2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Waiting"
    for line in lines[1:3]:
        assert re.fullmatch(r"\.\.\. waiting for the scheduler, \d s so far", line)
    assert len(lines) > 2


def test_a_short_step_prints_one_line(capsys):
    with progress.step("Waiting"):
        pass
    assert capsys.readouterr().out == "Waiting\n"


def with_url(url: str) -> Settings:
    return replace(SETTINGS, environment={**SETTINGS.environment, "WAREHOUSE_URL": url})


def test_one_variable_names_another_warehouse():
    settings = with_url("postgresql://ada:a%40b@db.example.com/analytics")
    assert settings.dbt_env() == {
        "WAREHOUSE_HOST": "db.example.com",
        "WAREHOUSE_PORT": "5432",
        "WAREHOUSE_USER": "ada",
        "WAREHOUSE_PASSWORD": "a@b",  # pragma: allowlist secret
        "WAREHOUSE_DB": "analytics",
    }
    connection = "postgres://ada:a%40b@db.example.com:5432/analytics"  # pragma: allowlist secret
    assert settings.machine_env()["AIRFLOW_CONN_WAREHOUSE"] == connection
    # Airflow's own database stays in the embedded Postgres.
    assert "@127.0.0.1:" in settings.airflow_env()["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]


WRONG_URLS = ["mysql://ada@db/x", "postgresql://db/x", "db.example.com", "postgresql://a@db:x/x"]


@pytest.mark.parametrize("url", [*WRONG_URLS, "postgresql://ada@db/x?sslmode=require"])
def test_an_invalid_url_of_the_warehouse_is_an_error(url):
    with pytest.raises(Failure, match=r"^WAREHOUSE_URL is not the URL of a Postgres"):
        with_url(url).warehouse()


def test_nothing_on_this_machine_goes_through_a_proxy_of_the_network():
    for given, expected in (("corp", "corp,127.0.0.1"), ("", "127.0.0.1"), ("*", "*")):
        own = {"NO_PROXY": given, "no_proxy": ""}
        env = replace(SETTINGS, environment={**SETTINGS.environment, **own}).airflow_env()
        assert env["NO_PROXY"] == env["no_proxy"] == expected


def test_start_on_another_warehouse_requires_a_target():
    settings = with_url("postgresql://ada@db.example.com/analytics")
    services.require_target(settings)
    without = replace(settings, environment={**settings.environment, "DBT_TARGET": ""})
    for command in (services.start, services.standalone):
        with pytest.raises(Failure, match=r"^WAREHOUSE_URL is set, but DBT_TARGET is not"):
            command(without)


def test_an_empty_target_is_that_of_the_dockerfile():
    settings = Settings.from_environment({**SETTINGS.environment, "DBT_TARGET": ""})
    assert settings.airflow_env()["DBT_TARGET"] == "prod"


def test_standalone_mode_has_the_target_of_the_shell(monkeypatch, tmp_path):
    for name in ("start_warehouse", "prepare_projects"):
        monkeypatch.setattr(services, name, lambda settings: None)
    environment = {**SETTINGS.environment, "DBT_TARGET": "dev_ann"}
    services.standalone(replace(SETTINGS, home=tmp_path, environment=environment))
    lines = (tmp_path / "standalone.env").read_text().splitlines()
    assert "DBT_TARGET=dev_ann" in lines
    assert "DBT_TARGET=prod" not in lines


def test_a_target_is_removed_whole(tmp_path):
    makefile = tmp_path / "Makefile"
    makefile.write_text(
        ".PHONY: test test-all bench\n\ntest: a ## b\n\t@x\n\nbench: a ## c\n\t@y\n\t@z\n\n"
        "test-all: a ## d\n\t@w\n"
    )
    remove_targets(makefile, ["bench", "test-all"])
    assert makefile.read_text() == ".PHONY: test\n\ntest: a ## b\n\t@x\n"
