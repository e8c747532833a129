"""dbt's artifacts of each try, kept in a folder or in object storage that DBT_ARTIFACTS names.

<DBT_ARTIFACTS>/<profile>/<target>/<DAG>/<time>@<run ID>@<task ID>.<try>/  of each try
<DBT_ARTIFACTS>/<profile>/<target>/green/  of the newest build of a whole DAG without a failure

dbt takes the folder `green` as `--state`. Without DBT_ARTIFACTS nothing is kept. An error is logged
as a warning and does not fail the task, because dbt has built the nodes.
"""

import json
import logging
import os
from pathlib import Path

from airflow.sdk import ObjectStoragePath
from cosmos import ProfileConfig

from include.dbt_build.selection import STATE_FILES

GREEN = "green"
# The number of tries of a DAG that are kept.
KEPT_TRIES = 50

log = logging.getLogger(__name__)


def keep(project_dir: str | Path, profile: ProfileConfig, ti) -> None:
    """Keep dbt's artifacts of a try. The next dbt command of the try replaces them."""
    try:
        if root := _root(profile):
            folder = _folder(root, ti)
            folder.mkdir(parents=True, exist_ok=True)
            for name in STATE_FILES:
                if (file := Path(project_dir, "target", name)).exists():
                    content = file.read_bytes()
                    if name == "run_results.json" and (folder / name).exists():
                        # With TestBehavior.AFTER_ALL a second `dbt build` runs the tests.
                        both, first = json.loads(content), json.loads((folder / name).read_bytes())
                        both["results"] = first["results"] + both["results"]
                        content = json.dumps(both).encode()
                    (folder / name).write_bytes(content)
    except Exception as error:
        log.warning("dbt's artifacts could not be copied to DBT_ARTIFACTS: %s", error)


def finish(profile: ProfileConfig, ti, *, is_green: bool) -> None:
    """Copy the artifacts of a green build to `green`, and remove the DAG's oldest artifacts."""
    try:
        if root := _root(profile):
            if is_green:
                (root / GREEN).mkdir(parents=True, exist_ok=True)
                for file in _folder(root, ti).iterdir():
                    (root / GREEN / file.name).write_bytes(file.read_bytes())
            for old in sorted((root / ti.dag_id).iterdir(), key=str)[:-KEPT_TRIES]:
                old.rmdir(recursive=True)
    except Exception as error:
        log.warning("dbt's artifacts in DBT_ARTIFACTS could not be updated: %s", error)


def _root(profile: ProfileConfig) -> ObjectStoragePath | None:
    folder = os.environ.get("DBT_ARTIFACTS")
    return (
        ObjectStoragePath(folder) / profile.profile_name / profile.target_name if folder else None
    )


def _folder(root: ObjectStoragePath, ti) -> ObjectStoragePath:
    name = f"{ti.start_date:%Y%m%dT%H%M%S%f}@{ti.run_id}@{ti.task_id}.{ti.try_number}"
    return root / ti.dag_id / name
