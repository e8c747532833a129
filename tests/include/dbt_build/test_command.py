"""One dbt command of a task, with an external dbt."""

import json
import os
import shutil
import signal
import sys
from collections import defaultdict
from pathlib import Path
from threading import Thread

import pytest
from cosmos import ExecutionConfig
from cosmos.constants import InvocationMode

from include.dbt_build.results import BuildResults
from include.dbt_build.timeouts import DbtInterruptedError, interruptible
from tests.fixtures import wait_until
from tests.include.dbt_build.conftest import render

DBT = Path(sys.executable).with_name("dbt")
# A line of dbt.log about the first of several batches.
BATCH = "Batch 1 of %s START batch 2026-01-01 of sql microbatch model second.batched [RUN]\n"
EXTERNAL = ExecutionConfig(invocation_mode=InvocationMode.SUBPROCESS, dbt_executable_path=str(DBT))


def end_when_there_is(file: Path) -> None:
    """End this process, as Airflow ends a task, when a script has written a file."""

    def end() -> None:
        wait_until(file.exists)
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=end).start()


@pytest.mark.slow
def test_an_interrupted_external_dbt_has_ended_when_the_task_goes_on(unchanged, tmp_path):
    # As dbt does, it writes the results of the nodes that have ended, and then cancels its
    # statements, which takes two seconds.
    result = {"unique_id": "model.second.base", "status": "success", "message": "SELECT 1"}
    result |= {"timing": [], "failures": None, "compiled_code": "select 1"}
    (tmp_path / "results.json").write_text(json.dumps({"results": [result]}))
    (tmp_path / "target").mkdir()
    (tmp_path / "dbt.log").write_text(BATCH % 4)
    script = tmp_path / "dbt"
    # Unlike a shell, Python can handle a signal that was ignored when it was started.
    script.write_text(
        f"#!{sys.executable}\n"
        "import os, signal, sys, time\n"
        "def end(*_):\n"
        "    os.rename('results.json', 'target/run_results.json')\n"
        "    time.sleep(2)\n"
        "    sys.exit(1)\n"
        "signal.signal(signal.SIGINT, end)\n"
        "open('started', 'w').close()\n"
        "time.sleep(60)\n"
    )
    script.chmod(0o755)
    dag = render(unchanged, execution_config=EXTERNAL)
    build = dag.get_task("dbt_build")
    build.results = BuildResults({"model.second.base": 2, "model.second.batched": 2})
    end_when_there_is(tmp_path / "started")
    with pytest.raises(DbtInterruptedError), interruptible(build.results.interrupt):
        build.run_subprocess([str(script)], {}, str(tmp_path))
    assert build.subprocess_hook.sub_process.poll() is not None
    # The retry of the build task does not build this model again.
    assert build.results.succeeded() == {"model.second.base"}
    # dbt has built some batches of this one.
    assert build.results.incomplete() == {"model.second.batched"}


BATCHED = """{{ config(
    materialized='incremental', incremental_strategy='microbatch', unique_key='day',
    event_time='day', batch_size='day', begin='2026-01-01', full_refresh=%s
) }} select current_date as day"""


def test_a_full_refresh_does_not_repeat_the_batches_of_a_model_that_refuses_it(small):
    path = small({}, a=BATCHED % "none", b=BATCHED % "false", c=BATCHED % "true")
    results = render(path).get_task("dbt_build").group.new_results()
    assert results.repeated_batches == {"model.small.a": 2, "model.small.b": 2}
    results.set_full_refresh()
    assert results.repeated_batches == {"model.small.b": 2}


@pytest.mark.parametrize(
    ("log", "end", "is_incomplete"),
    [
        (BATCH % 4, "kill -9 $$", True),
        # dbt has written the results of the model.
        (BATCH % 4, "exit 1", False),
        # A retry builds both batches again.
        (BATCH % 2, "kill -9 $$", False),
        ("Running with dbt", "kill -9 $$", False),
    ],
)
def test_a_killed_external_dbt_has_built_some_batches(unchanged, tmp_path, log, end, is_incomplete):
    (tmp_path / "dbt.log").write_text(log)
    script = tmp_path / "dbt"
    script.write_text(f"#!/bin/sh\n{end}\n")
    script.chmod(0o755)
    build = render(unchanged, execution_config=EXTERNAL).get_task("dbt_build")
    build.results = BuildResults({"model.second.batched": 2})
    build.run_subprocess([str(script)], {}, str(tmp_path))
    assert build.results.incomplete() == ({"model.second.batched"} if is_incomplete else set())


@pytest.mark.slow
def test_an_external_dbt_that_ignores_the_interrupt_has_ended_too(unchanged, tmp_path, monkeypatch):
    monkeypatch.setattr("include.dbt_build.command.CANCEL_SECONDS", 2)
    script = tmp_path / "dbt"
    script.write_text("#!/bin/sh\ntrap '' INT\ntouch started\nsleep 60 &\nwait\n")
    script.chmod(0o755)
    build = render(unchanged, execution_config=EXTERNAL).get_task("dbt_build")
    end_when_there_is(tmp_path / "started")
    with pytest.raises(DbtInterruptedError), interruptible(build.results.interrupt):
        build.run_subprocess([str(script)], {}, str(tmp_path))
    assert build.subprocess_hook.sub_process.poll() is not None


@pytest.mark.parametrize(
    ("given", "is_parsed"),
    [
        ({}, False),
        ({"warn_error": True}, True),
        ({"dbt_cmd_global_flags": ["--warn-error-options", "{'error': 'all'}"]}, True),
        ({"dbt_cmd_flags": ["--warn-error"]}, True),
    ],
)
def test_a_run_parses_the_project_if_a_warning_is_an_error(
    unchanged, monkeypatch, given, is_parsed
):
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "postgres://localhost/db")
    build = render(unchanged, operator_args=given).get_task("dbt_build")
    build._load_manifest(os.environ)
    assert (build.manifest is None) == is_parsed


def test_a_run_parses_the_project_if_a_variable_makes_a_warning_an_error(unchanged, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "postgres://localhost/db")
    build = render(unchanged).get_task("dbt_build")
    for value, is_parsed in (("{'silence': ['A']}", False), ("{'error': 'all'}", True)):
        build.manifest = None
        monkeypatch.setenv("DBT_WARN_ERROR_OPTIONS", value)
        build._load_manifest(os.environ)
        assert (build.manifest is None) == is_parsed


@pytest.mark.parametrize(
    ("jinja", "is_shared"),
    [("run_started_at.year > 1", False), ("flags.FULL_REFRESH", False), ("target.port > 1", True)],
)
def test_a_run_uses_the_parse_of_another_run_only_if_dbt_notices_what_has_changed(
    small, monkeypatch, jinja, is_shared
):
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "postgres://localhost/db")
    dag = render(small({}, a=f"{{{{ config(meta={{'a': {jinja}}}) }}}} select 1 as id"))
    build = dag.get_task("dbt_build")
    build._load_manifest(os.environ)
    assert build.manifest is None
    assert build.partial_parse == is_shared


def test_an_error_before_the_nodes_is_not_hidden_by_a_missing_manifest(
    unchanged, tmp_path, monkeypatch
):
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "postgres://localhost/db")
    build = render(unchanged).get_task("dbt_build")
    # dbt has written neither run_results.json nor manifest.json.
    build._read_results(str(tmp_path), {"ti": None, "task": build})
    assert build.outlets == []


def test_a_relation_whose_uri_airflow_refuses_has_no_event(
    unchanged, tmp_path, monkeypatch, caplog
):
    # The host is the folder of a socket.
    connection = {"conn_type": "postgres", "host": "/run", "port": 5432, "schema": "db"}
    connection |= {"login": "u", "password": "p"}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(connection))
    build = render(unchanged).get_task("dbt_build")
    shutil.copytree(build.project.target, tmp_path / "target")
    build.results.add_succeeded(["model.second.base"], "")
    events = defaultdict(set)
    build._emit_assets(str(tmp_path), {"task": build, "outlet_events": events})
    assert not any(events.values())
    assert "model.second.base has no asset event" in caplog.text
