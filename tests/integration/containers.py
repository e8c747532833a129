"""`make containers`: check a project that `astro dev start` runs, and run its DAGs.

It prints a line for each check that passes and ends at the first that fails. After `astro dev stop`
and `astro dev start`, another run of it shows whether the warehouse was kept.
"""

import os
import subprocess
import sys
import time

import httpx

from include.warehouse import target_schema
from local import pipeline, postgres
from local.settings import ROOT, Failure, Settings
from tests.fixtures import connect

SETTINGS = Settings.from_environment(os.environ)
OWN = SETTINGS.local_toml
MODEL = ROOT / "dbt" / OWN["project"] / "models" / "seen_in_containers.sql"
EDIT_SECONDS = 60
# Files that .dockerignore excludes and that a clone can have.
EXCLUDED = (".git", ".env", ".local", ".bench", "airflow_settings.yaml", "local", "docs")


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout


def container(service: str) -> str:
    """Return the container that this folder's `astro dev start` runs a service in."""
    labels = {"project.working_dir": ROOT, "service": service}
    filters = [f"--filter=label=com.docker.compose.{name}={is_}" for name, is_ in labels.items()]
    if not (found := docker("ps", "--quiet", *filters).split()):
        raise Failure(f"No container runs {service} of {ROOT}: `astro dev start` starts it.")
    return found[0]


def port() -> str:
    """Return the port of the API server, which can differ from the URL that the CLI prints."""
    return docker("port", container("api-server"), "8080/tcp").split()[0].rpartition(":")[2]


def in_image(program: str, *words: str) -> str:
    """Run a program in the image of the running scheduler, without its mounts."""
    image = docker("inspect", "--format", "{{.Image}}", container("scheduler")).strip()
    return docker("run", "--rm", "--network", "none", "--entrypoint", program, image, *words)


def expect(true: bool, what: str) -> None:
    if not true:
        raise Failure(f"not true: {what}")
    print(f"ok: {what}", flush=True)


def check_image() -> None:
    expect(in_image("whoami").strip() == "astro", "tasks run as user astro")
    files = in_image("ls", "-A", "/usr/local/airflow").split()
    expect(not set(EXCLUDED) & set(files), f"the image lacks {', '.join(EXCLUDED)}")
    parsed = in_image("find", "/usr/local/airflow/cosmos_cache", "-name", "slim-*.json")
    expect(OWN["project"] in parsed, "the image has the parsed dbt project")


def check_edit(api: pipeline.Api) -> None:
    def shown() -> bool:
        tasks = api("GET", f"/dags/{OWN['dag']}/tasks")["tasks"]
        return any(task["task_id"].endswith(f"{MODEL.stem}_run") for task in tasks)

    MODEL.write_text("select 1 as seen\n")
    written = time.monotonic()
    try:
        while not shown() and time.monotonic() - written < 4 * EDIT_SECONDS:
            time.sleep(0.5)
    finally:
        MODEL.unlink()
    seconds = time.monotonic() - written
    expect(seconds < EDIT_SECONDS, f"a new model is a task after {seconds:.0f} s")


def main() -> None:
    try:
        api = pipeline.Api(port())
        errors = api("GET", "/importErrors")["import_errors"]
        expect(errors == [], "no import error")
        check_image()
        pipeline.wait_for_dags(api, OWN["dag"], *OWN["then"])
        pipeline.run(api, OWN["dag"], then=OWN["then"])
        with connect(SETTINGS.dbt_env()) as warehouse:
            # The image's DBT_TARGET is prod.
            postgres.look_in(warehouse, target_schema(OWN["project"], "prod"))
            rows = warehouse.execute(OWN["show"]).fetchall()
            expect(bool(rows), f"the marts have rows, as {rows[:1]}")
        tasks = [api("GET", f"/dags/{dag_id}/tasks") for dag_id in (OWN["dag"], *OWN["then"])]
        if "DbtDocsLocalOperator" in str(tasks):
            docs = httpx.get(f"{api.url}/cosmos/dbt/dbt_docs_index.html")
            expect(OWN["project"] in docs.text, "the API server shows dbt's docs")
        check_edit(api)
    except (Failure, httpx.HTTPError) as failure:
        sys.exit(f"error: {failure}")


if __name__ == "__main__":
    main()
