"""The names of nodes and tests in task IDs."""

import re
from collections import Counter
from collections.abc import Set
from hashlib import sha256

# Airflow accepts task IDs of 250 characters, which include the names of the task's groups.
NAME_CHARACTERS = 120
# What Cosmos appends to the name of a node without tests.
SUFFIXES = {"model": "run", "seed": "seed", "snapshot": "snapshot"}


def task_names(
    rendered: dict[str, dict], root: str | None, groups: Set[str] = frozenset()
) -> dict[str, str]:
    """Return the name of each node in task IDs: Cosmos's, unless Airflow refuses it.

    A name of another package than the root project gets the package's name if it is not unique.
    The nodes in `groups` have a task group with their name, which must not be the ID of a task.
    """
    plain = {unique_id: safe_name(unique_id.split(".", 2)[2]) for unique_id in rendered}
    names = {}
    taken = Counter(plain.values())
    for unique_id, name in plain.items():
        package = rendered[unique_id]["package_name"]
        if taken[name] > 1 and package != root:
            name = safe_name(f"{package}__{unique_id.split('.', 2)[2]}")
        names[unique_id] = name
    taken = Counter(names.values())
    task_ids = {
        f"{name}_{SUFFIXES[unique_id.split('.')[0]]}"
        for unique_id, name in names.items()
        if unique_id not in groups
    }
    return {
        unique_id: f"{name}_{short_hash(unique_id)}"
        if taken[name] > 1 or (unique_id in groups and name in task_ids)
        else name
        for unique_id, name in names.items()
    }


def key_of_test(node: dict, root: str | None) -> str:
    """Return the key of a test in SlimManifest["nodes"]."""
    package = node["package_name"]
    # Cosmos makes the task ID of a detached test from its name.
    name = safe_name(node["name"] if package == root else f"{package}__{node['name']}")
    return f"test.{package}.{name}.{short_hash(node['unique_id'])}"


def tested_name(tested: str, nodes: dict[str, dict]) -> str:
    """Return the name of a source, node or test in the ID of the task that checks it."""
    kind, _, *names = tested.split(".")
    if kind == "test":
        # The unique ID of a generic test ends with a hash.
        return safe_name(nodes[tested]["name"])
    return safe_name("_".join(names))


def safe_name(name: str) -> str:
    """Return a readable name that can be part of a task ID. Two names can become equal."""
    safe = re.sub(r"[^\w-]", "_", name)
    if len(safe) > NAME_CHARACTERS:
        return f"{safe[:NAME_CHARACTERS]}_{short_hash(name)}"
    return safe


def short_hash(*texts: str) -> str:
    return sha256("\n".join(texts).encode()).hexdigest()[:8]
