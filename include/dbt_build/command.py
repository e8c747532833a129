"""One dbt command of a task: run by Cosmos's operator, with the results of its nodes."""

import gc
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from copy import copy
from datetime import timedelta
from pathlib import Path
from subprocess import TimeoutExpired

from airflow.sdk import Asset, AssetAlias
from airflow.sdk.exceptions import AirflowException
from cosmos.dataset import compute_model_outlet_uris, get_dataset_alias_name, get_dataset_namespace
from cosmos.dbt.project import change_working_directory
from cosmos.operators.local import DbtBuildLocalOperator

from include.dbt_build import artifacts
from include.dbt_build.lineage import emit_lineage, is_lineage_active
from include.dbt_build.manifest import enabled_nodes
from include.dbt_build.parsing import connection_values, invoke_dbt, load_manifest
from include.dbt_build.project import WRITE_JSON, DbtProject
from include.dbt_build.results import BuildResults, kind_and_name
from include.dbt_build.run_options import RunOptions
from include.dbt_build.selection import NOT_BUILT, SELECT_STATE, write_state
from include.dbt_build.timeouts import interruptible
from include.dbt_build.workdir import is_parse_valid, is_parsed_in_each_run

# The time that an external dbt has to cancel its statements.
CANCEL_SECONDS = 60
FRESHNESS = ["source", "freshness"]
# dbt's exit codes: 1 if a node failed, 2 if dbt failed. Other codes come from a signal.
EXIT_CODES = (0, 1, 2)
# In the folder of a dbt command, this subfolder has the state that names the nodes to run.
STATE_FOLDER = ".dbt_build"
# dbt's own variables for --state. Each has an older name, which comes second.
STATE_VARIABLES = (
    *("DBT_ENGINE_ARTIFACT_STATE_PATH", "DBT_ARTIFACT_STATE_PATH"),
    *("DBT_ENGINE_STATE", "DBT_STATE"),
)
# Options of dbt with which a microbatch model has the same batches in each try.
EVENT_TIME_OPTIONS = ("--event-time-start", "--sample")
EVENT_TIME_VARIABLES = (
    *("DBT_ENGINE_EVENT_TIME_START", "DBT_EVENT_TIME_START"),
    *("DBT_ENGINE_SAMPLE", "DBT_SAMPLE"),
)
# Variables that make warnings errors, and what their values then contain.
WARN_ERROR_VARIABLES = (
    *("DBT_ENGINE_WARN_ERROR", "DBT_WARN_ERROR"),
    *("DBT_ENGINE_WARN_ERROR_OPTIONS", "DBT_WARN_ERROR_OPTIONS"),
)
WARN_ERROR_VALUES = re.compile(r"\b(?:1|true|t|yes|y|on|error|include)\b", re.IGNORECASE)


class DbtCommandOperator(DbtBuildLocalOperator):
    """Runs `dbt build`, `dbt source freshness` or `dbt ls` for nodes of a project.

    Args:
        project: the project. Its working directory is up to date, as the DAG file was just parsed.
        selecting_options: options of the DAG's selection beside select, exclude and selector.
        has_run_options: whether the trigger form has fields for dbt.
        kwargs: Cosmos's arguments of a DbtBuildLocalOperator.
    """

    def __init__(
        self,
        *,
        project: DbtProject,
        selecting_options: Iterable[str] = (),
        has_run_options: bool = False,
        emit_datasets: bool = True,
        callback=None,
        dbt_runner_callbacks=None,
        **kwargs,
    ):
        self.project = project
        self.selecting_options = [*selecting_options]
        self.has_run_options, self.run_options = has_run_options, RunOptions()
        self.results = BuildResults()
        # Nodes whose asset events were lost with an earlier try of the task, by unique ID.
        self.without_event: set[str] = set()
        self.emits_assets = emit_datasets
        self.user_callbacks = callback if isinstance(callback, list) else [callback]
        self.runner_callbacks = dbt_runner_callbacks or []
        # Each command sets these: the unique IDs that it selects, if any, and dbt's manifest.
        self.selected_nodes: list[str] | None = None
        self.manifest = None
        super().__init__(
            project_dir=str(project.workdir),
            # A parse with other variables must not replace the parse of the working directory.
            cache_dir=project.cache / "runs",
            install_deps=False,
            # One field with the SQL of all nodes would be too long to read.
            should_store_compiled_sql=False,
            emit_datasets=False,
            **kwargs,
        )
        # Each command sets partial_parse again.
        self.may_use_parse = self.partial_parse

    def build(self, context, nodes: Iterable[str] | None = None) -> None:
        """Run `dbt build`.

        Args:
            context: Airflow's context of the task instance.
            nodes: the unique IDs of the nodes to build, by default the selection of the DAG.

        Raises:
            AirflowException: dbt failed outside of its nodes.
        """
        # An earlier command, such as the check of sources, may have parsed differently.
        self.results.parsed = None
        flags = self.add_cmd_flags()
        if nodes is None:
            flags += self.selecting_options
        else:
            self._select_nodes(nodes)
        try:
            self.build_and_run_cmd(context, cmd_flags=flags)
        finally:
            # A failed dbt has events too, unless it failed before its nodes. After a timeout there
            # is no time for them.
            if not self.results.is_interrupted:
                emit_lineage(context["ti"], self.openlineage_events_completes)
        if self.results.error:
            raise self.results.error

    def apply_run_options(self, context) -> None:
        """Apply the options of the run's trigger form, after the templates were rendered."""
        if self.has_run_options:
            self.run_options = RunOptions.of_run(context["params"])
            self.full_refresh = self.run_options.full_refresh or self.full_refresh
            # dbt takes the last value of an option.
            self.dbt_cmd_flags = [*self.dbt_cmd_flags, *self.run_options.event_time_flags]
            if self.run_options.vars:
                self.vars = {**(self.vars or {}), **self.run_options.vars}

    def list_nodes(self, context, select, exclude, selector: str | None = None) -> set[str]:
        """Return the unique IDs that `dbt ls` lists, with the other options of the DAG.

        Raises:
            AirflowException: dbt refuses the selection.
        """
        # The command changes attributes, so it gets a copy of the operator.
        command = copy(self)
        command.base_cmd, command.dbt_cmd_flags = ["ls"], []
        command.select, command.exclude, command.selector = select, exclude, selector
        flags = ["--output", "json", "--output-keys", "unique_id", *self.selecting_options]
        if self.project.executable:
            # Another format would put each node into a log line.
            flags += ["--log-format", "text"]
        result = command.build_and_run_cmd(context, cmd_flags=[*flags, *NOT_BUILT])
        lines = result.full_output if self.project.executable else result.result
        return {json.loads(line)["unique_id"] for line in lines if line.startswith("{")}

    def check_freshness(self, context, sources: list[str]) -> None:
        """Run `dbt source freshness` for some sources.

        In a run for a past interval, such as a backfill, no source is checked, because the present
        age of a source says nothing about that interval. A run is for the past if it started more
        than one interval after its interval ended, or more than a day if the interval is empty. For
        a manual run, the logical date counts if it is later.
        """
        run = context["dag_run"]
        start, end = run.data_interval_start, run.data_interval_end
        # The interval of a cron schedule such as @daily is empty.
        if end and run.start_date - max(end, run.logical_date or end) > (
            (end - start) or timedelta(days=1)
        ):
            self.results.add_succeeded(sources, f"Not checked, because the run is for {start}.")
            return
        # This command does not have the options of `dbt build`, such as an event time range.
        command = copy(self)
        command.base_cmd, command.dbt_cmd_flags = FRESHNESS, []
        command._select_nodes(sources)
        command.build_and_run_cmd(context)
        self.results.add_unread(sources)

    def _select_nodes(self, nodes: Iterable[str]) -> None:
        self.selected_nodes = [*nodes]
        self.select, self.indirect_selection = SELECT_STATE, "empty"
        self.exclude, self.selector = None, None

    def build_and_run_cmd(self, context, cmd_flags=None, **kwargs):
        environment = {**os.environ, **self.get_env(context)}
        self._load_manifest(environment)
        words = [*map(str, (*self.dbt_cmd_global_flags, *self.dbt_cmd_flags, *(cmd_flags or ())))]
        if _has_event_times(words, environment):
            self.results.repeated_batches = {}
        elif "--full-refresh" in words:
            self.results.set_full_refresh()
        # These are not set in __init__, because Airflow executes a copy of the operator, and the
        # bound method has to be that of the copy.
        callbacks = [self._read_results, *filter(None, self.user_callbacks)]
        self.callback = None if self.base_cmd == ["ls"] else callbacks
        try:
            with interruptible(self.results.interrupt):
                return super().build_and_run_cmd(context, cmd_flags, **kwargs)
        finally:
            # If the manifest remains when the process ends, Python logs a leaked semaphore.
            self.manifest = None
            gc.collect()

    def _load_manifest(self, environment) -> None:
        """Load the parsed manifest, unless dbt could parse the project differently in this run."""
        if (
            self.may_use_parse
            # A warning of the parse then fails the command, so dbt has to parse again.
            and not self.fails_on_warnings
            and self.project.executable is None
            and self.project.manifest is None
            and self.has_nodes_of_dag(environment)
        ):
            self.manifest = load_manifest(self.project, connection_values(self.project))
        # Cosmos would copy the file of the parse, which dbt does not need if it has the manifest.
        self.partial_parse = (
            self.may_use_parse and self.manifest is None and not is_parsed_in_each_run(self.project)
        )

    def has_nodes_of_dag(self, environment: Mapping[str, str]) -> bool:
        """Return whether dbt parses the project to the same nodes as for the DAG."""
        return (
            # An interceptor may change variables and environment later.
            not self.interceptors
            and (self.vars or {}) == self.project.variables
            and is_parse_valid(self.project, environment)
        )

    @property
    def fails_on_warnings(self) -> bool:
        words = [*self.dbt_cmd_global_flags, *self.dbt_cmd_flags]
        environment = {**os.environ, **(self.env or {})}
        return (
            self.warn_error
            or any(str(word).startswith("--warn-error") for word in words)
            or any(
                WARN_ERROR_VALUES.search(environment.get(name, "")) for name in WARN_ERROR_VARIABLES
            )
        )

    def run_dbt_runner(self, command, env, cwd, **kwargs):
        """Run dbt in this process, with the parsed manifest and a callback that reads results."""
        (_, *words), env = self._prepare_run(command, env, Path(cwd))
        callbacks = [self.results.receive, *self.runner_callbacks]
        with change_working_directory(cwd):
            return invoke_dbt(words, env, self.manifest, callbacks)

    def run_subprocess(self, command, env, cwd, **kwargs):
        command, env = self._prepare_run(command, env, Path(cwd))
        selected = self.selected_nodes
        if selected is None:
            selected = self.results.repeated_batches
        try:
            result = super().run_subprocess(command, env, cwd, **kwargs)
        except KeyboardInterrupt:
            # dbt must end before Cosmos removes its folder and before the lock is released.
            if (process := self.subprocess_hook.sub_process) and process.poll() is None:
                self.on_kill()
                try:
                    process.communicate(timeout=CANCEL_SECONDS)
                except TimeoutExpired:
                    # dbt ignores SIGINT if its worker was started so, as by `nohup ... &`.
                    self.subprocess_hook.send_sigterm()
                    process.communicate(timeout=CANCEL_SECONDS)
            # Cosmos removes the folder next, and a retry must not build these nodes again.
            self.results.read_run_results(cwd)
            self.results.read_log_of_ended_dbt(cwd, selected)
            raise
        if result.exit_code not in EXIT_CODES:
            self.results.read_log_of_ended_dbt(cwd, selected)
        return result

    def _prepare_run(
        self, command: list[str], env: dict[str, str], folder: Path
    ) -> tuple[list[str], dict[str, str]]:
        """Return the command and its environment, with dbt's folders and the state to select by."""
        self.results.target = folder / "target"
        command = [*command, "--target-path", str(self.results.target), "--log-path", str(folder)]
        env = {**env, **WRITE_JSON}
        if self.selected_nodes is not None:
            state = str(folder / STATE_FOLDER)
            write_state(folder / STATE_FOLDER, self.selected_nodes)
            command += ["--state", state]
            all_env = {**os.environ, **env}
            if names := [name for name in STATE_VARIABLES if all_env.get(name)]:
                # dbt prefers the deprecated ones of these variables to --state, so all of them get
                # the new state. The state that they had is then used for --defer only.
                env = {"DBT_DEFER_STATE": all_env[names[0]], **env, **dict.fromkeys(names, state)}
        return command, env

    def _read_results(self, project_dir: str, context, **_) -> None:
        """Read dbt's artifacts before Cosmos removes the folder of the run."""
        manifest = Path(project_dir, "target", "manifest.json")
        # dbt has parsed in this run, and may have disabled nodes that have a task.
        if self.manifest is None and manifest.exists():
            self.results.parsed = enabled_nodes(json.loads(manifest.read_text()))
        if self.base_cmd == ["build"]:
            self.results.read_run_results(project_dir)
        else:
            self.results.read_sources(project_dir)
        artifacts.keep(project_dir, self.profile_config, context["ti"])
        if self.emits_assets and self.base_cmd == ["build"]:
            self._emit_assets(project_dir, context)

    def _emit_assets(self, project_dir: str, context) -> None:
        """Emit an asset event for each relation that dbt built, with the URI that Cosmos uses."""
        namespace = get_dataset_namespace(self.profile_config)
        manifest = Path(project_dir, "target", "manifest.json")
        # dbt writes no manifest if it fails before its nodes.
        if namespace is None or not manifest.exists():
            return
        task = context["task"]
        alias = AssetAlias(get_dataset_alias_name(task.dag, task.task_group, task.task_id))
        task.outlets.append(alias)
        uris = compute_model_outlet_uris(manifest, namespace)
        # An ephemeral model is a part of the models that read it, and has no relation.
        nodes = json.loads(manifest.read_text())["nodes"].items()
        relations = {k for k, node in nodes if node["config"].get("materialized") != "ephemeral"}
        built = self.results.succeeded() | self.without_event
        for unique_id in sorted(built & uris.keys() & relations):
            for uri in uris[unique_id]:
                try:
                    context["outlet_events"][alias].add(Asset(uri))
                except ValueError as error:
                    self.log.warning("%s has no asset event: %s", unique_id, error)

    def call_on_warning(self, context) -> None:
        """Call Cosmos's on_warning_callback with the names and messages of what warned."""
        warned = [problem for problem in self.results.problems() if problem["status"] == "warn"]
        if self.on_warning_callback and warned:
            self.on_warning_callback(
                {
                    **context,
                    "test_names": [kind_and_name(problem["node"])[1] for problem in warned],
                    "test_results": [problem["message"] for problem in warned],
                }
            )

    def calculate_openlineage_events_completes(self, *args, **kwargs) -> bool:
        """Make the OpenLineage events only if they are emitted, because this takes seconds."""
        self.openlineage_events_completes = []
        if self.base_cmd != ["build"] or not is_lineage_active():
            return False
        # This logger prints the whole node of each test that tests a snapshot and not a model.
        logging.getLogger("openlineage.common.provider.dbt").setLevel(logging.ERROR)
        try:
            return super().calculate_openlineage_events_completes(*args, **kwargs)
        except Exception as error:
            # OpenLineage renders profiles.yml without the filters of dbt.
            self.log.warning("dbt's artifacts gave no OpenLineage events: %r", error)
            return False

    def handle_exception_dbt_runner(self, result) -> None:
        error = result.exception
        if not error and self.base_cmd == FRESHNESS:
            # This command runs the hooks of the project too, which sources.json leaves out.
            error = "\n".join(
                hook.message
                for hook in result.result.results
                if hook.node.resource_type == "operation" and hook.status == "error"
            )
        # A failed node is no error of this command, because it fails its own task.
        elif not error and not result.success and not self.results.failed():
            error = "no node failed, see the log"
        if error:
            raise AirflowException(f"dbt failed: {error}")

    def handle_exception_subprocess(self, result) -> None:
        is_of_node = self.base_cmd == FRESHNESS or self.results.failed()
        if result.exit_code and (result.exit_code != 1 or not is_of_node):
            output = "\n".join(result.full_output[-20:])
            raise AirflowException(f"dbt ended with code {result.exit_code}: {output}")


def _has_event_times(words: Iterable[str], environment: Mapping[str, str]) -> bool:
    """Return whether another try would build the same batches of each microbatch model."""
    return any(word.startswith(EVENT_TIME_OPTIONS) for word in words) or any(
        environment.get(name) for name in EVENT_TIME_VARIABLES
    )
