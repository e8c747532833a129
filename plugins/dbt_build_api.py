"""Sets the tasks of dbt's nodes as the one running `dbt build` has written into its own XCom.

The route asks for no credentials, since it takes nothing from the request but that task's id: it
does what a running DbtBuild says, to the DbtNodes of the same run that nothing has touched; and it
takes the green from tasks of the same run that stand behind a running one that fails.

What is not public of Airflow in this project is here: the table of the task instances, and the
model of the XComs. tests/plugins/test_dbt_build_api.py names what an upgrade has changed.
"""

from datetime import UTC, datetime
from json import loads
from uuid import UUID

from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.plugins_manager import AirflowPlugin
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState as State
from fastapi import FastAPI, HTTPException
from sqlalchemy import select, update

app = FastAPI(title="dbt build")


@app.post("/{build_id}")
def tell(build_id: UUID) -> dict[str, int]:
    """Return the try number of each task that is green now, by its task id."""
    with create_session() as session:
        build = session.get(TaskInstance, build_id)
        operators = ("DbtBuild", "DbtNode")
        if build is None or build.state != State.RUNNING or build.operator not in operators:
            raise HTTPException(409, "no such dbt build is running")
        run = {"dag_id": build.dag_id, "run_id": build.run_id}
        told = session.scalar(
            select(XComModel.value).filter_by(**run, task_id=build.task_id, key="told")
        )
        if told is None:
            raise HTTPException(409, "this dbt build has told nothing")
        news = loads(told)
        if behind := news.get("not_green"):
            green = update(TaskInstance).filter_by(**run, state=State.SUCCESS)
            session.execute(
                green.where(TaskInstance.task_id.in_(behind)).values(state=State.UPSTREAM_FAILED)
            )
            return {}
        tasks = session.scalars(
            select(TaskInstance)
            .filter_by(**run, operator="DbtNode")
            .where(TaskInstance.task_id.in_([*news["green"], *news["failed"]]))
            .with_for_update(of=TaskInstance)
        )
        answer = {}
        for task in tasks:
            green = news["green"].get(task.task_id)
            if task.state is None and green:
                task.state = State.SUCCESS
                task.try_number += 1
                task.start_date, task.end_date = map(
                    datetime.fromisoformat, (green["start"], green["end"])
                )
                task.duration = (task.end_date - task.start_date).total_seconds()
                # Where the log is, if the worker has to be asked for it.
                task.hostname = build.hostname
                if green["note"]:
                    task.note = green["note"]
            elif task.state is None and task.try_number == 0:
                # Only in its first try a task reads what dbt said; later it would run dbt.
                task.state = State.SCHEDULED
                task.try_number = 1
                task.scheduled_dttm = datetime.now(UTC)
            if green and task.state == State.SUCCESS:
                answer[task.task_id] = task.try_number
        return answer


class DbtBuildApi(AirflowPlugin):
    name = "dbt_build_api"
    fastapi_apps = [{"app": app, "url_prefix": "/dbt_build", "name": "dbt build"}]  # noqa: RUF012
