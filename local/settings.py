"""The settings of the runner, and the environments that it gives to Airflow and to dbt."""

import json
import os
import re
import secrets
import sys
import tomllib
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

ROOT = Path(__file__).resolve().parents[1]
# The programs of the virtual environment, whether or not it is activated.
BIN = Path(sys.executable).parent
# The login of the local warehouse, which local/warehouse.sql creates.
LOCAL_LOGIN = {"user": "dbt", "password": "local-dbt-only", "dbname": "warehouse"}


class Failure(Exception):
    """Ends the command with this message and exit code 1."""


@dataclass(frozen=True)
class Settings:
    """The folders and ports of the runner, its environment, and local.toml."""

    # The environment of the command, which its subprocesses inherit.
    environment: Mapping[str, str]
    # The folder of everything that the runner writes.
    home: Path
    dbt_projects: Path
    port: str
    warehouse_port: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read LOCAL_HOME, DBT_PROJECTS_DIR, PORT and WAREHOUSE_PORT, and check the ports."""
        defaults = {"PORT": "8080", "WAREHOUSE_PORT": "5433"}
        # CI sets a variable to nothing if its secret is not set.
        ports = {name: environment.get(name) or default for name, default in defaults.items()}
        for name, port in ports.items():
            if not (port.isdecimal() and 1024 <= int(port) < 65536):
                raise Failure(f"{name}={port} is not a port: choose a number from 1024 to 65535.")
        if ports["PORT"] == ports["WAREHOUSE_PORT"]:
            raise Failure("PORT and WAREHOUSE_PORT are the same: choose two ports.")
        return cls(
            environment={k: v for k, v in environment.items() if v or k != "DBT_TARGET"},
            home=Path(environment.get("LOCAL_HOME") or ROOT / ".local").resolve(),
            dbt_projects=Path(environment.get("DBT_PROJECTS_DIR") or ROOT / "dbt"),
            port=ports["PORT"],
            warehouse_port=ports["WAREHOUSE_PORT"],
        )

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @cached_property
    def local_toml(self) -> dict:
        content = tomllib.loads((ROOT / "local.toml").read_text())
        if missing := {"dag", "then", "show", "project"} - content.keys():
            raise Failure(f"local.toml lacks {', '.join(sorted(missing))}: add these settings.")
        return content

    def warehouse(self) -> dict[str, str]:
        """Return the login of the local warehouse, or of the server that WAREHOUSE_URL names."""
        if not (url := self.environment.get("WAREHOUSE_URL")):
            return {"host": "127.0.0.1", "port": self.warehouse_port, **LOCAL_LOGIN}
        with suppress(ProgrammingError):
            login = {"port": "5432", "password": "", **conninfo_to_dict(url)}
            if login.keys() == {"host", "port", *LOCAL_LOGIN} and login["port"].isdecimal():
                return login
        raise Failure(
            "WAREHOUSE_URL is not the URL of a Postgres, or has options: write "
            "WAREHOUSE_URL=postgresql://<user>:<password>@<host>:5432/<database>"
        )

    def secrets(self) -> dict[str, str]:
        """Return the secrets of this installation, which the first call generates."""
        path = self.home / "secrets.json"
        if not path.exists():
            self.home.mkdir(parents=True, exist_ok=True)
            new = {name: secrets.token_hex(32) for name in ("metadata", "jwt", "api")}
            new["fernet"] = urlsafe_b64encode(secrets.token_bytes(32)).decode()
            # A full disk must not leave a part of the file, so a complete file is renamed.
            part = path.with_name(f"secrets.{os.getpid()}")
            part.touch(mode=0o600)
            part.write_text(json.dumps(new))
            part.rename(path)
        return json.loads(path.read_text())

    def dbt_env(self) -> dict[str, str]:
        """Return the variables of the warehouse that a profiles.yml reads."""
        login = self.warehouse()
        login["db"] = login.pop("dbname")
        return {f"WAREHOUSE_{part.upper()}": value for part, value in login.items()}

    def machine_env(self) -> dict[str, str]:
        """Return Airflow's settings for this machine, also for `astro dev start --standalone`."""
        login = {part: quote(value, safe="") for part, value in self.warehouse().items()}
        url = "postgres://{user}:{password}@{host}:{port}/{dbname}".format(**login)
        docs = {
            path.parent.name: {
                "dir": str(self.home / "docs" / path.parent.name),
                "index": "static_index.html",
                "name": f"dbt docs: {path.parent.name}",
            }
            for path in self.dbt_projects.glob("*/dbt_project.yml")
        }
        return {
            "AIRFLOW_CONN_WAREHOUSE": url,
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__COSMOS__CACHE_DIR": str(self.home / "cosmos"),
            "DBT_ARTIFACTS": f"file://{self.home}/artifacts",
            # A new DAG file and an edited dbt project appear after half a minute, not after five.
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "15",
            # By default Airflow accepts one edit of a DAG in 30 s.
            "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "5",
            # Tasks of a scheduler that was killed run again after two minutes, not after five.
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
            # With 6,000 tasks in a run, a loop of the scheduler takes more than ten seconds, and on
            # a busy machine more than the default of 30 s. Airflow would then treat the scheduler
            # as dead, and restart the running build.
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "90",
            # The default of 32 processes is too many for a laptop, where they wait for each other.
            "AIRFLOW__CORE__PARALLELISM": str(4 * (os.cpu_count() or 2)),
            # These pages ask for no login. A DAG with a DbtDocsLocalOperator writes the folder.
            "AIRFLOW__COSMOS__DBT_DOCS_PROJECTS": json.dumps(docs),
            # Airflow asks for no login here, so only this machine may reach it.
            "AIRFLOW__API__HOST": "127.0.0.1",
        }

    def airflow_env(self) -> dict[str, str]:
        """Return the environment of every Airflow process of `make start`."""
        secret = self.secrets()
        url = f"http://127.0.0.1:{self.port}"
        metadata = f"airflow:{secret['metadata']}@127.0.0.1:{self.warehouse_port}/airflow"
        # A proxy of the network cannot reach this machine.
        no_proxy = self.environment.get("no_proxy") or self.environment.get("NO_PROXY")
        if no_proxy != "*":
            no_proxy = f"{no_proxy},127.0.0.1" if no_proxy else "127.0.0.1"
        return {
            **shared_env(),
            **self.environment,
            **self.machine_env(),
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
            # The virtual environment comes first, where Cosmos looks for dbt.
            "PATH": f"{BIN}{os.pathsep}{self.environment['PATH']}",
            "PYTHONPATH": str(ROOT),
            "AIRFLOW_HOME": str(self.home / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__FERNET_KEY": secret["fernet"],
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            # `astro dev start` has this setting too.
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__API__PORT": self.port,
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__API__SECRET_KEY": secret["api"],
            "AIRFLOW__API_AUTH__JWT_SECRET": secret["jwt"],
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{metadata}",
        }


def shared_env() -> dict[str, str]:
    """Return the ENV lines of the Dockerfile: the settings that hold wherever the project runs."""
    lines = (ROOT / "Dockerfile").read_text()
    return dict(re.findall(r"^ENV (\w+)=(.*?)$", lines, flags=re.MULTILINE))
