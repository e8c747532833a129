"""dbt's parse of a project, and how a run uses it whatever the connection is.

An image is built without the warehouse's connection, but the name of the database is part of
every node. So dbt parses with a profile of placeholders, and a run that loads the parsed manifest
replaces them. dbt gets the manifest from `dbtRunner(manifest=...)` and does not parse again.

This module reads partial_parse.msgpack, whose format dbt does not document.
"""

import gc
import io
import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from cosmos.dbt.project import environ

from include.dbt_build.project import WRITE_JSON, DbtProject

# Cosmos's mock profile has this value in place of the values of the Airflow connection.
MOCK_VALUE = "mock_value"
PLACEHOLDER = "dbt_build_placeholder_"
# These override variables such as DBT_LOG_LEVEL. dbt then prints only errors, which become the
# message of a DbtError, and the nodes that `dbt ls` lists.
QUIET = ("--quiet", "--no-use-colors", "--log-level-file", "none", "--log-format", "text")


class DbtError(RuntimeError):
    """dbt failed while it parsed a project, installed its packages, or selected its nodes."""


def run_dbt(project: DbtProject, command: str, *words: str, manifest=None) -> list[str]:
    """Run dbt in a project's working directory; return the lines that `dbt ls` prints.

    Raises:
        DbtError: dbt failed. The message is dbt's own.
    """
    with parse_profile(project) as (profiles_dir, environment):
        words = [
            *QUIET,
            command,
            *words,
            *("--project-dir", str(project.workdir), "--profiles-dir", str(profiles_dir)),
            *("--profile", project.profile.profile_name),
            *("--target", project.profile.target_name),
            *(("--vars", yaml.dump(dict(project.variables))) if project.variables else ()),
            *(("--target-path", str(project.target)) if command != "deps" else ()),
            # Another process may be reading the manifest.json of the parse.
            *(("--no-write-json",) if command == "ls" else ()),
            *("--log-path", str(project.workdir / "logs")),
        ]
        environment = project.parse_environment | environment | WRITE_JSON
        if project.executable:
            listed, error = _run_external(project.executable, words, environment)
        else:
            listed, error = _run_in_process(words, environment, manifest)
    if error is not None:
        message = error.rpartition("Encountered an error:")[2].strip()
        raise DbtError(f"dbt {command} failed in {project.path}: {message}")
    return listed


def _run_external(executable: str, words, environment) -> tuple[list[str], str | None]:
    done = subprocess.run([executable, *words], capture_output=True, text=True, env=environment)
    return done.stdout.splitlines(), done.stdout + done.stderr if done.returncode else None


def _run_in_process(words, environment, manifest) -> tuple[list[str], str | None]:
    printed = io.StringIO()
    with redirect_stdout(printed):
        done = invoke_dbt(words, environment, manifest)
    if not done.success:
        return [], str(done.exception or printed.getvalue())
    return done.result if isinstance(done.result, list) else [], None


def invoke_dbt(words: list[str], environment: Mapping[str, str], manifest=None, callbacks=None):
    """Run dbt in this process; return its dbtRunnerResult."""
    # Imported here, because a DAG file whose project has not changed needs no dbt.
    from dbt.adapters.factory import reset_adapters
    from dbt.cli.main import dbtRunner

    # dbt's experimental parser does not write the parse that the engine reads.
    environment = {**environment, "DBT_ENGINE_USE_V2_PARSER": "false"}
    try:
        with environ(environment):
            return dbtRunner(manifest, callbacks).invoke(words)
    finally:
        # dbt keeps an adapter for each type, with the settings of the last project. If adapters
        # remain when the process ends, Python logs their semaphores as leaked.
        reset_adapters()
        gc.collect()


@contextmanager
def parse_profile(project: DbtProject) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield the folder of the profiles.yml for a parse, and the variables that the file reads."""
    profile = project.profile
    if profile.profiles_yml_filepath or not project.uses_mock_profile:
        with profile.ensure_profile() as (file, environment):
            yield file.parent, environment
        return
    contents = yaml.safe_load(
        profile.profile_mapping.get_profile_file_contents(
            profile.profile_name, profile.target_name, use_mock_values=True
        )
    )
    output = contents[profile.profile_name]["outputs"][profile.target_name]
    output |= {name: PLACEHOLDER + name for name in placeholder_fields(project)}
    with TemporaryDirectory() as folder:
        Path(folder, "profiles.yml").write_text(yaml.safe_dump(contents))
        yield Path(folder), {}


def connection_values(project: DbtProject) -> dict[str, str]:
    """Return the value of each placeholder, from the Airflow connection."""
    if not (fields := placeholder_fields(project)):
        return {}
    mapping = project.profile.profile_mapping
    real = mapping.profile
    return {
        PLACEHOLDER + name: str(real[name])
        for name in fields - {*mapping.secret_fields}
        if name in real
    }


def placeholder_fields(project: DbtProject) -> set[str]:
    """Return the fields of the profile that have a placeholder when dbt parses the project."""
    mapping = project.profile.profile_mapping
    if mapping is None or not project.uses_mock_profile:
        return set()
    return {name for name, value in mapping.mock_profile.items() if value == MOCK_VALUE}


def recorded_variables(project: DbtProject) -> set[str]:
    """Return the names of the environment variables that dbt has read in its parse, if any."""
    if not (parsed := project.target / "partial_parse.msgpack").exists():
        return set()
    import msgpack

    return {*msgpack.unpackb(parsed.read_bytes(), strict_map_key=False)["env_vars"]}


def load_manifest(project: DbtProject, values: Mapping[str, str] | None = None):
    """Return the parsed manifest as a Manifest of dbt, or None if it cannot be used in a run.

    Args:
        project: a project whose working directory is up to date.
        values: the value of each placeholder; None keeps the placeholders.
    """
    from dbt.contracts.graph.manifest import Manifest, WritableManifest
    from dbt.parser.manifest import extended_mashumuro_decoder

    if project.manifest is not None:
        content = json.loads(project.manifest.read_text())
        return Manifest.from_writable_manifest(WritableManifest.from_dict(content))
    content = (project.target / "partial_parse.msgpack").read_bytes()
    if values is not None and PLACEHOLDER.encode() in content:
        import msgpack

        content = msgpack.packb(_replaced(msgpack.unpackb(content, strict_map_key=False), values))
        # A macro can have changed a placeholder, for example to upper case.
        if PLACEHOLDER.encode() in content.lower():
            return None
    return Manifest.from_msgpack(content, decoder=extended_mashumuro_decoder)


def _replaced(value, values: Mapping[str, str]):
    """Return a parsed value in which each placeholder is replaced."""
    if isinstance(value, str):
        if PLACEHOLDER in value:
            for placeholder, real in values.items():
                value = value.replace(placeholder, real)
        return value
    if isinstance(value, dict):
        return {_replaced(k, values): _replaced(v, values) for k, v in value.items()}
    if isinstance(value, list):
        return [_replaced(item, values) for item in value]
    return value
