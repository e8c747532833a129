"""dbt docs in Airflow's UI: where Cosmos's plugin reads them, and how a task puts them there."""

from airflow.sdk import ObjectStoragePath
from airflow.sdk.configuration import conf


def docs_folder(project: str) -> dict | None:
    """Return where the docs of a project go, or None if the UI shows none.

    [cosmos] dbt_docs_projects names a folder for each project. The name of a single project can be
    `dbt`.
    """
    folders = conf.getjson("cosmos", "dbt_docs_projects", fallback={})
    return folders.get(project) or folders.get("dbt")


def publish_docs(project_dir: str, folder: dict, **_) -> None:
    """Copy the docs of a run to the folder that the UI reads: a callback of Cosmos's operators.

    The operator needs `dbt_cmd_flags=["--static"]`, which writes the docs into one file.
    """
    target = ObjectStoragePath(folder["dir"], conn_id=folder.get("conn_id"))
    target.mkdir(parents=True, exist_ok=True)
    page = ObjectStoragePath(f"file://{project_dir}/target/static_index.html")
    (target / folder["index"]).write_bytes(page.read_bytes())
