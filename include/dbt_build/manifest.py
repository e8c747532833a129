"""The slim manifest: what Cosmos renders, reduced from dbt's manifest to the selected nodes.

It holds only nodes that dbt selects, so Cosmos renders it without a selection. Edges that lead
through nodes without a task are drawn between the nodes with a task.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Set
from graphlib import TopologicalSorter
from typing import TypedDict

from cosmos.constants import TestBehavior

from include.dbt_build.jinja import JINJA
from include.dbt_build.owners import owners_of
from include.dbt_build.project import digest
from include.dbt_build.task_names import (
    key_of_test,
    safe_name,
    short_hash,
    task_names,
    tested_name,
)

# Resource types that Cosmos renders.
RENDERED = ("model", "seed", "snapshot")
# The keys of a manifest under which dbt has the sources and the nodes that `dbt build` can run.
PARTS = ("sources", "nodes", "unit_tests", "functions", "saved_queries", "exposures")
# dbt counts nodes of these resource types in a build, but runs nothing for them.
NOTHING_TO_RUN = ("exposure.", "saved_query.")
# The fields of a node's config that Cosmos reads.
CONFIG = ("materialized", "meta", "tags")
# What dbt gives the on-run-end hooks about the nodes of the same command.
RESULTS_USED = re.compile(r"\b(?:results|schemas|database_schemas)\b")


class TaskNodes(TypedDict):
    """The nodes of a task that Cosmos does not render, and the tasks before and after it.

    `upstream` and `downstream` are keys of SlimManifest["nodes"].
    """

    name: str
    nodes: list[str]
    # The source or node that the task checks, or the first test if that reads nothing.
    tested: str
    upstream: list[str]
    downstream: list[str]


class SlimManifest(TypedDict):
    """What one DbtDag or DbtTaskGroup needs of a project, as JSON.

    Each key of `nodes` is a unique ID, with another name where the name of the node cannot be part
    of a task ID, or is not unique.
    """

    metadata: dict
    nodes: dict[str, dict]
    # The unique IDs that the task of a node and the task of its tests run, by key of `nodes`.
    run: dict[str, list[str]]
    test: dict[str, list[str]]
    # The ephemeral model of each test that the task of this model runs, by unique ID of the test.
    ephemeral: dict[str, str]
    # Other nodes with a task that the tests of a node read, by key of `nodes`.
    test_upstream: dict[str, list[str]]
    # The keys of the nodes that wait for a test with a task of its own, by the key of the test.
    detached_downstream: dict[str, list[str]]
    # Tests of sources, tests of nodes that are not selected, and tests that read no node.
    other_tests: list[TaskNodes]
    # Sources whose freshness can be checked.
    freshness: list[TaskNodes]
    # The unique IDs of all nodes that dbt runs.
    nodes_to_run: list[str]
    # What each of these nodes reads, directly or through nodes without a task, by unique ID. Each
    # node comes after the nodes that it reads.
    reads: dict[str, list[str]]
    # The unique IDs of nodes after whose failure dbt still builds nodes downstream of their task.
    continue_on_failure: list[str]
    # How many batches dbt builds of a microbatch model whose table exists, by unique ID.
    repeated_batches: dict[str, int]
    # The unique IDs of the models in `repeated_batches` that have `full_refresh: false`, which
    # --full-refresh does not rebuild.
    never_refreshed: list[str]
    # meta.cosmos of each source and node that has it, by unique ID.
    cosmos_meta: dict[str, dict]
    # Who is responsible for each node, by unique ID.
    owners: dict[str, str]
    # Whether dbt runs SQL of the project or of its packages after the last node.
    has_end_hooks: bool
    # Whether such a hook uses the results or the schemas of the nodes that dbt has built.
    end_hooks_use_results: bool


def all_nodes(manifest: dict) -> dict[str, dict]:
    """Return the sources and everything that `dbt build` can run, by unique ID."""
    return {k: node for part in PARTS for k, node in manifest.get(part, {}).items()}


def is_empty(node: dict) -> bool:
    """Return whether dbt leaves out a node because its file has no SQL."""
    return node["resource_type"] != "seed" and not node.get("raw_code", "x").strip()


def is_run(node: dict, listed: Set[str]) -> bool:
    """Return whether `dbt build` runs a node that `dbt ls` lists among others."""
    if node["resource_type"] == "unit_test":
        # dbt runs the unit tests of a model before the model, and not without it.
        return node["depends_on"]["nodes"][0] in listed
    return not (is_empty(node) or node["unique_id"].startswith(NOTHING_TO_RUN))


def enabled_nodes(manifest: dict) -> set[str]:
    """Return the unique IDs of the sources and nodes that are enabled.

    The tests of a disabled node stay in the manifest, with `enabled: false`.
    """
    nodes = all_nodes(manifest).items()
    return {k for k, node in nodes if (node.get("config") or {}).get("enabled") is not False}


def slim_manifest(
    manifest: dict, selected: Iterable[str], test_behavior: TestBehavior, *, detach_tests: bool
) -> SlimManifest:
    """Reduce dbt's manifest to the nodes that `dbt build` runs.

    Args:
        manifest: the content of manifest.json.
        selected: the unique IDs that dbt selects.
        test_behavior: where Cosmos renders tests.
        detach_tests: whether a test that reads several nodes gets a task of its own.
    """
    nodes = all_nodes(manifest)
    parents, selected = _parents(nodes), {*selected}
    rendered = {k: nodes[k] for k in nodes if k in selected and k.split(".")[0] in RENDERED}
    # dbt runs the unit tests of a model before the model, and not without it.
    selected = {k for k in selected if not k.startswith("unit_test.") or parents[k][0] in rendered}
    root = manifest["metadata"].get("project_name")
    end_hooks = [
        node
        for node in manifest["nodes"].values()
        if node["resource_type"] == "operation" and "on-run-end" in node["tags"]
    ]
    depth = _depths(parents)
    reads = _reads(parents, rendered.keys())
    has_test_in_run = test_behavior == TestBehavior.BUILD
    is_after_each = test_behavior == TestBehavior.AFTER_EACH

    run = {unique_id: [] for unique_id in rendered}
    test = defaultdict(list)
    # All other tests. A key has the node that they test, or the test itself if it reads nothing,
    # and the nodes with a task that they read.
    other = defaultdict(list)
    detached = {}
    for unique_id in (k for k in nodes if k in selected and k.startswith(("test.", "unit_test."))):
        attached = [parent for parent in parents[unique_id] if parent in rendered]
        read = reads[unique_id] & rendered.keys()
        if unique_id.startswith("unit_test."):
            run[attached[0]].append(unique_id)
        elif detach_tests and len(attached) > 1:
            detached[unique_id] = sorted(read)
        elif attached:
            # A test that reads several nodes is attached to the one furthest downstream, which it
            # may read through a node without a task. Of nodes that are equally far, this is the one
            # whose properties have the test. Otherwise the name decides, so that every parse gives
            # the same DAG. If nodes and tests share tasks, the name always decides, because
            # otherwise two nodes whose tests read each other would be upstream of each other.
            own = None if has_test_in_run else nodes[unique_id].get("attached_node")
            last = max((depth[k], k == own, k) for k in read)[2]
            test[last].append(unique_id)
        else:
            tested = min(parents[unique_id], default=unique_id)
            other[tested, tuple(sorted(read))].append(unique_id)

    names = task_names(rendered, root, groups=test.keys() if is_after_each else frozenset())
    key = {
        unique_id: f"{node['resource_type']}.{node['package_name']}.{names[unique_id]}"
        for unique_id, node in rendered.items()
    }

    def read_by_tests(unique_id: str) -> set[str]:
        """Return the other nodes with a task that the tests of a node read."""
        read = {k for test_id in test.get(unique_id, ()) for k in reads[test_id]}
        return (read & rendered.keys()) - {unique_id}

    all_other = [*detached, *(test for tests in other.values() for test in tests)]
    ancestors = _tested_ancestors(parents, all_other)

    def first_stopped(tests: Iterable[str]) -> list[str]:
        """Return the first nodes with a task that wait for one of some tests.

        As in dbt, a node waits for a test if it descends from everything that the test reads.
        """
        all_read = [{*parents[test]} for test in tests if parents[test]]
        stopped = {k for k in rendered if any(ancestors[k] >= read for read in all_read)}
        # All other nodes in `stopped` are downstream of these nodes.
        return sorted(key[k] for k in stopped if not reads[k] & stopped)

    slim_nodes = {}
    for unique_id, node in rendered.items():
        # An ephemeral model is a part of the models that read it, so dbt does not run it.
        if node["config"].get("materialized") != "ephemeral":
            # A function is built with each model that uses it.
            used = [k for k in reads[unique_id] & selected if k.startswith("function.")]
            used.sort(key=lambda k: (depth[k], k))
            run[unique_id] = [*used, *run[unique_id], unique_id]
        upstream = reads[unique_id] & rendered.keys()
        if has_test_in_run:
            run[unique_id] += test.get(unique_id, ())
            upstream |= read_by_tests(unique_id)
        slim_nodes[key[unique_id]] = _node(node, sorted(key[k] for k in upstream))
    attached_to = {test_id: unique_id for unique_id, tests in test.items() for test_id in tests}
    rendered_tests = {k: [node] for k, node in attached_to.items() if is_after_each} | detached
    test_key = {test_id: key_of_test(nodes[test_id], root) for test_id in rendered_tests}
    for test_id, read in rendered_tests.items():
        slim_nodes[test_key[test_id]] = _node(nodes[test_id], [key[k] for k in read])
    batched = [
        (k, node)
        for k, node in rendered.items()
        if node["config"].get("incremental_strategy") == "microbatch"
        and not node["config"].get("full_refresh")
    ]
    return {
        # Cosmos adds a hash of this file to the documentation of a DbtDag, so that Airflow makes a
        # new DAG version. It has to differ if the project has changed, and not after each parse.
        "metadata": {"project_name": root, "checksum": _checksum(manifest)},
        "nodes": slim_nodes,
        "run": {key[k]: v for k, v in run.items()},
        "test": {key[k]: v for k, v in test.items()} | {test_key[k]: [k] for k in detached},
        "ephemeral": {n: k for k, own in run.items() if k not in own for n in own},
        "test_upstream": {
            key[k]: sorted(key[n] for n in read_by_tests(k)) for k in test if is_after_each
        },
        "detached_downstream": {test_key[k]: first_stopped([k]) for k in detached},
        "other_tests": _other_tests(other, nodes, first_stopped, key),
        "freshness": _freshness(manifest["sources"], reads, key),
        "nodes_to_run": sorted(k for k in selected if not k.startswith(NOTHING_TO_RUN)),
        "reads": {k: sorted(reads[k]) for k in parents if k in selected},
        # A failed test stops only nodes that descend from everything that it reads.
        "continue_on_failure": sorted(
            k
            for k in selected
            if (k.startswith("test.") and len(parents[k]) > 1)
            or nodes[k]["config"].get("on_error") == "continue"
        ),
        "repeated_batches": {k: 1 + node["config"].get("lookback", 1) for k, node in batched},
        "never_refreshed": [
            k for k, node in batched if node["config"].get("full_refresh") is False
        ],
        "cosmos_meta": {
            k: meta["cosmos"]
            for k, node in nodes.items()
            if (meta := node["config"].get("meta")) and meta.get("cosmos")
        },
        "owners": owners_of(manifest, attached_to),
        "has_end_hooks": bool(end_hooks),
        "end_hooks_use_results": _use_results(end_hooks, manifest["macros"]),
    }


def _checksum(manifest: dict) -> str:
    """Return a hash of the project, which is the same after another parse."""
    parts = {part: manifest.get(part, {}) for part in (*PARTS, "macros")}
    return digest(
        {part: {k: {**v, "created_at": None} for k, v in parts[part].items()} for part in parts}
    )


def _use_results(hooks: Iterable[dict], macros: dict[str, dict]) -> bool:
    """Return whether a hook, or a macro that it calls, uses the results of dbt's nodes."""
    codes = [hook["raw_code"] for hook in hooks]
    names, seen = [name for hook in hooks for name in hook["depends_on"]["macros"]], set()
    while names:
        if (name := names.pop()) in macros and name not in seen:
            seen.add(name)
            codes.append(macros[name]["macro_sql"])
            names += macros[name]["depends_on"]["macros"]
    return any(RESULTS_USED.search(tag) for code in codes for tag in JINJA.findall(code))


def nodes_downstream_of(slim: SlimManifest, nodes: Iterable[str]) -> set[str]:
    """Return the nodes that depend on some nodes or sources, and the tests that read such a node.

    The tests of a source are not among them.
    """
    found = {*nodes}
    for node, above in slim["reads"].items():
        read = found.intersection(above)
        if node.startswith("test."):
            read = {k for k in read if not k.startswith("source.")}
        if read:
            found.add(node)
    return found - {*nodes}


def _node(node: dict, depends_on: list[str]) -> dict:
    # With group_nodes_by_folder Cosmos makes a task group of each folder in the path.
    *folders, file = node["original_file_path"].split("/")
    return {
        "resource_type": node["resource_type"],
        "package_name": node["package_name"],
        "original_file_path": "/".join([*map(safe_name, folders), file]),
        "fqn": node["fqn"],
        "tags": node.get("tags", []),
        "config": {name: node["config"][name] for name in CONFIG if name in node["config"]},
        "depends_on": {"nodes": depends_on},
    }


def _parents(nodes: dict[str, dict]) -> dict[str, list[str]]:
    """Return the parents of each node, in an order in which each node comes after its parents."""
    # A seed depends on nothing and has no list of nodes.
    found = {k: (node.get("depends_on") or {}).get("nodes") or [] for k, node in nodes.items()}
    return {k: found.get(k, []) for k in TopologicalSorter(found).static_order()}


def _depths(parents: dict[str, list[str]]) -> dict[str, int]:
    """Return the length of the longest path that leads to each node."""
    depth = {}
    for node, above in parents.items():
        depth[node] = 1 + max((depth[parent] for parent in above), default=0)
    return depth


def _reads(parents: dict[str, list[str]], rendered: Set[str]) -> dict[str, set[str]]:
    """Return what each node reads, directly or through nodes without a task.

    These are nodes with a task, sources and functions.
    """
    reads = {}
    for node, above in parents.items():
        reads[node] = {k for k in above if k in rendered or k.startswith(("source.", "function."))}
        reads[node].update(*(reads[parent] for parent in above if parent not in rendered))
    return reads


def _tested_ancestors(parents: dict[str, list[str]], tests: Iterable[str]) -> dict[str, set[str]]:
    """Return the ancestors of each node that one of some tests reads."""
    inputs = {parent for test in tests for parent in parents[test]}
    found: dict[str, set[str]] = {}
    for node, above in parents.items():
        found[node] = inputs.intersection(above).union(*(found[k] for k in above))
    return found


def _other_tests(
    other: dict[tuple[str, tuple[str, ...]], list[str]], nodes, first_stopped, key
) -> list[TaskNodes]:
    """Return a task for each group of tests that is attached to no node with a task."""
    names = Counter(tested_name(tested, nodes) for tested, _ in other)
    found = []
    for (tested, read), tests in other.items():
        name = tested_name(tested, nodes)
        found.append(
            TaskNodes(
                name=name if names[name] == 1 else f"{name}_{short_hash(tested, *read)}",
                nodes=tests,
                tested=tested,
                upstream=sorted(key[k] for k in read),
                downstream=first_stopped(tests),
            )
        )
    return found


def _freshness(sources: dict[str, dict], reads, key) -> list[TaskNodes]:
    readers = defaultdict(list)
    for unique_id in key:
        for source in reads[unique_id]:
            readers[source].append(key[unique_id])
    return [
        TaskNodes(
            name=tested_name(source, sources),
            nodes=[source],
            tested=source,
            upstream=[],
            downstream=sorted(readers[source]),
        )
        for source in sources
        if readers[source] and _has_thresholds(sources[source].get("freshness") or {})
    ]


def _has_thresholds(freshness: dict) -> bool:
    # dbt does not check a source whose thresholds have a period and no count.
    limits = (freshness.get("warn_after"), freshness.get("error_after"))
    return any(limit and limit["count"] is not None for limit in limits)
