"""What the Jinja of a project reads: environment variables, the connection, and the run.

This decides whether a run can use dbt's parse, or has to parse the project again.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from include.dbt_build.parsing import placeholder_fields, recorded_variables
from include.dbt_build.project import LOCK_FILE, PACKAGE_FILES, DbtProject, packages_folder

# The braces of an expression can be nested, because it can contain dicts.
JINJA = re.compile(r"\{\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}\}|\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
# The fields of `target` whose values do not come from the connection.
SAFE_TARGET = ("name", "target_name", "profile_name", "type", "threads")
# Jinja that prints a value of the connection, and Jinja that uses such a value in any way.
PRINTED = re.compile(r"\{\{-?\s*target\.(\w+)\s*-?\}\}")
CONNECTION_USED = r"\btarget(?:\.(?!(?:%s)\b)\w|\[|\.get\()|\bset\s+\w+\s*=\s*target\s*-?%%"
# Names that adapters have for the database, which is part of every node.
DATABASE_FIELDS = {"catalog", "database"}
JINJA_FILES = (".sql", ".yml", ".yaml")
CONFIG = re.compile(r"(?<![\w.])config\(")
# Values that differ in each run.
RUN_VALUE = r"\b(?:run_started_at|invocation_id|flags|modules\.(?:datetime|pytz))\b"
MACRO = re.compile(r"\{%[-+]?\s*macro\s+(\w+)(.*?)\{%[-+]?\s*endmacro\b", re.DOTALL)
# dbt calls these macros when it parses a project.
NAME_MACROS = {"generate_alias_name", "generate_schema_name", "generate_database_name"}
# The keys of YAML files whose values dbt does not render when it parses a project.
RENDERED_LATER = re.compile(
    r"\+?(?:pre|post)[-_]hook|on-run-start|on-run-end|query-comment|loaded_at_query"
    r"|arguments|description|vars"
)


def environment_variables_of(project: DbtProject) -> set[str]:
    """Return the names of the environment variables that a project reads when dbt parses it."""
    # dbt does not record the variables that its configuration files and its profile read.
    packages = project.workdir / packages_folder(project.workdir)
    found = {
        name
        for file in (*project.path.glob("*.yml"), *packages.glob("*/dbt_project.yml"))
        for name in variables_in(
            file.read_text(), secrets=file.name not in (*PACKAGE_FILES, LOCK_FILE)
        )
    }
    if project.profile.profiles_yml_filepath:
        found |= variables_in(Path(project.profile.profiles_yml_filepath).read_text())
    else:
        arguments = project.profile.profile_mapping.profile_args.values()
        found |= variables_in(" ".join(map(str, arguments)))
    return found | recorded_variables(project)


def variables_in(text: str, *, secrets: bool = True) -> set[str]:
    """Return the names of the environment variables that a text reads.

    Args:
        text: Jinja.
        secrets: whether dbt's secrets count. They do not decide about packages, and their values
            can differ in each deployment.
    """
    found = {*re.findall(r"env_var\(\s*['\"](\w+)", text)}
    return {name for name in found if secrets or not name.startswith("DBT_ENV_SECRET")}


def depends_on_connection(project: DbtProject, files: Iterable[Path]) -> bool:
    """Return whether dbt could parse a project differently with another value of the connection.

    This is so if dbt parses with the values of the connection, if a file does more with such a
    value than print it, or if it prints one without a placeholder.

    Args:
        project: the project.
        files: its files, without those of local packages.
    """
    fields, mapping = placeholder_fields(project), project.profile.profile_mapping
    # dbt-duckdb makes the name of the database from the path of its file.
    if mapping and (not project.uses_mock_profile or "path" in fields):
        return True
    # Cosmos's mock profile leaves out arguments such as the catalog of Databricks.
    if mapping and DATABASE_FIELDS.intersection(mapping.profile_args) - mapping.mock_profile.keys():
        return True
    unknown = _unknown_fields(project, fields)
    # BigQuery's profile names the schema `dataset`. Usually it is an argument of the profile.
    is_schema_known = fields.isdisjoint(("schema", "dataset"))
    safe = (*SAFE_TARGET, "schema") if is_schema_known else SAFE_TARGET
    connection_used = re.compile(CONNECTION_USED % "|".join(safe))
    return any(
        # The tag does more than print a value, or prints one without a placeholder.
        connection_used.search(tag)
        and ((printed := PRINTED.fullmatch(tag)) is None or printed[1] in unknown)
        for text in _texts(files).values()
        for tag in JINJA.findall(text)
    )


def depends_on_run(files: Iterable[Path]) -> bool:
    """Return whether dbt could parse a project differently in each run.

    This is so if Jinja that dbt renders when it parses the project, or a macro that such Jinja
    calls, uses the time of the run, its ID or a flag.

    Args:
        files: the files of the project, without those of local packages.
    """
    texts = _texts(files)
    bodies = [found for text in texts.values() for found in MACRO.findall(text)]
    run_used, macros = re.compile(RUN_VALUE), set()
    while found := {name for name, body in bodies if run_used.search(body)} - macros:
        macros |= found
        # dbt finds `default__name` when a project calls `name`.
        called = macros | {name.partition("__")[2] or name for name in macros}
        if called & NAME_MACROS:
            return True
        run_used = re.compile(rf"{RUN_VALUE}|\b(?:{'|'.join(called)})\(")
    return any(
        # Jinja inside of a hook is rendered when the hook runs.
        run_used.search(JINJA.sub("", tag[2:-2]))
        for file, text in texts.items()
        # Most files need no parser.
        if run_used.search(text)
        for tag in _parsed_tags(file, text)
    )


def _texts(files: Iterable[Path]) -> dict[Path, str]:
    return {file: file.read_text(errors="ignore") for file in files if file.suffix in JINJA_FILES}


def _parsed_tags(file: Path, text: str) -> list[str]:
    """Return the Jinja of a file that decides how dbt parses it.

    In SQL, this is the Jinja of a model's config() and above it.
    """
    if file.suffix == ".sql":
        tags = JINJA.findall(text)
        last_config = max((n for n, tag in enumerate(tags) if CONFIG.search(tag)), default=-1)
        return tags[: last_config + 1]
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        # The file is not one of dbt's, or it has a date that does not exist.
        return JINJA.findall(text)
    return JINJA.findall("\n".join(_values(content)))


def _values(content) -> Iterator[str]:
    """Yield the texts in a YAML value that dbt renders when it parses a project."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for value in content:
            yield from _values(value)
    elif isinstance(content, dict):
        for key, value in content.items():
            if not RENDERED_LATER.fullmatch(str(key)):
                yield from _values(value)


def _unknown_fields(project: DbtProject, placeholders: set[str]) -> set[str]:
    """Return the fields of the profile that have neither their value nor a placeholder in a parse.

    Cosmos's mock profile leaves out optional fields such as `role`.
    """
    mapping = project.profile.profile_mapping
    if mapping is None:
        return set()
    given, mock = mapping.profile_args, mapping.mock_profile
    known = {name for name, value in given.items() if mock.get(name) == value}
    return {*mapping.airflow_param_mapping, *given} - known - placeholders
