"""A deployment file of Astro on this machine: its variables, and a Celery worker per queue."""

import secrets

import yaml

from local.settings import BIN, ROOT, Settings


def celery(settings: Settings, deployment: str, port: str = "6380") -> tuple[dict, dict]:
    """Return what CeleryExecutor adds to Airflow's environment and to its processes."""
    described = yaml.safe_load((ROOT / deployment).read_text())["deployment"]
    password = secrets.token_hex(32)
    folder = settings.home / "redis"
    folder.mkdir(parents=True, exist_ok=True)
    # The password is in a file, because every user can read the arguments of a process.
    config = folder / "redis.conf"
    config.touch(mode=0o600)
    config.write_text(f'bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir "{folder}"\n')
    variables = {x["key"]: x["value"] for x in described["environment_variables"]}
    env = {
        # A variable of the shell overrides the file, such as a DBT_TARGET for schemas of your own.
        **{key: value for key, value in variables.items() if key not in settings.environment},
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CELERY__BROKER_URL": f"redis://:{password}@127.0.0.1:{port}/0",
    }
    workers = {
        f"worker-{queue['name']}": [
            *(BIN / "airflow", "celery", "worker", "--queues", queue["name"]),
            *("--concurrency", str(queue["worker_concurrency"])),
            *("--celery-hostname", queue["name"]),
            # The API server reads the logs itself, and the workers do not need each other.
            *("--skip-serve-logs", "--without-gossip", "--without-mingle"),
        ]
        for queue in described["worker_queues"]
    }
    return env, {"redis": ["redis-server", config], **workers}
