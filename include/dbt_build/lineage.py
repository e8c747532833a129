"""OpenLineage events of a `dbt build`: one for each node, with the tables it reads and writes.

Airflow's OpenLineage provider emits only events of tasks that have a process. Cosmos makes the
events of nodes from dbt's artifacts, and the build task emits them, if the provider is installed
and has a transport.
"""


def is_lineage_active() -> bool:
    try:
        from airflow.providers.openlineage.api import is_openlineage_active
    except ImportError:
        return False
    return is_openlineage_active()


def emit_lineage(ti, events: list) -> None:
    """Emit the events of nodes, with a task instance as their parent run."""
    if not events:
        return
    from airflow.providers.openlineage.api import emit
    from airflow.providers.openlineage.plugins import macros
    from openlineage.client.facet_v2 import parent_run

    name, namespace = macros.lineage_job_name(ti), macros.lineage_job_namespace()
    parent = parent_run.ParentRunFacet(
        run=parent_run.Run(runId=macros.lineage_run_id(ti)),
        job=parent_run.Job(namespace=namespace, name=name),
    )
    for event in events:
        event.run.facets["parent"] = parent
        emit(event)
