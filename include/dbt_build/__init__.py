"""Cosmos's DbtDag and DbtTaskGroup, with one `dbt build` for all nodes.

    from include.dbt_build import DbtDag, DbtTaskGroup

The arguments are Cosmos's, source_freshness and run_options. Each model, seed and snapshot has a
task, and so have its tests. A setup task runs one `dbt build` and reports the result of each node
to Airflow while dbt works:

    dbt_build -> stg_a.run -> stg_a.test -> mart.run -> mart.test -> dbt_build_done

docs/how-it-works.md explains it. The modules, in the order in which a DAG file is parsed and a run
works:

drop_in     the two classes
arguments   Cosmos's arguments, honoured or refused
project     what decides how dbt parses a project
workdir     the working directory: linked files, packages, dbt's parse
packages    what `dbt deps` installs, and links to local packages
jinja       what a project's Jinja reads, so whether a run can use dbt's parse
parsing     how dbt parses without a connection, and how a run uses the parse
selection   which nodes dbt selects
manifest    the slim manifest that Cosmos renders
task_names  the names of nodes and tests in task IDs
owners      who is responsible for each node
rendering   the tasks and their edges, made by Cosmos and completed here
run_options the fields of the trigger form
build       the build task
operators   the node tasks and the teardown
command     one dbt command of a task
results     the results of nodes
reporting   passes results to Airflow while dbt works
channel     the client of the plugin, and the logs of the tasks whose states the plugin sets
protocol    what the tasks and the plugin exchange
lock        one dbt command at a time in a schema
timeouts    Airflow's timeouts end dbt and its statements
artifacts   dbt's artifacts of each run, kept
lineage     OpenLineage events of each node
docs        dbt docs in Airflow's UI
alerts      one message for each run that failed, warned, recovered or is late
__main__    parses all dbt projects, so that no DAG file waits for dbt
"""

from importlib import import_module

__all__ = ["DbtDag", "DbtTaskGroup"]


def __getattr__(name: str):
    """Import the classes when they are used: the API server's plugin needs `protocol` only."""
    if name in __all__:
        return getattr(import_module("include.dbt_build.drop_in"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
