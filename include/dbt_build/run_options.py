"""The fields of the trigger form that let a run build a part of the DAG's nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from airflow.sdk import Param

TEXT = ["null", "string"]
PARAMS = {
    "dbt_select": Param(
        None,
        type=TEXT,
        title="dbt: select",
        description="Build only these of the DAG's nodes, as in `dbt build --select`.",
    ),
    "dbt_exclude": Param(
        None,
        type=TEXT,
        title="dbt: exclude",
        description="Do not build these nodes, as in `dbt build --exclude`.",
    ),
    "dbt_full_refresh": Param(
        False,
        type="boolean",
        title="dbt: full refresh",
        description="Rebuild incremental models and seeds from the start.",
    ),
    "dbt_event_time_start": Param(
        None,
        type=TEXT,
        format="date",
        title="dbt: event time start",
        description="The first day that microbatch models build, as in `--event-time-start`.",
    ),
    "dbt_event_time_end": Param(
        None,
        type=TEXT,
        format="date",
        title="dbt: event time end",
        description="The day after the last one, as in `--event-time-end`.",
    ),
    "dbt_vars": Param(
        None,
        type=["null", "object"],
        title="dbt: vars",
        description="Variables that override those of the DAG. dbt then parses the project again.",
    ),
}


@dataclass(frozen=True)
class RunOptions:
    """The options of a run, in addition to those of its DAG."""

    select: str | None = None
    exclude: str | None = None
    full_refresh: bool = False
    event_time_start: str | None = None
    event_time_end: str | None = None
    vars: Mapping = field(default_factory=dict)

    @classmethod
    def of_run(cls, params: Mapping) -> RunOptions:
        """Return the options among the params of a run."""
        options = {name.removeprefix("dbt_"): params[name] for name in PARAMS if params.get(name)}
        return cls(**options)

    @property
    def is_partial(self) -> bool:
        """Return whether the run builds a part of the DAG's nodes."""
        return bool(self.select or self.exclude)

    @property
    def event_time_flags(self) -> list[str]:
        """Return the event time range as dbt takes it on the command line."""
        return [
            *(("--event-time-start", self.event_time_start) if self.event_time_start else ()),
            *(("--event-time-end", self.event_time_end) if self.event_time_end else ()),
        ]
