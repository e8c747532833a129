"""dbt's own selection of nodes: `dbt ls` with the arguments that `dbt build` gets."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cosmos.constants import TestBehavior

from include.dbt_build.manifest import SlimManifest, all_nodes, is_empty, slim_manifest
from include.dbt_build.parsing import load_manifest, run_dbt
from include.dbt_build.project import DbtProject, digest

# Selects the nodes in the file that `write_state` writes, in the schema of dbt since 1.8.
SELECT_STATE = "result:error"
RUN_RESULTS_SCHEMA = "https://schemas.getdbt.com/dbt/run-results/v6.json"
# The files of a state that `state:`, `result:` and `source_status:` read.
STATE_FILES = ("manifest.json", "run_results.json", "sources.json")
# Options of `dbt build` that decide which nodes it runs.
SELECTING_OPTIONS = (
    *("-s", "--select", "--exclude", "--selector"),
    *("--resource-type", "--resource-types", "--exclude-resource-type"),
    *("--exclude-resource-types", "--indirect-selection", "--state"),
)
# dbt reads such options from these variables too.
SELECTING_VARIABLES = [
    prefix + name
    for prefix in ("DBT_ENGINE_", "DBT_")
    for name in (
        *("RESOURCE_TYPES", "EXCLUDE_RESOURCE_TYPES", "INDIRECT_SELECTION"),
        *("INCLUDE_SAVED_QUERY", "STATE", "ARTIFACT_STATE_PATH"),
    )
]
# These options leave out nodes that `dbt ls` lists although `dbt build` does not run them. With a
# source in the list, `--select selector:x+` would select the nodes that read the source.
NOT_BUILT = ("--exclude-resource-type", "source", "metric", "semantic_model", "analysis")


@dataclass(frozen=True)
class Selection:
    """Which nodes `dbt build` runs, and where Cosmos renders their tests."""

    select: str | None = None
    exclude: str | None = None
    selector: str | None = None
    # Other options that decide which nodes dbt runs, as it takes them on the command line.
    options: tuple[str, ...] = ()
    test_behavior: TestBehavior = TestBehavior.AFTER_EACH
    detach_tests: bool = False

    @property
    def words(self) -> list[str]:
        """Return the selection as dbt takes it on the command line."""
        return [
            *(("--select", self.select) if self.select else ()),
            *(("--exclude", self.exclude) if self.exclude else ()),
            *(("--selector", self.selector) if self.selector else ()),
            *self.options,
        ]


def split_options(words: list[str]) -> tuple[list[str], list[str]]:
    """Split words for dbt into the options that select nodes, with their values, and all others."""
    selecting, others = [], []
    current = others
    for word in map(str, words):
        if word.startswith("-"):
            name, equals, value = word.partition("=")
            if name.startswith(("-s", "-m")) and len(word) > 2:
                # `-sname` is `-s name`.
                name, equals, value = "--select", "=", word[2:]
            # `dbt ls` would list models only, while `dbt build` takes the option as --select.
            if name in ("-m", "--model", "--models"):
                name = "--select"
            current = selecting if name in SELECTING_OPTIONS else others
            word = name + equals + value
        current.append(word)
    return selecting, others


def types_excluded_by_variables(
    options: Iterable[str], environment: Mapping[str, str]
) -> list[str]:
    """Return the resource types that dbt's variables exclude, unless an option replaces them."""
    if any(word.startswith("--exclude-resource-type") for word in options):
        return []
    # dbt prefers the first of its two variables for this option.
    excluded = environment.get("DBT_ENGINE_EXCLUDE_RESOURCE_TYPES")
    return (excluded or environment.get("DBT_EXCLUDE_RESOURCE_TYPES", "")).split()


def select(project: DbtProject, selection: Selection) -> Path:
    """Return the slim manifest of a selection, a file in the working directory.

    Raises:
        DbtError: dbt refuses the selection.
    """
    file = project.target / f"slim-{_hash_of_inputs(project, selection)}.json"
    if not file.exists():
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(_slim_manifest(project, selection)))
        partial.replace(file)
    return file


def _hash_of_inputs(project: DbtProject, selection: Selection) -> str:
    """Return a hash of everything that decides which nodes are selected."""
    environment = project.parse_environment
    variables = {name: environment[name] for name in SELECTING_VARIABLES if name in environment}
    inputs = [
        asdict(selection),
        project.inputs_file.read_text(),
        variables,
    ]
    # `--state <folder>` is two words, and `--state=<folder>` is one.
    words = [word.removeprefix("--state=") for word in selection.options]
    for folder in (*words, *variables.values()):
        for name in STATE_FILES:
            if (file := Path(folder, name)).exists():
                # The layers of an image keep whole seconds only.
                inputs.append([name, int(file.stat().st_mtime), file.stat().st_size])
    return digest(inputs)


def _slim_manifest(project: DbtProject, selection: Selection) -> SlimManifest:
    file = project.manifest or project.target / "manifest.json"
    manifest = json.loads(file.read_text())
    words = ["--output", "json", "--output-keys", "unique_id", *selection.words, *NOT_BUILT]
    parsed = None if project.executable else load_manifest(project)
    lines = run_dbt(project, "ls", *words, manifest=parsed)
    listed = [json.loads(line)["unique_id"] for line in lines if line.startswith("{")]
    nodes = all_nodes(manifest)
    selected = [k for k in listed if k in nodes and not is_empty(nodes[k])]
    return slim_manifest(
        manifest, selected, selection.test_behavior, detach_tests=selection.detach_tests
    )


def write_state(folder: Path, nodes: Iterable[str]) -> None:
    """Write a run_results.json with some nodes, which `--select result:error` then selects.

    The method `result` finds nodes by their unique IDs. The other methods of `--select` cannot name
    every node, because dbt splits their values at spaces and commas.

    Args:
        folder: the value of `--state`.
        nodes: the unique IDs of nodes and sources.
    """
    result = {"status": "error", "timing": [], "thread_id": "", "execution_time": 0}
    result |= {"adapter_response": {}, "message": None, "failures": None}
    result |= {"compiled": None, "compiled_code": None, "relation_name": None}
    state = {
        "metadata": {"dbt_schema_version": RUN_RESULTS_SCHEMA},
        "results": [{**result, "unique_id": unique_id} for unique_id in sorted(nodes)],
        "elapsed_time": 0,
        "args": {},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run_results.json").write_text(json.dumps(state))
