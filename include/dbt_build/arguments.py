"""Cosmos's arguments: how DbtDag and DbtTaskGroup use each one, and which ones they refuse.

docs/how-it-works.md has the whole list as a table.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import yaml
from airflow.sdk import BaseOperator
from cosmos import ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import (
    ExecutionMode,
    InvocationMode,
    LoadMode,
    TestBehavior,
    TestIndirectSelection,
)
from cosmos.operators.local import DbtBuildLocalOperator

from include.dbt_build.project import DbtProject
from include.dbt_build.selection import (
    SELECTING_OPTIONS,
    Selection,
    split_options,
    types_excluded_by_variables,
)

OPERATOR_ARGS = inspect.signature(BaseOperator.__init__).parameters.keys()
COMMAND_ARGS = {
    name
    for operator_class in DbtBuildLocalOperator.__mro__
    for name in inspect.signature(operator_class.__init__).parameters
}
ONE_COMMAND = "one dbt command runs for all nodes"
REFUSED_HOOKS = dict.fromkeys(("pre_execute", "post_execute"), "most node tasks start no process")
REFUSED_DEFAULT_ARGS = REFUSED_HOOKS | dict.fromkeys(
    ("dbt_cmd_flags", "indirect_selection"), "in default_args: set it in operator_args"
)
# Arguments of an operator that the classes set themselves, or that one build cannot honour, each
# with the reason.
REFUSED_OPERATOR_ARGS = {
    **dict.fromkeys(("select", "exclude", "selector", "models"), "set it in RenderConfig"),
    **dict.fromkeys(("profile_config", "project_dir", "manifest_filepath"), "the class sets it"),
    **dict.fromkeys(("task_id", "dag", "task_group"), "the class sets it"),
    "emit_datasets": "set it in RenderConfig",
    "partial_parse": "set it in ProjectConfig",
    **dict.fromkeys(("dbt_executable_path", "invocation_mode"), "set it in ExecutionConfig"),
    **REFUSED_HOOKS,
    **dict.fromkeys(("cache_dir", "extra_context", "skip_exit_code"), ONE_COMMAND),
    **dict.fromkeys(("db_name", "schema", "conn_id"), "set it in the profile"),
    **dict.fromkeys(("should_store_compiled_sql", "should_upload_compiled_sql"), ONE_COMMAND),
    **dict.fromkeys(
        ("depends_on_past", "wait_for_downstream", "ignore_first_depends_on_past", "trigger_rule"),
        "dbt decides when a node is built",
    ),
}
# Arguments of RenderConfig that can only have their default.
REFUSED_RENDER_ARGS = {
    # The dbt that builds the nodes also selects them, so the value of ExecutionConfig is accepted.
    **dict.fromkeys(("invocation_mode", "dbt_executable_path"), "set it in ExecutionConfig"),
    "source_rendering_behavior": "source_freshness=True renders checks of sources",
    "seed_rendering_behavior": "dbt decides which nodes are built",
    **dict.fromkeys(
        (
            *("node_converters", "dbt_ls_path", "source_pruning"),
            "airflow_vars_to_purge_dbt_ls_cache",
            "airflow_vars_to_purge_dbt_yaml_selectors_cache",
        ),
        "tasks are made from dbt ls",
    ),
}
# Arguments of an operator that the parse or the selection uses, and that no task gets.
PARSE_ARGS = ("indirect_selection", "install_deps")
# Arguments of Cosmos's operator that default_args can have.
DEFAULT_ARGS = COMMAND_ARGS - OPERATOR_ARGS - REFUSED_OPERATOR_ARGS.keys() - {*PARSE_ARGS}
SET_BY_ARGUMENT = "an argument of Cosmos or the engine sets this option"
# Options of dbt that flags must not have, each with the reason.
REFUSED_OPTIONS = {
    **dict.fromkeys(("--vars", "--target", "-t", "--profile", "--profiles-dir"), SET_BY_ARGUMENT),
    **dict.fromkeys(("--project-dir", "--target-path", "--log-path"), SET_BY_ARGUMENT),
    "--no-write-json": "the engine reads dbt's artifacts",
    "--favor-state": "a retry would read the state instead of what the run has built",
}
REFUSED_GLOBAL_OPTIONS = REFUSED_OPTIONS | dict.fromkeys(
    (*SELECTING_OPTIONS, "--defer"), "set it in dbt_cmd_flags"
)


class UnsupportedArgumentError(ValueError):
    """An argument of Cosmos that one `dbt build` for all nodes cannot honour."""

    def __init__(self, argument: str, reason: str):
        super().__init__(
            f"{argument} is not supported ({reason}): use cosmos.DbtTaskGroup for that."
        )


@dataclass(frozen=True)
class Arguments:
    """Cosmos's arguments of a DbtDag or DbtTaskGroup, checked."""

    project_config: ProjectConfig
    profile_config: ProfileConfig
    execution_config: ExecutionConfig
    render_config: RenderConfig
    operator_args: dict
    on_warning_callback: object

    @classmethod
    def check(cls, kwargs: dict) -> "Arguments":
        """Return the arguments of Cosmos among those of a DbtDag or DbtTaskGroup.

        Raises:
            UnsupportedArgumentError: one of them cannot be honoured.
        """
        arguments = cls(
            project_config=kwargs.get("project_config") or ProjectConfig(),
            profile_config=kwargs.get("profile_config"),
            execution_config=kwargs.get("execution_config") or ExecutionConfig(),
            render_config=kwargs.get("render_config") or RenderConfig(),
            operator_args=dict(kwargs.get("operator_args") or {}),
            on_warning_callback=kwargs.get("on_warning_callback"),
        )
        if arguments.profile_config is None:
            raise ValueError("profile_config is missing: dbt needs a profile.")
        arguments.profile_config.validate_profiles_yml()
        manifest = arguments.project_config.manifest_path
        if "://" in str(manifest):
            raise UnsupportedArgumentError(
                f"ProjectConfig(manifest_path={manifest}, manifest_conn_id=...)",
                "the manifest must be a local file",
            )
        try:
            is_mapping = isinstance(arguments.variables or {}, Mapping)
        except (yaml.YAMLError, ValueError):
            is_mapping = False
        if not is_mapping:
            raise UnsupportedArgumentError(
                "dbt_vars or operator_args['vars'] as a text without a mapping", "write a dict"
            )
        for name, value in (arguments.environment or {}).items():
            if not isinstance(value, str):
                raise ValueError(
                    f"The environment variable {name} must be a string, not {value!r}."
                )
        _check_execution(arguments.execution_config)
        _check_render(arguments.render_config, arguments.execution_config)
        _check_operator_args(arguments.operator_args)
        return arguments

    @cached_property
    def project(self) -> DbtProject:
        project, execution = self.project_config, self.execution_config
        render = self.render_config
        given = (project.dbt_project_path, execution.project_path, render.project_path)
        paths = {
            # A path with `..` can lead through links.
            path.resolve() if ".." in path.parts else path.absolute()
            for path in map(Path, filter(None, given))
        }
        if len(paths) > 1:
            raise UnsupportedArgumentError("dbt_project_path", "two different folders are given")
        if not paths:
            raise ValueError("ProjectConfig(dbt_project_path=...) is missing.")
        (path,) = paths
        if not (path / "dbt_project.yml").is_file():
            raise FileNotFoundError(f"There is no dbt_project.yml in {path}.")
        installs = [
            *(project.install_dbt_deps, execution.install_dbt_deps, render.dbt_deps),
            self.operator_args.get("install_deps"),
        ]
        if any(isinstance(value, str) for value in installs):
            raise UnsupportedArgumentError(
                "install_dbt_deps or install_deps with a template",
                "packages are installed when the DAG file is parsed",
            )
        uses_manifest = project.manifest_path and render.load_method != LoadMode.DBT_LS
        environment = dict(self.environment or {})
        global_flags = self.operator_args.get("dbt_cmd_global_flags") or []
        flags = [*global_flags, *(self.operator_args.get("dbt_cmd_flags") or [])]
        if self.operator_args.get("no_version_check") or "--no-version-check" in flags:
            # dbt checks its version when it parses too.
            environment["DBT_VERSION_CHECK"] = "false"
        return DbtProject(
            path=path,
            profile=self.profile_config,
            variables=self.variables or {},
            environment=environment,
            executable=self.executable,
            installs_packages=False not in installs,
            uses_mock_profile=render.enable_mock_profile,
            manifest=Path(str(project.manifest_path)) if uses_manifest else None,
        )

    @property
    def environment(self) -> dict | None:
        return (
            self.operator_args.get("env")
            or self.project_config.env_vars
            or self.render_config.env_vars
        )

    @property
    def variables(self) -> dict | None:
        given = self.operator_args.get("vars") or self.project_config.dbt_vars
        # Cosmos takes YAML as text too.
        return yaml.safe_load(given) if isinstance(given, str) else given

    @property
    def executable(self) -> str | None:
        """Return the path of an external dbt, or None if dbt runs in Airflow's process."""
        execution = self.execution_config
        # The import of dbt would take seconds each time a DAG file is parsed.
        has_dbt = find_spec("dbt") and find_spec("dbt.cli")
        if execution.invocation_mode == InvocationMode.SUBPROCESS or not has_dbt:
            return str(execution.dbt_executable_path)
        return None

    @property
    def selection(self) -> Selection:
        render, operator_args = self.render_config, self.operator_args
        options, _ = split_options(operator_args.get("dbt_cmd_flags") or [])
        indirect = operator_args.get("indirect_selection")
        if self.execution_config.test_indirect_selection != TestIndirectSelection.EAGER:
            indirect = self.execution_config.test_indirect_selection.value
        if indirect:
            options = ["--indirect-selection", indirect, *options]
        # An option replaces dbt's variables, so it has their values.
        excluded = types_excluded_by_variables(options, self.project.parse_environment)
        if render.test_behavior == TestBehavior.NONE:
            excluded += ["test", "unit_test"]
        if excluded:
            options += ["--exclude-resource-type", *excluded]
        return Selection(
            select=" ".join(render.select or ()) or None,
            exclude=" ".join(render.exclude or ()) or None,
            selector=render.selector,
            options=tuple(options),
            test_behavior=render.test_behavior,
            detach_tests=render.should_detach_multiple_parents_tests,
        )

    @property
    def task_args(self) -> dict:
        """Return the arguments that every task of the group gets, such as its queue."""
        return {name: value for name, value in self.operator_args.items() if name in OPERATOR_ARGS}

    @property
    def command_args(self) -> dict:
        """Return the arguments with which Cosmos's operator runs dbt."""
        selection, project = self.selection, self.project
        _, flags = split_options(self.operator_args.get("dbt_cmd_flags") or [])
        return {
            # The value in operator_args replaces it, as in Cosmos.
            "copy_dbt_packages": self.project_config.copy_dbt_packages,
            **{k: v for k, v in self.operator_args.items() if k not in PARSE_ARGS},
            "project": project,
            "profile_config": self.profile_config,
            "select": selection.select,
            "exclude": selection.exclude,
            "selector": selection.selector,
            "selecting_options": selection.options,
            "env": self.environment,
            "vars": self.variables,
            "emit_datasets": self.render_config.emit_datasets,
            "partial_parse": self.project_config.partial_parse,
            "dbt_cmd_flags": flags,
            "dbt_executable_path": str(self.execution_config.dbt_executable_path),
            "invocation_mode": self.execution_config.invocation_mode,
            "on_warning_callback": self.on_warning_callback
            or self.operator_args.get("on_warning_callback"),
        }


def check_node(unique_id: str, meta: dict) -> dict:
    """Return the arguments for the task of a node from meta.cosmos.operator_kwargs of the node.

    Raises:
        UnsupportedArgumentError: one of them is not an argument of BaseOperator, or is refused.
    """
    for name in meta.keys() - {"operator_kwargs"}:
        raise UnsupportedArgumentError(f"meta.cosmos.{name} of {unique_id}", ONE_COMMAND)
    operator_kwargs = meta.get("operator_kwargs") or {}
    for name in operator_kwargs:
        if name not in OPERATOR_ARGS or name in REFUSED_OPERATOR_ARGS:
            raise UnsupportedArgumentError(
                f"meta.cosmos.operator_kwargs.{name} of {unique_id}", ONE_COMMAND
            )
    return operator_kwargs


def _check_execution(config: ExecutionConfig) -> None:
    if config.execution_mode != ExecutionMode.LOCAL:
        raise UnsupportedArgumentError(
            f"ExecutionConfig(execution_mode={config.execution_mode})", "dbt runs in the worker"
        )
    for name in ("virtualenv_dir", "async_py_requirements", "setup_operator_args"):
        if getattr(config, name):
            raise UnsupportedArgumentError(
                f"ExecutionConfig({name}=...)", "it belongs to another execution mode"
            )


def _check_render(config: RenderConfig, execution: ExecutionConfig) -> None:
    if config.load_method not in (LoadMode.AUTOMATIC, LoadMode.DBT_LS, LoadMode.DBT_MANIFEST):
        raise UnsupportedArgumentError(
            f"RenderConfig(load_method={config.load_method})", "tasks are made from dbt ls"
        )
    default = RenderConfig()
    for name, reason in REFUSED_RENDER_ARGS.items():
        value = getattr(config, name)
        if value not in (getattr(default, name), getattr(execution, name, None)):
            raise UnsupportedArgumentError(f"RenderConfig({name}={value})", reason)


def check_default_args(default_args: dict) -> dict:
    """Return the arguments of dbt commands among default_args.

    Raises:
        UnsupportedArgumentError: one of them cannot be honoured.
    """
    given = {name: default_args[name] for name in default_args.keys() & DEFAULT_ARGS}
    for name in default_args.keys() & REFUSED_DEFAULT_ARGS.keys():
        raise UnsupportedArgumentError(name, REFUSED_DEFAULT_ARGS[name])
    _check_operator_args(given)
    return given


def _check_operator_args(operator_args: dict) -> None:
    for name in operator_args:
        if name in REFUSED_OPERATOR_ARGS:
            raise UnsupportedArgumentError(f"operator_args[{name!r}]", REFUSED_OPERATOR_ARGS[name])
        if name not in COMMAND_ARGS:
            raise UnsupportedArgumentError(
                f"operator_args[{name!r}]", "`dbt build` has no such argument"
            )
    options, others = split_options(operator_args.get("dbt_cmd_flags") or [])
    global_flags = map(str, operator_args.get("dbt_cmd_global_flags") or [])
    for name, words, refused in (
        ("dbt_cmd_flags", others, REFUSED_OPTIONS),
        ("dbt_cmd_global_flags", global_flags, REFUSED_GLOBAL_OPTIONS),
    ):
        for word in words:
            if reason := refused.get(word.partition("=")[0]):
                raise UnsupportedArgumentError(f"operator_args[{name!r}] with {word}", reason)
    if "--defer" in others and "--defer-state" not in [w.partition("=")[0] for w in others]:
        raise UnsupportedArgumentError(
            "operator_args['dbt_cmd_flags'] with --defer and without --defer-state",
            "in a retry, --state names the nodes",
        )
    if any("{{" in word or "{%" in word for word in options):
        raise UnsupportedArgumentError(
            "operator_args['dbt_cmd_flags'] with a template that selects nodes",
            "the tasks are made before a run begins",
        )
