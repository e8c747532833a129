"""Who can reach Airflow and Postgres, where secrets are, and what the role of dbt may do."""

import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from types import SimpleNamespace

import httpx
import psutil
import psycopg
import pytest

from tests.conftest import HAS_POSTGRES, HOME, SETTINGS, running_in
from tests.fixtures import connect, listening

if HAS_POSTGRES:
    from tests.integration.pages import first_run
    from tests.integration.states import States, connection, tasks_of

pytestmark = pytest.mark.timeout(600)

CONNECTION = "secret"
# Paths of the REST API that the test must have read: the details of a task and its run.
READ_PATHS = {
    "/api/v2/connections",
    "/api/v2/dagSources/{dag_id}",
    "/api/v2/dags/{dag_id}/details",
    "/api/v2/dags/{dag_id}/tasks/{task_id}",
    "/api/v2/dags/{dag_id}/dagRuns/{dag_run_id}/taskInstances/{task_id}",
    "/api/v2/dags/{dag_id}/dagRuns/{dag_run_id}/taskInstances/{task_id}/logs/{try_number}",
    "/api/v2/dags/{dag_id}/dagRuns/{dag_run_id}/taskInstances/{task_id}/xcomEntries/{xcom_key}",
    "/api/v2/eventLogs",
    "/api/v2/variables",
}


def found(text: str | bytes) -> list[str]:
    """Return the names of the secrets that a text holds."""
    content = text.encode() if isinstance(text, str) else text
    return [name for name, secret in SETTINGS.secrets().items() if secret.encode() in content]


@pytest.fixture(scope="module")
def run(api) -> Iterator[SimpleNamespace]:
    """Return a run in which one model fails, and the arguments of all processes during the run.

    dbt builds in Airflow's own database, whose password is a unique text that can be searched for.
    That of the warehouse stands in committed files.
    """
    role = {"user": "airflow", "dbname": "airflow", "password": SETTINGS.secrets()["metadata"]}
    address = {"host": "127.0.0.1", "port": int(os.environ["WAREHOUSE_PORT"]), "schema": "airflow"}
    login = {"conn_type": "postgres", "login": "airflow", "password": role["password"]}
    with (
        connection(api, CONNECTION, **login, **address),
        connect(SETTINGS.dbt_env(), **role) as database,
    ):
        states = States(api, database, "states_secret")
        states.broken("d")
        states.trigger()
        arguments = set()
        while (state := api("GET", states.path)["state"]) not in ("success", "failed"):
            for process in running_in(HOME):
                with suppress(psutil.NoSuchProcess):
                    arguments.add(" ".join(process.cmdline()))
        assert state == "failed"
        assert states.states()["dbt_build"] == "success"
        yield SimpleNamespace(states=states, arguments=arguments)
        database.execute("drop schema states, raw_states cascade")


def test_only_airflow_and_postgres_listen_and_only_on_this_machine(api):
    ports = (os.environ["PORT"], os.environ["WAREHOUSE_PORT"])
    assert listening(running_in(HOME)) == {("127.0.0.1", int(port)) for port in ports}


def test_no_secret_is_in_the_arguments_of_a_process(run):
    assert any("scheduler" in words for words in run.arguments)
    assert [words for words in run.arguments if found(words)] == []


def test_one_file_holds_the_secrets_which_only_its_owner_may_read(run):
    holding, seen = [], set()
    for path in HOME.rglob("*"):
        # Postgres and Airflow remove files in the meantime.
        with suppress(FileNotFoundError):
            if path.is_file() and not path.is_symlink() and found(path.read_bytes()):
                holding.append(path)
            seen.add(path.name)
    assert holding == [HOME / "secrets.json"]
    assert stat.S_IMODE(holding[0].stat().st_mode) == 0o600
    # The search covers the profile from Cosmos, the artifacts of dbt and the logs of tasks.
    assert {"profiles.yml", "manifest.json", "run_results.json", "attempt=1.log"} <= seen


def test_other_users_can_neither_write_files_of_the_runner_nor_read_its_databases(run):
    writable = []
    for path in HOME.rglob("*"):
        with suppress(FileNotFoundError):
            mode = path.lstat().st_mode
            if mode & stat.S_IWOTH and not stat.S_ISLNK(mode):
                writable.append(path)
    assert writable == []
    assert stat.S_IMODE((HOME / "postgres").stat().st_mode) == 0o700


def answers(api, dag_id: str, run_id: str) -> Iterator[tuple[str, int, str]]:
    """Yield path, status and text of every GET request to the REST API about a run and its tasks.

    Of several tasks with the same operator and state, one is enough.
    """
    token = httpx.get(f"{api.url}/auth/token", timeout=60).json()["access_token"]
    client = httpx.Client(
        base_url=api.url, headers={"Authorization": f"Bearer {token}"}, timeout=60
    )
    # A request to auth/logout would end the session.
    paths = client.get("/openapi.json").json()["paths"].items()
    gets = [path for path, methods in paths if "get" in methods and "/auth/" not in path]
    kinds = {(x["operator"], x["state"]): x for x in tasks_of(api, dag_id, run_id).values()}
    requested = set()
    for task in kinds.values():
        about = {"dag_id": dag_id, "dag_run_id": run_id, "task_id": task["task_id"]}
        about |= {"try_number": max(1, task["try_number"]), "connection_id": CONNECTION}
        entries = "/dags/{dag_id}/dagRuns/{dag_run_id}/taskInstances/{task_id}/xcomEntries"
        keys = [x["key"] for x in api.all(entries.format_map(about), "xcom_entries")]
        for path, key in product(gets, keys or [None]):
            about |= {"xcom_key": key} if key else {}
            # A path with another variable, as of a pool, is left out: its list has the same fields.
            with suppress(KeyError):
                url = path.format_map(about)
                if url not in requested:
                    requested.add(url)
                    answer = client.get(url)
                    yield path, answer.status_code, answer.text


def test_the_rest_api_shows_no_secret(api, run):
    runs = {
        SETTINGS.local_toml["dag"]: first_run(api, SETTINGS.local_toml["dag"]),
        run.states.dag_id: run.states.run_id,
    }
    leaks, seen = [], defaultdict(set)
    for dag_id, run_id in runs.items():
        for path, status, text in answers(api, dag_id, run_id):
            seen[path].add(status)
            leaks += [(dag_id, path)] if found(text) else []
    assert leaks == []
    assert [path for path in READ_PATHS if 200 not in seen[path]] == []
    # Nobody can read Airflow's configuration.
    assert [path for path, statuses in seen.items() if 403 in statuses] == ["/api/v2/config"]
    # The audit log does not have the bodies of requests.
    made = api("GET", "/eventLogs", params={"event": "post_connection"})["event_logs"]
    assert CONNECTION in str(made)
    assert found(str(made)) == []


@pytest.mark.slow
def test_the_pages_of_airflow_show_no_secret(page, run):
    answered = []
    page.on("response", lambda response: answered.append(response))
    task = f"/dags/{run.states.dag_id}/runs/{run.states.run_id}/tasks/dbt_build"
    # Each page with a text that it shows when it is loaded.
    pages = {
        "/connections": CONNECTION,
        f"{task}/rendered_templates": "env",
        f"{task}/xcom": "dbt_node_results",
    }
    # The first page sets the cookie, so it is opened twice.
    page.goto("/connections")
    page.get_by_text(CONNECTION, exact=True).first.wait_for()
    for path, word in pages.items():
        # The responses to a page cannot be read when the next page is open.
        page.goto("about:blank")
        answered.clear()
        page.goto(path)
        page.get_by_text(word, exact=True).first.wait_for()
        page.wait_for_load_state("networkidle")
        # The page itself, and the responses that it is made from.
        bodies = [
            x.text() for x in answered if x.ok and x.request.resource_type in ("fetch", "xhr")
        ]
        assert any(word in text for text in bodies)
        assert [found(text) for text in (page.content(), *bodies) if found(text)] == [], path


RIGHTS = """
    select rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls
    from pg_roles where rolname = current_user
"""
DATABASES = """
    select datname, has_database_privilege(datname, 'connect'), datdba = current_user::regrole
    from pg_database where datallowconn
"""
ROLES = "select count(*) from pg_auth_members where member = current_user::regrole"


def test_the_role_of_dbt_may_only_create_schemas_in_the_warehouse(warehouse):
    assert warehouse.execute(RIGHTS).fetchone() == (False,) * 5
    assert warehouse.execute(ROLES).fetchone() == (0,)
    entered = [row for row in warehouse.execute(DATABASES) if any(row[1:])]
    assert entered == [(warehouse.info.dbname, True, False)]


@pytest.mark.parametrize(
    "statement",
    [
        "select pg_read_file('/etc/hostname')",
        "select pg_ls_dir('.')",
        "select lo_import('/etc/hostname')",
        "copy (select 1) to program 'true'",
        "create role another",
        "create database another",
        "alter system set listen_addresses = '*'",
        "alter database {database} rename to another",
        "drop database {database}",
        "create table public.another ()",
        "set role airflow",
    ],
)
def test_postgres_refuses_the_role_of_dbt(warehouse, statement):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        warehouse.execute(statement.format(database=warehouse.info.dbname))


@pytest.mark.parametrize("database", ["airflow", "postgres", "template1"])
def test_the_role_of_dbt_can_connect_to_no_other_database(warehouse, database):
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        connect(SETTINGS.dbt_env(), dbname=database)
