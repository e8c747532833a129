"""Who is responsible for each node."""

from collections import defaultdict


def owners_of(manifest: dict, attached_to: dict[str, str]) -> dict[str, str]:
    """Return who is responsible for each node.

    The owner of a node is its meta.owner, else the owner of its group, else the owners of the
    exposures that depend on it. A test without an owner has that of the node it is attached to.
    """

    def name(owner: dict) -> str:
        emails = owner.get("email")
        return owner.get("name") or (", ".join(emails) if isinstance(emails, list) else emails)

    groups = {group["name"]: name(group["owner"]) for group in manifest["groups"].values()}
    exposed = defaultdict(set)
    for exposure in manifest["exposures"].values():
        for node in exposure["depends_on"]["nodes"]:
            exposed[node].add(name(exposure["owner"]))
    owners = {}
    for unique_id, node in {**manifest["sources"], **manifest["nodes"]}.items():
        found = [
            (node["config"].get("meta") or node.get("meta") or {}).get("owner"),
            groups.get(node["config"].get("group")),
            ", ".join(sorted(exposed[unique_id])),
        ]
        if owner := next(filter(None, found), None):
            owners[unique_id] = str(owner)
    for test, node in attached_to.items():
        if test not in owners and node in owners:
            owners[test] = owners[node]
    return owners
