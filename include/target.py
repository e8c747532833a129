"""Where a deployment writes: its variable DBT_TARGET says it, as dev, ci, staging or prod."""

import os


def deployed_target() -> str:
    """Return DBT_TARGET, which has no default in the code: nothing is prod by mistake."""
    if target := os.environ.get("DBT_TARGET"):
        return target
    raise RuntimeError(
        "DBT_TARGET is not set. The image sets it, and so does `make start`; for standalone mode "
        "run `make standalone`, then the command that it prints."
    )


def target_schema(name: str, target: str | None = None) -> str:
    """Return the schema of a project or source, or what the names of its schemas begin with.

    In prod that is the name itself, elsewhere `<target>_<name>`: so two deployments can use one
    database, and staging writes nothing of prod's.
    """
    target = target or deployed_target()
    return (name if target == "prod" else f"{target}_{name}").replace("-", "_")
