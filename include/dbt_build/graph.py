"""The tasks of a project's nodes, as Cosmos renders them, and the one `dbt build` before them."""

import inspect
import json
from pathlib import Path

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import BaseOperator, TaskGroup
from cosmos import DbtDag, DbtTaskGroup
from cosmos.constants import DbtResourceType

from include.dbt_build.operators import DbtBuild, DbtNode
from include.dbt_build.project import BUILT

OF_AIRFLOW = inspect.signature(BaseOperator.__init__).parameters


def node_converters(manifest: Path) -> dict:
    """Return RenderConfig.node_converters, which make a DbtNode of each task that Cosmos renders.

    They go with node_conversion_by_task_group=False: that leaves Cosmos its groups and task ids.
    """
    known = json.loads(manifest.read_text())["tasks"]

    def converter(kind: str):
        def dbt_node(*, node, task_id, task_group, dag, task_args, **more):
            given = _of_airflow(task_args)
            if node.owner and more["enable_owner_inheritance"]:
                given["owner"] = node.owner
            task = DbtNode(
                task_id=task_id,
                task_group=task_group,
                dag=dag,
                nodes=known[kind][node.unique_id],
                **{**given, **node.operator_kwargs_to_override},
            )
            # For add_dbt_build; what Cosmos gives to a task that runs dbt among it.
            task.rendered = kind, node.unique_id, task_args, known
            return task

        return dbt_node

    kinds = dict.fromkeys(BUILT, "run") | {"test": "test"}
    return {DbtResourceType(kind): converter(task) for kind, task in kinds.items()}


def add_dbt_build(place: DbtDag | DbtTaskGroup, *, freshness: bool = False) -> DbtBuild:
    """Add the task that runs `dbt build` to what Cosmos rendered from `cosmos_args`; return it.

    With freshness, each source that has thresholds for it gets a task too: beyond `error_after` it
    is red, and stops what reads that source.

    It is outside of a DbtTaskGroup and named after it. What dbt needs goes before it, what needs
    dbt after the group: `load() >> add_dbt_build(dbt) >> dbt >> publish()`.

    Raises:
        ValueError: the selection of `cosmos_args` has no node.
    """
    group = place if isinstance(place, TaskGroup) else place.task_group
    dag, graph = group.dag, place.dbt_graph
    run, test = {}, {}
    for task in group.iter_tasks():
        if isinstance(task, DbtNode):
            kind, unique_id, task_args, known = task.rendered
            (run if kind == "run" else test)[unique_id] = task
    if not run:
        raise ValueError(
            f"{dag.dag_id}: no node of {graph.project.dbt_project_path.name} is selected"
        )

    # Cosmos gives no task to a test on sources alone, nor to one that reads nothing.
    for owner, tests in known["test"].items():
        if owner.split(".")[0] not in BUILT and owner in graph.filtered_nodes:
            name = graph.filtered_nodes[owner].name if owner not in tests else owner.split(".")[2]
            test[owner] = DbtNode(
                task_id=f"{name}_test",
                task_group=group,
                dag=dag,
                nodes=tests,
                **_of_airflow(task_args),
            )
    for owner, task in test.items():
        reads = {*known["reads"].get(owner, [])}
        if owner in run:
            # A test that reads several nodes is shown at one, and waits for all.
            [run[node] for node in run.keys() & reads - {owner}] >> task
        else:
            # One on a source goes before what reads that source.
            task >> [run[node] for node in run if reads & {*graph.nodes[node].depends_on}]

    checks = []
    for source, nodes in known["freshness"].items() if freshness else ():
        readers = [run[node] for node in run if source in graph.nodes[node].depends_on]
        if readers:
            name = "_".join(source.split(".")[2:])
            check = DbtNode(
                task_id=f"{name}_freshness",
                task_group=group,
                dag=dag,
                nodes=nodes,
                **_of_airflow(task_args),
            )
            check >> [*readers, *([test[source]] if source in test else [])]
            checks.append(check)

    build = DbtBuild(
        task_id=f"{group.group_id or 'dbt'}_build",
        dag=dag,
        task_group=dag.task_group,
        select=" ".join(graph.render_config.select) or None,
        exclude=" ".join(graph.render_config.exclude) or None,
        selector=graph.render_config.selector,
        **{
            **task_args,
            # In its target/ is what dbt knows of the project, for all DAGs.
            "cache_dir": graph.project.dbt_project_path,
            # Of all nodes together nobody would read it.
            "should_store_compiled_sql": False,
        },
    )
    # A leaf: without it a run would be green whose nodes all were, when a hook after them failed.
    dbt_build_ended = EmptyOperator(task_id="dbt_build_ended", dag=dag, task_group=group)
    tasks = [*run.values(), *test.values(), *checks]
    for task in tasks:
        task.build = build.task_id
    build >> [*tasks, dbt_build_ended]
    return build


def _of_airflow(task_args: dict) -> dict:
    """Return those of Cosmos's arguments of a task that every operator has, as its queue."""
    return {name: value for name, value in task_args.items() if name in OF_AIRFLOW}
