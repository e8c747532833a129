"""An executor that starts a new process for each task, as KubernetesExecutor starts a pod."""

import sys
from subprocess import Popen

from airflow.executors.base_executor import BaseExecutor
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select

# The command of a pod. It has imported nothing, unlike a process that LocalExecutor forks.
COMMAND = [sys.executable, "-m", "airflow.sdk.execution_time.execute_workload", "--json-string"]


class NewProcessExecutor(BaseExecutor):
    is_local = True

    def start(self) -> None:
        self.processes = {}

    def _process_workloads(self, workload_items) -> None:
        for workload in workload_items:
            del self.queued_tasks[workload.key]
            self.running.add(workload.key)
            self.processes[workload.key] = Popen([*COMMAND, workload.model_dump_json()])

    def sync(self) -> None:
        for key in [key for key, process in self.processes.items() if process.poll() is not None]:
            has_failed = self.processes.pop(key).returncode != 0
            self.change_state(key, TaskInstanceState.FAILED if has_failed else state_of(key))


def state_of(key) -> TaskInstanceState | None:
    """Return the state of a task instance. KubernetesExecutor reports it when a pod has ended."""
    where = {"dag_id": key.dag_id, "task_id": key.task_id, "run_id": key.run_id}
    query = select(TaskInstance.state).filter_by(**where, map_index=key.map_index)
    with create_session() as session:
        state = session.scalar(query)
    return TaskInstanceState(state) if state else None
