"""OpenLineage events of a `dbt build`: one for each node, with the tables it reads and writes.

Airflow's OpenLineage provider emits events of tasks, so only of the build task, and only where it
is installed and has a transport. Cosmos makes the events of the nodes from dbt's artifacts.
"""


def is_lineage_active() -> bool:
    try:
        from airflow.providers.openlineage.api import is_openlineage_active
    except ImportError:
        return False
    return is_openlineage_active()


def emit_lineage(ti, events: list) -> None:
    """Emit the events of nodes as those of runs that belong to a task instance."""
    if not events or not is_lineage_active():
        return
    from airflow.providers.openlineage.api import emit
    from airflow.providers.openlineage.plugins.macros import (
        lineage_job_name,
        lineage_job_namespace,
        lineage_run_id,
    )
    from openlineage.client.facet_v2 import parent_run

    parent = parent_run.ParentRunFacet(
        run=parent_run.Run(runId=lineage_run_id(ti)),
        job=parent_run.Job(namespace=lineage_job_namespace(), name=lineage_job_name(ti)),
    )
    for event in events:
        event.run.facets["parent"] = parent
        emit(event)
