"""What dbt writes about its runs, kept in a folder or in object storage: DBT_ARTIFACTS says where.

<DBT_ARTIFACTS>/<project>/<target>/<DAG>/<time>@<run id>@<task id>.<try>/  of each try
<DBT_ARTIFACTS>/<project>/<target>/green/  of the newest `dbt build` in which all was well

`green` is what dbt takes as `--state`. Without DBT_ARTIFACTS nothing is kept. Trouble with it is
said in the task's log and fails nothing: what dbt built is there.
"""

import logging
import os
from pathlib import Path

from airflow.sdk import ObjectStoragePath
from cosmos import ProfileConfig

FILES = ("manifest.json", "run_results.json", "sources.json")
GREEN = "green"
# Tries of a DAG; older ones are removed.
KEPT = 50

log = logging.getLogger(__name__)


def keep(project_dir: str, profile: ProfileConfig, ti) -> None:
    """Keep what dbt has written in a try. One that runs dbt twice, for sources first, has both."""
    try:
        if place := _place(profile):
            folder = _folder(place, ti)
            folder.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                if (file := Path(project_dir, "target", name)).exists():
                    (folder / name).write_bytes(file.read_bytes())
    except Exception as error:
        log.warning("dbt's artifacts could not be kept: %s", error)


def end(profile: ProfileConfig, ti, *, green: bool) -> None:
    """After a `dbt build`, and before another one: put its files where the newest green ones are
    if all was well, and remove old ones."""
    try:
        if place := _place(profile):
            if green:
                (place / GREEN).mkdir(parents=True, exist_ok=True)
                for file in _folder(place, ti).iterdir():
                    (place / GREEN / file.name).write_bytes(file.read_bytes())
            for old in sorted((place / ti.dag_id).iterdir(), key=str)[:-KEPT]:
                old.rmdir(recursive=True)
    except Exception as error:
        log.warning("dbt's artifacts could not be kept: %s", error)


def _place(profile: ProfileConfig) -> ObjectStoragePath | None:
    root = os.environ.get("DBT_ARTIFACTS")
    return ObjectStoragePath(root) / profile.profile_name / profile.target_name if root else None


def _folder(place: ObjectStoragePath, ti) -> ObjectStoragePath:
    name = f"{ti.start_date:%Y%m%dT%H%M%S%f}@{ti.run_id}@{ti.task_id}.{ti.try_number}"
    return place / ti.dag_id / name
