"""A DAG has tasks for what `dbt build` runs, whatever the project and the selection are."""

import json
from pathlib import Path

import pytest

from tests.include.dbt_build.conftest import render, write
from tests.include.dbt_build.generated import GeneratedProject, Selection
from tests.include.dbt_build.plain_dbt import TASKLESS, PlainDbt, differences

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

SELECTIONS = 10
SEEDS = range(20)


def write_state(folder: Path, manifest: dict, changed: str, new: str) -> Path:
    """Write the manifest of an older project, with other SQL of one node and without another."""
    older = json.loads(json.dumps(manifest))
    older["nodes"][changed]["checksum"]["checksum"] = "another"
    del older["nodes"][new]
    write(folder, {"manifest.json": json.dumps(older)})
    return folder


def compare(path: Path, dbt: PlainDbt, selection: Selection) -> list[str]:
    """Return the differences between the DAG of a selection and a `dbt build` with it."""
    words = [
        *(("--select", " ".join(selection.select)) if selection.select else ()),
        *(("--exclude", " ".join(selection.exclude)) if selection.exclude else ()),
        *(("--selector", selection.selector) if selection.selector else ()),
        *selection.options,
    ]
    selected = dbt.build_selects(*words)
    try:
        dag = render(
            path,
            select=selection.select,
            exclude=selection.exclude,
            selector=selection.selector,
            operator_args={"dbt_cmd_flags": selection.options},
        )
    except ValueError as error:
        if "dbt selects no node" not in str(error):
            raise
        return [f"{node} has no task" for node in selected.nodes if not node.startswith(TASKLESS)]
    return [*differences(dag, selected)]


@pytest.mark.parametrize("seed", SEEDS)
def test_nodes_with_a_task_are_those_that_dbt_builds(seed, tmp_path, cache, monkeypatch):
    generated = GeneratedProject(seed)
    path = write(tmp_path / "small", generated.files)
    # dbt installs packages into the project, and the engine must not need that.
    copy = write(tmp_path / "copy", generated.files)
    dbt = PlainDbt(copy, tmp_path / "plain")
    dbt("deps")
    manifest = dbt.parse()
    models = [key for key in manifest["nodes"] if key.startswith("model.small.m")]
    state = write_state(tmp_path / "state", manifest, models[0], models[-1])
    found = []
    for _ in range(SELECTIONS):
        selection = generated.selection()
        selection.options += ["--state", str(state)]
        with monkeypatch.context() as patch:
            for name, value in selection.environment.items():
                patch.setenv(name, value)
            if different := compare(path, dbt, selection):
                found += [str(selection), *(f"  {line}" for line in different)]
    assert not found, "\n".join(found)
