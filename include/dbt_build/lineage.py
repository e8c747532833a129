"""OpenLineage events of a `dbt build`: one for each node, with the tables it reads and writes.

Airflow's OpenLineage provider emits only events of tasks that have a process. Cosmos makes the
events of nodes from dbt's artifacts, and the build task emits them, if the provider is installed
and has a transport.
"""

import logging
from time import monotonic

log = logging.getLogger(__name__)
# The provider tries each event several times if its server does not answer.
MAX_SECONDS = 120


def is_lineage_active() -> bool:
    try:
        from airflow.providers.openlineage.api import is_openlineage_active
    except ImportError:
        return False
    return is_openlineage_active()


def emit_lineage(ti, events: list) -> None:
    """Emit the events of nodes, with a task instance as their parent run.

    No build fails, or waits for more than two minutes, because its events cannot be emitted.
    """
    try:
        if events:
            _emit(ti, events)
    except Exception as error:
        log.warning("The OpenLineage events of the nodes could not be emitted: %r", error)


def _emit(ti, events: list) -> None:
    from airflow.providers.openlineage.api import emit
    from airflow.providers.openlineage.plugins import macros
    from openlineage.client.facet_v2 import parent_run

    name, namespace = macros.lineage_job_name(ti), macros.lineage_job_namespace()
    parent = parent_run.ParentRunFacet(
        run=parent_run.Run(runId=macros.lineage_run_id(ti)),
        job=parent_run.Job(namespace=namespace, name=name),
    )
    last_start = monotonic() + MAX_SECONDS
    for number, event in enumerate(events):
        if monotonic() > last_start:
            raise TimeoutError(f"{number} of {len(events)} took more than {MAX_SECONDS} s")
        event.run.facets["parent"] = parent
        emit(event)
