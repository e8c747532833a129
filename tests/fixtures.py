"""Fixtures and functions of the tests that only the template has: `make adopt` removes them."""

import gc
import json
import os
import shutil
import socket
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import psutil
import pytest

from tests.conftest import HAS_POSTGRES, HOME, ROOT, SETTINGS, free_port, local, running_in

# The files of `make test` that use the shared Airflow.
AIRFLOW_FILES = (
    "tests/integration/test_security.py",
    "tests/integration/test_start.py",
    "tests/integration/test_states.py",
    "tests/nyc_flights/test_pipeline.py",
    "tests/test_end_to_end.py",
)

BUNDLE = "airflow.dag_processing.bundles.local.LocalDagBundle"
# Settings that the tests of a fork do not have.
TEMPLATE_SETTINGS = {
    # The second folder has DAGs that only tests run.
    "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(
        [
            {"name": name, "classpath": BUNDLE, "kwargs": {"path": str(ROOT / path)}}
            for name, path in (("dags-folder", "dags"), ("tests", "tests/integration/dags"))
        ]
    ),
    # These DAG files have many DAGs, and are parsed while another process runs tests.
    "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "600",
    "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "650",
    # With the defaults, test_kills.py would wait for minutes.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "10",
    # Without this folder the sample has no task that makes the docs.
    "AIRFLOW__COSMOS__DBT_DOCS_PROJECTS": json.dumps(
        {"dbt": {"dir": str(HOME / "docs"), "index": "static_index.html"}}
    ),
}
os.environ |= TEMPLATE_SETTINGS


@pytest.fixture(scope="session", autouse=True)
def fast_dbt():
    """Make the commands of dbt as fast as outside of pytest.

    dbt searches all of Python's frames and modules for the source of each flag of an adapter. Under
    pytest that takes a second for each command of dbt, elsewhere 0.1 s.
    """
    import dbt.cli.main  # noqa: F401
    from dbt_common.behavior_flags import BehaviorFlagRendered

    # The engine collects garbage after each command of dbt. The objects of pytest and of the
    # modules are not searched, which would take 0.3 s.
    gc.freeze()
    with mock.patch.object(BehaviorFlagRendered, "_default_source", return_value="dbt"):
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give AIRFLOW_FILES to one process of pytest-xdist, so that Airflow starts only once."""
    # The image has no pytest-xdist.
    from xdist.scheduler import LoadFileScheduling

    class OneAirflow(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "airflow" if file in AIRFLOW_FILES else file

    return OneAirflow(config, log)


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write files into a folder, without the indentation of their text; return the folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return folder


def git(folder: Path, *words) -> str:
    # The user who runs the tests may not have configured a name in git.
    who = ("-c", "user.name=team", "-c", "user.email=team@example.com")
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--no-verify", "--message", message)


@pytest.fixture
def clone(tmp_path) -> Path:
    """A clone of the work tree as it is now."""
    folder = tmp_path / "clone"
    git(ROOT, "clone", "--quiet", ROOT, folder)
    listed = git(ROOT, "ls-files", "--others", "--cached", "--exclude-standard").splitlines()
    for name in [*git(folder, "ls-files").splitlines(), *listed]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    if git(folder, "status", "--porcelain"):
        commit(folder, "What is not committed yet")
    return folder


@pytest.fixture(scope="session")
def postgres() -> dict[str, str]:
    """The environment variables of an embedded Postgres, for the runner and for dbt.

    It is not the server of the integration tests, which compare everything in their warehouse.
    """
    if not HAS_POSTGRES:
        pytest.skip("needs the embedded Postgres, which the image does not have: run `make test`")
    own = {"LOCAL_HOME": str(HOME / "postgres-alone"), "WAREHOUSE_PORT": free_port()}
    started = local("warehouse", env=own)
    assert started.returncode == 0, started.stderr
    # dbt runs as a developer runs it. It reads DBT_TARGET, which otherwise is the target of DAGs.
    yield {**SETTINGS.dbt_env(), **own, "DBT_TARGET": "dev"}
    stopped = local("stop", env=own)
    assert stopped.returncode == 0, stopped.stderr


def connect(env: dict[str, str], **changes):
    """Connect to the warehouse as dbt does."""
    import psycopg

    return psycopg.connect(
        **{
            "host": env["WAREHOUSE_HOST"],
            "port": env["WAREHOUSE_PORT"],
            "user": env["WAREHOUSE_USER"],
            "password": env["WAREHOUSE_PASSWORD"],
            "dbname": env["WAREHOUSE_DB"],
            "autocommit": True,
            **changes,
        }
    )


def is_alive(process: psutil.Process) -> bool:
    # In a container, ended processes can stay as zombies.
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def listening(processes: Iterable[psutil.Process]) -> set[tuple[str, int]]:
    """Return the addresses on which processes listen, Unix sockets aside."""
    found = set()
    for process in processes:
        # A process can end in the meantime.
        with suppress(psutil.NoSuchProcess):
            for connection in process.net_connections("inet"):
                datagrams = connection.type == socket.SOCK_DGRAM and not connection.raddr
                if connection.status == psutil.CONN_LISTEN or datagrams:
                    found.add(tuple(connection.laddr))
    return found


@contextmanager
def started_apart(
    projects: Path, folder: Path, root: Path = ROOT, **env: str
) -> Iterator[dict[str, str]]:
    """Run `make start` on a folder of its own, and yield its environment."""
    if not HAS_POSTGRES:
        pytest.skip("needs the embedded Postgres, which the image does not have: run `make test`")
    # The other Airflow of the tests reads its own copy of the projects.
    shutil.copytree(projects, folder / "dbt")
    env |= {
        "LOCAL_HOME": str(folder),
        "DBT_PROJECTS_DIR": str(folder / "dbt"),
        "AIRFLOW__COSMOS__CACHE_DIR": str(folder / "cosmos"),
        **{name: free_port() for name in ("PORT", "WAREHOUSE_PORT")},
    }
    done = local("start", env=env, root=root)
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        yield env
    finally:
        stopped = local("stop", env=env, root=root)
    assert stopped.returncode == 0, stopped.stderr
    assert running_in(folder) == []


@pytest.fixture(scope="session")
def api(started):
    """The REST API of the shared Airflow."""
    from local.pipeline import Api

    assert started.returncode == 0, started.stdout + started.stderr
    return Api(os.environ["PORT"])


@pytest.fixture(scope="module")
def running_warehouse(started):
    """A connection to the warehouse of the shared Airflow, with dbt's role.

    Each module gets a new one, because one of them kills the server.
    """
    with connect(SETTINGS.dbt_env()) as connection:
        yield connection


@pytest.fixture(scope="session")
def browser():
    from tests.integration import pages

    if pages.CHROMIUM is None:
        pytest.skip(pages.NO_CHROMIUM)
    with pages.chromium() as browser:
        yield browser


@pytest.fixture
def page(request, api, browser):
    """A page of the shared Airflow. .local/screenshots gets a picture at the end of each test."""
    from tests.integration import pages

    page = pages.new_page(browser, api.url)
    yield page
    page.screenshot(path=ROOT / ".local" / "screenshots" / f"{request.node.name}.png")
    page.close()


@pytest.fixture(scope="module")
def warehouse(postgres):
    """A connection to a warehouse without any schema, raw included."""
    with connect(postgres) as connection:
        drop_schemas(connection)
        yield connection


def drop_schemas(connection) -> None:
    owned = "select nspname from pg_namespace where nspowner = current_user::regrole"
    for (name,) in connection.execute(owned).fetchall():
        connection.execute(f"drop schema {name} cascade")


def wait_until(condition: Callable[[], object], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition is not true after {seconds} s"
        time.sleep(0.2)


def wait_for_blocked(connection, sessions: int) -> None:
    """Wait until this number of sessions of the database wait for a lock."""
    blocked = """
        select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'
    """
    wait_until(lambda: connection.execute(blocked).fetchone()[0] >= sessions, seconds=120)
