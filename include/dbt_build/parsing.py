"""dbt's parse of a project, and how a run uses it whatever the connection is.

An image is built without the warehouse's connection, but the name of the database is part of
every node. So dbt parses with a profile of placeholders, and a run that loads the parsed manifest
replaces them. dbt gets the manifest from `dbtRunner(manifest=...)` and does not parse again.

This module reads partial_parse.msgpack, whose format dbt does not document.
"""

import gc
import io
import json
import logging
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from cosmos.dbt.project import environ

from include.dbt_build.project import WRITE_JSON, DbtProject

log = logging.getLogger(__name__)

# Cosmos's mock profile has this value in place of the values of the Airflow connection.
MOCK_VALUE = "mock_value"
PLACEHOLDER = "dbt_build_placeholder_"
# The braces of an expression can be nested, because it can contain dicts.
JINJA = re.compile(r"\{\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}\}|\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
# The fields of `target` whose values do not come from the connection.
SAFE_TARGET = ("name", "target_name", "profile_name", "type", "threads")
# Jinja that prints a value of the connection, and Jinja that uses such a value in any way.
PRINTED = re.compile(r"\{\{-?\s*target\.(\w+)\s*-?\}\}")
CONNECTION_USED = r"\btarget(?:\.(?!(?:%s)\b)\w|\[|\.get\()|\bset\s+\w+\s*=\s*target\s*-?%%"
JINJA_FILES = (".sql", ".yml", ".yaml")
PACKAGE_FILES = ("packages.yml", "dependencies.yml")
CONFIG = re.compile(r"(?<![\w.])config\(")
# Values that differ in each run.
RUN_USED = re.compile(r"\b(?:run_started_at|invocation_id|flags|modules\.(?:datetime|pytz))\b")
# These override variables such as DBT_LOG_LEVEL, because nobody reads what a parse prints.
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
    output |= {name: PLACEHOLDER + name for name in _fields_of_connection(project)}
    with TemporaryDirectory() as folder:
        Path(folder, "profiles.yml").write_text(yaml.safe_dump(contents))
        yield Path(folder), {}


def connection_values(project: DbtProject) -> dict[str, str]:
    """Return the value of each placeholder, from the Airflow connection."""
    if not (fields := _fields_of_connection(project)):
        return {}
    mapping = project.profile.profile_mapping
    real = mapping.profile
    return {
        PLACEHOLDER + name: str(real[name])
        for name in fields - {*mapping.secret_fields}
        if name in real
    }


def _fields_of_connection(project: DbtProject) -> set[str]:
    """Return the fields of the profile that have a placeholder when dbt parses the project."""
    mapping = project.profile.profile_mapping
    if mapping is None or not project.uses_mock_profile:
        return set()
    return {name for name, value in mapping.mock_profile.items() if value == MOCK_VALUE}


def _unknown_fields(project: DbtProject) -> set[str]:
    """Return the fields of the profile that have neither their value nor a placeholder in a parse.

    Cosmos's mock profile leaves out optional fields such as `role`.
    """
    mapping = project.profile.profile_mapping
    if mapping is None:
        return set()
    given, mock = mapping.profile_args, mapping.mock_profile
    known = {name for name, value in given.items() if mock.get(name) == value}
    return {*mapping.airflow_param_mapping, *given} - known - _fields_of_connection(project)


def environment_variables_of(project: DbtProject) -> set[str]:
    """Return the names of the environment variables that a project reads when dbt parses it."""
    # dbt does not record the variables that its configuration files and its profile read.
    found = {
        name
        for file in project.path.glob("*.yml")
        for name in variables_in(file.read_text(), secrets=file.name not in PACKAGE_FILES)
    }
    if project.profile.profiles_yml_filepath:
        found |= variables_in(Path(project.profile.profiles_yml_filepath).read_text())
    else:
        arguments = project.profile.profile_mapping.profile_args.values()
        found |= variables_in(" ".join(map(str, arguments)))
    if (parsed := project.target / "partial_parse.msgpack").exists():
        import msgpack

        content = msgpack.unpackb(parsed.read_bytes(), strict_map_key=False)
        found |= content["env_vars"].keys()
    return found


def variables_in(text: str, *, secrets: bool = True) -> set[str]:
    """Return the names of the environment variables that a text reads.

    Args:
        text: Jinja.
        secrets: whether dbt's secrets count. They do not decide about packages, and their values
            can differ in each deployment.
    """
    found = {*re.findall(r"env_var\(\s*['\"](\w+)", text)}
    return {name for name in found if secrets or not name.startswith("DBT_ENV_SECRET")}


def depends_on_run(project: DbtProject, files: Iterable[Path]) -> bool:
    """Return whether dbt could parse a project differently in each run.

    This is so if dbt parses with the values of the connection, which can change, if a file does
    more with such a value than print it, or prints one without a placeholder, or if a model's
    config(), or a tag above it, uses the time of the run, its ID or a flag.

    Args:
        project: the project.
        files: its files, without those of local packages.
    """
    fields, mapping = _fields_of_connection(project), project.profile.profile_mapping
    # dbt-duckdb makes the name of the database from the path of its file.
    if mapping and (not project.uses_mock_profile or "path" in fields):
        return True
    unknown = _unknown_fields(project)
    # BigQuery's profile names the schema `dataset`. Usually it is an argument of the profile.
    is_schema_known = fields.isdisjoint(("schema", "dataset"))
    safe = (*SAFE_TARGET, "schema") if is_schema_known else SAFE_TARGET
    connection_used = re.compile(CONNECTION_USED % "|".join(safe))
    for file in files:
        tags = JINJA.findall(file.read_text(errors="ignore")) if file.suffix in JINJA_FILES else []
        last_config = max((n for n, tag in enumerate(tags) if CONFIG.search(tag)), default=-1)
        if any(
            (connection_used.search(tag) and _printed_field(tag) in (None, *unknown))
            # Jinja inside of a hook is rendered when the hook runs.
            or (n <= last_config and RUN_USED.search(JINJA.sub("", tag[2:-2])))
            for n, tag in enumerate(tags)
        ):
            return True
    return False


def _printed_field(tag: str) -> str | None:
    """Return the field of the connection that Jinja prints, or None if it does more than that."""
    printed = PRINTED.fullmatch(tag)
    return printed and printed[1]


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
