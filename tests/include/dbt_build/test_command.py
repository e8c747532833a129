"""One dbt command of a task, with an external dbt."""

import os
import signal
import sys
from pathlib import Path
from threading import Timer

import pytest
from cosmos import ExecutionConfig
from cosmos.constants import InvocationMode

from include.dbt_build.timeouts import DbtInterruptedError, interruptible
from tests.include.dbt_build.conftest import render

DBT = Path(sys.executable).with_name("dbt")


@pytest.mark.slow
def test_an_interrupted_external_dbt_has_ended_when_the_task_goes_on(unchanged, tmp_path):
    # It takes two seconds to cancel its statements.
    script = tmp_path / "dbt"
    script.write_text(
        "#!/bin/sh\ntrap 'sleep 2; kill $!; exit 1' INT\necho started\nsleep 60 &\nwait\n"
    )
    script.chmod(0o755)
    external = ExecutionConfig(
        invocation_mode=InvocationMode.SUBPROCESS, dbt_executable_path=str(DBT)
    )
    dag = render(unchanged, execution_config=external)
    build = dag.get_task("dbt_build")
    Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(DbtInterruptedError), interruptible(build.results.interrupt):
        build.run_subprocess([str(script)], {}, str(tmp_path))
    assert build.subprocess_hook.sub_process.poll() is not None


def test_an_error_before_the_nodes_is_not_hidden_by_a_missing_manifest(
    unchanged, tmp_path, monkeypatch
):
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "postgres://localhost/db")
    build = render(unchanged).get_task("dbt_build")
    # dbt has written neither run_results.json nor manifest.json.
    build._read_results(str(tmp_path), {"ti": None, "task": build})
    assert build.outlets == []
