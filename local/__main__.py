"""The commands of the Makefile."""

import argparse
import os
import signal
import sys
import tomllib
from dataclasses import replace
from importlib.util import find_spec

import httpx
import psycopg
import yaml

from local import airflow, ci_dbt, dbt, findings, pipeline, postgres, projects, services, update
from local.settings import Failure, Settings


def run(settings: Settings, dag: str, select: str, exclude: str, full_refresh: bool) -> None:
    """Run a DAG now, or a part of its dbt nodes."""
    api = pipeline.Api(airflow.require_running(settings))
    dag_id = dag or settings.local_toml["dag"]
    options = {"dbt_select": select, "dbt_exclude": exclude, "dbt_full_refresh": full_refresh}
    chosen = {name: value for name, value in options.items() if value}
    if chosen and "dbt_select" not in api("GET", f"/dags/{dag_id}/details")["params"]:
        raise Failure(f"{dag_id} has no fields for dbt: set run_options=True in its DAG file.")
    pipeline.run(api, dag_id, chosen)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands. The Makefile passes its variables as options."""
    parser = argparse.ArgumentParser(prog="python -m local")
    commands = parser.add_subparsers(required=True, metavar="command")

    # make passes a variable that is not set as an empty option.
    text, flag = {"default": ""}, {"action": "store_true"}
    words = {"nargs": argparse.REMAINDER}
    kinds = {"--load": flag, "--parse-only": flag, "--full-refresh": flag, "words": words}

    def add(name: str, function, *options: str, **kwargs) -> None:
        command = commands.add_parser(name, **kwargs)
        command.set_defaults(function=function)
        for option in options:
            command.add_argument(option, **kinds.get(option, text))

    bring_in = ("--name", "--source", "--load", "--parse-only")
    # `make adopt` removes this module.
    if find_spec("local.adopt"):
        from local.adopt import adopt

        add("adopt", adopt, *bring_in, "--ci")
    add("add-project", projects.add_project, *bring_in)
    add("check-project", findings.check_project, "--name", "--parse-only")
    add("update", update.update, "--source")
    add("start", services.start)
    add("stop", services.stop)
    add("standalone", services.standalone)
    add("warehouse", services.start_warehouse)
    # argparse must not read the options of psql and dbt.
    no_options = {"prefix_chars": "\0", "add_help": False}
    add("psql", postgres.psql, "words", **no_options)
    add("dbt", dbt.dbt, "project", "words", **no_options)
    add("ci-dbt", ci_dbt.ci_dbt, "--project", "--pr", "--state", "--full-refresh")
    add("ci-dbt-drop", ci_dbt.ci_dbt_drop, "--pr")
    add("docs", dbt.docs)
    add("run", run, "--dag", "--select", "--exclude", "--full-refresh")
    return parser


def hang_up(*_) -> None:
    """Interrupt the command when its terminal is closed, so that it ends what it has started."""
    # Nothing can be printed to the terminal any more.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    raise KeyboardInterrupt


def main() -> None:
    args = vars(parser().parse_args())
    function = args.pop("function")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # `nohup` ignores the signal of a closed terminal.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hang_up)
    try:
        settings = Settings.from_environment(os.environ)
        # Every command uses the Postgres that runs here, whatever its port.
        if not os.environ.get("WAREHOUSE_PORT") and (port := postgres.port_in_use(settings)):
            settings = replace(settings, warehouse_port=port)
        # Some commands import Airflow, which otherwise creates files in the home folder.
        os.environ.setdefault("AIRFLOW_HOME", str(settings.home / "airflow"))
        function(settings, **args)
    except (Failure, yaml.YAMLError) as error:
        sys.exit(f"error: {error}")
    except httpx.TransportError as error:
        sys.exit(f"error: Airflow does not answer: {error}")
    except psycopg.Error as error:
        sys.exit(f"error: The warehouse refused a statement: {str(error).strip()}")
    except tomllib.TOMLDecodeError as error:
        sys.exit(f"error: local.toml cannot be read: {error}")
    except OSError as error:
        # An error of this machine, such as a full disk or a folder of another user.
        sys.exit(f"error: {error.strerror or error}: {error.filename or settings.home}")
    except KeyboardInterrupt:
        sys.exit("Interrupted: `make stop` ends what still runs.")


if __name__ == "__main__":
    main()
