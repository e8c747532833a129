"""Where the local services live and what they are told."""

import json
import os
import re
import secrets
import sys
import tomllib
from base64 import urlsafe_b64encode
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
HOME = Path(os.environ.get("LOCAL_HOME", ROOT / ".local")).resolve()
LOGS = HOME / "logs"
PROJECTS = Path(os.environ.get("DBT_PROJECTS_DIR", ROOT / "dbt"))

# The programs of the environment that this runs in, whether or not it was activated.
BIN = Path(sys.executable).parent
# Where Cosmos looks for dbt.
PATH = f"{BIN}{os.pathsep}{os.environ['PATH']}"

# What this fork runs and shows.
OWN = tomllib.loads((ROOT / "local.toml").read_text())

PORT = os.environ.get("PORT") or "8080"
WAREHOUSE_PORT = os.environ.get("WAREHOUSE_PORT") or "5433"


class Failure(Exception):
    """Ends the command with this one line and exit code 1."""


def connection() -> dict:
    """Return the connection `warehouse` of airflow_settings.yaml, moved to the local server."""
    settings = yaml.safe_load((ROOT / "airflow_settings.yaml").read_text())
    # Without any connection the key has no value.
    for conn in settings["airflow"]["connections"] or []:
        # `astro dev object export` writes it without its values.
        if conn["conn_id"] == "warehouse" and conn.get("conn_login"):
            return {**conn, "conn_host": "127.0.0.1", "conn_port": int(WAREHOUSE_PORT)}
    raise Failure(
        "airflow_settings.yaml has no connection 'warehouse', or an empty one: put it back."
    )


def kept_secrets() -> dict[str, str]:
    """Return the secrets of this installation, made when it is first started."""
    path = HOME / "secrets.json"
    if not path.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        made = {name: secrets.token_hex(32) for name in ("metadata", "jwt", "api")}
        made["fernet"] = urlsafe_b64encode(secrets.token_bytes(32)).decode()
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(made, file)
    return json.loads(path.read_text())


def shared_settings() -> dict[str, str]:
    """Return the ENV lines of the Dockerfile: the settings that hold wherever the project runs."""
    lines = (ROOT / "Dockerfile").read_text()
    return dict(re.findall(r"^ENV (\w+)=(.*?)$", lines, flags=re.MULTILINE))


def dbt_env() -> dict[str, str]:
    """Return the variables that profiles.yml of a dbt project reads."""
    conn = connection()
    return {
        "WAREHOUSE_HOST": conn["conn_host"],
        "WAREHOUSE_PORT": str(conn["conn_port"]),
        "WAREHOUSE_USER": conn["conn_login"],
        "WAREHOUSE_PASSWORD": conn["conn_password"],
        "WAREHOUSE_DB": conn["conn_schema"],
    }


def machine_settings() -> dict[str, str]:
    """Return what Airflow must know on this machine, whether the runner or the CLI starts it."""
    conn = connection()
    return {
        "AIRFLOW_CONN_WAREHOUSE": json.dumps(
            {
                "conn_type": conn["conn_type"],
                "host": conn["conn_host"],
                "port": conn["conn_port"],
                "login": conn["conn_login"],
                "password": conn["conn_password"],
                "schema": conn["conn_schema"],
            }
        ),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__COSMOS__CACHE_DIR": str(HOME / "cosmos"),
        "DBT_ARTIFACTS": f"file://{HOME}/artifacts",
        # A new DAG file and an edited dbt project show within half a minute, not after five.
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "15",
        # The next edit too: by default Airflow takes one in 30 s.
        "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "5",
        # What ran when a scheduler was ended runs again half a minute later, not five minutes.
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
        # The default of 32 processes would only wait for each other on a laptop. Half as many make
        # the scheduler look for work twice as often.
        "AIRFLOW__CORE__PARALLELISM": str(4 * (os.cpu_count() or 2)),
        # Pages that ask for no login either. A DAG with a DbtDocsLocalOperator fills the folder.
        "AIRFLOW__COSMOS__DBT_DOCS_PROJECTS": json.dumps(
            {
                path.parent.name: {
                    "dir": str(HOME / "docs" / path.parent.name),
                    "index": "static_index.html",
                    "name": f"dbt docs: {path.parent.name}",
                }
                for path in PROJECTS.glob("*/dbt_project.yml")
            }
        ),
        # Airflow asks for no login here: so nothing but this machine may reach it.
        "AIRFLOW__API__HOST": "127.0.0.1",
    }


def airflow_env(port: str) -> dict[str, str]:
    """Return the environment of every Airflow process that the runner starts."""
    secret = kept_secrets()
    url = f"http://127.0.0.1:{port}"
    metadata = f"airflow:{secret['metadata']}@127.0.0.1:{WAREHOUSE_PORT}/airflow"
    return {
        **shared_settings(),
        **os.environ,
        **machine_settings(),
        "PATH": PATH,
        "PYTHONPATH": str(ROOT),
        "AIRFLOW_HOME": str(HOME / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__FERNET_KEY": secret["fernet"],
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        # As with `astro dev start`.
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API__PORT": port,
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__SECRET_KEY": secret["api"],
        "AIRFLOW__API_AUTH__JWT_SECRET": secret["jwt"],
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{metadata}",
    }
