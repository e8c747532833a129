"""A deployment file of Astro's on this machine: its variables, and a worker for each queue."""

import os
import secrets
import shutil
from pathlib import Path

import yaml

from local.settings import BIN, HOME, ROOT, Failure

DEPLOYMENT = os.environ.get("DEPLOYMENT")
REDIS_PORT = os.environ.get("REDIS_PORT") or "6380"


def require_usable() -> None:
    if not (ROOT / DEPLOYMENT).is_file():
        raise Failure(f"DEPLOYMENT={DEPLOYMENT} is no file.")
    if not shutil.which("redis-server"):
        raise Failure("There is no redis-server, which DEPLOYMENT= needs: install it.")


def celery(deployment: str) -> tuple[dict[str, str], dict[str, list]]:
    """Return what CeleryExecutor adds to Airflow's environment and to its processes."""
    described = yaml.safe_load((ROOT / deployment).read_text())["deployment"]
    password = secrets.token_hex(32)
    env = {
        **{variable["key"]: variable["value"] for variable in described["environment_variables"]},
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CELERY__BROKER_URL": f"redis://:{password}@127.0.0.1:{REDIS_PORT}/0",
    }
    workers = {
        f"worker-{queue['name']}": [
            *(BIN / "airflow", "celery", "worker", "--queues", queue["name"]),
            *("--concurrency", str(queue["worker_concurrency"])),
            *("--celery-hostname", queue["name"]),
            # The API server reads the logs itself; two workers have nothing to tell each other.
            *("--skip-serve-logs", "--without-gossip", "--without-mingle"),
        ]
        for queue in described["worker_queues"]
    }
    return env, {"redis": ["redis-server", _redis_config(password)], **workers}


def _redis_config(password: str) -> Path:
    """Write Redis's settings, in a file since every user can read a process's arguments."""
    folder = HOME / "redis"
    folder.mkdir(exist_ok=True)
    path = folder / "redis.conf"
    path.touch(mode=0o600)
    path.write_text(f'bind 127.0.0.1\nport {REDIS_PORT}\nrequirepass {password}\ndir "{folder}"\n')
    return path
