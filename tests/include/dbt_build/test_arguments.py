"""Each argument of Cosmos is honoured, or refused with one line that names it."""

import inspect
from pathlib import Path

import pytest
from airflow.sdk import DAG, BaseOperator, TriggerRule
from cosmos import ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import (
    ExecutionMode,
    InvocationMode,
    LoadMode,
    SeedRenderingBehavior,
    SourceRenderingBehavior,
    TestBehavior,
    TestIndirectSelection,
)
from cosmos.converter import DbtToAirflowConverter
from cosmos.operators.base import AbstractDbtBase, DbtBuildMixin
from cosmos.operators.local import AbstractDbtLocalBase, DbtBuildLocalOperator

from include.dbt_build import DbtTaskGroup
from include.dbt_build.arguments import Arguments, UnsupportedArgumentError, check_node
from include.dbt_build.command import DbtCommandOperator
from tests.include.dbt_build.conftest import PROJECT_FILE, arguments, profile, render, write


class Refused:
    """A value that is refused."""

    def __init__(self, value):
        self.value = value

    def __repr__(self) -> str:
        return f"refused {self.value!r}"


# A value for each argument, or several. None stands for an argument that other tests give.
PROJECT = {
    "dbt_project_path": None,
    "install_dbt_deps": [False],
    "copy_dbt_packages": [True],
    "models_relative_path": ["transform"],
    "seeds_relative_path": ["data"],
    "snapshots_relative_path": ["history"],
    "manifest_path": [Path(__file__), Refused("file:///dbt/manifest.json")],
    "manifest_conn_id": [Refused("fs_default")],
    "project_name": ["another"],
    "env_vars": [{"RAW": "x"}],
    "dbt_vars": [{"day": "{{ ds }}"}],
    "partial_parse": [False],
}
PROFILE = {
    "profile_name": None,
    "target_name": None,
    "profiles_yml_filepath": None,
    "profile_mapping": None,
}
EXECUTION = {
    "execution_mode": [
        ExecutionMode.LOCAL,
        *(Refused(mode) for mode in ExecutionMode if mode != ExecutionMode.LOCAL),
    ],
    "invocation_mode": [InvocationMode.DBT_RUNNER, InvocationMode.SUBPROCESS],
    "test_indirect_selection": [*TestIndirectSelection],
    "dbt_executable_path": ["/opt/dbt/bin/dbt"],
    "install_dbt_deps": [False, Refused("{{ var.value.deps }}")],
    "dbt_project_path": None,
    "virtualenv_dir": [Refused(Path("/tmp/venv"))],  # noqa: S108
    "async_py_requirements": [Refused(["dbt-postgres"])],
    "setup_operator_args": [Refused({"queue": "large"})],
}
RENDER = {
    "emit_datasets": [False],
    "test_behavior": [*TestBehavior],
    "load_method": [
        LoadMode.AUTOMATIC,
        LoadMode.DBT_LS,
        LoadMode.DBT_MANIFEST,
        Refused(LoadMode.DBT_LS_FILE),
        Refused(LoadMode.CUSTOM),
    ],
    "invocation_mode": [InvocationMode.DBT_RUNNER, Refused(InvocationMode.SUBPROCESS)],
    "select": [["a"]],
    "exclude": [["a"]],
    "selector": ["chosen"],
    "dbt_deps": [False],
    "node_converters": [Refused({"model": print})],
    # It has no effect without node_converters.
    "node_conversion_by_task_group": [False],
    "dbt_executable_path": [Refused("/opt/dbt/bin/dbt")],
    "env_vars": [{"RAW": "x"}],
    "dbt_project_path": None,
    "dbt_ls_path": [Refused(Path("ls.txt"))],
    "enable_mock_profile": [False],
    "group_nodes_by_folder": [True],
    "source_rendering_behavior": [
        SourceRenderingBehavior.NONE,
        Refused(SourceRenderingBehavior.ALL),
        Refused(SourceRenderingBehavior.WITH_TESTS_OR_FRESHNESS),
    ],
    "source_pruning": [Refused(True)],
    "seed_rendering_behavior": [
        SeedRenderingBehavior.ALWAYS,
        Refused(SeedRenderingBehavior.NONE),
    ],
    "airflow_vars_to_purge_dbt_ls_cache": [Refused(["purge"])],
    "airflow_vars_to_purge_dbt_yaml_selectors_cache": [Refused(["purge"])],
    "normalize_task_id": [print],
    "normalize_task_display_name": [print],
    "should_detach_multiple_parents_tests": [True],
    "enable_owner_inheritance": [False],
    "ephemeral_models_as_empty_operator": [False],
}
OPERATOR = {
    "project_dir": [Refused("/dbt")],
    "profile_config": [Refused("profile")],
    "manifest_filepath": [Refused("manifest.json")],
    "select": [Refused("a")],
    "exclude": [Refused("a")],
    "selector": [Refused("chosen")],
    "models": [Refused("a")],
    "emit_datasets": [Refused(False)],
    "partial_parse": [Refused(False)],
    "dbt_executable_path": [Refused("/opt/dbt/bin/dbt")],
    "invocation_mode": [Refused(InvocationMode.SUBPROCESS)],
    "conn_id": [Refused("warehouse")],
    "db_name": [Refused("db")],
    "schema": [Refused("schema")],
    "cache_dir": [Refused(Path("cache"))],
    "extra_context": [Refused({"dbt_node_config": {}})],
    "skip_exit_code": [Refused(99)],
    "should_store_compiled_sql": [Refused(True)],
    "should_upload_compiled_sql": [Refused(True)],
    "install_deps": [True, False, Refused("{{ var.value.deps }}")],
    "copy_dbt_packages": [True],
    "vars": [{"day": "{{ ds }}"}, Refused("{day: {{ ds }} }")],
    "env": [{"RAW": "x"}],
    "append_env": [False],
    "indirect_selection": ["cautious"],
    "cache_selected_only": [True],
    "no_version_check": [True],
    "fail_fast": [True],
    "quiet": [True],
    "warn_error": [True],
    "output_encoding": ["latin-1"],
    "cancel_query_on_kill": [False],
    "dbt_cmd_flags": [
        ["--empty"],
        ["--exclude-resource-type", "seed", "--state", "/state"],
        Refused(["--vars", "{}"]),
        Refused(["--target=prod"]),
        Refused(["--target-path", "elsewhere"]),
        ["--defer", "--state", "/state", "--defer-state", "/state"],
        Refused(["--defer", "--state", "/state"]),
        Refused(["--defer", "--favor-state", "--defer-state", "/state"]),
        Refused(["--select", "{{ params.nodes }}"]),
        Refused(["--select", "{% if params.nodes %}a{% endif %}"]),
    ],
    "dbt_cmd_global_flags": [
        ["--no-partial-parse"],
        Refused(["--log-path", "logs"]),
        Refused(["--state", "/state"]),
    ],
    "interceptors": [[print]],
    "callback": [print, [print, print]],
    "callback_args": [{"folder": "x"}],
    "dbt_runner_callbacks": [[print]],
    "on_warning_callback": [print],
    "full_refresh": [True, "{{ params.full_refresh }}"],
    "log_format": ["json"],
}
# The refused arguments of BaseOperator, and some honoured ones. All others are honoured too.
BASE = {
    **{key: [Refused("x")] for key in ("task_id", "dag", "task_group")},
    **{key: [Refused(True)] for key in ("depends_on_past", "wait_for_downstream")},
    "ignore_first_depends_on_past": [Refused(True)],
    "trigger_rule": [Refused(TriggerRule.ALL_DONE)],
    # Most node tasks start no process.
    **{key: [Refused(print)] for key in ("pre_execute", "post_execute")},
    "queue": ["large"],
    "pool": ["narrow"],
    "retries": [3],
    "on_success_callback": [print],
    "owner": ["team"],
}
ALL = {
    ProjectConfig: PROJECT,
    ProfileConfig: PROFILE,
    ExecutionConfig: EXECUTION,
    RenderConfig: RENDER,
    DbtBuildLocalOperator: OPERATOR,
    BaseOperator: BASE,
}
VALUES = [
    pytest.param(owner, name, value, id=f"{owner.__name__}({name}={value})")
    for owner, table in ALL.items()
    for name, values in table.items()
    for value in values or ()
]


def parameters(*classes) -> set[str]:
    names = {name for one in classes for name in inspect.signature(one.__init__).parameters}
    return names - {"self", "args", "kwargs"}


def test_the_tables_have_all_arguments_of_this_version_of_cosmos():
    for config in (ProjectConfig, ProfileConfig, ExecutionConfig, RenderConfig):
        assert ALL[config].keys() == parameters(config), config
    operator = (AbstractDbtBase, AbstractDbtLocalBase, DbtBuildMixin, DbtBuildLocalOperator)
    assert OPERATOR.keys() == parameters(*operator) - {"task_id"}
    assert BASE.keys() <= parameters(BaseOperator)
    assert parameters(DbtToAirflowConverter) == {
        *("project_config", "profile_config", "execution_config", "render_config"),
        *("dag", "task_group", "operator_args", "on_warning_callback"),
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("owner", "name", "value"), VALUES)
def test_an_argument_is_honoured_or_refused_by_its_name(unchanged, owner, name, value):
    is_refused = isinstance(value, Refused)
    given = {name: value.value if is_refused else value}
    configs = arguments(unchanged)
    if owner in (BaseOperator, DbtBuildLocalOperator):
        configs["operator_args"] = given
    else:
        argument = next(key for key, config in configs.items() if isinstance(config, owner))
        project = {"dbt_project_path": unchanged} if owner is ProjectConfig else {}
        if name == "manifest_conn_id":
            project["manifest_path"] = "file:///dbt/manifest.json"
        configs[argument] = owner(**project, **given)
    if is_refused:
        with pytest.raises(UnsupportedArgumentError, match=name) as error:
            Arguments.check(configs).command_args  # noqa: B018
        assert str(error.value).endswith("use cosmos.DbtTaskGroup for that.")
        assert "\n" not in str(error.value)
        return
    checked = Arguments.check(configs)
    assert checked.selection.words is not None
    operator = DbtCommandOperator(task_id="build", **checked.command_args)
    if owner in (BaseOperator, DbtBuildLocalOperator) and name not in (
        # Part of the selection, of the project, or wrapped.
        *("indirect_selection", "install_deps", "dbt_cmd_flags", "callback"),
        *("dbt_runner_callbacks", "on_success_callback"),
    ):
        assert getattr(operator, name) == value


@pytest.mark.parametrize("value", [None, 4])
def test_an_environment_variable_has_to_be_a_string(unchanged, value):
    configs = arguments(unchanged, env_vars={"THREADS": value})
    with pytest.raises(ValueError, match=f"^The environment variable THREADS .* not {value}"):
        Arguments.check(configs)


def test_a_profile_can_be_a_file(unchanged, tmp_path):
    file = write(tmp_path, {"profiles.yml": "any: {}"}) / "profiles.yml"
    configs = {**arguments(unchanged), "profile_config": ProfileConfig("any", "dev", file)}
    assert Arguments.check(configs).project.profile.profiles_yml_filepath == file
    missing = ProfileConfig("any", "dev", tmp_path / "none.yml")
    with pytest.raises(Exception, match=r"none\.yml"):
        Arguments.check({**configs, "profile_config": missing})


@pytest.mark.parametrize("owner", ["render_config", "execution_config"])
def test_the_path_of_a_project_can_be_in_another_config(unchanged, tmp_path, owner):
    config = {"render_config": RenderConfig, "execution_config": ExecutionConfig}[owner]
    given = {
        **arguments(unchanged),
        "project_config": ProjectConfig(),
        owner: config(dbt_project_path=unchanged),
    }
    assert Arguments.check(given).project.path == unchanged
    # Cosmos can render one folder and run another.
    other = write(tmp_path / "other", {"dbt_project.yml": "{name: other}"})
    given["project_config"] = ProjectConfig(other)
    with pytest.raises(UnsupportedArgumentError, match="dbt_project_path"):
        Arguments.check(given).project  # noqa: B018


def test_a_relative_path_of_a_project_is_made_absolute(unchanged, monkeypatch):
    monkeypatch.chdir(unchanged.parent)
    assert Arguments.check(arguments(Path("second"))).project.path == unchanged


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"dbt_vars": {"a": 1}}, "variables"),
        ({"operator_args": {"vars": {"a": 1}}}, "variables"),
        ({"operator_args": {"vars": "{a: 1}"}}, "variables"),
        ({"env_vars": {"a": "1"}}, "environment"),
        ({"operator_args": {"env": {"a": "1"}}}, "environment"),
    ],
)
def test_variables_reach_the_parse_and_the_run(unchanged, given, name):
    checked = Arguments.check(arguments(unchanged, **given))
    values = checked.command_args["vars" if name == "variables" else "env"]
    assert getattr(checked.project, name) == values
    assert {key: str(value) for key, value in values.items()} == {"a": "1"}


@pytest.mark.parametrize(
    "given",
    [
        {"no_version_check": True},
        {"dbt_cmd_global_flags": ["--no-version-check"]},
        {"dbt_cmd_flags": ["--no-version-check"]},
    ],
)
def test_a_project_for_another_version_of_dbt_is_parsed_without_a_version_check(small, given):
    project_file = PROJECT_FILE.replace(
        "profile: any", "profile: any, require-dbt-version: '>=99.0.0'"
    )
    path = small({"dbt_project.yml": project_file}, a="select 1 as id")
    assert "a_run" in render(path, operator_args=given).task_ids


@pytest.mark.parametrize(
    ("given", "installs"),
    [
        ({}, True),
        ({"project_config": ProjectConfig("x", install_dbt_deps=False)}, False),
        ({"execution_config": ExecutionConfig(install_dbt_deps=False)}, False),
        ({"render_config": RenderConfig(dbt_deps=False)}, False),
        ({"operator_args": {"install_deps": False}}, False),
        ({"operator_args": {"install_deps": True, "full_refresh": True}}, True),
    ],
)
def test_each_way_to_install_no_packages_counts(unchanged, given, installs):
    if "project_config" in given:
        given = {"project_config": ProjectConfig(unchanged, install_dbt_deps=False)}
    checked = Arguments.check({**arguments(unchanged), **given})
    assert checked.project.installs_packages == installs


def test_an_external_dbt_is_a_path_with_a_subprocess(unchanged):
    given = {"dbt_executable_path": "/opt/dbt", "invocation_mode": InvocationMode.SUBPROCESS}
    configs = arguments(unchanged)
    configs["execution_config"] = ExecutionConfig(**given)
    assert Arguments.check(configs).project.executable == "/opt/dbt"
    # As in Cosmos, the path means nothing where dbt runs in Airflow's process.
    configs["execution_config"] = ExecutionConfig(dbt_executable_path="/opt/dbt")
    assert Arguments.check(configs).project.executable is None
    # Cosmos lists the nodes with its own dbt, which can be the same.
    configs["execution_config"] = ExecutionConfig(**given)
    configs["render_config"] = RenderConfig(**given)
    assert Arguments.check(configs).project.executable == "/opt/dbt"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("depends_on_past", True),
        ("wait_for_downstream", True),
        ("trigger_rule", "all_done"),
        ("pre_execute", print),
        ("post_execute", print),
        ("indirect_selection", "cautious"),
    ],
)
def test_default_args_that_cannot_be_honoured_are_refused(unchanged, name, value):
    given = {"owner": "team", name: value}
    with pytest.raises(UnsupportedArgumentError, match=f"^{name} is not supported"):
        render(unchanged, default_args=given)
    with (
        DAG("with_group", default_args=given),
        pytest.raises(UnsupportedArgumentError, match=f"^{name} is not supported"),
    ):
        DbtTaskGroup("dbt", **arguments(unchanged))


@pytest.mark.parametrize(
    ("meta", "name"),
    [
        ({"operator_kwargs": {"pool": "narrow", "retries": 2}}, None),
        ({"operator_kwargs": {"full_refresh": True}}, "operator_kwargs.full_refresh"),
        ({"operator_kwargs": {"depends_on_past": True}}, "operator_kwargs.depends_on_past"),
        ({"operator_kwargs": {"task_id": "x"}}, "operator_kwargs.task_id"),
        ({"operator_kwargs": {"nonsense": 1}}, "operator_kwargs.nonsense"),
        ({"profile_config": {}}, "profile_config"),
        ({"nonsense": 1}, "nonsense"),
        ({}, None),
    ],
)
def test_arguments_of_a_node_are_honoured_or_refused_by_their_name(meta, name):
    if name is None:
        assert check_node("model.small.a", meta) == meta.get("operator_kwargs", {})
        return
    with pytest.raises(UnsupportedArgumentError, match=rf"meta.cosmos.{name} of model.small.a"):
        check_node("model.small.a", meta)


SOURCE_WITH_TEST = """
sources:
  - name: raw
    tables:
      - name: events
        columns: [{name: id, data_tests: [unique: %s]}]
        %s
"""


@pytest.mark.parametrize(
    "kind", ["model", "seed", "snapshot", "test", "source", "source test", "unselected"]
)
def test_refused_arguments_of_a_node_are_an_import_error(small, kind):
    meta = "config: {meta: {cosmos: {operator_kwargs: {full_refresh: true}}}}"
    files = {
        "model": {"models/p.yml": f"models: [{{name: a, {meta}}}]"},
        "seed": {"seeds/s.csv": "id\n1\n", "seeds/p.yml": f"seeds: [{{name: s, {meta}}}]"},
        "snapshot": {
            "snapshots/p.yml": """
                snapshots:
                  - name: k
                    relation: ref('a')
                    config:
                      strategy: check
                      unique_key: id
                      check_cols: all
                      meta: {cosmos: {operator_kwargs: {full_refresh: true}}}
            """
        },
        "test": {
            "models/p.yml": "models: [{name: a, columns: "
            f"[{{name: id, data_tests: [unique: {{{meta}}}]}}]}}]"
        },
        "source": {"models/p.yml": SOURCE_WITH_TEST % ("{}", meta)},
        "source test": {"models/p.yml": SOURCE_WITH_TEST % (f"{{{meta}}}", "")},
        "unselected": {"models/p.yml": f"models: [{{name: b, {meta}}}]"},
    }
    path = small(files[kind], a="select 1 as id", b="select 1 as id")
    if kind == "unselected":
        assert render(path, select=["a"])
        return
    with pytest.raises(UnsupportedArgumentError, match=r"operator_kwargs\.full_refresh of"):
        render(path)


def test_a_selection_in_the_flags_is_refused_if_a_run_can_have_its_own(unchanged):
    given = {"dbt_cmd_flags": ["--select", "base"]}
    assert "base.run" in render(unchanged, operator_args=given).task_ids
    with pytest.raises(UnsupportedArgumentError, match=r"--select and run_options"):
        render(unchanged, operator_args=given, run_options=True)


def test_an_unknown_argument_is_refused(unchanged):
    with pytest.raises(UnsupportedArgumentError, match="nonsense"):
        render(unchanged, operator_args={"nonsense": 1})
    # Airflow refuses an unknown argument of a DAG.
    with pytest.raises(TypeError, match="nonsense"):
        render(unchanged, nonsense=1)


def test_a_profile_of_another_schema_is_another_working_directory(unchanged):
    first = Arguments.check(arguments(unchanged)).project
    given = {**arguments(unchanged), "profile_config": profile("elsewhere")}
    assert Arguments.check(given).project.workdir != first.workdir
