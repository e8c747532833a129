"""Runs of a DAG for days that are past: `make backfill`."""

from datetime import date, datetime, time, timedelta
from time import monotonic, sleep
from zoneinfo import ZoneInfo

from local.pipeline import COLOURS, Api, until_ended
from local.progress import console, live
from local.settings import Failure


class Backfill:
    """The days from `first` to `last` of a DAG, each of which begins at midnight in a time zone."""

    def __init__(self, api: Api, dag_id: str, first: date, last: date, zone: ZoneInfo):
        self.api, self.dag_id, self.zone = api, dag_id, zone
        self.days = (first, last)

    def run(self) -> None:
        """Run each day again, and print a line for each as it ends.

        If the last backfill of the same days was interrupted or had failures, only the days that
        did not succeed run.

        Raises:
            Failure: a day failed, the backfill was interrupted, or another backfill runs.
        """
        try:
            active = self._active()
            if active and self._days(active) != self.days:
                raise Failure(
                    f"A backfill of {' to '.join(map(str, self._days(active)))} runs: run the "
                    "command with these days to follow it, then Ctrl-C to end it."
                )
            if active:
                console.print("This backfill runs already.")
            else:
                self._start()
            self._follow()
        except KeyboardInterrupt:
            if active := self._active():
                self.api("PUT", f"/backfills/{active['id']}/cancel")
            raise Failure(
                "Interrupted. The backfill has ended, except for a day that runs already. "
                "Run the same command for the remaining days."
            ) from None

    def _active(self) -> dict | None:
        with live("waiting for the end of the last backfill"):
            while True:
                known = self.api.all("/backfills", "backfills", dag_id=self.dag_id)
                # Airflow allows one at a time for a DAG.
                active = next((one for one in known if not one["completed_at"]), None)
                if active is None or self._unfinished(self._days(active)):
                    return active
                # The scheduler looks every half minute whether a backfill has ended.
                sleep(1)

    def _start(self) -> None:
        known = self.api.all("/backfills", "backfills", dag_id=self.dag_id)
        repeats = any(self._days(one) == self.days for one in known)
        only_failed = repeats and any(run["state"] == "failed" for run in self._runs(self.days))
        if only_failed:
            console.print("Running only the days that failed in the last backfill.")
        first, last = self._midnights(self.days)
        body = {
            "dag_id": self.dag_id,
            "from_date": first,
            "to_date": last,
            "reprocess_behavior": "failed" if only_failed else "completed",
            "max_active_runs": 1,
        }
        self.api("POST", "/backfills", json=body)

    def _follow(self) -> None:
        runs = self._unfinished(self.days)
        failed, started_at = [], monotonic()
        for number, run in enumerate(runs, start=1):
            run, _ = until_ended(self.api, self.dag_id, run["dag_run_id"])
            # The run ID contains the end of the day, so the day is taken from the logical date.
            day = self._day(run["logical_date"])
            if run["state"] == "failed":
                failed.append(str(day))
            seconds = (monotonic() - started_at) / number * (len(runs) - number)
            console.print(
                f"[{COLOURS.get(run['state'], 'red')}]{run['state']:8}[/]  {day}"
                f"{run['duration']:7.0f} s  {run['dag_run_id']}  "
                f"{number} of {len(runs)}, {timedelta(seconds=round(seconds))} remaining",
                soft_wrap=True,
            )
        if failed:
            raise Failure(
                f"{self.dag_id} failed for {', '.join(failed)}: see {self.api.url}/dags/"
                f"{self.dag_id}/runs. The same command runs only these days again."
            )

    def _midnights(self, days: tuple[date, date]) -> list[str]:
        return [datetime.combine(day, time.min, self.zone).isoformat() for day in days]

    def _day(self, text: str) -> date:
        return datetime.fromisoformat(text).astimezone(self.zone).date()

    def _days(self, backfill: dict) -> tuple[date, date]:
        return self._day(backfill["from_date"]), self._day(backfill["to_date"])

    def _runs(self, days: tuple[date, date]) -> list[dict]:
        first, last = self._midnights(days)
        dates = {"logical_date_gte": first, "logical_date_lte": last, "order_by": "logical_date"}
        return self.api.all(f"/dags/{self.dag_id}/dagRuns", "dag_runs", **dates)

    def _unfinished(self, days: tuple[date, date]) -> list[dict]:
        return [run for run in self._runs(days) if run["state"] not in ("success", "failed")]
